//! Records as the raw loops read and write them: borrowed, unchecked, and of the same size as production's.

use std::borrow::Cow;

use rdkafka::{
    Message as _,
    message::{BorrowedMessage, Headers as _},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Fallible;

/// `ce_time`, of the right length.
const TIME: &str = "2026-01-01T00:00:00.000Z";

/// Whose order.
#[derive(Deserialize, Serialize)]
pub struct Subject<'a> {
    pub tenant: &'a str,
    pub order: Uuid,
}

impl Subject<'_> {
    /// The key of the order's rows.
    pub fn key(&self) -> String {
        format!("{}/{}", self.tenant, self.order)
    }
}

/// order.placed.
#[derive(Deserialize)]
pub struct Placed<'a> {
    #[serde(borrow)]
    pub subject: Subject<'a>,
    pub fingerprint: Uuid,
    #[serde(borrow)]
    pub basket: Basket<'a>,
    pub placed_at_ms: i64,
}

/// What is ordered.
#[derive(Deserialize)]
pub struct Basket<'a> {
    pub customer: &'a str,
    pub currency: &'a str,
    #[serde(borrow)]
    pub lines: Vec<Line<'a>>,
}

impl Basket<'_> {
    /// What it costs.
    pub fn total_minor(&self) -> i64 {
        self.lines.iter().map(|line| line.quantity * line.unit_price_minor).sum()
    }
}

/// A line of it.
#[derive(Deserialize, Serialize)]
pub struct Line<'a> {
    pub sku: Cow<'a, str>,
    pub quantity: i64,
    pub unit_price_minor: i64,
}

/// So many of a SKU.
#[derive(Serialize)]
pub struct Item<'a> {
    pub sku: &'a str,
    pub quantity: i64,
}

/// Any event, as far as the order that it is about.
#[derive(Deserialize)]
pub struct About<'a> {
    #[serde(borrow)]
    pub subject: Subject<'a>,
}

/// The payload of a record.
pub fn read<'a, T: Deserialize<'a>>(message: &'a BorrowedMessage<'_>) -> Fallible<T> {
    Ok(serde_json::from_slice(message.payload().unwrap_or_default())?)
}

/// `ce_type`.
pub fn kind<'a>(message: &'a BorrowedMessage<'_>) -> Fallible<&'a str> {
    header(message, "ce_type")
}

/// `ce_id`.
pub fn id(message: &BorrowedMessage<'_>) -> Fallible<Uuid> {
    Ok(header(message, "ce_id")?.parse()?)
}

fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Fallible<&'a str> {
    let headers = message.headers().ok_or("a record without headers")?;
    let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
    Ok(std::str::from_utf8(found.ok_or("a header is missing")?)?)
}

/// Headers of an event, as the columns hold them.
pub fn headers(id: Uuid, source: &str, kind: &str) -> Fallible<Vec<u8>> {
    let (id, source) = (id.to_string(), format!("/stormglass/{source}"));
    let all: [(&str, &[u8]); 6] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id.as_bytes()),
        ("ce_source", source.as_bytes()),
        ("ce_type", kind.as_bytes()),
        ("ce_time", TIME.as_bytes()),
        ("content-type", b"application/json"),
    ];
    // A list begins with its length, an array would not.
    Ok(postcard::to_stdvec(&all[..])?)
}

/// An id for what follows from the event of `id`: unlike any other, without hashing.
pub fn next_id(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128() ^ 1)
}

/// Records for the outbox, as columns.
#[derive(Default)]
pub struct Outbox {
    ids: Vec<Uuid>,
    keys: Vec<Vec<u8>>,
    headers: Vec<Vec<u8>>,
    values: Vec<Vec<u8>>,
}

impl Outbox {
    /// Adds an event about `subject` that `source` emits.
    pub fn push(
        &mut self,
        id: Uuid,
        (source, kind): (&str, &str),
        order: Uuid,
        value: Vec<u8>,
    ) -> Fallible<()> {
        self.ids.push(id);
        self.keys.push(order.to_string().into_bytes());
        self.headers.push(headers(id, source, kind)?);
        self.values.push(value);
        Ok(())
    }

    /// Writes them.
    pub async fn write(&self, on: &mut PgConnection) -> Fallible<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO outbox (event_id, topic, key, headers, value) \
             SELECT id, 'orders', key, headers, value \
             FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[]) AS new (id, key, headers, value)",
        )
        .bind(&self.ids)
        .bind(&self.keys)
        .bind(&self.headers)
        .bind(&self.values)
        .execute(on)
        .await?;
        Ok(())
    }
}

/// Rows for the queue, as columns.
#[derive(Default)]
pub struct Queue {
    pub keys: Vec<Vec<u8>>,
    pub ids: Vec<Uuid>,
    pub topics: Vec<String>,
    pub partitions: Vec<i32>,
    pub offsets: Vec<i64>,
    pub record_keys: Vec<Vec<u8>>,
    pub headers: Vec<Vec<u8>>,
    pub values: Vec<Vec<u8>>,
    pub calls: Vec<Option<Vec<u8>>>,
}

/// When what is queued is due, and whether it is claimed.
pub enum Due {
    /// By nobody, for long.
    Later,
    /// By whoever queues it.
    Claimed,
}

impl Queue {
    /// Writes them; answers with their numbers.
    pub async fn write(&self, consumer: &str, due: Due, on: &mut PgConnection) -> Fallible<Vec<i64>> {
        let claim = match due {
            Due::Later => None,
            Due::Claimed => Some(Uuid::from_u128(1)),
        };
        let seqs = sqlx::query_scalar(
            "INSERT INTO pending (consumer, key, event_id, topic, partition, \"offset\", record_topic, record_key, \
             headers, value, call, attempts, due, claim, leased_until) \
             SELECT $1, key, id, topic, partition, at, 'orders', record_key, headers, value, call, \
             CASE WHEN $11::uuid IS NULL THEN 0 ELSE 1 END, \
             clock_timestamp() + CASE WHEN $11::uuid IS NULL THEN interval '15 min' ELSE interval '0' END, $11, \
             CASE WHEN $11::uuid IS NULL THEN NULL ELSE clock_timestamp() + interval '1 min' END \
             FROM unnest($2::bytea[], $3::uuid[], $4::text[], $5::int[], $6::bigint[], $7::bytea[], $8::bytea[], \
             $9::bytea[], $10::bytea[]) \
             AS new (key, id, topic, partition, at, record_key, headers, value, call) RETURNING seq",
        )
        .bind(consumer)
        .bind(&self.keys)
        .bind(&self.ids)
        .bind(&self.topics)
        .bind(&self.partitions)
        .bind(&self.offsets)
        .bind(&self.record_keys)
        .bind(&self.headers)
        .bind(&self.values)
        .bind(&self.calls)
        .bind(claim)
        .fetch_all(on)
        .await?;
        Ok(seqs)
    }
}
