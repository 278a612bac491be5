//! The orders service without guarantees: a row when an order is placed, with its timer; a change when it is reserved;
//! a change and an event when it is paid.

use rdkafka::{Message as _, message::BorrowedMessage};
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    Origins, Work, all, move_on, take,
    wire::{About, Due, Item, Line, Outbox, Placed, Queue, Subject, headers, id, kind, next_id, read},
};
use crate::Fallible;

/// `consumer` of its rows.
const CONSUMER: &str = "orders";

/// The loop.
pub struct Orders;

/// What a batch says.
#[derive(Default)]
struct News {
    placed: Rows,
    timers: Queue,
    reserved: Vec<String>,
    paid: Vec<String>,
    paid_ids: Vec<Uuid>,
}

/// New rows, as columns.
#[derive(Default)]
struct Rows {
    keys: Vec<String>,
    tenants: Vec<String>,
    ids: Vec<Uuid>,
    fingerprints: Vec<Uuid>,
    customers: Vec<String>,
    currencies: Vec<String>,
    lines: Vec<String>,
    totals: Vec<i64>,
    placed_at: Vec<i64>,
}

/// order.confirmed.
#[derive(Serialize)]
struct Confirmed<'a> {
    subject: Subject<'a>,
    customer: &'a str,
    items: Vec<Item<'a>>,
}

/// order.deadline.
#[derive(Serialize)]
struct Deadline<'a> {
    subject: &'a Subject<'a>,
}

impl Work for Orders {
    async fn work(&mut self, batch: &[BorrowedMessage<'_>], on: &mut PgConnection) -> Fallible<()> {
        let origins = Origins::of(batch)?;
        let mut news = News::default();
        for message in batch {
            news.add(message)?;
        }
        let mut transaction = on.begin().await?;
        take(CONSUMER, &origins, &mut transaction).await?;
        news.placed.write(&mut transaction).await?;
        reserve(&news.reserved, &mut transaction).await?;
        confirm(&news.paid, &news.paid_ids, &mut transaction).await?;
        if !news.timers.ids.is_empty() {
            news.timers.write(CONSUMER, Due::Later, &mut transaction).await?;
        }
        move_on(CONSUMER, &origins, &mut transaction).await?;
        Ok(transaction.commit().await?)
    }
}

impl News {
    fn add(&mut self, message: &BorrowedMessage<'_>) -> Fallible<()> {
        match kind(message)? {
            "order.placed.v1" => self.placed(message, &read(message)?),
            "stock.reserved.v1" => {
                self.reserved.push(read::<About<'_>>(message)?.subject.key());
                Ok(())
            }
            "payment.captured.v1" => {
                self.paid.push(read::<About<'_>>(message)?.subject.key());
                self.paid_ids.push(id(message)?);
                Ok(())
            }
            other => Err(format!("no such event on this log: {other}").into()),
        }
    }

    fn placed(&mut self, message: &BorrowedMessage<'_>, event: &Placed<'_>) -> Fallible<()> {
        let (rows, basket) = (&mut self.placed, &event.basket);
        rows.keys.push(event.subject.key());
        rows.tenants.push(event.subject.tenant.to_owned());
        rows.ids.push(event.subject.order);
        rows.fingerprints.push(event.fingerprint);
        rows.customers.push(basket.customer.to_owned());
        rows.currencies.push(basket.currency.to_owned());
        rows.lines.push(serde_json::to_string(&basket.lines)?);
        rows.totals.push(basket.total_minor());
        rows.placed_at.push(event.placed_at_ms);
        let (timer, timers) = (next_id(id(message)?), &mut self.timers);
        timers.keys.push(timer.as_bytes().to_vec());
        timers.ids.push(timer);
        timers.topics.push(message.topic().to_owned());
        timers.partitions.push(message.partition());
        timers.offsets.push(message.offset());
        timers.record_keys.push(message.key().unwrap_or_default().to_vec());
        timers.headers.push(headers(timer, CONSUMER, "order.deadline.v1")?);
        timers.values.push(serde_json::to_vec(&Deadline { subject: &event.subject })?);
        timers.calls.push(None);
        Ok(())
    }
}

impl Rows {
    async fn write(&self, on: &mut PgConnection) -> Fallible<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO orders (key, version, tenant, id, state, progress, fingerprint, customer, currency, lines, \
             total_minor, placed_at_ms, conflicts, cancels_refused) \
             SELECT key, 1, tenant, id, 'open', 'nothing', fingerprint, customer, currency, lines::jsonb, total, \
             placed_at, 0, 0 \
             FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], \
             $8::bigint[], $9::bigint[]) \
             AS new (key, tenant, id, fingerprint, customer, currency, lines, total, placed_at)",
        )
        .bind(&self.keys)
        .bind(&self.tenants)
        .bind(&self.ids)
        .bind(&self.fingerprints)
        .bind(&self.customers)
        .bind(&self.currencies)
        .bind(&self.lines)
        .bind(&self.totals)
        .bind(&self.placed_at)
        .execute(on)
        .await?;
        Ok(())
    }
}

async fn reserve(keys: &[String], on: &mut PgConnection) -> Fallible<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let reserved = sqlx::query(
        "UPDATE orders SET progress = 'reserved', version = version + 1 \
         FROM unnest($1::text[]) AS asked (key) WHERE orders.key = asked.key",
    )
    .bind(keys)
    .execute(on)
    .await?;
    all(reserved.rows_affected(), keys.len())
}

async fn confirm(keys: &[String], ids: &[Uuid], on: &mut PgConnection) -> Fallible<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let rows: Vec<(Uuid, String, Uuid, String, String)> = sqlx::query_as(
        "UPDATE orders SET state = 'confirmed', progress = NULL, version = version + 1 \
         FROM unnest($1::text[], $2::uuid[]) AS asked (key, cause) WHERE orders.key = asked.key \
         RETURNING cause, tenant::text, id, customer, lines::text",
    )
    .bind(keys)
    .bind(ids)
    .fetch_all(&mut *on)
    .await?;
    all(rows.len() as u64, keys.len())?;
    let mut outbox = Outbox::default();
    for (cause, tenant, order, customer, lines) in &rows {
        let lines: Vec<Line<'_>> = serde_json::from_str(lines)?;
        let items = lines.iter().map(|line| Item { sku: &line.sku, quantity: line.quantity }).collect();
        let event = Confirmed { subject: Subject { tenant, order: *order }, customer, items };
        let value = serde_json::to_vec(&event)?;
        outbox.push(next_id(*cause), (CONSUMER, "order.confirmed.v1"), *order, value)?;
    }
    outbox.write(on).await
}
