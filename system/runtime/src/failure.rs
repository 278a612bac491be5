//! Failures that answer one question: *did it happen?*
//!
//! Every port call with an effect fails with a [`Failure`]. Callers decide by its variant alone; [`Cause`] and
//! [`Reason`] say what to print, count and back off on. Nothing matches on error text. The idea of an exhaustive
//! "is it certainly aborted" is Quickwit's (`quickwit-proto/src/metastore`); the third answer is ours.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why an operation with an effect did not simply succeed, by what is known of the effect.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Certainly no effect: repeat freely.
    #[error("not done: {0}")]
    NotDone(Cause),
    /// It may have happened: repeat only what is idempotent, or ask.
    #[error("outcome unknown: {0}")]
    Unknown(Cause),
    /// It never will happen as asked: do not repeat it.
    #[error("rejected: {0}")]
    Rejected(Reason),
}

/// What stood in the way of an operation that may succeed later.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The connection could not be made or was lost (SQLSTATE 08xxx, 57P01, 57P02; a broken socket).
    #[error("connection lost")]
    Disconnected,
    /// No answer within the client's deadline.
    #[error("timed out")]
    TimedOut,
    /// The server refuses new work for now (53300, 57P03; QueueFull).
    #[error("server busy")]
    Busy,
    /// The database has no room left (53100).
    #[error("server's disk is full")]
    DiskFull,
    /// This transaction was chosen to end a deadlock (40P01).
    #[error("deadlock victim")]
    Deadlock,
    /// A row was changed by another transaction since it was read (40001, or fewer rows written than expected).
    #[error("concurrent update")]
    Conflict,
    /// A lock was not granted within `lock_timeout` (55P03).
    #[error("lock timeout")]
    LockTimeout,
    /// A statement ran longer than `statement_timeout` (57014).
    #[error("statement timeout")]
    StatementTimeout,
    /// An earlier statement of this transaction failed; only a rollback helps (25P02).
    #[error("transaction aborted")]
    Aborted,
    /// The server is a standby (25006): go to the primary.
    #[error("server is read-only")]
    ReadOnly,
    /// The broker does not lead this partition or coordinate this group at the moment.
    #[error("not the leader")]
    NotLeader,
    /// Too few replicas are in sync (NOT_ENOUGH_REPLICAS).
    #[error("too few in-sync replicas")]
    TooFewReplicas,
    /// The consumer is no longer, or not yet, a member of its group's current generation.
    #[error("fenced by the consumer group")]
    Fenced,
    /// A record of the same key before this one failed, so this one was not sent.
    #[error("an earlier record of the key failed")]
    Predecessor,
    /// The peer answered what the protocol does not allow.
    #[error("protocol violation")]
    Protocol,
}

/// Why an operation can never succeed as asked.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// A value that the store cannot hold: a NUL in text, a number out of range (SQLSTATE 22xxx).
    #[error("invalid value: {0}")]
    InvalidValue(String),
    /// A CHECK constraint, by its name (23514).
    #[error("constraint {0} violated")]
    Constraint(String),
    /// A key that exists already where it must not (23505).
    #[error("duplicate key in {0}")]
    Duplicate(String),
    /// A record larger than the topic or the client allows.
    #[error("record of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Size of key, value and headers.
        bytes: usize,
        /// The limit that it broke.
        limit: usize,
    },
    /// The topic does not exist.
    #[error("unknown topic {0}")]
    UnknownTopic(String),
    /// The request itself makes no sense to the server (42xxx, INVALID_REQUEST).
    #[error("invalid request: {0}")]
    Invalid(String),
}

impl Failure {
    /// Whether the operation certainly had no effect.
    pub fn is_certainly_not_done(&self) -> bool {
        match self {
            Failure::NotDone(_) | Failure::Rejected(_) => true,
            Failure::Unknown(_) => false,
        }
    }

    /// The same failure, seen by a caller that can no longer tell whether the effect took place.
    pub fn into_unknown(self) -> Failure {
        match self {
            Failure::NotDone(cause) => Failure::Unknown(cause),
            other => other,
        }
    }
}
