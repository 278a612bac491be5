//! The inventory service without guarantees: hot shelves are counted down, a reservation and an event per order.

use std::collections::BTreeMap;

use rdkafka::message::BorrowedMessage;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    Origins, Work, all, move_on, take,
    wire::{Item, Outbox, Placed, Subject, id, next_id, read},
};
use crate::Fallible;

/// `consumer` of its rows.
const CONSUMER: &str = "inventory";

/// The loop.
pub struct Inventory;

/// What a batch reserves, as columns.
#[derive(Default)]
struct Reservations {
    keys: Vec<String>,
    tenants: Vec<String>,
    ids: Vec<Uuid>,
    items: Vec<String>,
    /// By the key of the shelf. Sorted: loops that took shelves in any order would deadlock.
    shelves: BTreeMap<String, i64>,
    events: Outbox,
}

/// stock.reserved.
#[derive(Serialize)]
struct Reserved<'a> {
    subject: &'a Subject<'a>,
    fingerprint: Uuid,
}

impl Work for Inventory {
    async fn work(&mut self, batch: &[BorrowedMessage<'_>], on: &mut PgConnection) -> Fallible<()> {
        let origins = Origins::of(batch)?;
        let mut reservations = Reservations::default();
        for message in batch {
            reservations.add(id(message)?, &read(message)?)?;
        }
        let mut transaction = on.begin().await?;
        take(CONSUMER, &origins, &mut transaction).await?;
        reservations.write(&mut transaction).await?;
        reservations.count_down(&mut transaction).await?;
        reservations.events.write(&mut transaction).await?;
        move_on(CONSUMER, &origins, &mut transaction).await?;
        Ok(transaction.commit().await?)
    }
}

impl Reservations {
    fn add(&mut self, id: Uuid, event: &Placed<'_>) -> Fallible<()> {
        let subject = &event.subject;
        self.keys.push(subject.key());
        self.tenants.push(subject.tenant.to_owned());
        self.ids.push(subject.order);
        let item = |line: &'_ super::wire::Line<'_>| (line.sku.to_string(), line.quantity);
        let lines: Vec<(String, i64)> = event.basket.lines.iter().map(item).collect();
        let items: Vec<Item<'_>> =
            lines.iter().map(|(sku, quantity)| Item { sku, quantity: *quantity }).collect();
        self.items.push(serde_json::to_string(&items)?);
        for (sku, quantity) in &lines {
            *self.shelves.entry(format!("{}/{sku}", subject.tenant)).or_default() += quantity;
        }
        let value = serde_json::to_vec(&Reserved { subject, fingerprint: event.fingerprint })?;
        self.events.push(next_id(id), (CONSUMER, "stock.reserved.v1"), subject.order, value)
    }

    async fn write(&self, on: &mut PgConnection) -> Fallible<()> {
        sqlx::query(
            "INSERT INTO reservations (key, version, tenant, id, state, items) \
             SELECT key, 1, tenant, id, 'reserved', items::jsonb \
             FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) AS new (key, tenant, id, items)",
        )
        .bind(&self.keys)
        .bind(&self.tenants)
        .bind(&self.ids)
        .bind(&self.items)
        .execute(on)
        .await?;
        Ok(())
    }

    async fn count_down(&self, on: &mut PgConnection) -> Fallible<()> {
        let (keys, units): (Vec<&str>, Vec<i64>) =
            self.shelves.iter().map(|(key, units)| (key.as_str(), *units)).unzip();
        let changed = sqlx::query(
            "UPDATE stock SET available = available - units, reserved = reserved + units, version = version + 1 \
             FROM unnest($1::text[], $2::bigint[]) AS asked (key, units) WHERE stock.key = asked.key",
        )
        .bind(&keys)
        .bind(units)
        .execute(on)
        .await?;
        all(changed.rows_affected(), keys.len())
    }
}
