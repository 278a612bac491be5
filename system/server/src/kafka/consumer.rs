//! Membership in a consumer group, on librdkafka's low-level consumer.
//!
//! librdkafka keeps heartbeats, coordinator and fetching on threads of its own, and hands over what comes through
//! queues. This member polls them without waiting, from `next` alone, and is woken when one of them has something.
//! So there is no thread in between, nothing is lost with a dropped `next`, a worker that does not call `next` is one
//! that does not poll (SEMANTICS B20), and rebalances reach the worker in order with its records.
//!
//! **Queues.** Every partition has a queue of its own. Pausing one is not polling it: what was read ahead stays, and
//! no flag of librdkafka's can outlive a rebalance. What is read ahead is bounded per partition, so memory is as well.
//! The member's own queue then holds events only, and can be polled while no record is wanted.
//!
//! **Assignments are ours.** An assignment is acknowledged with an empty list: the group goes on, and nothing is
//! fetched. The first seek adds the partition at its offset, so no committed offset is ever asked for. Later ones are
//! seeks, repeated until librdkafka has taken them, and nothing is handed out before. (Removing and adding it again,
//! which is left for a partition that librdkafka has stopped fetching, would be taken for the answer to a revocation
//! that is under way.)
//!
//! **Revocations** are answered when the token is dropped or its time is up; until then librdkafka keeps heartbeating
//! and holds the rebalance open. It stops fetching for all of the member's partitions meanwhile, and what it had read
//! ahead is read again after: a price for every rebalance, paid with time, not with records.
//!
//! The acknowledgement of an assignment comes from polling, as in Kafka's own client: a rebalance is over for everybody
//! when each member has called `next`.
//!
//! **Protocol.** The classic one with the cooperative-sticky assignor (KIP-429) by default, KIP-848 if it is asked for.
//! Both pass the same cases on Kafka 4.1.1. Classic is the default because it needs no broker of version 4, leaves the
//! session timeout to the client, and lets old and new members share a group during a deploy.
//!
//! Left out: static members, eager rebalancing, and starting from committed offsets. A member that is dropped leaves the
//! group as a closed one does, only that nobody waits for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rdkafka::{
    Message,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use stormglass_runtime::{
    Assignment, Cause, Consumer, ConsumerName, Delivery, Failure, Partition, Position, Revocation, Topic,
};
use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::{sleep, timeout},
};

use super::{
    config::KafkaConfig,
    ear::{Ear, Heard},
    held::{self, Held},
    log,
    outcome::{code_of, of_commit, of_notice},
    producer::spawn_thread,
    questions::Questions,
    reading::{self, Reading, delivered_of, list},
};

/// How long an idle member waits before it polls all the same: librdkafka counts polls, not what they bring.
const IDLE: Duration = Duration::from_secs(1);
/// How long a seek that librdkafka could not take yet is left alone.
const SEEK_AGAIN: Duration = Duration::from_millis(20);
/// Bytes in one delivery at most; one record always fits.
const DELIVERY_BYTES: usize = 1 << 20;

/// A member of a group.
pub(super) struct Member {
    client: Arc<BaseConsumer<Ear>>,
    questions: Arc<Questions>,
    config: KafkaConfig,
    owned: BTreeMap<Partition, Reading>,
    /// Assigned, but not handed out before their readable range is known: by number of the question.
    arriving: BTreeMap<Partition, u64>,
    asked: u64,
    arrivals: FuturesUnordered<BoxFuture<'static, (u64, Assignment)>>,
    revoking: Option<Held>,
    /// The commit that was sent last. There is one at a time, since each waits on a thread.
    committing: Option<oneshot::Receiver<Result<(), Failure>>>,
    /// What the worker should know of and was not told yet.
    noticed: Option<Failure>,
    /// Told once the group is left.
    left: Option<oneshot::Sender<()>>,
    /// Where the next delivery begins, so that every partition comes first in turn.
    turn: usize,
}

impl Member {
    /// Joins `group`; returns before it is let in.
    pub(super) fn join(
        config: &KafkaConfig,
        questions: Arc<Questions>,
        group: &ConsumerName,
        topics: &[Topic],
    ) -> Result<Self, KafkaError> {
        let ear = Ear::default();
        let woken = Arc::clone(&ear.woken);
        let mut client = BaseConsumer::from_config_and_context(&config.consumer(group), ear)?;
        client.set_nonempty_callback(move || woken.notify_one());
        let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
        client.subscribe(&names)?;
        Ok(Self {
            client: Arc::new(client),
            questions,
            config: config.clone(),
            owned: BTreeMap::new(),
            arriving: BTreeMap::new(),
            asked: 0,
            arrivals: FuturesUnordered::new(),
            revoking: None,
            committing: None,
            noticed: None,
            left: None,
            turn: 0,
        })
    }

    /// Polls for events until there are none.
    fn poll(&mut self) {
        let ear = self.client.context();
        loop {
            let calls = ear.calls();
            match self.client.poll(Duration::ZERO) {
                Some(Err(error)) => self.noticed = notice(&error).or(self.noticed.take()),
                // Records come through their partition's queue.
                Some(Ok(message)) => {
                    tracing::error!(offset = message.offset(), "a record that nobody sought")
                }
                None if ear.calls() == calls => break,
                None => {}
            }
        }
    }

