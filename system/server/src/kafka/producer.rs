//! The idempotent producer: librdkafka's, with the order of a key kept over failures.
//!
//! librdkafka keeps the order of a partition while everything succeeds, but a record that fails lets the ones queued
//! behind it pass. So of one key only one record is out at a time, within a call: its report sends the next, from the
//! thread that polls for reports, without a task or a wake-up in between. Different keys are out together, which costs
//! nothing as long as there are more keys than records of one key (`call.rs`).
//!
//! What a call leaves in doubt cannot land behind what is published after it: the producer then moves to a new epoch,
//! whose first batch fences what is left of the old one (KIP-360; librdkafka does so for every batch that fails while
//! it may be persisted). The one bound on time is librdkafka's `message.timeout.ms`; a publish that is dropped or timed
//! out by its caller is still librdkafka's to deliver.
//!
//! A broker that refuses a batch for its size fails every record in it. Those go again, one to a batch, through a
//! second producer, and each learns whether it is the one. Nothing else of a record's key is sent while it is on its way
//! alone, or what a dropped call left there could land behind what is published after it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Header, Message, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use stormglass_runtime::{Cause, Failure, Partition, Position, Record, Topic};
use tokio::time::{Instant, sleep};

use super::{
    call::{Call, GiveUp},
    config::KafkaConfig,
    log,
    outcome::{code_of, is_too_large, of_enqueue, of_report},
    persistence::{MOVED, Persistence, persistence},
};

/// How long the polling thread waits for reports before it looks after what is held up, or whether it is still needed.
const POLL: Duration = Duration::from_millis(50);
/// How long a record waits before it is offered to a full queue again.
const ROOM: Duration = Duration::from_millis(2);
/// `batch.num.messages` of the producer that everything goes through.
const BATCH_RECORDS: u32 = 10_000;

/// The producer of one client.
pub(super) struct ProducerCore {
    config: KafkaConfig,
    pipes: Mutex<Pipes>,
    /// Records whose turn came when the queue was full, or the producer had failed for good.
    held_up: Mutex<VecDeque<Ticket>>,
    /// Whose records are on their way alone.
    alone: Mutex<BTreeSet<Key>>,
    /// How often a broker has answered that it does not lead a partition.
    moves: AtomicU64,
}

/// What the order holds for: records of one topic and key.
type Key = (Topic, Bytes);

#[derive(Default)]
struct Pipes {
    batched: Option<Arc<BaseProducer<Reports>>>,
    /// One record to a batch; there once a batch was refused.
    alone: Option<Arc<BaseProducer<Reports>>>,
}

/// Which producer a record goes through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pipe {
    Batched,
    Alone,
}

/// One record of one call, on its way.
pub(super) struct Ticket {
    call: Arc<Call>,
    index: usize,
    pipe: Pipe,
    /// [`ProducerCore::moves`] when it was made.
    moves: u64,
}

impl Ticket {
    fn record(&self) -> &Record {
        &self.call.records[self.index]
    }
}

/// Why a record was not queued.
enum Unsent {
    /// There is no room now.
    Full(Ticket),
    Failed(Failure),
}

impl ProducerCore {
    /// A producer, which connects at once.
    pub(super) fn start(config: KafkaConfig) -> Result<Arc<Self>, KafkaError> {
        let (pipes, held_up, alone, moves) = Default::default();
        let core = Arc::new(Self { config, pipes, held_up, alone, moves });
        core.pipe(Pipe::Batched)?;
        Ok(core)
    }

    /// See [`Producer::publish`](stormglass_runtime::Producer::publish).
    pub(super) async fn publish(self: &Arc<Self>, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        let patience = Instant::now() + Duration::from_millis(self.config.delivery_timeout_ms);
        let call = Arc::new(Call::new(records));
        let _give_up = GiveUp(&call);
        for &index in &call.heads {
            let mut ticket = self.ticket(&call, index);
            loop {
                match self.send(ticket) {
                    Ok(()) => break,
                    Err(Unsent::Full(back)) if Instant::now() < patience => ticket = back,
                    Err(Unsent::Full(_)) => {
                        self.settle(&call, index, Err(Failure::NotDone(Cause::Busy)));
                        break;
                    }
                    Err(Unsent::Failed(failure)) => {
                        self.settle(&call, index, Err(failure));
                        break;
                    }
                }
                sleep(ROOM).await;
            }
        }
        if call.records.is_empty() { Vec::new() } else { call.finished().await }
    }

    /// Writes down a result and sends what was waiting for it.
    fn settle(&self, call: &Arc<Call>, index: usize, result: Result<Position, Failure>) {
        call.settle(index, result, |next| match self.send(self.ticket(call, next)) {
            Ok(()) => Ok(()),
            Err(Unsent::Full(ticket)) => {
                self.held_up().push_back(ticket);
                Ok(())
            }
            Err(Unsent::Failed(failure)) => Err(failure),
        });
    }

