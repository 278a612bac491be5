//! The cluster as one [`Machine`]: where requests are sent on to what answers them, and where time is kept.
//!
//! One value holds all brokers, because what they tell each other is not observed by clients: replication, the
//! controller and the coordinators are simplified as `replication.rs` and `coordinator.rs` say. Every request still
//! arrives at one node, and that node's state decides the answer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use stormglass_runtime::{ConsumerName, Offset, Partition, Timestamp, Topic, Watermarks};

use super::{
    config::ClusterConfig,
    fetch::Waiting,
    group::Group,
    observed::Observed,
    replication::{Replicated, Topology},
    request::{ErrorCode, Request, Response},
};
use crate::machine::{Call, Connection, Effect, Machine, Node};

/// A Kafka cluster without I/O.
pub struct Cluster {
    pub(super) config: ClusterConfig,
    pub(super) topology: Topology,
    pub(super) partitions: Vec<Replicated>,
    pub(super) topics: BTreeMap<Topic, Vec<usize>>,
    /// Partitions of the offsets topic: their leaders are the coordinators (B28).
    pub(super) coordinators: Vec<usize>,
    pub(super) groups: BTreeMap<ConsumerName, Group>,
    pub(super) fetches: BTreeMap<u64, Waiting>,
    pub(super) fetches_begun: u64,
    pub(super) out: Outbox,
    pub(super) redelivered: u64,
    pub(super) members_named: u64,
    producers: u64,
    connections: BTreeSet<Connection>,
}

/// What comes out of a step: effects, evidence and alarms.
#[derive(Default)]
pub(super) struct Outbox {
    effects: Vec<Effect<Response>>,
    observed: VecDeque<Observed>,
    observing: bool,
    alarms: BTreeMap<(Timestamp, u64), Alarm>,
    alarms_set: u64,
}

/// Something to look at when its time has come. Alarms are never taken back: each looks whether it still matters.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Alarm {
    /// Followers may have caught up.
    Replicate(usize),
    /// A produce request may have waited too long.
    Produce(usize, Call),
    /// A fetch may have waited too long.
    Fetch(u64),
    /// A broker may have been out of reach too long.
    Fence(Node),
    /// Followers may have been out of reach too long.
    Shrink,
    /// A member's session may be over.
    Session(ConsumerName, String),
    /// A rebalance may have waited long enough.
    Rebalance(ConsumerName),
    /// An empty group's offsets may have expired.
    Expire(ConsumerName),
}

impl Outbox {
    pub(super) fn reply(&mut self, call: Call, response: Response) {
        self.effects.push(Effect::Reply(call, response));
    }

    pub(super) fn fail(&mut self, call: Call, code: ErrorCode) {
        self.reply(call, Response::Failed(code));
    }

    pub(super) fn hang_up(&mut self, connection: Connection) {
        self.effects.push(Effect::Hangup(connection));
    }

    pub(super) fn observe(&mut self, event: impl FnOnce() -> Observed) {
        if self.observing {
            self.observed.push_back(event());
        }
    }

    pub(super) fn alarm(&mut self, at: Timestamp, alarm: Alarm) {
        self.alarms_set += 1;
        self.alarms.insert((at, self.alarms_set), alarm);
    }

    fn due(&mut self, now: Timestamp) -> Option<Alarm> {
        let first = self.alarms.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    pub(super) fn effects(&mut self) -> Vec<Effect<Response>> {
        std::mem::take(&mut self.effects)
    }
}

impl Cluster {
    /// A cluster with empty logs, all brokers up and in sync.
    pub fn new(config: ClusterConfig) -> Self {
        let mut partitions = Vec::new();
        let mut topics = BTreeMap::new();
        for topic in &config.topics {
            let indices = (0..topic.partitions).map(|index| {
                let name = Partition::new(&topic.name, index);
                partitions.push(Replicated::new(name, topic.max_record_bytes, &config));
                partitions.len() - 1
            });
            topics.insert(topic.name.clone(), indices.collect::<Vec<_>>());
        }
        let offsets = Topic::from("__consumer_offsets");
        let mut coordinators = Vec::new();
        for index in (0u32..).take(config.nodes) {
            coordinators.push(partitions.len());
            partitions.push(Replicated::new(Partition::new(&offsets, index), 0, &config));
        }
        Self {
            topology: Topology::new(config.nodes),
            partitions,
            topics,
            coordinators,
            groups: BTreeMap::new(),
            fetches: BTreeMap::new(),
            fetches_begun: 0,
            out: Outbox { observing: config.observe, ..Outbox::default() },
            redelivered: 0,
            members_named: 0,
            producers: 0,
            connections: BTreeSet::new(),
            config,
        }
    }

    /// What happened since the last call, in order.
    pub fn drain_observed(&mut self) -> Vec<Observed> {
        self.out.observed.drain(..).collect()
    }

    /// How often a fetch delivered a record below the offset it asked for (F20).
    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// Who leads a partition, if it exists and anyone does.
    pub fn leader(&self, partition: &Partition) -> Option<Node> {
        self.partitions[self.find(partition)?].leader
    }