    /// Takes what was heard, up to the first thing that the worker is to be told.
    fn listen(&mut self) -> Option<Delivery> {
        while let Some(heard) = self.client.context().take() {
            let delivery = match heard {
                Heard::Assigned(partitions) => {
                    self.expect(partitions);
                    None
                }
                Heard::Revoking(partitions) => self.revoke(&partitions),
                Heard::Lost(partitions) => self.lose(&partitions),
            };
            if delivery.is_some() {
                return delivery;
            }
        }
        None
    }

    /// Asks for the readable ranges of new partitions: of each by itself, since one without a leader must not keep back
    /// the others.
    fn expect(&mut self, partitions: Vec<Partition>) {
        self.asked += 1;
        let asked = self.asked;
        let pause = Duration::from_millis(self.config.retry_backoff_ms);
        for partition in partitions {
            self.arriving.insert(partition.clone(), asked);
            let questions = Arc::clone(&self.questions);
            let arrival = async move {
                loop {
                    match questions.watermarks(&partition).await {
                        Ok(watermarks) => return (asked, Assignment { partition, watermarks }),
                        Err(failure) => {
                            if let Some(unsaid) = log::seldom("arrival") {
                                tracing::info!(%partition, %failure, unsaid, "its range is not known yet");
                            }
                        }
                    }
                    sleep(pause).await;
                }
            };
            self.arrivals.push(arrival.boxed());
        }
    }

    /// Partitions whose range is known by now are the worker's, unless they have left again. All that have arrived are
    /// told of together.
    fn arrive(&mut self, first: (u64, Assignment)) -> Option<Delivery> {
        let mut assigned = Vec::new();
        let mut next = Some(first);
        while let Some((asked, assignment)) = next {
            if self.arriving.get(&assignment.partition) == Some(&asked) {
                self.arriving.remove(&assignment.partition);
                self.owned.insert(assignment.partition.clone(), Reading::default());
                assigned.push(assignment);
            }
            next = self.arrivals.next().now_or_never().flatten();
        }
        (!assigned.is_empty()).then_some(Delivery::Assigned(assigned))
    }

    /// Partitions are to be given up: at once, if the worker does not know of them yet.
    fn revoke(&mut self, partitions: &[Partition]) -> Option<Delivery> {
        self.give_up();
        let revoked = self.forget(partitions);
        if revoked.is_empty() {
            held::unassign(&self.client, &revoked);
            return None;
        }
        let told = names(&revoked);
        let (token, released) = Revocation::new(Duration::from_millis(self.config.revocation_grace_ms));
        self.revoking = Some(Held::hold(&self.client, revoked, (token.grace(), released)));
        Some(Delivery::Revoking(told, token))
    }

    fn lose(&mut self, partitions: &[Partition]) -> Option<Delivery> {
        self.give_up();
        let lost = self.forget(partitions);
        held::unassign(&self.client, &lost);
        (!lost.is_empty()).then(|| Delivery::Lost(names(&lost)))
    }

    /// Lets a rebalance go on that is still held open.
    fn give_up(&mut self) {
        if let Some(held) = self.revoking.take() {
            held.give_up(&self.client);
        }
    }

    /// Forgets partitions, and returns those that the worker knew of.
    fn forget(&mut self, partitions: &[Partition]) -> Vec<(Partition, Reading)> {
        for partition in partitions {
            self.arriving.remove(partition);
        }
        partitions.iter().filter_map(|partition| self.owned.remove_entry(partition)).collect()
    }

    /// Seeks where librdkafka has not taken the position on yet. Whether some are left.
    fn reposition(&mut self) -> bool {
        let mut left = false;
        for (partition, reading) in &mut self.owned {
            let Some(offset) = reading.wanted else { continue };
            let taken = match &reading.queue {
                None => {
                    reading::begin(&self.client, partition, offset).map(|queue| reading.queue = Some(queue))
                }
                Some(_) if !reading.stopped => reading::seek(&self.client, partition, offset),
                // It would be taken for the answer.
                Some(_) if self.revoking.as_ref().is_some_and(Held::waits) => None,
                Some(_) => reading::restart(&self.client, partition, offset),
            };
            match taken {
                Some(()) => (reading.wanted, reading.stopped) = (None, false),
                None => left = true,
            }
        }
        left
    }

