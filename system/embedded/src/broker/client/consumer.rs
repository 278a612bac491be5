//! The consumer: what is read from where, and handing it out.
//!
//! Requests in flight live in the consumer, not in the future of `next`, so dropping that future loses nothing. One
//! fetch per leader covers all partitions that can be read there and waits at the broker until there is something,
//! which keeps an idle consumer quiet. When a partition becomes readable while such a fetch waits, a new one takes
//! its place and the old answer is ignored.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use stormglass_runtime::{
    Assignment, Cause, Consumer, Delivered, Delivery, Failure, Offset, Partition, Position, Reason, Topic,
    Watermarks,
};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{
    super::request::{ErrorCode, Fetch, Fetched, Request, Response},
    config::{ClientConfig, OffsetReset},
    connections::{Connections, protocol_violation},
    membership::{Event, Shared},
    outcome::{NoAnswer, failure_of},
};

/// A member of a group, from the reader's side.
pub(super) struct GroupConsumer {
    connections: Arc<Connections>,
    config: ClientConfig,
    shared: Arc<Shared>,
    topics: Vec<Topic>,
    events: mpsc::UnboundedReceiver<Event>,
    member: AbortHandle,
    assigned: BTreeMap<Partition, Reading>,
    /// Assigned, but not handed out before their readable range is known.
    arriving: BTreeSet<Partition>,
    flights: FuturesUnordered<BoxFuture<'static, Landing>>,
    /// By number: the fetch that counts for its partitions.
    fetching: BTreeMap<u64, Flight>,
    launched: u64,
    /// Whether a search for leaders is under way.
    searching: bool,
    /// Not asked for before that search is over: whoever led them answers no longer.
    resting: BTreeSet<Partition>,
    failures: VecDeque<Failure>,
}

/// Where one partition is read.
#[derive(Default)]
struct Reading {
    /// The next offset; `None` until the first seek.
    position: Option<Offset>,
    paused: bool,
    /// Out of range, and not to be reset.
    stuck: bool,
}

impl Reading {
    fn readable(&self) -> Option<Offset> {
        self.position.filter(|_| !self.paused && !self.stuck)
    }
}

struct Flight {
    node: usize,
    positions: Vec<Position>,
}

/// What comes back of a request in flight.
enum Landing {
    Fetch(u64, Result<Response, NoAnswer>),
    Arrivals(Vec<Assignment>),
    Leaders(Result<(), Failure>),
}

impl GroupConsumer {
    pub(super) fn new(
        connections: Arc<Connections>,
        config: ClientConfig,
        topics: Vec<Topic>,
        member: (Arc<Shared>, mpsc::UnboundedReceiver<Event>, AbortHandle),
    ) -> Self {
        let (shared, events, member) = member;
        Self {
            connections,
            config,
            shared,
            topics,
            events,
            member,
            assigned: BTreeMap::new(),
            arriving: BTreeSet::new(),
            flights: FuturesUnordered::new(),
            fetching: BTreeMap::new(),
            launched: 0,
            searching: false,
            resting: BTreeSet::new(),
            failures: VecDeque::new(),
        }
    }

    /// Takes what the member's task tells.
    fn take(&mut self, event: Event) -> Option<Delivery> {
        match event {
            Event::Assigned(partitions) => {
                self.arriving.extend(partitions.iter().cloned());
                let connections = Arc::clone(&self.connections);
                let pause = self.config.retry_backoff;
                self.flights.push(
                    async move { Landing::Arrivals(arrivals(&connections, partitions, pause).await) }.boxed(),
                );
                None
            }
            Event::Revoking(partitions, token, handed_out) => {
                let partitions = self.drop_partitions(partitions);
                // The member's task may have ended meanwhile; then nobody waits for the token.
                handed_out.send(()).unwrap_or(());
                (!partitions.is_empty()).then_some(Delivery::Revoking(partitions, token))
            }
            Event::Lost(partitions) => {
                let partitions = self.drop_partitions(partitions);
                (!partitions.is_empty()).then_some(Delivery::Lost(partitions))
            }
        }
    }

    /// Forgets partitions, and returns those that had been handed out.
    fn drop_partitions(&mut self, mut partitions: Vec<Partition>) -> Vec<Partition> {
        for partition in &partitions {
            self.arriving.remove(partition);
        }
        partitions.retain(|partition| self.assigned.remove(partition).is_some());
        partitions
    }

