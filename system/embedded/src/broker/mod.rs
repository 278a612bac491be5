//! Kafka as a state machine: a cluster of brokers, its logs and its consumer groups, and a client for it.

mod assignor;
mod client;
mod cluster;
mod config;
mod coordinator;
mod embedded;
mod fetch;
mod group;
mod log;
mod observed;
mod produce;
mod replication;
mod request;

pub use client::{Client, ClientConfig, OffsetReset, murmur2, partition_of};
pub use cluster::Cluster;
pub use config::{ClusterConfig, TopicConfig};
pub use embedded::Embedded;
pub use observed::Observed;
pub use request::{Acks, ErrorCode, Fetch, Fetched, Join, Membership, Produce, Request, Response, Stamp};
