//! The idempotent producer: one queue and at most one batch in flight per partition.
//!
//! Why order holds: a batch is appended whole or not at all, so records of one key may share one; the next batch
//! leaves only after the report of the one before. A batch is repeated under the same producer id and sequence
//! number, so the log takes it once (KIP-98). When its outcome stays unknown it may still be on its way: the
//! partition's epoch then grows (KIP-360, which lets a client do that by itself), and the first batch of the new
//! epoch fences the old one for good, so it lands before everything that is published later or never.
//!
//! Epochs are counted per partition. Kafka's client counts them per producer and resets only the sequences of
//! partitions in doubt, which brokers cannot tell apart.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use stormglass_runtime::{Cause, Failure, Partition, Position, Reason, Record, Topic};
use tokio::{
    sync::{OnceCell, mpsc},
    time::{Instant, sleep, timeout_at},
};

use super::{
    super::{
        log::advance_sequence,
        request::{Acks, ErrorCode, Produce, Request, Response, Stamp},
    },
    config::ClientConfig,
    connections::{Connections, protocol_violation},
    outcome::NoAnswer,
    partitioner::partition_of,
};

type Report = (usize, Result<Position, Failure>);

/// The producer of one client.
pub(super) struct ProducerCore {
    connections: Arc<Connections>,
    config: ClientConfig,
    id: OnceCell<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<Partition, Lane>,
    queued: usize,
    calls: u64,
}

/// What waits for one partition, and how far its sequence has come.
#[derive(Default)]
struct Lane {
    queue: VecDeque<Queued>,
    sending: bool,
    epoch: u32,
    sequence: u32,
    /// So many batches are of one record, because one of them is too large for the topic.
    singles: usize,
}

struct Queued {
    call: u64,
    index: usize,
    record: Arc<Record>,
    deadline: Instant,
    report: mpsc::UnboundedSender<Report>,
}

impl Queued {
    fn report(self, result: Result<Position, Failure>) {
        // A publish that was dropped no longer wants to know.
        self.report.send((self.index, result)).unwrap_or(());
    }
}

impl ProducerCore {
    pub(super) fn new(connections: Arc<Connections>, config: ClientConfig) -> Self {
        Self { connections, config, id: OnceCell::new(), state: Mutex::default() }
    }

    /// See [`Producer::publish`](stormglass_runtime::Producer::publish).
    pub(super) async fn publish(self: &Arc<Self>, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        let deadline = Instant::now() + self.config.delivery_timeout;
        let topics: BTreeSet<Topic> = records.iter().map(|record| record.topic.clone()).collect();
        let mut counts = BTreeMap::new();
        for topic in topics {
            let count = self.partition_count(&topic, deadline).await;
            counts.insert(topic, count);
        }
        let mut results: Vec<Option<Result<Position, Failure>>> = vec![None; records.len()];
        let mut reports = self.enqueue(records, deadline, &counts, &mut results);
        while let Some((index, result)) = reports.recv().await {
            results[index] = Some(result);
        }
        // Without a report the sending task is gone, which only the end of its runtime does.
        results
            .into_iter()
            .map(|result| result.unwrap_or(Err(Failure::Unknown(Cause::Disconnected))))
            .collect()
    }

    async fn partition_count(&self, topic: &Topic, deadline: Instant) -> Result<u32, Failure> {
        let mut last = Failure::NotDone(Cause::TimedOut);
        let patient = async {
            loop {
                match self.connections.partitions(topic).await {
                    Err(failure @ Failure::NotDone(_)) => last = failure,
                    answer => return answer,
                }
                sleep(self.config.retry_backoff).await;
            }
        };
        let answer = timeout_at(deadline, patient).await;
        answer.unwrap_or(Err(last))
    }

    /// Queues what can be sent, in one step, so that two publishes do not mix their orders.
    fn enqueue(
        self: &Arc<Self>,
        records: Vec<Record>,
        deadline: Instant,
        counts: &BTreeMap<Topic, Result<u32, Failure>>,
        results: &mut [Option<Result<Position, Failure>>],
    ) -> mpsc::UnboundedReceiver<Report> {
        let (report, reports) = mpsc::unbounded_channel();
        let mut failed: BTreeSet<(Topic, Bytes)> = BTreeSet::new();
        let mut state = self.state();
        state.calls += 1;
        let call = state.calls;
        for (index, record) in records.into_iter().enumerate() {
            let key = record.key.clone().map(|key| (record.topic.clone(), key));
            let behind = key.as_ref().is_some_and(|key| failed.contains(key));
            let admitted = if behind { Err(PREDECESSOR) } else { self.admit(&state, &record, counts) };
            match admitted {
                Err(failure) => {
                    failed.extend(key);
                    results[index] = Some(Err(failure));
                }
                Ok(count) => {
                    let partition = place(&record, count, call);
                    state.queued += 1;
                    let queued =
                        Queued { call, index, record: Arc::new(record), deadline, report: report.clone() };
                    let lane = state.lanes.entry(partition.clone()).or_default();
                    lane.queue.push_back(queued);
                    if !std::mem::replace(&mut lane.sending, true) {
                        tokio::spawn(Arc::clone(self).drain(partition));
                    }
                }
            }
        }
        reports
    }

