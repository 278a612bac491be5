//! What an administrator sets: limits, timeouts and durability under PostgreSQL's own names, and the schema.
//!
//! Defaults are PostgreSQL's where it has one that is of use; the storm scales them. Settings of planner, memory and
//! vacuum are left out: a client cannot observe them here.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use stormglass_runtime::{RowSet, Topic};

use super::request::SqlError;

/// The settings of both nodes.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sessions per node; one more is refused with 53300 (D19).
    pub max_connections: usize,
    /// How long a session waits for a lock before it looks for a deadlock (D10).
    pub deadlock_timeout: Duration,
    /// How long a statement waits for one lock (55P03); `None` waits for ever.
    pub lock_timeout: Option<Duration>,
    /// How long a statement may run (57014).
    pub statement_timeout: Option<Duration>,
    /// How long a session may sit idle inside a transaction before it is ended (25P03).
    pub idle_in_transaction_session_timeout: Option<Duration>,
    /// Whether COMMIT waits for the log to be on disk (D16).
    pub synchronous_commit: SynchronousCommit,
    /// With [`SynchronousCommit::Off`]: how long after its COMMIT a transaction is on disk.
    pub wal_writer_delay: Duration,
    /// Whether COMMIT waits for the replica (D17).
    pub replication: Replication,
    /// How long after it is on the primary's disk a transaction is replayed on the replica.
    pub replication_lag: Duration,
    /// The largest record that the outbox takes; what the broker would refuse must not get stuck in it.
    pub max_record_bytes: usize,
    /// The topics that the outbox takes; `None` takes all.
    pub topics: Option<BTreeSet<Topic>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 100,
            deadlock_timeout: Duration::from_secs(1),
            lock_timeout: None,
            statement_timeout: None,
            idle_in_transaction_session_timeout: None,
            synchronous_commit: SynchronousCommit::On,
            wal_writer_delay: Duration::from_millis(200),
            replication: Replication::Asynchronous,
            replication_lag: Duration::from_millis(10),
            max_record_bytes: 1 << 20,
            topics: None,
        }
    }
}

/// `synchronous_commit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynchronousCommit {
    /// An acknowledged COMMIT survives a crash.
    On,
    /// A crash loses what was committed less than `wal_writer_delay` ago.
    Off,
}

/// Whether `synchronous_standby_names` names the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// A failover may lose acknowledged commits.
    Asynchronous,
    /// COMMIT is visible and acknowledged only when the replica has replayed it; while an attached replica is down
    /// it waits. After a promotion nobody is waited for until a replica rejoins.
    Synchronous,
}

/// The domain tables and their CHECK constraints. The tables of the runtime itself are always there.
#[derive(Clone)]
pub struct Schema {
    tables: Arc<[Arc<str>]>,
    check: fn(&str) -> Result<(), SqlError>,
}

/// A domain table: its place in [`Schema`].
pub(super) type TableId = usize;

impl Schema {
    /// The tables of a row set, with [`RowSet::check`] as their constraints.
    pub fn of<R: RowSet>() -> Self {
        Self { tables: R::TABLES.iter().map(|&name| name.into()).collect(), check: check::<R> }
    }

    pub(super) fn table(&self, name: &str) -> Result<TableId, SqlError> {
        let found = self.tables.iter().position(|table| **table == *name);
        found.ok_or_else(|| SqlError::UndefinedTable(name.to_owned()))
    }

    pub(super) fn name(&self, table: TableId) -> &str {
        self.tables.get(table).map_or("", |name| name)
    }

    /// Whether a row's body satisfies the constraints of its table.
    pub(super) fn check(&self, body: &str) -> Result<(), SqlError> {
        (self.check)(body)
    }
}

fn check<R: RowSet>(body: &str) -> Result<(), SqlError> {
    let row: R = serde_json::from_str(body).map_err(|error| SqlError::InvalidValue(error.to_string()))?;
    row.check().map_err(|violation| SqlError::CheckViolation(violation.0.to_owned()))
}
