//! The runtime of an event-driven service: the ports it stands on and the guarantees built on them.
//!
//! A *service* is a set of pure decisions ([`Service`]). This crate runs it: lanes apply events in log order inside
//! database transactions, a durable queue retries what failed and calls what is slow, a relay publishes what was
//! written. The ports ([`Broker`], [`Database`], [`Clock`], [`Entropy`]) are contracts with two real implementations
//! each: the embedded state machines of the storm, and Kafka with PostgreSQL in production.
//!
//! Left out on purpose: any domain, any I/O, any clock or randomness of its own.

mod act;
mod backoff;
mod batch;
mod broker;
mod circuit;
mod config;
mod dead;
mod event;
mod executor;
mod failure;
mod intake;
mod lane;
mod logic;
mod opening;
mod owned;
mod plan;
mod ports;
mod prune;
mod record;
mod relay;
mod rows;
mod service;
mod settle;
mod settle_plan;
mod shared;
mod statement;
mod store;
mod telemetry;
mod track;
mod transact;
mod watch;
mod worker;

pub use broker::{Assignment, Broker, Consumer, Delivery, Producer, Revocation, Watermarks};
pub use config::{ConfigError, DurabilityFacts, RelayConfig, WorkerConfig, within};
pub use dead::{Audit, DEAD_LETTER, DISCARDED, DeadLetters};
pub use event::{Emission, EventId, ORDERING_KEY_BYTES_MAX, derive_id};
pub use failure::{Cause, Failure, Reason};
pub use ports::{Clock, Entropy, Timestamp};
pub use record::{
    ConsumerName, Delivered, Headers, Offset, OrderingKey, Partition, Position, Record, TRACEPARENT, Topic,
};
pub use relay::Relay;
pub use rows::{Image, ImageKey, RowSet, Versioned, Violation};
pub use service::{ActError, Context, Decision, IdempotencyKey, Next, Refusal, Rows, Service, Timer};
pub use shared::Ports;
pub use statement::{
    AfterDeath, Answer, Claim, InboxEntry, Lease, NewPending, OutboxRow, Pending, PendingChange, PendingId,
    Statement, Verdict,
};
pub use store::{Database, Freshness, Reader, Scan, Session};
pub use worker::Worker;
