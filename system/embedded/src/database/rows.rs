//! Rows of every table under one key type, so that locks, versions, log and replica are written once.
//!
//! A row is immutable; a change is a new row. Primary, log and replica share them.

use std::{ops::RangeInclusive, sync::Arc};

use stormglass_runtime::{
    ConsumerName, EventId, Image, ImageKey, InboxEntry, Lease, Offset, OrderingKey, OutboxRow, Partition,
    Pending, PendingId, Position, Record, Timestamp, Versioned,
};
use uuid::Uuid;

use super::{
    config::{Schema, TableId},
    observed::Change,
    request::SqlError,
};

/// Names one row of one table. The order within a table is the order in which its rows are locked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKey {
    Position(ConsumerName, Partition),
    Inbox(ConsumerName, EventId),
    Pending(ConsumerName, PendingId),
    Outbox(i64),
    Lease(Arc<str>),
    Domain(TableId, Arc<str>),
}

/// One version of one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Row {
    Position(Offset),
    Inbox { at: Position, taken_at: Timestamp },
    Pending(Box<PendingRow>),
    Outbox { record: Record, written_at: Timestamp },
    Lease(Lease),
    Domain { body: String, version: i64 },
}

/// A queue row: what clients see of it, and its lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PendingRow {
    pub(super) seen: Pending,
    pub(super) leased_until: Option<Timestamp>,
}

impl RowKey {
    pub(super) fn domain(schema: &Schema, key: &ImageKey) -> Result<RowKey, SqlError> {
        Ok(RowKey::Domain(schema.table(&key.table)?, key.key.as_str().into()))
    }

    /// What the entry of this row in its table's primary key costs at most: its values, and 32 bytes of headers,
    /// numbers and padding.
    pub(super) fn index_entry_bytes(&self) -> usize {
        32 + match self {
            RowKey::Position(consumer, partition) => consumer.as_str().len() + partition.topic.as_str().len(),
            RowKey::Inbox(consumer, _) => consumer.as_str().len(),
            RowKey::Pending(consumer, id) => consumer.as_str().len() + id.key.0.len(),
            RowKey::Outbox(_) => 0,
            RowKey::Lease(name) => name.len(),
            RowKey::Domain(_, key) => key.len(),
        }
    }

    /// All queue rows of one ordering key.
    pub(super) fn pending_of(consumer: &ConsumerName, key: &OrderingKey) -> RangeInclusive<RowKey> {
        let at = |seq| RowKey::Pending(consumer.clone(), PendingId { key: key.clone(), seq });
        at(i64::MIN)..=at(i64::MAX)
    }

    /// The whole outbox.
    pub(super) fn outbox() -> RangeInclusive<RowKey> {
        RowKey::Outbox(i64::MIN)..=RowKey::Outbox(i64::MAX)
    }

    /// The inbox of one consumer.
    pub(super) fn inbox_of(consumer: &ConsumerName) -> RangeInclusive<RowKey> {
        let at = |id| RowKey::Inbox(consumer.clone(), EventId(id));
        at(Uuid::nil())..=at(Uuid::max())
    }
}

impl Row {
    pub(super) fn pending(&self) -> Option<&PendingRow> {
        match self {
            Row::Pending(row) => Some(row),
            Row::Position(_)
            | Row::Inbox { .. }
            | Row::Outbox { .. }
            | Row::Lease(_)
            | Row::Domain { .. } => None,
        }
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        match self {
            Row::Lease(lease) => Some(lease),
            Row::Position(_)
            | Row::Inbox { .. }
            | Row::Outbox { .. }
            | Row::Pending(_)
            | Row::Domain { .. } => None,
        }
    }

    pub(super) fn version(&self) -> Option<i64> {
        match self {
            Row::Domain { version, .. } => Some(*version),
            Row::Position(_) | Row::Inbox { .. } | Row::Outbox { .. } | Row::Pending(_) | Row::Lease(_) => {
                None
            }
        }
    }
}

pub(super) fn position(key: &RowKey, row: &Row) -> Option<Position> {
    match (key, row) {
        (RowKey::Position(_, partition), Row::Position(offset)) => Some(partition.at(*offset)),
        _ => None,
    }
}

pub(super) fn image(schema: &Schema, key: &RowKey, row: &Row) -> Option<Versioned<Image>> {
    match (key, row) {
        (RowKey::Domain(table, key), Row::Domain { body, version }) => Some(Versioned {
            row: Image { table: schema.name(*table).to_owned(), key: key.to_string(), body: body.clone() },
            version: *version,
        }),
        _ => None,
    }
}

pub(super) fn outbox_row(key: &RowKey, row: &Row) -> Option<OutboxRow> {
    match (key, row) {
        (RowKey::Outbox(seq), Row::Outbox { record, .. }) => {
            Some(OutboxRow { seq: *seq, record: record.clone() })
        }
        _ => None,
    }
}

/// A write as the evidence tells it; `None` for writes that no statement makes.
pub(super) fn change(
    schema: &Schema,
    key: &RowKey,
    before: Option<&Row>,
    after: Option<&Row>,
) -> Option<Change> {
    let inbox = |at: &Position, id: &EventId| InboxEntry { event_id: *id, at: at.clone() };
    let seen = |row: Option<&Row>| row.and_then(Row::pending).map(|row| Box::new(row.seen.clone()));
    match (key, before, after) {
        (RowKey::Position(consumer, partition), _, Some(Row::Position(offset))) => {
            Some(Change::Moved { consumer: consumer.clone(), position: partition.at(*offset) })
        }
        (RowKey::Inbox(consumer, id), _, Some(Row::Inbox { at, .. })) => {
            Some(Change::Taken { consumer: consumer.clone(), entry: inbox(at, id) })
        }
        (RowKey::Inbox(consumer, id), Some(Row::Inbox { at, .. }), None) => {
            Some(Change::Pruned { consumer: consumer.clone(), entry: inbox(at, id) })
        }
        (RowKey::Pending(consumer, _), before, after) => {
            Some(Change::Pending { consumer: consumer.clone(), before: seen(before), after: seen(after) })
        }
        (RowKey::Outbox(_), _, Some(row)) => outbox_row(key, row).map(|row| Change::Emitted { row }),
        (RowKey::Outbox(seq), _, None) => Some(Change::Published { seq: *seq }),
        (RowKey::Lease(name), _, Some(Row::Lease(lease))) => {
            Some(Change::Leased { name: name.to_string(), lease: lease.clone() })
        }
        (RowKey::Domain(..), before, Some(after)) => Some(Change::Row {
            before: before.and_then(|row| image(schema, key, row)).map(|versioned| versioned.row),
            after: image(schema, key, after)?.row,
        }),
        _ => None,
    }
}
