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
//! seeks, repeated until librdkafka has taken them, and nothing is handed out before. (Removing and adding it again
//! would be taken for the answer to a revocation that is under way.)
//!
//! **Revocations** are answered when the token is dropped or its time is up; until then librdkafka keeps heartbeating
//! and holds the rebalance open. It stops fetching for all of the member's partitions meanwhile, and what it had read
//! ahead is read again after: a price for every rebalance, paid with time, not with records.
//!
//! **Protocol.** `group.protocol=classic` with the cooperative-sticky assignor (KIP-429). See the table in `mod.rs`.
//!
//! Left out: static members, eager rebalancing, and starting from committed offsets. A member that is dropped leaves the
//! group as a closed one does, only that nobody waits for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError,
    message::{BorrowedMessage, Headers as _},
};
use stormglass_runtime::{
    Assignment, Cause, Consumer, ConsumerName, Delivered, Delivery, Failure, Headers, Offset, Partition,
    Position, Record, Revocation, Topic,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};

use super::{
    config::KafkaConfig,
    ear::{Ear, Heard, say},
    outcome::{code_of, of_commit, of_notice},
    producer::spawn_thread,
    questions::Questions,
};

/// How long an idle member waits before it polls all the same: librdkafka counts polls, not what they bring.
const IDLE: Duration = Duration::from_secs(1);
/// How long a seek may take before it is tried again; it is answered by a thread of this process.
const SEEK: Duration = Duration::from_millis(200);
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
    arrivals: FuturesUnordered<BoxFuture<'static, (u64, Vec<Assignment>)>>,
    revoking: Option<Held>,
    /// What the worker should know of and was not told yet.
    noticed: Option<Failure>,
    /// Told once the group is left.
    left: Option<oneshot::Sender<()>>,
    /// Where the next delivery begins, so that every partition comes first in turn.
    turn: usize,
}

/// One partition of ours.
#[derive(Default)]
struct Reading {
    /// There once it was sought.
    queue: Option<PartitionQueue<Ear>>,
    /// Sought, and not yet taken on by librdkafka.
    wanted: Option<Offset>,
    paused: bool,
}