    /// The number of partitions to choose from, if the record may be queued.
    fn admit(
        &self,
        state: &State,
        record: &Record,
        counts: &BTreeMap<Topic, Result<u32, Failure>>,
    ) -> Result<u32, Failure> {
        let (bytes, limit) = (record.size(), self.config.max_record_bytes);
        if bytes > limit {
            return Err(Failure::Rejected(Reason::TooLarge { bytes, limit }));
        }
        if state.queued >= self.config.queue_records {
            return Err(Failure::NotDone(Cause::Busy));
        }
        counts.get(&record.topic).cloned().unwrap_or(Err(Failure::NotDone(Cause::Protocol)))
    }

    /// Sends one partition's queue until it is empty.
    async fn drain(self: Arc<Self>, partition: Partition) {
        if !self.config.linger.is_zero() {
            sleep(self.config.linger).await;
        }
        while let Some((batch, deadline)) = self.next_batch(&partition) {
            let records = batch.iter().map(|queued| Arc::clone(&queued.record)).collect();
            let result = self.deliver(&partition, records, deadline).await;
            self.settle(&partition, batch, result);
        }
    }

    /// What to send next, and until when. `None` ends the sending task in the same step as it finds nothing.
    fn next_batch(&self, partition: &Partition) -> Option<(Vec<Queued>, Instant)> {
        let now = Instant::now();
        let mut state = self.state();
        let lane = state.lanes.entry(partition.clone()).or_default();
        let mut batch: Vec<Queued> = Vec::new();
        let mut bytes = 0;
        while let Some(first) = lane.queue.front() {
            bytes += first.record.size();
            // What expired in the queue fails by itself, and takes nothing along (B12).
            let apart = batch.first().is_some_and(|other| (other.deadline <= now) != (first.deadline <= now));
            if apart || !batch.is_empty() && (bytes > self.config.batch_bytes || lane.singles > 0) {
                break;
            }
            batch.extend(lane.queue.pop_front());
        }
        lane.singles = lane.singles.saturating_sub(1);
        let deadline = batch.iter().map(|queued| queued.deadline).min();
        lane.sending = deadline.is_some();
        state.queued -= batch.len();
        deadline.map(|deadline| (batch, deadline))
    }

    /// Sends one batch until its outcome is certain or `deadline` has passed. The offset of its first record.
    async fn deliver(
        &self,
        partition: &Partition,
        records: Vec<Arc<Record>>,
        deadline: Instant,
    ) -> Result<i64, Failure> {
        let mut doubt: Option<Cause> = None;
        let mut last = Cause::TimedOut;
        while Instant::now() < deadline {
            match self.attempt(partition, &records, deadline).await {
                Ok(offset) => return Ok(offset),
                Err(Failure::Unknown(cause)) => doubt = Some(cause),
                Err(Failure::NotDone(cause)) => {
                    last = cause;
                    // The log lost what this sequence builds on (B8). Unless an earlier attempt is in doubt this
                    // batch certainly was not taken, and a new epoch may take it.
                    match (cause, doubt) {
                        (Cause::Conflict, Some(doubt)) => return Err(Failure::Unknown(doubt)),
                        (Cause::Conflict, None) => self.bump_epoch(partition),
                        _ => {}
                    }
                }
                // Only a batch that no earlier attempt can have left in the log is certainly not there.
                Err(rejected) => return Err(doubt.map_or(rejected, Failure::Unknown)),
            }
            let again = async {
                sleep(self.config.retry_backoff).await;
                // Whoever leads now, the metadata tells; if nobody tells, the next attempt says so.
                self.connections.refresh(std::slice::from_ref(&partition.topic)).await.unwrap_or(());
            };
            // The deadline holds whatever is being waited for; the loop looks at it.
            timeout_at(deadline, again).await.unwrap_or(());
        }
        Err(doubt.map_or(Failure::NotDone(last), Failure::Unknown))
    }

