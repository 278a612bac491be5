//! What the database itself knows to have happened: the evidence that checkers read.

use serde::{Deserialize, Serialize};
use stormglass_runtime::{
    ConsumerName, Freshness, Image, InboxEntry, Lease, OutboxRow, Pending, Position, Timestamp,
};

/// One thing that happened in the database cluster, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Observed {
    /// A transaction became visible.
    Committed {
        /// When.
        at: Timestamp,
        /// Where in the log.
        lsn: Freshness,
        /// `application_name` of the session.
        session: String,
        /// What it changed, in the order of its statements.
        changes: Vec<Change>,
    },
    /// Everything after `lsn` is gone: the standby that was promoted never had it, or a crash lost what
    /// `synchronous_commit = off` had not flushed.
    LostSuffix {
        /// When.
        at: Timestamp,
        /// The last place that survived.
        lsn: Freshness,
    },
    /// A read outside transactions was answered.
    Read {
        /// When.
        at: Timestamp,
        /// By which node.
        node: usize,
        /// What the reader asked to be at least as fresh as.
        at_least: Option<Freshness>,
        /// How fresh the answer was.
        lsn: Freshness,
    },
}

/// One change of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// An event was marked as taken.
    Taken {
        /// By whom.
        consumer: ConsumerName,
        /// What.
        entry: InboxEntry,
    },
    /// An inbox row was pruned.
    Pruned {
        /// Whose.
        consumer: ConsumerName,
        /// What.
        entry: InboxEntry,
    },
    /// A position was created or moved.
    Moved {
        /// Whose.
        consumer: ConsumerName,
        /// The next offset.
        position: Position,
    },
    /// A domain row was inserted (`before` is `None`) or updated.
    Row {
        /// As it was.
        before: Option<Image>,
        /// As it is.
        after: Image,
    },
    /// A queue row was inserted (`before` is `None`), changed, or deleted (`after` is `None`).
    Pending {
        /// Whose queue.
        consumer: ConsumerName,
        /// As it was.
        before: Option<Box<Pending>>,
        /// As it is.
        after: Option<Box<Pending>>,
    },
    /// An outbox row was written.
    Emitted {
        /// The row.
        row: OutboxRow,
    },
    /// An outbox row was deleted.
    Published {
        /// Its number.
        seq: i64,
    },
    /// A lease changed.
    Leased {
        /// Its name.
        name: String,
        /// As it is.
        lease: Lease,
    },
}
