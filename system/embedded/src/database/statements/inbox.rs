//! Positions and the inbox: where a consumer stands, and what it has accounted for.

use std::collections::BTreeMap;

use stormglass_runtime::{ConsumerName, InboxEntry, Partition, Position, Timestamp};

use super::count;
use crate::database::{
    execution::{Edit, Execution, Finish, Plan, Planned, Step},
    rows::{Row, RowKey},
};

pub(super) fn open_positions(consumer: &ConsumerName, positions: Vec<Position>) -> Planned {
    let wanted = by_partition(consumer, positions);
    let keys = wanted.keys().cloned().collect();
    let steps = wanted.into_iter().map(|(key, offset)| Step::Insert(key, Row::Position(offset)));
    Planned::Steps(Plan::new(steps, Finish::PositionsOf(keys)))
}

pub(super) fn lock_positions(
    on: &Execution<'_>,
    consumer: &ConsumerName,
    mut partitions: Vec<Partition>,
) -> Planned {
    partitions.sort_unstable();
    partitions.dedup();
    let keys = partitions.into_iter().map(|partition| RowKey::Position(consumer.clone(), partition));
    let steps = keys.filter(|key| on.row(key).is_some()).map(Step::Lock);
    Planned::Steps(Plan::new(steps, Finish::Positions))
}

pub(super) fn move_positions(
    on: &Execution<'_>,
    consumer: &ConsumerName,
    positions: Vec<Position>,
) -> Planned {
    let wanted = by_partition(consumer, positions).into_iter().filter(|(key, _)| on.row(key).is_some());
    let steps = wanted.map(|(key, offset)| Step::Edit(key, Edit::Move(offset)));
    Planned::Steps(Plan::new(steps, Finish::Count))
}

/// Of a partition given twice the first counts.
fn by_partition(consumer: &ConsumerName, positions: Vec<Position>) -> BTreeMap<RowKey, i64> {
    let keyed =
        |position: Position| (RowKey::Position(consumer.clone(), position.partition), position.offset);
    positions.into_iter().rev().map(keyed).collect()
}

pub(super) fn take(on: &Execution<'_>, consumer: &ConsumerName, entries: Vec<InboxEntry>) -> Planned {
    let taken_at = on.now();
    let keyed = |entry: InboxEntry| (RowKey::Inbox(consumer.clone(), entry.event_id), entry.at);
    let wanted: BTreeMap<_, _> = entries.into_iter().rev().map(keyed).collect();
    let steps = wanted.into_iter().map(|(key, at)| Step::Insert(key, Row::Inbox { at, taken_at }));
    Planned::Steps(Plan::new(steps, Finish::Fresh))
}

/// What lies below its log's start and was taken before the oldest row that the outbox still holds was written.
pub(super) fn prune(on: &Execution<'_>, consumer: &ConsumerName, below: &[Position], limit: u32) -> Planned {
    let own_oldest = on.txn.writes.range(RowKey::outbox()).find_map(|(_, row)| written_at(row.as_deref()));
    let is_there = |(_, seq): &&(Timestamp, i64)| on.row(&RowKey::Outbox(*seq)).is_some();
    let oldest = on.store.written().find(is_there).map(|(at, _)| *at);
    let oldest = oldest.into_iter().chain(own_oldest).min();
    let old = |key: &RowKey| match on.row(key).map(|row| &**row) {
        Some(Row::Inbox { taken_at, .. }) => oldest.is_none_or(|oldest| *taken_at < oldest),
        _ => false,
    };
    let own = on.txn.writes.range(RowKey::inbox_of(consumer)).filter_map(|(key, row)| match row.as_deref() {
        Some(Row::Inbox { at, .. }) if is_below(at, below) => Some(key.clone()),
        _ => None,
    });
    let committed = below.iter().flat_map(|below| on.store.inbox_below(consumer, below));
    let steps = committed.chain(own).filter(old).take(count(limit)).map(|key| Step::Edit(key, Edit::Delete));
    Planned::Steps(Plan::new(steps, Finish::Count))
}

fn is_below(at: &Position, below: &[Position]) -> bool {
    below.iter().any(|below| below.partition == at.partition && at.offset < below.offset)
}

fn written_at(row: Option<&Row>) -> Option<Timestamp> {
    match row {
        Some(Row::Outbox { written_at, .. }) => Some(*written_at),
        _ => None,
    }
}
