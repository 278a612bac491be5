//! Kafka as a state machine: a cluster of brokers, its logs and its consumer groups.

mod observed;

pub use observed::Observed;
