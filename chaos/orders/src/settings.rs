//! How the storm's cluster is configured: production's settings with timeouts at about a tenth, so that a storm of
//! seconds sees what production sees in a minute. One place, because they only make sense together.

use std::{collections::BTreeSet, time::Duration};

use stormglass_embedded::{
    broker::{self, ClusterConfig, TopicConfig},
    database,
};
use stormglass_orders::{TOPIC, gateway::Limits};
use stormglass_runtime::{RelayConfig, Topic, WorkerConfig};

use crate::shape::{CONSUMERS, Replication, Shape};

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The brokers.
pub fn brokers(shape: &Shape) -> ClusterConfig {
    let mut topics = vec![TopicConfig::new(TOPIC, shape.partitions)];
    topics.extend(CONSUMERS.map(|consumer| TopicConfig::new(&format!("{consumer}.dlq"), 1)));
    ClusterConfig {
        replication_delay: millis(10),
        replica_lag: millis(1_500),
        election_delay: millis(600),
        coordinator_load: millis(50),
        initial_rebalance_delay: millis(50),
        gap_every: 7,
        ..ClusterConfig::new(topics)
    }
}

/// A client of the brokers.
pub fn broker_client(host: &str) -> broker::ClientConfig {
    broker::ClientConfig {
        request_timeout: millis(1_000),
        retry_backoff: millis(50),
        // Shorter than the longest cut, so that some publications end unknown.
        delivery_timeout: millis(2_000),
        session_timeout: millis(1_500),
        heartbeat_interval: millis(300),
        max_poll_interval: millis(4_000),
        rebalance_timeout: millis(1_500),
        revocation_grace: millis(800),
        fetch_max_wait: millis(500),
        ..broker::ClientConfig::new(host)
    }
}

/// The database nodes.
pub fn database(shape: &Shape) -> database::Config {
    let topics = brokers(shape).topics.into_iter().map(|topic| topic.name);
    database::Config {
        deadlock_timeout: millis(100),
        lock_timeout: Some(millis(1_500)),
        statement_timeout: Some(millis(2_000)),
        idle_in_transaction_session_timeout: Some(millis(1_000)),
        replication: match shape.replication {
            Replication::Synchronous => database::Replication::Synchronous,
            Replication::Asynchronous => database::Replication::Asynchronous,
        },
        // Asynchronous: what a failover loses, and by how much a replica shows things late.
        replication_lag: match shape.replication {
            Replication::Synchronous => millis(20),
            Replication::Asynchronous => millis(300),
        },
        topics: Some(topics.collect::<BTreeSet<Topic>>()),
        ..database::Config::default()
    }
}

/// A client of the database nodes.
pub fn database_client(host: &str) -> database::ClientConfig {
    database::ClientConfig {
        application: host.to_owned(),
        acquire_timeout: millis(1_000),
        connect_timeout: millis(300),
        statement_deadline: millis(2_500),
        ..database::ClientConfig::default()
    }
}

/// A consumer's members.
pub fn worker(shape: &Shape) -> WorkerConfig {
    WorkerConfig {
        topics: vec![TOPIC.to_owned()],
        lanes: shape.lanes,
        batch_records: shape.batch_records,
        buffer_records: 256,
        position_lazy_ms: 300,
        report_interval_ms: 500,
        attempts_max: shape.attempts_max,
        backoff_base_ms: 50,
        backoff_max_ms: 1_500,
        retry_base_ms: 20,
        retry_max_ms: 400,
        claim_poll_min_ms: 50,
        claim_poll_max_ms: 800,
        claim_lease_ms: 2_500,
        act_timeout_ms: 800,
        circuit_failures: 5,
        circuit_open_ms: 400,
        grace_ms: 700,
        after_death: shape.after_death,
        prune_interval_ms: 2_000,
        lock_timeout_ms: 1_500,
        batch_time_ms: 500,
        ..WorkerConfig::default()
    }
}

/// The relays.
pub fn relay() -> RelayConfig {
    RelayConfig {
        lease_ttl_ms: 1_500,
        lease_margin_ms: 300,
        standby_poll_ms: 400,
        batch_records: 200,
        poll_min_ms: 20,
        poll_max_ms: 100,
        retry_max_ms: 400,
        rejected_retry_ms: 1_000,
        ..RelayConfig::default()
    }
}

/// The gateways.
pub fn limits() -> Limits {
    Limits {
        body_time: millis(1_000),
        publish_time: millis(3_500),
        read_time: millis(1_000),
        retry_after: millis(1_000),
        ..Limits::default()
    }
}
