//! The outbox, and the lease of the relay that empties it.

use std::time::Duration;

use sqlx::{PgConnection, query_file, query_file_as};
use stormglass_runtime::{Failure, Lease, OutboxRow, Record};
use uuid::Uuid;

use super::values::{Moment, headers, headers_to_bytes, micros};
use crate::postgres::failure::of_statement;

pub(super) async fn emit(on: &mut PgConnection, records: &[Record]) -> Result<(), Failure> {
    let ids: Vec<Option<Uuid>> = records.iter().map(event_id).collect();
    let topics: Vec<&str> = records.iter().map(|record| record.topic.as_str()).collect();
    let keys: Vec<Option<&[u8]>> = records.iter().map(|record| record.key.as_deref()).collect();
    let headers = records.iter().map(|record| headers_to_bytes(&record.headers));
    let headers = headers.collect::<Result<Vec<_>, _>>()?;
    let values: Vec<&[u8]> = records.iter().map(|record| &record.value[..]).collect();
    query_file!("src/postgres/sql/emit.sql", &ids as _, &topics as _, &keys as _, &headers, &values as _)
        .execute(on)
        .await
        .map_err(|error| of_statement(&error))?;
    Ok(())
}

/// `ce_id`, where it is a UUID: for whoever looks for an event in the table.
fn event_id(record: &Record) -> Option<Uuid> {
    record.headers.text("ce_id").and_then(|id| Uuid::parse_str(id).ok())
}

pub(super) async fn read(on: &mut PgConnection, limit: u32) -> Result<Vec<OutboxRow>, Failure> {
    let rows = query_file_as!(OutboxRecord, "src/postgres/sql/read_outbox.sql", i64::from(limit))
        .fetch_all(on)
        .await
        .map_err(|error| of_statement(&error))?;
    let row = |row: OutboxRecord| {
        Ok(OutboxRow {
            seq: row.seq,
            record: Record {
                topic: row.topic.as_str().into(),
                key: row.key.map(Into::into),
                headers: headers(&row.headers)?,
                value: row.value.into(),
            },
        })
    };
    rows.into_iter().map(row).collect()
}

struct OutboxRecord {
    seq: i64,
    topic: String,
    key: Option<Vec<u8>>,
    headers: Vec<u8>,
    value: Vec<u8>,
}

pub(super) async fn delete(on: &mut PgConnection, seqs: &[i64]) -> Result<u64, Failure> {
    let deleted = query_file!("src/postgres/sql/delete_outbox.sql", seqs);
    Ok(deleted.execute(on).await.map_err(|error| of_statement(&error))?.rows_affected())
}

pub(super) async fn acquire_lease(
    on: &mut PgConnection,
    name: &str,
    holder: Uuid,
    ttl: Duration,
) -> Result<Lease, Failure> {
    let lease = query_file!("src/postgres/sql/acquire_lease.sql", name, holder, micros(ttl))
        .fetch_one(on)
        .await
        .map_err(|error| of_statement(&error))?;
    Ok(Lease { holder: lease.holder, epoch: lease.epoch, expires_at: lease.expires_at.into() })
}
