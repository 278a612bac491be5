//! What clients and nodes say to each other, and the one place where SQLSTATEs become outcomes.
//!
//! Messages are serde types; postcard is their wire format. A connection is one session: it begins with
//! [`Request::Connect`], and everything on it is answered in the order of sending.

use serde::{Deserialize, Serialize};
use stormglass_runtime::{
    Answer, Cause, Failure, Freshness, Image, ImageKey, Reason, Scan, Statement, Versioned,
};
use thiserror::Error;

/// What a client asks of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Opens the session. Answers [`Response::Connected`].
    Connect {
        /// `application_name`: who shows up in the evidence.
        application: String,
    },
    /// Executes a statement inside a transaction. Answers [`Response::Answer`], when its locks are granted.
    Execute {
        /// Whether BEGIN travels with it.
        transaction: Transaction,
        /// The statement.
        statement: Statement<Image>,
    },
    /// COMMIT. Answers [`Response::Committed`], or [`Response::RolledBack`] if the transaction had failed (D2).
    Commit,
    /// ROLLBACK. Answers [`Response::RolledBack`].
    Rollback,
    /// Reads rows outside any transaction. Answers [`Response::Rows`] or [`Response::NotFresh`].
    Read {
        /// Which rows.
        keys: Vec<ImageKey>,
        /// No older than this.
        at_least: Option<Freshness>,
    },
    /// Reads a page outside any transaction. Answers as [`Request::Read`].
    Scan {
        /// Which page.
        scan: Scan,
        /// No older than this.
        at_least: Option<Freshness>,
    },
}

/// Whether a statement opens its transaction: BEGIN costs no round trip of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transaction {
    /// This is the first statement.
    Begin,
    /// The transaction is open.
    Continue,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// The session is open.
    Connected(Role),
    /// The statement is done.
    Answer(Answer<Image>),
    /// The tag of a COMMIT that committed.
    Committed,
    /// The tag of a ROLLBACK, or of a COMMIT of a failed transaction.
    RolledBack,
    /// Rows that were read outside a transaction, and how fresh they are.
    Rows(Vec<Versioned<Image>>, Freshness),
    /// This standby has not replayed far enough; so far it is here.
    NotFresh(Freshness),
    /// The request failed; a transaction that was open can only be rolled back.
    Error(SqlError),
}

/// What a node is to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Replays the primary's log; read-only.
    Standby,
}

/// An error as PostgreSQL classifies it. [`SqlError::failure`] is the only place that turns one into an outcome.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum SqlError {
    /// 08P01: not what the protocol allows here.
    #[error("08P01 protocol violation")]
    ProtocolViolation,
    /// 22021, 22P02: a value that no column holds.
    #[error("22021 invalid value: {0}")]
    InvalidValue(String),
    /// 23505.
    #[error("23505 duplicate key in {0}")]
    UniqueViolation(String),
    /// 23514, with the name of the constraint.
    #[error("23514 constraint {0} violated")]
    CheckViolation(String),
    /// 23514 of the outbox: larger than a record may be.
    #[error("23514 record of {bytes} bytes exceeds {limit}")]
    RecordTooLarge {
        /// Size of key, value and headers.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// 23503 of the outbox: no such topic.
    #[error("23503 unknown topic {0}")]
    UnknownTopic(String),
    /// 25006: a write or lock on a standby (D18).
    #[error("25006 read-only transaction")]
    ReadOnlyTransaction,
    /// 25P02: an earlier statement failed (D2).
    #[error("25P02 in failed transaction")]
    InFailedTransaction,
    /// 40P01: this session's check found a deadlock (D10).
    #[error("40P01 deadlock detected")]
    DeadlockDetected,
    /// 42P01.
    #[error("42P01 undefined table {0}")]
    UndefinedTable(String),
    /// 53100.
    #[error("53100 disk full")]
    DiskFull,
    /// 53300 (D19).
    #[error("53300 too many connections")]
    TooManyConnections,
    /// 54000: a key that no index entry can hold.
    #[error("54000 index entry of {bytes} bytes exceeds {limit}")]
    IndexEntryTooLarge {
        /// Size of the entry.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// 55P03: `lock_timeout` (D13).
    #[error("55P03 lock not available")]
    LockNotAvailable,
    /// 57014: `statement_timeout` (D13).
    #[error("57014 query canceled")]
    QueryCanceled,
    /// 57P01: an administrator ended the session (D14).
    #[error("57P01 terminated by administrator")]
    AdminShutdown,
}

impl SqlError {
    /// Whether it happened, and why not. Every error here is raised before the commit record is written, so none
    /// leaves the outcome open; only a lost connection does.
    pub fn failure(self) -> Failure {
        match self {
            SqlError::ProtocolViolation => Failure::NotDone(Cause::Protocol),
            SqlError::InvalidValue(what) => Failure::Rejected(Reason::InvalidValue(what)),
            SqlError::UniqueViolation(table) => Failure::Rejected(Reason::Duplicate(table)),
            SqlError::CheckViolation(name) => Failure::Rejected(Reason::Constraint(name)),
            SqlError::RecordTooLarge { bytes, limit } => Failure::Rejected(Reason::TooLarge { bytes, limit }),
            SqlError::UnknownTopic(topic) => Failure::Rejected(Reason::UnknownTopic(topic)),
            SqlError::ReadOnlyTransaction => Failure::NotDone(Cause::ReadOnly),
            SqlError::InFailedTransaction => Failure::NotDone(Cause::Aborted),
            SqlError::DeadlockDetected => Failure::NotDone(Cause::Deadlock),
            SqlError::UndefinedTable(table) => {
                Failure::Rejected(Reason::Invalid(format!("no table {table}")))
            }
            SqlError::DiskFull => Failure::NotDone(Cause::DiskFull),
            SqlError::TooManyConnections => Failure::NotDone(Cause::Busy),
            error @ SqlError::IndexEntryTooLarge { .. } => {
                Failure::Rejected(Reason::InvalidValue(error.to_string()))
            }
            SqlError::LockNotAvailable => Failure::NotDone(Cause::LockTimeout),
            SqlError::QueryCanceled => Failure::NotDone(Cause::StatementTimeout),
            SqlError::AdminShutdown => Failure::NotDone(Cause::Disconnected),
        }
    }
}
