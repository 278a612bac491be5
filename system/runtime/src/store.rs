//! The store port: sessions that speak a small vocabulary of typed statements, and a reader for replicas.
//!
//! Each [`Statement`] is one SQL statement in the PostgreSQL adapter, one step of the embedded state machine and one
//! frame in the storm. The order of statements, half-open transactions and lost COMMIT answers are therefore
//! production code under storm, not a model of it. The isolation level is READ COMMITTED throughout.
//!
//! A service never sees SQL and the store never sees the domain: rows are the domain's [`RowSet`], and whoever does
//! not want to know it handles their [`Image`]s.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use uuid::Uuid;

use crate::{ConsumerName, EventId, Failure, OrderingKey, Partition, Position, Record, Timestamp};

/// The rows of a domain: one enum with a variant per table, and a key enum beside it.
pub trait RowSet: Clone + Debug + PartialEq + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// Names one row of one table. Its order is the order in which rows are locked within a table.
    type Key: Clone + Debug + Ord + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// The tables in the one order in which every transaction locks them.
    const TABLES: &'static [&'static str];

    /// The key of this row.
    fn key(&self) -> Self::Key;

    /// The table of a row with this key; one of [`RowSet::TABLES`].
    fn table(key: &Self::Key) -> &str;

    /// The key as text, unique within its table; ordered bytewise it has the order of the keys (COLLATE "C").
    fn key_text(key: &Self::Key) -> String;

    /// The CHECK constraints of the row's table.
    ///
    /// # Errors
    /// The name of the constraint that the row breaks.
    fn check(&self) -> Result<(), Violation>;
}

/// The name of a violated CHECK constraint.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("constraint {0} violated")]
pub struct Violation(pub &'static str);

/// A row and the version it had when it was read. Versions start at 1 and grow by 1 with each update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<R> {
    /// The row.
    pub row: R,
    /// Its version.
    pub version: i64,
}

/// A row without its domain: what adapters that do not know the domain store and send.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Image {
    /// The table's name.
    pub table: String,
    /// [`RowSet::key_text`].
    pub key: String,
    /// The row as JSON.
    pub body: String,
}

/// The key of an [`Image`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageKey {
    /// The table's name.
    pub table: String,
    /// [`RowSet::key_text`].
    pub key: String,
}

/// Images are a row set too, so statements over them need no type of their own.
impl RowSet for Image {
    type Key = ImageKey;
    const TABLES: &'static [&'static str] = &[];

    fn key(&self) -> ImageKey {
        ImageKey { table: self.table.clone(), key: self.key.clone() }
    }

    fn table(key: &ImageKey) -> &str {
        &key.table
    }

    fn key_text(key: &ImageKey) -> String {
        key.key.clone()
    }

    fn check(&self) -> Result<(), Violation> {
        Ok(())
    }
}