    fn ticket(&self, call: &Arc<Call>, index: usize) -> Ticket {
        let moves = self.moves.load(Ordering::Acquire);
        Ticket { call: Arc::clone(call), index, pipe: Pipe::Batched, moves }
    }

    /// Queues a record; never waits.
    fn send(&self, ticket: Ticket) -> Result<(), Unsent> {
        let (call, index) = (Arc::clone(&ticket.call), ticket.index);
        let record = &call.records[index];
        let Some(producer) = self.current(ticket.pipe) else { return Err(Unsent::Full(ticket)) };
        if !self.may_leave(&ticket) {
            return Err(Unsent::Full(ticket));
        }
        let pipe = ticket.pipe;
        let mut out =
            BaseRecord::with_opaque_to(record.topic.as_str(), Box::new(ticket)).payload(&record.value[..]);
        if let Some(key) = &record.key {
            out = out.key(&key[..]);
        }
        if !record.headers.0.is_empty() {
            out = out.headers(headers(record));
        }
        let Err((error, out)) = producer.send(out) else { return Ok(()) };
        self.is_back(record, pipe);
        match code_of(&error) {
            // The thread that polls this producer replaces it.
            Code::QueueFull | Code::Fatal => Err(Unsent::Full(*out.delivery_opaque)),
            _ => Err(Unsent::Failed(of_enqueue(&error, record, self.config.record_bytes_max))),
        }
    }

    /// Whether nothing of the record's key is on its way alone. If the record is to go alone, it is from now on.
    fn may_leave(&self, ticket: &Ticket) -> bool {
        let mut alone = self.alone();
        let record = ticket.record();
        match (&record.key, ticket.pipe) {
            (None, _) => true,
            (Some(_), Pipe::Batched) if alone.is_empty() => true,
            (Some(key), Pipe::Batched) => !alone.contains(&(record.topic.clone(), key.clone())),
            (Some(key), Pipe::Alone) => alone.insert((record.topic.clone(), key.clone())),
        }
    }

    /// A record that left through `pipe` is on its way no more.
    fn is_back(&self, record: &Record, pipe: Pipe) {
        if let (Some(key), Pipe::Alone) = (&record.key, pipe) {
            self.alone().remove(&(record.topic.clone(), key.clone()));
        }
    }

    /// What a report says.
    fn reported(&self, ticket: Ticket, report: &DeliveryResult<'_>) {
        let record = ticket.record();
        self.is_back(record, ticket.pipe);
        let result = match report {
            Ok(message) => Ok(partition_of(record, message.partition()).at(message.offset())),
            Err((error, message)) => {
                let has_moved = self.moves.load(Ordering::Acquire) != ticket.moves;
                let known = if has_moved { Persistence::InDoubt } else { persistence(message) };
                let failure = of_report(error, known, record, self.config.record_bytes_max);
                let refused = is_too_large(code_of(error)) && failure.is_certainly_not_done();
                if refused && ticket.pipe == Pipe::Batched {
                    self.held_up().push_back(Ticket { pipe: Pipe::Alone, ..ticket });
                    return;
                }
                Err(failure)
            }
        };
        self.settle(&ticket.call, ticket.index, result);
    }

    /// Offers what was held up again.
    fn resend(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *self.held_up());
        for ticket in waiting {
            let (call, index, pipe) = (Arc::clone(&ticket.call), ticket.index, ticket.pipe);
            if let Err(error) = self.pipe(pipe) {
                tracing::error!(%error, "a producer could not be made");
            }
            match call.unless_given_up(|| self.send(ticket)) {
                None | Some(Ok(())) => {}
                Some(Err(Unsent::Full(ticket))) => self.held_up().push_back(ticket),
                Some(Err(Unsent::Failed(failure))) => self.settle(&call, index, Err(failure)),
            }
        }
    }

    fn current(&self, pipe: Pipe) -> Option<Arc<BaseProducer<Reports>>> {
        self.pipes().slot(pipe).clone()
    }

    /// Makes sure that there is a producer for `pipe`, and a thread that polls it.
    fn pipe(self: &Arc<Self>, pipe: Pipe) -> Result<(), KafkaError> {
        let mut pipes = self.pipes();
        let slot = pipes.slot(pipe);
        if slot.is_some() {
            return Ok(());
        }
        let batch_records = match pipe {
            Pipe::Batched => BATCH_RECORDS,
            Pipe::Alone => 1,
        };
        let reports = Reports(Arc::downgrade(self));
        let config = self.config.producer(batch_records);
        let producer = Arc::new(BaseProducer::from_config_and_context(&config, reports)?);
        *slot = Some(Arc::clone(&producer));
        let core = Arc::downgrade(self);
        spawn_thread("kafka-reports", move || serve(&producer, &core, pipe))
    }

    /// Takes a producer out of use that can no longer be used: a broker's answer contradicted its sequence (B8).
    fn retire(self: &Arc<Self>, pipe: Pipe, why: &str) {
        tracing::error!(why, "the producer failed for good; another takes its place");
        *self.pipes().slot(pipe) = None;
        if let Err(error) = self.pipe(pipe) {
            tracing::error!(%error, "a producer could not be made");
        }
    }

    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_up(&self) -> MutexGuard<'_, VecDeque<Ticket>> {
        self.held_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipes {
    fn slot(&mut self, pipe: Pipe) -> &mut Option<Arc<BaseProducer<Reports>>> {
        match pipe {
            Pipe::Batched => &mut self.batched,
            Pipe::Alone => &mut self.alone,
        }
    }
}

