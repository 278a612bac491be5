//! Holds a Kafka cluster to SEMANTICS.md's B lines, through the ports, and the state machine to two oracles.
//!
//! The cases of `log`, `produce` and `group` know only a [`sut::Sut`], so a real cluster is one more `#[case]`.
//! Not expressed: B10 (idempotence is always on), B15 and B29 (nothing is stored or committed by itself), B18's static
//! members, B25's compaction, B26–B27 (no transactions), B30 (a matter of the worker).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod consume;
mod group;
mod group_model;
mod log;
mod log_model;
mod produce;
mod sut;
mod wire;
