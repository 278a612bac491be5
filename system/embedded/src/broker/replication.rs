//! Leaders, in-sync replicas, the high watermark, and who takes over when brokers are lost.
//!
//! Simplified where no client can see it:
//! - Each partition has one log, its leader's. A replica is a prefix of it (`ends`), so a replica that diverged drops
//!   its suffix when another is elected, not when it returns (B7 either way).
//! - A follower has an append `replication_delay` later if it is linked to the leader then, and catches up at once
//!   when a link comes back.
//! - The controller is a quorum of its own that hears the largest group of linked brokers (ties: the one with the
//!   lowest number). It fences the others after `election_delay`; a fenced broker knows so at once.
//! - The high watermark survives an election, and it does not pass what fewer than `min.insync.replicas` replicas
//!   have (KIP-966, Kafka 4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stormglass_runtime::{Offset, Partition, Timestamp, Watermarks};

use super::{
    cluster::{Alarm, Cluster, ago},
    config::ClusterConfig,
    log::Log,
    observed::Observed,
    produce::Pending,
    request::{ErrorCode, Response},
};
use crate::machine::{Effect, Node};

/// One partition and its replicas.
pub(super) struct Replicated {
    pub(super) name: Partition,
    pub(super) max_record_bytes: usize,
    pub(super) log: Log,
    pub(super) leader: Option<Node>,
    /// In order of preference.
    replicas: Vec<Node>,
    pub(super) in_sync: BTreeSet<Node>,
    /// By node: how much of the log it has.
    ends: Vec<Offset>,
    high_watermark: Offset,
    /// From when on followers have the log up to where.
    marks: VecDeque<(Timestamp, Offset)>,
    /// How much of the log every linked follower has.
    replicated: Offset,
    /// Produce requests that wait for the high watermark.
    pub(super) pending: Vec<Pending>,
    /// Fetches that wait for records here.
    pub(super) fetches: Vec<u64>,
    /// The next fetch goes so many records back (F20).
    pub(super) rewind: Option<usize>,
}

/// Which brokers run and which of them hear each other.
pub(super) struct Topology {
    nodes: Vec<Broker>,
    /// Links that are cut, the lower node first.
    cuts: BTreeSet<(Node, Node)>,
    /// Since when two brokers do not hear each other, for whatever reason.
    apart: BTreeMap<(Node, Node), Timestamp>,
}

struct Broker {
    alive: bool,
    unheard_since: Option<Timestamp>,
    fenced: bool,
}

fn pair(a: Node, b: Node) -> (Node, Node) {
    (a.min(b), a.max(b))
}

impl Topology {
    pub(super) fn new(nodes: usize) -> Self {
        let broker = || Broker { alive: true, unheard_since: None, fenced: false };
        Self { nodes: (0..nodes).map(|_| broker()).collect(), cuts: BTreeSet::new(), apart: BTreeMap::new() }
    }

    pub(super) fn is_alive(&self, node: Node) -> bool {
        self.nodes.get(node).is_some_and(|broker| broker.alive)
    }

    /// Whether `node` runs and the controller hears it.
    pub(super) fn is_heard(&self, node: Node) -> bool {
        self.nodes.get(node).is_some_and(|broker| broker.alive && broker.unheard_since.is_none())
    }

    fn linked(&self, a: Node, b: Node) -> bool {
        self.is_alive(a) && self.is_alive(b) && !self.cuts.contains(&pair(a, b))
    }

    /// Whether the two have been out of each other's reach since `then`.
    fn apart_since(&self, a: Node, b: Node, then: Timestamp) -> bool {
        self.apart.get(&pair(a, b)).is_some_and(|since| *since <= then)
    }