/// One statement of a session.
///
/// Statements that lock do so row by row in the order stated, waiting for whoever holds the row (D4, D6, D10).
/// "Answers" names the [`Answer`] variant a successful execution returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Statement<R: RowSet> {
    /// Inserts the positions that do not exist yet (ON CONFLICT DO NOTHING, in order of partition) and reads all of
    /// them, unlocked. Answers `Positions`.
    OpenPositions {
        /// Whose.
        consumer: ConsumerName,
        /// Where to begin where nothing is stored yet.
        positions: Vec<Position>,
    },
    /// Locks the positions, ordered by topic and partition. Answers `Positions`; absent ones are left out.
    LockPositions {
        /// Whose.
        consumer: ConsumerName,
        /// Which.
        partitions: Vec<Partition>,
    },
    /// Sets positions of rows locked before. Answers `Count`.
    MovePositions {
        /// Whose.
        consumer: ConsumerName,
        /// The next offsets.
        positions: Vec<Position>,
    },
    /// Remembers events, ordered by event id, ON CONFLICT DO NOTHING: waits for an in-flight insert of the same id
    /// (D4). Answers `Fresh`: the ids that were not known before; an id given twice is inserted once.
    TakeInbox {
        /// Whose inbox.
        consumer: ConsumerName,
        /// What was read.
        entries: Vec<InboxEntry>,
    },
    /// Which of `keys` have rows in `pending`, dead ones counted under `Hold` only. Reads, locks nothing.
    /// Answers `Keys`.
    BlockedKeys {
        /// Whose queue.
        consumer: ConsumerName,
        /// The ordering keys asked about.
        keys: Vec<OrderingKey>,
        /// Whether a dead row blocks its key.
        after_death: AfterDeath,
    },
    /// Locks the rows that exist among `keys` of one table (FOR NO KEY UPDATE, ordered by key). Answers `Rows`.
    LockRows {
        /// The table of all keys.
        table: String,
        /// Which rows.
        keys: Vec<R::Key>,
    },
    /// Inserts rows of one table, ordered by key, ON CONFLICT DO NOTHING (D4). Answers `Count`: how many were absent.
    InsertRows {
        /// The table of all rows.
        table: String,
        /// The rows; they get version 1.
        rows: Vec<R>,
    },
    /// Replaces rows of one table where the version is still the one given, which grows by 1. Answers `Count`.
    UpdateRows {
        /// The table of all rows.
        table: String,
        /// The new rows, each with the version that was read.
        rows: Vec<Versioned<R>>,
    },
    /// Appends rows to the queue in the order given. Answers `Sequence`: their `seq`, in that order.
    Enqueue {
        /// Whose queue.
        consumer: ConsumerName,
        /// What to append.
        rows: Vec<NewPending>,
    },
    /// Appends records to the outbox in the order given. Answers `Done`.
    ///
    /// A record larger than its topic allows is `Rejected` here, so that it never gets stuck in the outbox.
    Emit {
        /// The records.
        records: Vec<Record>,
    },
    /// Claims rows that are due, alive, not leased and the head of their key, oldest due first, SKIP LOCKED:
    /// `attempts` grows by 1, the claim is set, the lease starts. Answers `Pending`.
    Claim {
        /// Whose queue.
        consumer: ConsumerName,
        /// The new claim.
        claim: Claim,
        /// How many rows at most.
        limit: u32,
        /// Whether a dead row is the head of its key (`Hold`) or is passed over (`Skip`).
        after_death: AfterDeath,
    },
    /// Locks all rows of `keys`, ordered by key and `seq`. Answers `Pending`.
    LockPending {
        /// Whose queue.
        consumer: ConsumerName,
        /// Which keys.
        keys: Vec<OrderingKey>,
    },
    /// Changes rows of the queue. Answers `Count`.
    ChangePending {
        /// Whose queue.
        consumer: ConsumerName,
        /// What becomes of which row.
        changes: Vec<PendingChange>,
    },
    /// Reads dead letters, oldest first, unlocked. Answers `Pending`.
    ReadDead {
        /// Whose queue.
        consumer: ConsumerName,
        /// How many at most.
        limit: u32,
    },
    /// Takes or extends a lease: granted if it is free, expired, or held by `holder`. Answers `Lease`.
    /// Its epoch grows whenever the holder changes.
    AcquireLease {
        /// The lease's name.
        name: String,
        /// Who asks.
        holder: Uuid,
        /// How long it lasts from now, by the database's clock.
        ttl: Duration,
    },
    /// Reads the oldest outbox rows by `seq`. Reads, locks nothing. Answers `Outbox`.
    ReadOutbox {
        /// How many at most.
        limit: u32,
    },
    /// Deletes outbox rows. Answers `Count`.
    DeleteOutbox {
        /// Which.
        seqs: Vec<i64>,
    },
    /// Deletes inbox rows of `consumer` that lie below the given log starts and are older than every outbox row
    /// (DESIGN G10). Answers `Count`.
    PruneInbox {
        /// Whose inbox.
        consumer: ConsumerName,
        /// The log start of each partition.
        below: Vec<Position>,
        /// How many rows at most.
        limit: u32,
    },
}

