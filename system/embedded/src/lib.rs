//! Kafka and PostgreSQL as sans-I/O state machines, and clients for them that work over any transport.
//!
//! The same machines serve tests and benches inside one process and become hosts behind a network in the storm, so
//! the two cannot drift apart. What a client can observe is the measure of the model (SEMANTICS.md's B and D lines);
//! how servers replicate inside is simplified, and each file says how.

pub mod broker;
pub mod database;
pub mod machine;
pub mod transport;