    /// The brokers that the controller hears.
    fn majority(&self) -> BTreeSet<Node> {
        let mut largest = BTreeSet::new();
        for node in 0..self.nodes.len() {
            let mut reached = BTreeSet::new();
            let mut next: Vec<Node> = self.is_alive(node).then_some(node).into_iter().collect();
            while let Some(node) = next.pop() {
                if reached.insert(node) {
                    next.extend((0..self.nodes.len()).filter(|&other| self.linked(node, other)));
                }
            }
            if reached.len() > largest.len() {
                largest = reached;
            }
        }
        largest
    }

    /// Notes who is out of reach since when. Returns the brokers whose absence begins now.
    fn look_around(&mut self, now: Timestamp) -> Vec<Node> {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                if self.linked(a, b) {
                    self.apart.remove(&(a, b));
                } else {
                    self.apart.entry((a, b)).or_insert(now);
                }
            }
        }
        let heard = self.majority();
        let mut lost = Vec::new();
        for (node, broker) in self.nodes.iter_mut().enumerate() {
            if heard.contains(&node) {
                broker.unheard_since = None;
                broker.fenced = false;
            } else if broker.unheard_since.is_none() {
                broker.unheard_since = Some(now);
                lost.push(node);
            }
        }
        lost
    }
}

impl Replicated {
    pub(super) fn new(name: Partition, max_record_bytes: usize, config: &ClusterConfig) -> Self {
        let first = usize::try_from(name.index).unwrap_or(0);
        let replicas: Vec<Node> =
            (0..config.replication_factor.min(config.nodes)).map(|i| (first + i) % config.nodes).collect();
        Self {
            name,
            max_record_bytes,
            log: Log::default(),
            leader: replicas.first().copied(),
            in_sync: replicas.iter().copied().collect(),
            replicas,
            ends: vec![0; config.nodes],
            high_watermark: 0,
            marks: VecDeque::new(),
            replicated: 0,
            pending: Vec::new(),
            fetches: Vec::new(),
            rewind: None,
        }
    }

    /// The readable range.
    pub(super) fn watermarks(&self) -> Watermarks {
        Watermarks { start: self.log.start(), end: self.high_watermark }
    }

    /// The leader has appended: it has the whole log, its followers will from `due` on. Whether `due` is new.
    pub(super) fn appended(&mut self, due: Timestamp) -> bool {
        let end = self.log.end();
        if let Some(leader) = self.leader {
            self.ends[leader] = end;
        }
        match self.marks.back_mut() {
            Some(mark) if mark.0 == due => {
                mark.1 = end;
                false
            }
            _ => {
                self.marks.push_back((due, end));
                true
            }
        }
    }

    /// Gives linked followers what is due, and takes those back in sync that have all below the high watermark.
    fn follow(&mut self, now: Timestamp, topology: &Topology) {
        while let Some((_, end)) = self.marks.pop_front_if(|(due, _)| *due <= now) {
            self.replicated = end;
        }
        let Some(leader) = self.leader else { return };
        for &replica in &self.replicas {
            if replica != leader && topology.linked(leader, replica) {
                self.ends[replica] = self.ends[replica].max(self.replicated);
                // Only the controller changes the in-sync set, so both must be heard by it.
                let welcome = topology.is_heard(leader) && topology.is_heard(replica);
                if welcome && self.ends[replica] >= self.high_watermark {
                    self.in_sync.insert(replica);
                }
            }
        }
    }

    /// Raises the high watermark to what all in-sync replicas have; whether it moved.
    fn commit(&mut self, min_in_sync: usize) -> bool {
        if self.in_sync.len() < min_in_sync {
            return false;
        }
        let common = self.in_sync.iter().map(|&replica| self.ends[replica]).min().unwrap_or(0);
        let moved = common > self.high_watermark;
        self.high_watermark = self.high_watermark.max(common);
        moved
    }

    /// The replica to lead from now on. `unclean` also takes one that is not in sync, the longest first.
    fn candidate(&self, topology: &Topology, unclean: bool) -> Option<Node> {
        let able = || self.replicas.iter().copied().filter(|&replica| topology.is_heard(replica));
        let longest = || able().max_by_key(|&replica| (self.ends[replica], std::cmp::Reverse(replica)));
        let clean = able().find(|replica| self.in_sync.contains(replica));
        clean.or_else(|| if unclean { longest() } else { None })
    }