/// A revocation that waits for its token. The worker has been told, and has them no more.
struct Held {
    partitions: Vec<(Partition, Reading)>,
    released: oneshot::Receiver<()>,
    deadline: Instant,
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
        if self.is_released() {
            self.give_up();
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

    /// Asks for the readable ranges of new partitions.
    fn expect(&mut self, partitions: Vec<Partition>) {
        if partitions.is_empty() {
            return;
        }
        self.asked += 1;
        let asked = self.asked;
        self.arriving.extend(partitions.iter().map(|partition| (partition.clone(), asked)));
        let questions = Arc::clone(&self.questions);
        let pause = Duration::from_millis(self.config.retry_backoff_ms);
        let arrival = async move {
            loop {
                match questions.ranges(&partitions).await {
                    Ok(ranges) => {
                        let assigned = partitions.into_iter().zip(ranges);
                        let assigned =
                            assigned.map(|(partition, watermarks)| Assignment { partition, watermarks });
                        return (asked, assigned.collect());
                    }
                    Err(failure) => tracing::info!(%failure, "the range of a partition is not known yet"),
                }
                sleep(pause).await;
            }
        };
        self.arrivals.push(arrival.boxed());
    }

    /// Partitions whose range is known by now are the worker's, unless they have left again.
    fn arrive(&mut self, asked: u64, mut assigned: Vec<Assignment>) -> Option<Delivery> {
        assigned.retain(|assignment| self.arriving.get(&assignment.partition) == Some(&asked));
        for assignment in &assigned {
            self.arriving.remove(&assignment.partition);
            self.owned.insert(assignment.partition.clone(), Reading::default());
        }
        (!assigned.is_empty()).then_some(Delivery::Assigned(assigned))
    }

    /// Partitions are to be given up: at once, if the worker does not know of them yet.
    fn revoke(&mut self, partitions: &[Partition]) -> Option<Delivery> {
        self.give_up();
        let revoked = self.forget(partitions);
        if revoked.is_empty() {
            self.unassign(&revoked);
            return None;
        }
        let (token, released) = Revocation::new(Duration::from_millis(self.config.revocation_grace_ms));
        let deadline = Instant::now() + token.grace();
        let told = names(&revoked);
        self.revoking = Some(Held { partitions: revoked, released, deadline });
        Some(Delivery::Revoking(told, token))
    }

    fn lose(&mut self, partitions: &[Partition]) -> Option<Delivery> {
        self.give_up();
        let lost = self.forget(partitions);
        self.unassign(&lost);
        (!lost.is_empty()).then(|| Delivery::Lost(names(&lost)))
    }

    /// Lets the rebalance go on.
    fn give_up(&mut self) {
        if let Some(held) = self.revoking.take() {
            self.unassign(&held.partitions);
        }
    }

    /// Whether the rebalance may go on by now.
    fn is_released(&mut self) -> bool {
        let Some(held) = &mut self.revoking else { return false };
        let waits = held.released.try_recv() == Err(oneshot::error::TryRecvError::Empty);
        !waits || held.deadline <= Instant::now()
    }

    /// Forgets partitions, and returns those that the worker knew of.
    fn forget(&mut self, partitions: &[Partition]) -> Vec<(Partition, Reading)> {
        for partition in partitions {
            self.arriving.remove(partition);
        }
        partitions.iter().filter_map(|partition| self.owned.remove_entry(partition)).collect()
    }

    /// Removes what was fetched; this also answers a revocation, and must be called for it in any case.
    fn unassign(&self, partitions: &[(Partition, Reading)]) {
        let fetched = partitions.iter().filter(|(_, reading)| reading.queue.is_some());
        let list = list(fetched.map(|(partition, _)| partition.at(0)));
        say(self.client.incremental_unassign(&list), "the partitions are given up");
    }

    /// Seeks where librdkafka has not taken the position on yet. Whether some are left.
    fn reposition(&mut self) -> bool {
        let mut left = false;
        for (partition, reading) in &mut self.owned {
            if let Some(offset) = reading.wanted {
                let taken = match &reading.queue {
                    Some(_) => seek_again(&self.client, partition, offset),
                    None => begin(&self.client, partition, offset).map(|queue| reading.queue = Some(queue)),
                };
                match taken {
                    Some(()) => reading.wanted = None,
                    None => left = true,
                }
            }
        }
        left
    }

    /// Records of the partitions that may be read, each partition coming first in turn.
    fn read(&mut self) -> Option<Delivery> {
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % self.owned.len().max(1);
        let mut delivered = Vec::new();
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
                    Some(Err(error)) => self.noticed = notice(&error).or(self.noticed.take()),
                    None => break,
                }
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
            Some((asked, assigned)) = self.arrivals.next() => self.arrive(asked, assigned),
            () = woken.notified() => None,
            () = released(&mut self.revoking) => None,
            () = sleep(again) => None,
        }
    }
}

