//! Workers and relays on the embedded cluster: the guarantees of DESIGN section 3, seen from outside.
//!
//! Time is paused, so a test takes as long as its work. The service is a ledger whose events say what is to become of
//! them; what happened is read from the database's tables and the broker's log, never from the worker. Networks that
//! fail are the storm's business.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failed unwrap is a failed test")]

mod cluster;
mod ledger;

mod calls;
mod dead_letters;
mod effects;
mod failures;
mod losses;
mod relay;