    /// Makes `leader` lead: its log is the log now. Returns whether records were lost.
    fn follow_leader(&mut self, leader: Node, now: Timestamp) -> bool {
        let end = self.ends[leader];
        let lost = end < self.log.end();
        self.cut(now, end);
        self.leader = Some(leader);
        if !self.in_sync.contains(&leader) {
            self.in_sync = BTreeSet::from([leader]);
        }
        lost
    }

    /// Nobody has anything at or above `end` any more.
    fn cut(&mut self, now: Timestamp, end: Offset) {
        self.log.truncate(end);
        for own in &mut self.ends {
            *own = (*own).min(end);
        }
        self.high_watermark = self.high_watermark.min(end);
        self.replicated = self.replicated.min(end);
        self.marks.clear();
        self.marks.push_back((now, end));
    }
}

/// What an operator or a fault does to brokers and links.
impl Cluster {
    /// Kills a broker: its connections end, what it has on disk stays.
    pub fn crash(&mut self, now: Timestamp, node: Node) -> Vec<Effect<Response>> {
        self.topology.nodes[node].alive = false;
        self.hang_up_all(node);
        self.reconsider(now);
        self.out.effects()
    }

    /// Starts a broker that was killed.
    pub fn restart(&mut self, now: Timestamp, node: Node) -> Vec<Effect<Response>> {
        if !std::mem::replace(&mut self.topology.nodes[node].alive, true) {
            self.reconsider(now);
            for slot in self.coordinators.clone() {
                if self.partitions[slot].leader == Some(node) {
                    self.load_groups(now, slot);
                }
            }
        }
        self.out.effects()
    }

    /// Cuts the link between two brokers, both ways.
    pub fn cut(&mut self, now: Timestamp, a: Node, b: Node) -> Vec<Effect<Response>> {
        self.topology.cuts.insert(pair(a, b));
        self.reconsider(now);
        self.out.effects()
    }

    /// Mends the link between two brokers.
    pub fn heal(&mut self, now: Timestamp, a: Node, b: Node) -> Vec<Effect<Response>> {
        self.topology.cuts.remove(&pair(a, b));
        self.reconsider(now);
        self.out.effects()
    }

    /// Loses everything of a partition at and above `end`, on all replicas: what an unclean election does (B8), or a
    /// topic that was made anew. Nothing if there is no such partition.
    pub fn lose(&mut self, now: Timestamp, partition: &Partition, end: Offset) -> Vec<Effect<Response>> {
        if let Some(index) = self.find(partition) {
            let cut = &mut self.partitions[index];
            cut.cut(now, end);
            let (partition, end) = (cut.name.clone(), cut.log.end());
            self.out.observe(|| Observed::Truncated { at: now, partition, end });
            self.wake_fetches(index);
        }
        self.out.effects()
    }

    /// Retention: removes everything of a partition below `start` (B23, B25). Nothing if there is no such partition.
    pub fn trim(&mut self, now: Timestamp, partition: &Partition, start: Offset) -> Vec<Effect<Response>> {
        if let Some(index) = self.find(partition) {
            let trimmed = &mut self.partitions[index];
            // Retention never passes the high watermark (KIP-107).
            trimmed.log.trim(start.min(trimmed.high_watermark));
            let (partition, start) = (trimmed.name.clone(), trimmed.log.start());
            self.out.observe(|| Observed::Trimmed { at: now, partition, start });
            self.wake_fetches(index);
        }
        self.out.effects()
    }
}

impl Cluster {
    /// Draws the consequences of a change in who hears whom: at once where links came back, later where they broke.
    fn reconsider(&mut self, now: Timestamp) {
        for node in self.topology.look_around(now) {
            self.out.alarm(now.after(self.config.election_delay), Alarm::Fence(node));
        }
        self.out.alarm(now.after(self.config.replica_lag), Alarm::Shrink);
        for partition in 0..self.partitions.len() {
            if self.partitions[partition].leader.is_none() {
                self.elect(now, partition);
            }
            self.out.alarm(now.after(self.config.replication_delay), Alarm::Replicate(partition));
        }
    }

