//! What an operator sets on a cluster. Defaults are Kafka's, delays that Kafka does not name are small and fixed.

use std::time::Duration;

use stormglass_runtime::Topic;

/// A topic as it was created.
#[derive(Clone, Debug)]
pub struct TopicConfig {
    /// Its name.
    pub name: Topic,
    /// How many partitions.
    pub partitions: u32,
    /// `max.message.bytes`, measured as [`Record::size`](stormglass_runtime::Record::size) does (B14).
    pub max_record_bytes: usize,
}

impl TopicConfig {
    /// A topic with Kafka's default limit of 1 MiB.
    pub fn new(name: &str, partitions: u32) -> Self {
        Self { name: Topic::from(name), partitions, max_record_bytes: 1 << 20 }
    }
}

/// A cluster as it was installed.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// How many brokers.
    pub nodes: usize,
    /// The topics. There is no auto-creation.
    pub topics: Vec<TopicConfig>,
    /// Replicas of each partition, at most `nodes`.
    pub replication_factor: usize,
    /// `min.insync.replicas` (B6).
    pub min_insync_replicas: usize,
    /// `unclean.leader.election.enable` (B8).
    pub unclean_leader_election: bool,
    /// How long after an append followers have the record. Zero replicates within the append.
    pub replication_delay: Duration,
    /// `replica.lag.time.max.ms`: a follower out of reach that long leaves the in-sync set.
    pub replica_lag: Duration,
    /// `broker.session.timeout.ms`: how long a broker is out of reach before others are elected in its place.
    pub election_delay: Duration,
    /// How long a new coordinator answers COORDINATOR_LOAD_IN_PROGRESS (B28).
    pub coordinator_load: Duration,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members.
    pub initial_rebalance_delay: Duration,
    /// `offsets.retention.minutes`: how long an empty group keeps its offsets (B24).
    pub offsets_retention: Duration,
    /// After every so many batches one offset is used up as by a transaction marker (B2); 0 leaves no gaps.
    pub gap_every: u64,
    /// Whether [`Observed`](super::Observed) events are collected. Whoever sets it must drain them.
    pub observe: bool,
}

impl ClusterConfig {
    /// Three brokers, three replicas of which two must be in sync, and `topics`.
    pub fn new(topics: Vec<TopicConfig>) -> Self {
        Self {
            nodes: 3,
            topics,
            replication_factor: 3,
            min_insync_replicas: 2,
            unclean_leader_election: false,
            replication_delay: Duration::from_millis(1),
            replica_lag: Duration::from_secs(30),
            election_delay: Duration::from_secs(9),
            coordinator_load: Duration::from_millis(100),
            initial_rebalance_delay: Duration::from_secs(3),
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
            gap_every: 0,
            observe: true,
        }
    }

    /// The same cluster with every timeout divided by `factor`.
    #[must_use]
    pub fn scaled_down(mut self, factor: u32) -> Self {
        for timeout in [
            &mut self.replica_lag,
            &mut self.election_delay,
            &mut self.coordinator_load,
            &mut self.initial_rebalance_delay,
            &mut self.offsets_retention,
        ] {
            *timeout /= factor;
        }
        self
    }
}
