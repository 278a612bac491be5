//! What is held against the real servers, in containers: `postgres:15` as its official image starts it.
//!
//! Left out: anything that an in-process adapter can show as well. What is here exists to keep those honest.

#![expect(clippy::expect_used, reason = "the helpers of a test fail the test")]

mod constraints;
mod engine;
mod migrations;