    /// Sends fetches for what can be read and is not being fetched.
    fn launch(&mut self) {
        let mut by_leader: BTreeMap<usize, Vec<Position>> = BTreeMap::new();
        let mut leaderless = false;
        for (partition, reading) in &self.assigned {
            if let Some(offset) = reading.readable().filter(|_| !self.resting.contains(partition)) {
                match self.connections.leader(partition) {
                    Some(leader) => by_leader.entry(leader).or_default().push(partition.at(offset)),
                    None => leaderless = true,
                }
            }
        }
        for (node, positions) in by_leader {
            let current = |flight: &Flight| positions.iter().all(|at| flight.positions.contains(at));
            if self.fetching.values().any(|flight| flight.node == node && current(flight)) {
                continue;
            }
            self.fetching.retain(|_, flight| flight.node != node);
            self.launch_fetch(node, positions);
        }
        if leaderless {
            self.search();
        }
    }

    fn launch_fetch(&mut self, node: usize, mut positions: Vec<Position>) {
        self.launched += 1;
        let number = self.launched;
        // Whoever comes first may fill the answer, so each partition comes first in turn (KIP-74).
        let first = usize::try_from(number).unwrap_or(0) % positions.len().max(1);
        positions.rotate_left(first);
        self.fetching.insert(number, Flight { node, positions: positions.clone() });
        let (max_wait, max_bytes) = (self.config.fetch_max_wait, self.config.fetch_max_bytes);
        let patience = max_wait + self.config.request_timeout;
        let fetch = Request::Fetch(Fetch { positions, max_wait, max_bytes });
        let connections = Arc::clone(&self.connections);
        let flight = async move {
            Landing::Fetch(number, connections.ask_until(Instant::now() + patience, node, fetch).await)
        };
        self.flights.push(flight.boxed());
    }

    /// Looks for the leaders again, after a while.
    fn search(&mut self) {
        if std::mem::replace(&mut self.searching, true) {
            return;
        }
        let (connections, topics) = (Arc::clone(&self.connections), self.topics.clone());
        let pause = self.config.retry_backoff;
        let flight = async move {
            sleep(pause).await;
            Landing::Leaders(connections.refresh(&topics).await)
        };
        self.flights.push(flight.boxed());
    }

    fn land(&mut self, landing: Landing) -> Result<Option<Delivery>, Failure> {
        match landing {
            Landing::Arrivals(mut assignments) => {
                assignments.retain(|assignment| self.arriving.remove(&assignment.partition));
                for assignment in &assignments {
                    self.assigned.insert(assignment.partition.clone(), Reading::default());
                }
                Ok((!assignments.is_empty()).then_some(Delivery::Assigned(assignments)))
            }
            Landing::Leaders(result) => {
                self.searching = false;
                self.resting.clear();
                result.map(|()| None)
            }
            Landing::Fetch(number, answer) => {
                let Some(flight) = self.fetching.remove(&number) else { return Ok(None) };
                if let Ok(Response::Fetched(fetched)) = answer {
                    return Ok(self.read(fetched));
                }
                tracing::debug!(node = flight.node, "fetch failed");
                self.resting.extend(flight.positions.into_iter().map(|position| position.partition));
                self.search();
                Ok(None)
            }
        }
    }

    /// Moves the positions over what was fetched, where it is still wanted.
    fn read(&mut self, fetched: Vec<Fetched>) -> Option<Delivery> {
        let mut delivered = Vec::new();
        for Fetched { partition, asked, watermarks, records } in fetched {
            let Some(reading) = self.assigned.get_mut(&partition) else { continue };
            if reading.readable() != Some(asked) {
                continue;
            }
            match records {
                Ok(records) => {
                    reading.position = records.last().map_or(Some(asked), |(offset, _)| Some(offset + 1));
                    let place = |(offset, record)| Delivered {
                        at: partition.at(offset),
                        record: Arc::unwrap_or_clone(record),
                    };
                    delivered.extend(records.into_iter().map(place));
                }
                Err(ErrorCode::OffsetOutOfRange) => match self.config.offset_reset {
                    OffsetReset::Earliest => reading.position = Some(watermarks.start),
                    OffsetReset::Latest => reading.position = Some(watermarks.end),
                    OffsetReset::Fail => {
                        reading.stuck = true;
                        let reason = format!("offset {asked} of {partition} is out of range");
                        self.failures.push_back(Failure::Rejected(Reason::Invalid(reason)));
                    }
                },
                Err(_) => {
                    self.resting.insert(partition);
                    self.search();
                }
            }
        }
        (!delivered.is_empty()).then_some(Delivery::Records(delivered))
    }
}