/// What a statement returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Answer<R: RowSet> {
    /// Nothing to tell.
    Done,
    /// Rows affected.
    Count(u64),
    /// Positions, ordered by partition.
    Positions(Vec<Position>),
    /// Event ids that were new, ordered.
    Fresh(Vec<EventId>),
    /// Ordering keys, ordered.
    Keys(Vec<OrderingKey>),
    /// Domain rows, ordered by key.
    Rows(Vec<Versioned<R>>),
    /// New `seq` values.
    Sequence(Vec<i64>),
    /// Queue rows.
    Pending(Vec<Pending>),
    /// The lease as it stands; it is the asker's if the holder says so.
    Lease(Lease),
    /// Outbox rows.
    Outbox(Vec<OutboxRow>),
}

/// An event as the inbox remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxEntry {
    /// The event.
    pub event_id: EventId,
    /// Where the record lay.
    pub at: Position,
}

/// What a dead letter does to the later events of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterDeath {
    /// They wait until it is redriven or discarded.
    #[default]
    Hold,
    /// They go on.
    Skip,
}

/// Names a row of the queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PendingId {
    /// The ordering key.
    pub key: OrderingKey,
    /// The row's number; smaller is earlier within a key.
    pub seq: i64,
}

/// A row to append to the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPending {
    /// The ordering key.
    pub key: OrderingKey,
    /// The event.
    pub event_id: EventId,
    /// Where its record lay; a timer has the place of its cause.
    pub origin: Position,
    /// The record itself.
    pub record: Record,
    /// The call to make, as the service encoded it.
    pub call: Option<Bytes>,
    /// Attempts already made: those of the lane count.
    pub attempts: u32,
    /// Due so much later than the database's now.
    pub due_in: Duration,
    /// Why it is here, if it failed.
    pub error: Option<String>,
    /// Whether it is born dead, claimed or free.
    pub verdict: Verdict,
}

/// The state that a queue row is in, or is put into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Waits until due.
    Waiting,
    /// Is claimed at once; `attempts` is *not* raised by the store.
    Claimed(Claim),
    /// Is a dead letter.
    Dead,
}

/// A claim on queue rows: whose attempt it is, and how long nobody else may try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Unique per claim.
    pub id: Uuid,
    /// How long it lasts from now, by the database's clock.
    pub lease: Duration,
}

/// A row of the queue as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its name.
    pub id: PendingId,
    /// The event.
    pub event_id: EventId,
    /// Where its record lay.
    pub origin: Position,
    /// The record.
    pub record: Record,
    /// The call to make, if it is one that asks.
    pub call: Option<Bytes>,
    /// Which idempotency key the call uses: grows only after a definite failure of the one before.
    pub epoch: u32,
    /// Attempts begun so far, this one included.
    pub attempts: u32,
    /// When it may be tried, by the database's clock.
    pub due: Timestamp,
    /// The claim under which it was last attempted.
    pub claim: Option<Uuid>,
    /// The last error.
    pub error: Option<String>,
    /// When it became a dead letter.
    pub dead_at: Option<Timestamp>,
}

/// What becomes of a queue row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingChange {
    /// It is done, or discarded: DELETE.
    Delete(PendingId),
    /// It will be tried again, or is claimed anew, or is dead. The claim and lease it had end.
    Update {
        /// Which.
        id: PendingId,
        /// The call it carries from now on.
        call: Option<Bytes>,
        /// The epoch of its idempotency key.
        epoch: u32,
        /// Attempts so far; a redrive sets 0.
        attempts: u32,
        /// Due so much later than the database's now.
        due_in: Duration,
        /// Why.
        error: Option<String>,
        /// Its new state.
        verdict: Verdict,
    },
}

/// A lease as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who holds it.
    pub holder: Uuid,
    /// Grows with each change of holder.
    pub epoch: i64,
    /// When it ends, by the database's clock.
    pub expires_at: Timestamp,
}

/// A row of the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// Its number. Sequence values may become visible out of order (D9): never keep a cursor over them.
    pub seq: i64,
    /// What to publish.
    pub record: Record,
}

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
