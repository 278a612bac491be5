//! The adapter to Kafka against real brokers, in containers: `apache/kafka:4.1.1` as its official image starts it.
//!
//! The cases are those that hold the state machine to SEMANTICS (`system/embedded/tests/broker/cases`), run here on
//! the adapter of production, and a few of its own. They share one cluster, since starting one takes longer than most
//! of them, and so they are one test that prints what came of each.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../system/embedded/tests/broker/cases/mod.rs"]
mod cases;
#[expect(dead_code, reason = "what only a storm needs")]
mod cluster;
mod contract;
#[expect(dead_code, reason = "PostgreSQL is another suite's")]
#[path = "../containers/engine.rs"]
mod engine;
mod names;
mod outage;
mod own;
mod proxy;
mod real;
