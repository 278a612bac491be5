//! Positions and the inbox: where a consumer stands, and what it has accounted for.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{PgConnection, query_file};
use stormglass_runtime::{ConsumerName, EventId, Failure, InboxEntry, Offset, Partition, Position};

use super::values::{Places, position};
use crate::postgres::failure::of_statement;

/// The one statement that takes two: its INSERT may wait for a row that another transaction then commits, and a
/// statement does not see what was committed after it began (D5).
pub(super) async fn open_positions(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    positions: &[Position],
) -> Result<Vec<Position>, Failure> {
    let at = by_partition(positions)?;
    query_file!(
        "src/postgres/sql/open_positions.sql",
        consumer.as_str(),
        &at.topics as _,
        &at.partitions,
        &at.offsets
    )
    .execute(&mut *on)
    .await
    .map_err(|error| of_statement(&error))?;
    let rows = query_file!(
        "src/postgres/sql/read_positions.sql",
        consumer.as_str(),
        &at.topics as _,
        &at.partitions
    )
    .fetch_all(on)
    .await
    .map_err(|error| of_statement(&error))?;
    rows.iter().map(|row| position(&row.topic, row.partition, row.next)).collect()
}

pub(super) async fn lock_positions(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    partitions: &[Partition],
) -> Result<Vec<Position>, Failure> {
    let mut at = Places::default();
    for partition in partitions.iter().collect::<BTreeSet<_>>() {
        at.push(partition, 0)?;
    }
    let rows = query_file!(
        "src/postgres/sql/lock_positions.sql",
        consumer.as_str(),
        &at.topics as _,
        &at.partitions
    )
    .fetch_all(on)
    .await
    .map_err(|error| of_statement(&error))?;
    rows.iter().map(|row| position(&row.topic, row.partition, row.next)).collect()
}

pub(super) async fn move_positions(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    positions: &[Position],
) -> Result<u64, Failure> {
    let at = by_partition(positions)?;
    let moved = query_file!(
        "src/postgres/sql/move_positions.sql",
        consumer.as_str(),
        &at.topics as _,
        &at.partitions,
        &at.offsets
    );
    Ok(moved.execute(on).await.map_err(|error| of_statement(&error))?.rows_affected())
}

pub(super) async fn take(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    entries: &[InboxEntry],
) -> Result<Vec<EventId>, Failure> {
    // Of an id given twice the first counts.
    let entries: BTreeMap<EventId, &Position> =
        entries.iter().rev().map(|entry| (entry.event_id, &entry.at)).collect();
    let ids: Vec<_> = entries.keys().map(|id| id.0).collect();
    let mut at = Places::default();
    for position in entries.values() {
        at.push(&position.partition, position.offset)?;
    }
    let rows = query_file!(
        "src/postgres/sql/take_inbox.sql",
        consumer.as_str(),
        &ids,
        &at.topics as _,
        &at.partitions,
        &at.offsets
    )
    .fetch_all(on)
    .await
    .map_err(|error| of_statement(&error))?;
    Ok(rows.into_iter().map(|row| EventId(row.event_id)).collect())
}

pub(super) async fn prune(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    below: &[Position],
    limit: u32,
) -> Result<u64, Failure> {
    // The log of a partition begins where the last of several claims says; any of them is true.
    let below: BTreeMap<&Partition, Offset> =
        below.iter().map(|below| (&below.partition, below.offset)).collect();
    let mut log = Places::default();
    for (partition, start) in below {
        log.push(partition, start)?;
    }
    let pruned = query_file!(
        "src/postgres/sql/prune_inbox.sql",
        consumer.as_str(),
        &log.topics as _,
        &log.partitions,
        &log.offsets,
        i64::from(limit)
    );
    Ok(pruned.execute(on).await.map_err(|error| of_statement(&error))?.rows_affected())
}

/// Of a partition given twice the first counts.
fn by_partition(positions: &[Position]) -> Result<Places<'_>, Failure> {
    let sorted: BTreeMap<&Partition, Offset> =
        positions.iter().rev().map(|position| (&position.partition, position.offset)).collect();
    let mut at = Places::default();
    for (partition, offset) in sorted {
        at.push(partition, offset)?;
    }
    Ok(at)
}
