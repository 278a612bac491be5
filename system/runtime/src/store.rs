//! The store port: a database of sessions, a session of statements, and a reader for replicas.
//!
//! Each [`Statement`] is one SQL statement in the PostgreSQL adapter, one step of the embedded state machine and one
//! frame in the storm. The order of statements, half-open transactions and lost COMMIT answers are therefore
//! production code under storm, not a model of it. The isolation level is READ COMMITTED throughout.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    Answer, EventId, Failure, Lease, OrderingKey, OutboxRow, Pending, Position, RowSet, Statement, Versioned,
};

/// A PostgreSQL primary.
#[async_trait]
pub trait Database<R: RowSet>: Send + Sync {
    /// Opens a transaction on a connection that the session owns until it ends.
    ///
    /// # Errors
    /// `NotDone`: no connection, or none free in time (D19). A dropped future leaves no transaction behind that
    /// outlives `idle_in_transaction_session_timeout`.
    async fn begin(&self) -> Result<Box<dyn Session<R>>, Failure>;
}

/// One transaction at READ COMMITTED.
///
/// A session that is dropped without [`commit`](Session::commit) closes its connection; the server rolls back as
/// soon as it notices. If the client vanished without a FIN that is after the idle timeout (D15).
#[async_trait]
pub trait Session<R: RowSet>: Send {
    /// Executes one statement.
    ///
    /// After any error the transaction can only be rolled back (D2). Dropping the future leaves the statement in an
    /// unknown state *inside* the transaction: the session must not be used again.
    ///
    /// # Errors
    /// `Rejected` if the statement can never succeed (22xxx, 23514, 23505), `NotDone` for everything else: nothing
    /// is done before COMMIT.
    async fn execute(&mut self, statement: Statement<R>) -> Result<Answer<R>, Failure>;

    /// Commits.
    ///
    /// # Errors
    /// `Unknown` if the connection was lost after COMMIT was sent (D3), `NotDone` if the server rolled back instead,
    /// which includes a COMMIT that it answered with ROLLBACK (D2). A dropped future leaves the outcome unknown.
    async fn commit(self: Box<Self>) -> Result<(), Failure>;

    /// Rolls back. Never fails: if the server cannot be reached, it rolls back by itself.
    async fn rollback(self: Box<Self>);
}

/// Reads domain rows outside any transaction, from a replica where it is fresh enough.
#[async_trait]
pub trait Reader<R: RowSet>: Send + Sync {
    /// The rows that exist among `keys`, and how fresh they are.
    ///
    /// With `at_least`, the answer is no older than the answer that token came with: reads never go backwards.
    ///
    /// # Errors
    /// `NotDone` if no server that is fresh enough answers.
    async fn read(
        &self,
        keys: Vec<R::Key>,
        at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<R>>, Freshness), Failure>;

    /// A page of rows of one table, ordered by key text.
    ///
    /// # Errors
    /// As [`Reader::read`].
    async fn scan(
        &self,
        scan: Scan,
        at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<R>>, Freshness), Failure>;
}

/// A range of one table by key text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// The table.
    pub table: String,
    /// Only keys that begin so.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<String>,
    /// How many rows at most.
    pub limit: u32,
}

/// How fresh an answer was: a place in the write-ahead log of one timeline. Opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Freshness {
    /// Grows with each promotion.
    pub timeline: u32,
    /// Log sequence number.
    pub lsn: u64,
}

macro_rules! typed {
    ($($(#[$doc:meta])* $name:ident => $variant:ident($of:ty);)*) => {
        impl<R: RowSet> dyn Session<R> {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As [`Session::execute`]; `NotDone(Protocol)` if the adapter answers with another kind.
                pub async fn $name(&mut self, statement: Statement<R>) -> Result<$of, Failure> {
                    match self.execute(statement).await? {
                        Answer::$variant(answer) => Ok(answer),
                        _ => Err(Failure::NotDone(crate::Cause::Protocol)),
                    }
                }
            )*
        }
    };
}

typed! {
    /// Executes a statement that answers `Positions`.
    positions => Positions(Vec<Position>);
    /// Executes a statement that answers `Fresh`.
    fresh => Fresh(Vec<EventId>);
    /// Executes a statement that answers `Keys`.
    keys => Keys(Vec<OrderingKey>);
    /// Executes a statement that answers `Rows`.
    rows => Rows(Vec<Versioned<R>>);
    /// Executes a statement that answers `Sequence`.
    sequence => Sequence(Vec<i64>);
    /// Executes a statement that answers `Pending`.
    pending => Pending(Vec<Pending>);
    /// Executes a statement that answers `Count`.
    count => Count(u64);
    /// Executes a statement that answers `Lease`.
    lease => Lease(Lease);
    /// Executes a statement that answers `Outbox`.
    outbox => Outbox(Vec<OutboxRow>);
}
