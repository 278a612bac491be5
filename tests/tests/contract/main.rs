//! The contract: every case of both systems on the state machine in this process, on the state machine behind the
//! storm's network, and on the real server; and one table of what came of it. And programs that nobody wrote, on the
//! model and on the real server.
//!
//! `cargo test -p stormglass-tests contract` runs this and the real Kafka (`tests/tests/kafka`).

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod broker;
mod contract;
mod database;
#[expect(dead_code, reason = "replicas and crashes are another suite's")]
#[path = "../containers/engine.rs"]
mod engine;
mod postgres;
mod schedules;
mod simulated;
mod suite;
mod table;
mod typed;
