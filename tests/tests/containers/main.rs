//! What is held against the real servers, in containers: `postgres:15` as its official image starts it.
//!
//! Left out: anything that an in-process adapter can show as well. What is here exists to keep those honest.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod adapter;
#[path = "../../../system/embedded/tests/database/cases/mod.rs"]
mod cases;
mod constraints;
mod contract;
#[path = "../../../system/embedded/tests/database/domain.rs"]
mod domain;
mod engine;
mod failures;
mod migrations;
mod plans;
mod replicas;
mod rows;
#[path = "../../../system/embedded/tests/database/sut.rs"]
mod sut;
mod typed;