/// The readable ranges of newly assigned partitions, as soon as their leaders tell.
async fn arrivals(
    connections: &Connections,
    mut partitions: Vec<Partition>,
    pause: std::time::Duration,
) -> Vec<Assignment> {
    let mut known = BTreeMap::new();
    loop {
        let mut by_leader: BTreeMap<usize, Vec<Partition>> = BTreeMap::new();
        for partition in partitions.iter().filter(|partition| !known.contains_key(*partition)) {
            if let Some(leader) = connections.leader(partition) {
                by_leader.entry(leader).or_default().push(partition.clone());
            }
        }
        let asks = by_leader.into_iter().map(|(leader, asked)| async move {
            let answer = connections.ask(leader, Request::Watermarks(asked.clone())).await;
            (asked, answer)
        });
        for (asked, answer) in futures::future::join_all(asks).await {
            if let Ok(Response::Watermarks(ranges)) = answer {
                known.extend(asked.into_iter().zip(ranges));
            }
        }
        if known.len() >= partitions.len() {
            let range =
                |partition| known.get(&partition).map(|&watermarks| Assignment { partition, watermarks });
            return partitions.drain(..).filter_map(range).collect();
        }
        sleep(pause).await;
        let topics: BTreeSet<Topic> = partitions.iter().map(|partition| partition.topic.clone()).collect();
        // If nobody answers, the next round tries again.
        connections.refresh(&topics.into_iter().collect::<Vec<_>>()).await.unwrap_or(());
    }
}

/// The readable range of one partition, asked once.
pub(super) async fn watermarks(
    connections: &Connections,
    partition: &Partition,
) -> Result<Watermarks, Failure> {
    connections.refresh(std::slice::from_ref(&partition.topic)).await?;
    if partition.index >= connections.partitions(&partition.topic).await? {
        return Err(Failure::Rejected(Reason::Invalid(format!("no partition {partition}"))));
    }
    let leader = connections.leader(partition).ok_or(Failure::NotDone(Cause::NotLeader))?;
    match connections
        .ask(leader, Request::Watermarks(vec![partition.clone()]))
        .await
        .map_err(NoAnswer::of_read)?
    {
        Response::Watermarks(ranges) => ranges.first().copied().ok_or(Failure::NotDone(Cause::Protocol)),
        Response::Failed(ErrorCode::NotLeader) => Err(Failure::NotDone(Cause::NotLeader)),
        other => Err(protocol_violation(&other)),
    }
}

#[async_trait]
impl Consumer for GroupConsumer {
    async fn next(&mut self) -> Result<Delivery, Failure> {
        let shared = Arc::clone(&self.shared);
        let _polling = shared.poll();
        loop {
            while let Ok(event) = self.events.try_recv() {
                if let Some(delivery) = self.take(event) {
                    return Ok(delivery);
                }
            }
            if let Some(failure) = self.failures.pop_front() {
                return Err(failure);
            }
            self.launch();
            let delivery = tokio::select! { biased;
                Some(event) = self.events.recv() => self.take(event),
                Some(landing) = self.flights.next() => self.land(landing)?,
                // The member's task has ended and nothing is in flight: its runtime is shutting down.
                else => return Err(Failure::NotDone(Cause::Disconnected)),
            };
            if let Some(delivery) = delivery {
                return Ok(delivery);
            }
        }
    }

    async fn report(&mut self, positions: Vec<Position>) -> Result<(), Failure> {
        let deadline = Instant::now() + self.config.request_timeout;
        loop {
            let who = self.shared.membership();
            if who.generation < 0 {
                // Without a generation the coordinator would take it for a simple consumer's, if the group is empty.
                return Err(Failure::NotDone(Cause::Fenced));
            }
            let commit = Request::CommitOffsets(who, positions.clone());
            let patience = deadline.saturating_duration_since(Instant::now());
            let failure = match self.shared.ask(&self.connections, commit, patience).await? {
                Response::Done => return Ok(()),
                Response::Failed(code) => failure_of(code),
                other => return Err(protocol_violation(&other)),
            };
            let again = matches!(failure, Failure::NotDone(Cause::NotLeader));
            if !again || Instant::now() + self.config.retry_backoff >= deadline {
                return Err(failure);
            }
            sleep(self.config.retry_backoff).await;
        }
    }

    fn seek(&mut self, position: Position) {
        if let Some(reading) = self.assigned.get_mut(&position.partition) {
            *reading = Reading { position: Some(position.offset), ..Reading::default() };
        }
    }

    fn pause(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(reading) = self.assigned.get_mut(partition) {
                reading.paused = true;
            }
        }
    }

    fn resume(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(reading) = self.assigned.get_mut(partition) {
                reading.paused = false;
            }
        }
    }

    async fn close(self: Box<Self>) {
        self.member.abort();
        let leave = Request::Leave(self.shared.membership());
        if self.shared.ask(&self.connections, leave, self.config.request_timeout).await.is_err() {
            tracing::debug!(group = %self.shared.group, "leaving was not heard; the session will time out");
        }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.member.abort();
    }
}