/// Polls a producer for as long as somebody may publish through it, and drops it after, which waits for its
/// connections: no task may do that.
fn serve(producer: &BaseProducer<Reports>, core: &Weak<ProducerCore>, pipe: Pipe) {
    let mut retired = false;
    loop {
        let held_up = core.upgrade().is_some_and(|core| !core.held_up().is_empty());
        producer.poll(if held_up { ROOM } else { POLL });
        let Some(core) = core.upgrade() else { return };
        core.resend();
        if retired {
            if producer.in_flight_count() == 0 {
                return;
            }
        } else if let Some((_, why)) = producer.client().fatal_error() {
            core.retire(pipe, &why);
            retired = true;
        }
    }
}

/// Where delivery reports arrive, on the polling thread.
struct Reports(Weak<ProducerCore>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // It comes through the same queue as the reports, before those of the records that it concerns.
        if facility == MOVED
            && let Some(core) = self.0.upgrade()
        {
            core.moves.fetch_add(1, Ordering::AcqRel);
        }
        log::line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::error(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, report: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        // Without the core its client is gone, and every publish with it.
        if let Some(core) = self.0.upgrade() {
            core.reported(*ticket, report);
        }
    }
}

fn partition_of(record: &Record, index: i32) -> Partition {
    // A record that is stored is in a partition; librdkafka's "none" is negative.
    Partition::new(&record.topic, u32::try_from(index).unwrap_or(0))
}

fn headers(record: &Record) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(record.headers.0.len());
    record
        .headers
        .0
        .iter()
        .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(&value[..]) }))
}

/// Starts a thread for what blocks in librdkafka.
pub(super) fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), KafkaError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|error| KafkaError::ClientCreation(error.to_string()))
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        mocking::MockCluster,
        producer::DefaultProducerContext,
        types::{RDKafkaApiKey, RDKafkaRespErr as Answer},
    };
    use rstest::rstest;
    use stormglass_runtime::Headers;

    use super::*;

    const REFUSED: Answer = Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    const DEPOSED: Answer = Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    const TOO_LARGE: Answer = Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;

    type Mock = MockCluster<'static, DefaultProducerContext>;

    /// librdkafka's own mock, asked for nothing but what is answered, and a producer for it.
    fn start(answers: &[Answer], delivery_timeout_ms: u64) -> (Mock, Arc<ProducerCore>) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 1, 1).unwrap();
        cluster.request_errors(RDKafkaApiKey::Produce, answers);
        let brokers = cluster.bootstrap_servers();
        let config = KafkaConfig { brokers, delivery_timeout_ms, ..KafkaConfig::default() };
        let config = KafkaConfig { request_timeout_ms: delivery_timeout_ms.min(10_000), ..config };
        (cluster, ProducerCore::start(config).unwrap())
    }

    fn record() -> Record {
        Record {
            topic: Topic::from("orders"),
            key: Some(Bytes::from_static(b"k")),
            headers: Headers::default(),
            value: Bytes::from_static(b"v"),
        }
    }

    #[rstest]
    #[case::nothing_but_refusals(REFUSED, Failure::NotDone(Cause::TimedOut))]
    #[case::one_that_may_come_after_the_append(DEPOSED, Failure::Unknown(Cause::TimedOut))]
    #[tokio::test]
    async fn a_record_that_a_deposed_leader_may_have_appended_is_in_doubt(
        #[case] first: Answer,
        #[case] expected: Failure,
    ) {
        let mut answers = vec![REFUSED; 1_000];
        answers[0] = first;
        let (_cluster, producer) = start(&answers, 2_000);
        assert_eq!(producer.publish(vec![record()]).await, [Err(expected)]);
    }

    #[tokio::test]
    async fn what_a_dropped_call_left_alone_is_not_overtaken() {
        let (cluster, producer) = start(&[TOO_LARGE], 30_000);
        // The second producer has to connect first: time enough to overtake.
        cluster.broker_round_trip_time(1, Duration::from_millis(200)).unwrap();
        tokio::select! { biased;
            results = producer.publish(vec![record()]) => panic!("reported already: {results:?}"),
            () = async { while producer.alone().is_empty() { sleep(ROOM).await } } => {}
        }
        let next = producer.publish(vec![record()]).await;
        assert_eq!(next, [Ok(Partition::new(&Topic::from("orders"), 0).at(1))]);
        assert!(producer.alone().is_empty());
    }
}