    /// Followers catch up, the high watermark follows, and whoever waited for it is answered.
    pub(super) fn replicate(&mut self, now: Timestamp, index: usize) {
        let partition = &mut self.partitions[index];
        partition.follow(now, &self.topology);
        self.commit(now, index);
    }

    fn commit(&mut self, now: Timestamp, index: usize) {
        let partition = &mut self.partitions[index];
        if partition.commit(self.config.min_insync_replicas) {
            let (name, end) = (partition.name.clone(), partition.high_watermark);
            self.out.observe(|| Observed::Committed { at: now, partition: name, end });
            self.acknowledge(index);
            self.wake_fetches(index);
        }
    }

    /// Gives up on a broker that has been out of reach for `election_delay`.
    pub(super) fn fence(&mut self, now: Timestamp, node: Node) {
        let then = ago(now, self.config.election_delay);
        let broker = &mut self.topology.nodes[node];
        if broker.fenced || broker.unheard_since.is_none_or(|since| since > then) {
            return;
        }
        broker.fenced = true;
        for index in 0..self.partitions.len() {
            if self.partitions[index].leader == Some(node) {
                self.elect(now, index);
            } else {
                self.leave_in_sync(now, index, node);
            }
        }
        self.out.alarm(now.after(self.config.replica_lag), Alarm::Shrink);
    }

    /// Takes followers out of the in-sync sets that have been out of their leader's reach for `replica_lag`.
    pub(super) fn shrink(&mut self, now: Timestamp) {
        let then = ago(now, self.config.replica_lag);
        for index in 0..self.partitions.len() {
            let partition = &self.partitions[index];
            let Some(leader) = partition.leader.filter(|&leader| self.topology.is_heard(leader)) else {
                continue;
            };
            let lagging = partition.in_sync.iter().copied();
            let lagging: Vec<Node> = lagging
                .filter(|&node| node != leader && self.topology.apart_since(leader, node, then))
                .collect();
            for node in lagging {
                self.leave_in_sync(now, index, node);
            }
        }
    }

    /// The in-sync set never becomes empty: its last member is the only one that certainly has everything.
    fn leave_in_sync(&mut self, now: Timestamp, index: usize, node: Node) {
        let partition = &mut self.partitions[index];
        if partition.in_sync.len() > 1 && partition.in_sync.remove(&node) {
            self.commit(now, index);
        }
    }

    /// Finds a leader for a partition that has lost its own.
    fn elect(&mut self, now: Timestamp, index: usize) {
        let unclean = self.config.unclean_leader_election;
        let partition = &mut self.partitions[index];
        let name = partition.name.clone();
        let before = partition.leader;
        let leader = partition.candidate(&self.topology, unclean);
        if leader == before {
            return;
        }
        if let Some(leader) = leader {
            let lost = partition.follow_leader(leader, now);
            let end = partition.log.end();
            let gone = before.filter(|&gone| partition.in_sync.len() > 1 && !self.topology.is_heard(gone));
            if let Some(gone) = gone {
                partition.in_sync.remove(&gone);
            }
            if lost {
                let partition = name.clone();
                self.out.observe(|| Observed::Truncated { at: now, partition, end });
            }
        } else {
            partition.leader = None;
        }
        self.out.observe(|| Observed::Elected { at: now, partition: name, leader });
        for pending in std::mem::take(&mut self.partitions[index].pending) {
            self.out.fail(pending.call, ErrorCode::NotLeader);
        }
        self.wake_fetches(index);
        if self.coordinators.contains(&index) {
            self.load_groups(now, index);
        }
        self.out.alarm(now.after(self.config.replication_delay), Alarm::Replicate(index));
    }
}