    /// One attempt. Only its own outcome counts: an earlier one may have left the batch in the log all the same.
    async fn attempt(
        &self,
        partition: &Partition,
        records: &[Arc<Record>],
        deadline: Instant,
    ) -> Result<i64, Failure> {
        let producer = timeout_at(deadline, self.id.get_or_try_init(|| self.init_producer()))
            .await
            .unwrap_or(Err(Failure::NotDone(Cause::TimedOut)))?;
        let leader = self.connections.leader(partition).ok_or(Failure::NotDone(Cause::NotLeader))?;
        let stamp = self.state().lanes.get(partition).map(|lane| Stamp {
            producer: *producer,
            epoch: lane.epoch,
            sequence: lane.sequence,
        });
        let until = deadline.min(Instant::now() + self.config.request_timeout);
        let produce = Produce {
            partition: partition.clone(),
            acks: Acks::All,
            stamp,
            records: records.to_vec(),
            timeout: until.saturating_duration_since(Instant::now()),
        };
        match self.connections.ask_until(until, leader, Request::Produce(produce)).await {
            Ok(Response::Produced(offset)) => Ok(offset),
            Ok(Response::Failed(ErrorCode::MessageTooLarge { limit })) => {
                let bytes = records.iter().map(|record| record.size()).max().unwrap_or_default();
                Err(Failure::Rejected(Reason::TooLarge { bytes, limit }))
            }
            Ok(other) => Err(protocol_violation(&other)),
            Err(lost) => Err(lost.into_failure()),
        }
    }

    async fn init_producer(&self) -> Result<u64, Failure> {
        match self.connections.ask_any(Request::InitProducer).await.map_err(NoAnswer::of_read)? {
            Response::Producer(id) => Ok(id),
            other => Err(protocol_violation(&other)),
        }
    }

    fn bump_epoch(&self, partition: &Partition) {
        if let Some(lane) = self.state().lanes.get_mut(partition) {
            lane.epoch += 1;
            lane.sequence = 0;
        }
    }

    /// Reports a batch, and fails what must not overtake its failed records.
    fn settle(&self, partition: &Partition, batch: Vec<Queued>, result: Result<i64, Failure>) {
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let mut state = self.state();
        let lane = state.lanes.entry(partition.clone()).or_default();
        let failure = match result {
            Ok(base) => {
                lane.sequence = advance_sequence(lane.sequence, count);
                drop(state);
                for (offset, queued) in (base..).zip(batch) {
                    queued.report(Ok(partition.at(offset)));
                }
                return;
            }
            Err(Failure::Rejected(Reason::TooLarge { .. })) if batch.len() > 1 => {
                // One of them is too large; alone, each learns whether it is the one.
                lane.singles += batch.len();
                let returned = batch.len();
                batch.into_iter().rev().for_each(|queued| lane.queue.push_front(queued));
                state.queued += returned;
                return;
            }
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Unknown(_)) {
            lane.epoch += 1;
            lane.sequence = 0;
        }
        let failed: BTreeSet<(u64, Option<Bytes>)> =
            batch.iter().map(|queued| (queued.call, queued.record.key.clone())).collect();
        let follows = |queued: &Queued| {
            queued.record.key.is_some() && failed.contains(&(queued.call, queued.record.key.clone()))
        };
        let (behind, kept): (VecDeque<Queued>, VecDeque<Queued>) =
            std::mem::take(&mut lane.queue).into_iter().partition(follows);
        lane.queue = kept;
        state.queued -= behind.len();
        drop(state);
        let mut seen = BTreeSet::new();
        for queued in batch {
            // In a batch that certainly failed, the first of a key says why and the others were not sent either.
            let first = queued.record.key.clone().is_none_or(|key| seen.insert((queued.call, key)));
            let follower = !first && failure.is_certainly_not_done();
            queued.report(Err(if follower { PREDECESSOR } else { failure.clone() }));
        }
        behind.into_iter().for_each(|queued| queued.report(Err(PREDECESSOR)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PREDECESSOR: Failure = Failure::NotDone(Cause::Predecessor);

/// Where a record goes. Without a key any partition will do; those of one call stay together, as Kafka's sticky
/// partitioner has it.
fn place(record: &Record, partitions: u32, call: u64) -> Partition {
    let index = match &record.key {
        Some(key) => partition_of(key, partitions),
        None => u32::try_from(call % u64::from(partitions.max(1))).unwrap_or(0),
    };
    Partition::new(&record.topic, index)
}
