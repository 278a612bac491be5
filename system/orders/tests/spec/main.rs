//! What the order backend promises, each module one part of it: values and keys, the deciders one by one, the four of
//! them together under random delivery, the gateway, and the files that are generated from or repeat the code.
//!
//! Left out: the runtime that drives the services; `tests/` and the storm hold both together.

#![expect(clippy::expect_used, reason = "the helpers of a test fail the test")]

mod bus;
mod gateway;
mod gateway_fakes;
mod inventory;
mod keys;
mod ledger;
mod migrations;
mod notifications;
mod orders;
mod payments;
mod records;
mod saga;
mod schemas;
mod table;
mod world;
