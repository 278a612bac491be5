//! What is held against the real servers, in containers: `postgres:15` as its official image starts it.
//!
//! Left out: anything that an in-process adapter can show as well. What is here exists to keep those honest.

#![expect(clippy::expect_used, reason = "a test may panic")]

mod constraints;
#[expect(dead_code, reason = "other suites use what this one does not")]
#[path = "../../../system/embedded/tests/database/cases/domain.rs"]
mod domain;
mod engine;
mod failures;
mod migrations;
mod plans;
mod replicas;
mod rows;