    /// Whether a broker runs.
    pub fn is_up(&self, node: Node) -> bool {
        self.topology.is_alive(node)
    }

    /// The in-sync replicas of a partition, in no particular order; empty if it does not exist.
    pub fn in_sync(&self, partition: &Partition) -> Vec<Node> {
        self.find(partition)
            .map_or_else(Vec::new, |index| self.partitions[index].in_sync.iter().copied().collect())
    }

    /// The readable range of a partition.
    pub fn watermarks(&self, partition: &Partition) -> Option<Watermarks> {
        self.find(partition).map(|index| self.partitions[index].watermarks())
    }

    /// The node that coordinates `group`, if any can.
    pub fn coordinator(&self, group: &ConsumerName) -> Option<Node> {
        self.partitions[self.slot(group)].leader
    }

    /// What `group` has committed for `partition`.
    pub fn committed(&self, group: &ConsumerName, partition: &Partition) -> Option<Offset> {
        self.groups.get(group)?.offsets.get(partition).copied()
    }

    pub(super) fn find(&self, partition: &Partition) -> Option<usize> {
        self.topics.get(&partition.topic)?.get(usize::try_from(partition.index).ok()?).copied()
    }

    fn answer(&mut self, now: Timestamp, call: Call, request: Request) {
        match request {
            Request::Metadata(topics) => {
                let leaders =
                    |indices: &Vec<usize>| indices.iter().map(|&i| self.partitions[i].leader).collect();
                let answer = topics.iter().map(|topic| self.topics.get(topic).map(leaders)).collect();
                self.out.reply(call, Response::Metadata(answer));
            }
            Request::InitProducer => {
                self.producers += 1;
                self.out.reply(call, Response::Producer(self.producers));
            }
            Request::Produce(produce) => self.produce(now, call, produce),
            Request::Fetch(fetch) => self.fetch(now, call, fetch),
            Request::Watermarks(partitions) => self.list_offsets(call, &partitions),
            Request::FindCoordinator(group) => {
                let answer = self
                    .coordinator(&group)
                    .map_or(Response::Failed(ErrorCode::CoordinatorNotAvailable), Response::Coordinator);
                self.out.reply(call, answer);
            }
            Request::Join(join) => self.join_group(now, call, join),
            Request::Sync(member) => self.sync_group(now, call, &member),
            Request::Heartbeat(member) => self.heartbeat(now, call, &member),
            Request::Leave(member) => self.leave_group(now, call, &member),
            Request::CommitOffsets(member, positions) => self.commit_offsets(now, call, &member, positions),
            Request::FetchOffsets(group, partitions) => self.fetch_offsets(now, call, &group, &partitions),
        }
    }

    fn ring(&mut self, now: Timestamp, alarm: Alarm) {
        match alarm {
            Alarm::Replicate(partition) => self.replicate(now, partition),
            Alarm::Produce(partition, call) => self.produce_timeout(partition, call),
            Alarm::Fetch(number) => self.fetch_timeout(number),
            Alarm::Fence(node) => self.fence(now, node),
            Alarm::Shrink => self.shrink(now),
            Alarm::Session(group, member) => self.session_timeout(now, &group, &member),
            Alarm::Rebalance(group) => self.rebalance_timeout(now, &group),
            Alarm::Expire(group) => self.expire_offsets(now, &group),
        }
    }

    /// Hangs up on everyone connected to `node`.
    pub(super) fn hang_up_all(&mut self, node: Node) {
        let first = Connection { node, number: 0 };
        let last = Connection { node, number: u64::MAX };
        let gone: Vec<Connection> = self.connections.range(first..=last).copied().collect();
        for connection in gone {
            self.forget(connection);
            self.out.hang_up(connection);
        }
    }

    /// Drops the waiting requests of a connection that is gone.
    fn forget(&mut self, connection: Connection) {
        self.connections.remove(&connection);
        for partition in &mut self.partitions {
            partition.pending.retain(|pending| pending.call.connection != connection);
        }
        let gone = |waiting: &Waiting| waiting.call.connection == connection;
        let fetches: Vec<u64> =
            self.fetches.iter().filter(|(_, w)| gone(w)).map(|(number, _)| *number).collect();
        for number in fetches {
            self.forget_fetch(number);
        }
    }
}

impl Machine for Cluster {
    type Request = Request;
    type Response = Response;

    fn handle(&mut self, now: Timestamp, call: Call, request: Request) -> Vec<Effect<Response>> {
        if self.topology.is_alive(call.connection.node) {
            self.connections.insert(call.connection);
            self.answer(now, call, request);
        } else {
            self.out.hang_up(call.connection);
        }
        self.out.effects()
    }

    fn disconnected(&mut self, _now: Timestamp, connection: Connection) -> Vec<Effect<Response>> {
        self.forget(connection);
        self.out.effects()
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Effect<Response>> {
        while let Some(alarm) = self.out.due(now) {
            self.ring(now, alarm);
        }
        self.out.effects()
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.out.alarms.first_key_value().map(|((at, _), _)| *at)
    }
}

/// The moment `timeout` ago: what happened then or before has timed out.
pub(super) fn ago(now: Timestamp, timeout: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX)))
}
