//! The vocabulary of the store: about a dozen statements, and the rows of the queue, inbox, outbox and leases.
//!
//! A service never sees SQL and the store never sees the domain: rows are the domain's [`RowSet`], and whoever does
//! not want to know it handles their images.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ConsumerName, EventId, OrderingKey, Partition, Position, Record, RowSet, Timestamp, Versioned};

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
    /// Locks the first rows of each of `keys`, ordered by key and `seq`. Answers `Pending`.
    LockPending {
        /// Whose queue.
        consumer: ConsumerName,
        /// Which keys.
        keys: Vec<OrderingKey>,
        /// How many rows of each key at most: what waits behind a key may be any number.
        limit: u32,
        /// Whether dead rows are among them (`Hold`) or are passed over (`Skip`).
        after_death: AfterDeath,
    },
    /// Locks those of `ids` that are dead letters, ordered by key and `seq`. Answers `Pending`.
    LockDead {
        /// Whose queue.
        consumer: ConsumerName,
        /// Which rows.
        ids: Vec<PendingId>,
    },
    /// Changes rows of the queue, which the same transaction has locked before: one that was changed since this
    /// statement began to look is passed over. Answers `Count`.
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