impl Reading {
    fn readable(&self) -> Option<&PartitionQueue<Ear>> {
        self.queue.as_ref().filter(|_| !self.paused && self.wanted.is_none())
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

    async fn report(&mut self, mut positions: Vec<Position>) -> Result<(), Failure> {
        // What the group has said by now counts: who is out asks nobody.
        self.poll();
        if !self.client.context().joined() {
            return Err(Failure::NotDone(Cause::Fenced));
        }
        if positions.is_empty() {
            return Ok(());
        }
        positions.sort();
        let deadline = Instant::now() + Duration::from_millis(self.config.request_timeout_ms);
        let commit = self.client.commit(&list(positions.iter().cloned()), CommitMode::Async);
        commit.map_err(|error| of_commit(&error))?;
        let woken = Arc::clone(&self.client.context().woken);
        loop {
            self.poll();
            if let Some(answer) = self.client.context().answer(&positions) {
                // Whatever else was polled meanwhile waits for `next`.
                woken.notify_one();
                return answer;
            }
            tokio::select! { biased;
                () = woken.notified() => {}
                () = released(&mut self.revoking) => {}
                () = sleep_until(deadline) => return Err(Failure::Unknown(Cause::TimedOut)),
                () = sleep(IDLE) => {}
            }
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

/// Drops a client once nobody else holds it; its own drop leaves the group.
fn leave(mut client: Arc<BaseConsumer<Ear>>) {
    loop {
        match Arc::try_unwrap(client) {
            Ok(last) => return drop(last),
            // Whoever dropped the member is about to let go.
            Err(shared) => client = shared,
        }
        std::thread::yield_now();
    }
}

/// Resolves when the token is dropped or its time is up.
async fn released(held: &mut Option<Held>) {
    match held {
        Some(held) => tokio::select! { biased;
            // An error is the drop.
            _ = &mut held.released => {}
            () = sleep_until(held.deadline) => {}
        },
        None => std::future::pending().await,
    }
}

/// Adds a partition at its first offset. `None`: not now.
fn begin(
    client: &Arc<BaseConsumer<Ear>>,
    partition: &Partition,
    offset: Offset,
) -> Option<PartitionQueue<Ear>> {
    let index = i32::try_from(partition.index).ok()?;
    let mut queue = client.split_partition_queue(partition.topic.as_str(), index)?;
    let woken = Arc::clone(&client.context().woken);
    queue.set_nonempty_callback(move || woken.notify_one());
    let assigned = client.incremental_assign(&list([partition.at(offset)]));
    say_or(assigned, queue, "the partition is fetched")
}

/// Moves a partition that is being fetched. `None`: not now.
fn seek_again(client: &BaseConsumer<Ear>, partition: &Partition, offset: Offset) -> Option<()> {
    let sought = client.seek_partitions(list([partition.at(offset)]), SEEK);
    let taken = sought.and_then(|answers| answers.elements().iter().try_for_each(|element| element.error()));
    say_or(taken, (), "the partition is sought")
}

fn say_or<T>(result: Result<(), KafkaError>, value: T, what: &str) -> Option<T> {
    match result {
        Ok(()) => Some(value),
        Err(error) => {
            tracing::debug!(%error, "not now: {what}");
            None
        }
    }
}

/// What librdkafka says between the records, if the worker should know of it.
fn notice(error: &KafkaError) -> Option<Failure> {
    tracing::info!(%error, code = ?code_of(error), "the consumer says");
    of_notice(error)
}

fn names(partitions: &[(Partition, Reading)]) -> Vec<Partition> {
    partitions.iter().map(|(partition, _)| partition.clone()).collect()
}

fn list(positions: impl IntoIterator<Item = Position>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for Position { partition, offset } in positions {
        let index = i32::try_from(partition.index).unwrap_or(i32::MAX);
        say(
            list.add_partition_offset(partition.topic.as_str(), index, KafkaOffset::Offset(offset)),
            "a position is added to a list",
        );
    }
    list
}

/// A record of ours. Key, headers and value share one buffer.
fn delivered_of(partition: &Partition, message: &BorrowedMessage<'_>) -> Delivered {
    let (key, value) = (message.key(), message.payload().unwrap_or_default());
    let count = message.headers().map_or(0, |headers| headers.count());
    let headers = || message.headers().into_iter().flat_map(|headers| headers.iter());
    let bytes = headers().map(|header| header.value.map_or(0, <[u8]>::len)).sum::<usize>();
    let mut buffer = Vec::with_capacity(key.map_or(0, <[u8]>::len) + bytes + value.len());
    buffer.extend_from_slice(key.unwrap_or_default());
    headers().for_each(|header| buffer.extend_from_slice(header.value.unwrap_or_default()));
    buffer.extend_from_slice(value);
    let mut rest = Bytes::from(buffer);
    let key = key.map(|key| rest.split_to(key.len()));
    let mut named = Headers(Vec::with_capacity(count));
    for header in headers() {
        named.push(header.key, rest.split_to(header.value.map_or(0, <[u8]>::len)));
    }
    let record = Record { topic: partition.topic.clone(), key, headers: named, value: rest };
    Delivered { at: partition.at(message.offset()), record }
}