    /// Records of the partitions that may be read, each partition coming first in turn.
    fn read(&mut self) -> Option<Delivery> {
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % self.owned.len().max(1);
        let (mut delivered, mut stopped) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for (partition, reading) in self.owned.iter().skip(first).chain(self.owned.iter().take(first)) {
            let Some(queue) = reading.readable() else { continue };
            while delivered.len() < self.config.delivery_records && bytes < DELIVERY_BYTES {
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        let record = delivered_of(partition, &message);
                        bytes += record.record.size();
                        delivered.push(record);
                    }
                    Some(Err(error)) => {
                        self.noticed = notice(&error).or(self.noticed.take());
                        if code_of(&error) == RDKafkaErrorCode::AutoOffsetReset {
                            stopped.push(partition.clone());
                        }
                    }
                    None => break,
                }
            }
        }
        for partition in stopped {
            if let Some(reading) = self.owned.get_mut(&partition) {
                reading.stopped = true;
            }
        }
        (!delivered.is_empty()).then_some(Delivery::Records(delivered))
    }

    /// Everything that can be told without waiting.
    fn ready(&mut self) -> Result<Option<Delivery>, Failure> {
        self.poll();
        if let Some(failure) = self.noticed.take() {
            return Err(failure);
        }
        Ok(self.listen().or_else(|| self.read()))
    }

    /// Waits until there may be something. `Some`: there is.
    async fn wait(&mut self, again: Duration) -> Option<Delivery> {
        let woken = Arc::clone(&self.client.context().woken);
        tokio::select! { biased;
            Some(arrival) = self.arrivals.next() => self.arrive(arrival),
            () = woken.notified() => None,
            () = sleep(again) => None,
        }
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> Result<Delivery, Failure> {
        loop {
            let seeking = self.reposition();
            if let Some(delivery) = self.ready()? {
                return Ok(delivery);
            }
            if let Some(delivery) = self.wait(if seeking { SEEK_AGAIN } else { IDLE }).await {
                return Ok(delivery);
            }
        }
    }

    async fn report(&mut self, positions: Vec<Position>) -> Result<(), Failure> {
        // What the group has said by now counts: who is out asks nobody.
        self.poll();
        if !self.client.context().joined() {
            return Err(Failure::NotDone(Cause::Fenced));
        }
        if positions.is_empty() {
            return Ok(());
        }
        if self.committing.as_mut().is_some_and(|before| before.try_recv() == Err(TryRecvError::Empty)) {
            return Err(Failure::NotDone(Cause::Busy));
        }
        let patience = Duration::from_millis(self.config.request_timeout_ms);
        let answer = self.committing.insert(commit(&self.client, positions)?);
        match timeout(patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failure::Unknown(Cause::Disconnected)),
            Err(_) => Err(Failure::Unknown(Cause::TimedOut)),
        }
    }

    fn seek(&mut self, position: Position) {
        if let Some(reading) = self.owned.get_mut(&position.partition) {
            reading.wanted = Some(position.offset);
            reading.paused = false;
            self.reposition();
        }
    }

    fn pause(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(reading) = self.owned.get_mut(partition) {
                reading.paused = true;
            }
        }
    }

    fn resume(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(reading) = self.owned.get_mut(partition) {
                reading.paused = false;
            }
        }
    }

    async fn close(mut self: Box<Self>) {
        let (left, leaving) = oneshot::channel();
        self.left = Some(left);
        drop(self);
        // Without an answer the thread could not be started; then the session ends by itself.
        leaving.await.unwrap_or(());
    }
}

impl Drop for Member {
    /// Leaves the group. That waits for the coordinator and for librdkafka's threads, so another thread does it.
    fn drop(&mut self) {
        self.client.context().close();
        self.give_up();
        self.owned.clear();
        let (client, left) = (Arc::clone(&self.client), self.left.take());
        let leaving = spawn_thread("kafka-leave", move || {
            leave(client);
            if let Some(left) = left {
                // A close that was dropped no longer wants to know.
                left.send(()).unwrap_or(());
            }
        });
        if let Err(error) = leaving {
            tracing::warn!(%error, "the group is left without a thread");
        }
    }
}

/// Commits from another thread: librdkafka's own way to answer without blocking needs a callback that rdkafka does not
/// set. The wait ends by itself, when the coordinator answers or librdkafka stops looking for one.
fn commit(
    client: &Arc<BaseConsumer<Ear>>,
    positions: Vec<Position>,
) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
    let client = Arc::clone(client);
    let (answer, answered) = oneshot::channel();
    let committing = spawn_thread("kafka-commit", move || {
        let committed = client.commit(&list(positions), CommitMode::Sync);
        // A report that was dropped no longer wants to know.
        answer.send(committed.map_err(|error| of_commit(&error))).unwrap_or(());
    });
    committing.map(|()| answered).map_err(|_| Failure::NotDone(Cause::Busy))
}

/// Drops a client once nobody else holds it; its own drop leaves the group.
fn leave(mut client: Arc<BaseConsumer<Ear>>) {
    loop {
        match Arc::try_unwrap(client) {
            Ok(last) => return drop(last),
            // Whoever dropped the member is about to let go.
            Err(shared) => client = shared,
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// What librdkafka says between the records, if the worker should know of it.
fn notice(error: &KafkaError) -> Option<Failure> {
    // The log has it already: errors of the client are also called back.
    tracing::debug!(%error, code = ?code_of(error), "the consumer says");
    of_notice(error)
}

fn names(partitions: &[(Partition, Reading)]) -> Vec<Partition> {
    partitions.iter().map(|(partition, _)| partition.clone()).collect()
}
