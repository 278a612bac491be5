//! The payments service without guarantees: the intent in one transaction, the call, which answers at once, and what
//! came of it in another.

use rdkafka::{Message as _, message::BorrowedMessage};
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    Origins, Work, all, move_on, take,
    wire::{Due, Outbox, Placed, Queue, Subject, headers, id, kind, next_id, read},
};
use crate::Fallible;

/// `consumer` of its rows.
const CONSUMER: &str = "payments";

/// The loop.
pub struct Payments;

/// What a batch charges, as columns.
#[derive(Default)]
struct Charges {
    keys: Vec<String>,
    tenants: Vec<String>,
    ids: Vec<Uuid>,
    fingerprints: Vec<Uuid>,
    customers: Vec<String>,
    currencies: Vec<String>,
    amounts: Vec<i64>,
    references: Vec<String>,
    queue: Queue,
    events: Outbox,
}

/// What the provider is asked.
#[derive(Serialize)]
struct Call<'a> {
    subject: &'a Subject<'a>,
    customer: &'a str,
    amount: Money<'a>,
}

#[derive(Serialize)]
struct Money<'a> {
    minor: i64,
    currency: &'a str,
}

/// payment.captured.
#[derive(Serialize)]
struct Captured<'a> {
    subject: &'a Subject<'a>,
    fingerprint: Uuid,
    amount: Money<'a>,
    charge: &'a str,
}

impl Work for Payments {
    async fn work(&mut self, batch: &[BorrowedMessage<'_>], on: &mut PgConnection) -> Fallible<()> {
        let origins = Origins::of(batch)?;
        let mut charges = Charges::default();
        for message in batch {
            charges.add(message, &read(message)?)?;
        }
        let mut intent = on.begin().await?;
        take(CONSUMER, &origins, &mut intent).await?;
        charges.ask(&mut intent).await?;
        let seqs = charges.queue.write(CONSUMER, Due::Claimed, &mut intent).await?;
        move_on(CONSUMER, &origins, &mut intent).await?;
        intent.commit().await?;
        // The provider answers at once: its references are there.
        let mut outcome = on.begin().await?;
        charges.settle(&seqs, &mut outcome).await?;
        charges.capture(&mut outcome).await?;
        charges.events.write(&mut outcome).await?;
        Ok(outcome.commit().await?)
    }
}

impl Charges {
    fn add(&mut self, message: &BorrowedMessage<'_>, event: &Placed<'_>) -> Fallible<()> {
        let (subject, basket) = (&event.subject, &event.basket);
        let money = || Money { minor: basket.total_minor(), currency: basket.currency };
        let id = id(message)?;
        let reference = next_id(id).to_string();
        self.keys.push(subject.key());
        self.tenants.push(subject.tenant.to_owned());
        self.ids.push(subject.order);
        self.fingerprints.push(event.fingerprint);
        self.customers.push(basket.customer.to_owned());
        self.currencies.push(basket.currency.to_owned());
        self.amounts.push(basket.total_minor());
        let call = serde_json::to_vec(&Call { subject, customer: basket.customer, amount: money() })?;
        let queue = &mut self.queue;
        queue.keys.push(message.key().unwrap_or_default().to_vec());
        queue.ids.push(id);
        queue.topics.push(message.topic().to_owned());
        queue.partitions.push(message.partition());
        queue.offsets.push(message.offset());
        queue.record_keys.push(message.key().unwrap_or_default().to_vec());
        queue.headers.push(headers(id, "gateway", kind(message)?)?);
        queue.values.push(message.payload().unwrap_or_default().to_vec());
        queue.calls.push(Some(call));
        let (fingerprint, amount) = (event.fingerprint, money());
        let value = serde_json::to_vec(&Captured { subject, fingerprint, amount, charge: &reference })?;
        self.references.push(reference);
        self.events.push(next_id(id), (CONSUMER, "payment.captured.v1"), subject.order, value)
    }

    async fn ask(&self, on: &mut PgConnection) -> Fallible<()> {
        sqlx::query(
            "INSERT INTO payments (key, version, tenant, id, state, fingerprint) \
             SELECT key, 1, tenant, id, 'asked', fingerprint \
             FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[]) AS new (key, tenant, id, fingerprint)",
        )
        .bind(&self.keys)
        .bind(&self.tenants)
        .bind(&self.ids)
        .bind(&self.fingerprints)
        .execute(on)
        .await?;
        Ok(())
    }

    async fn settle(&self, seqs: &[i64], on: &mut PgConnection) -> Fallible<()> {
        let deleted = sqlx::query(
            "DELETE FROM pending USING unnest($2::bytea[], $3::bigint[]) AS done (key, seq) \
             WHERE pending.consumer = $1 AND pending.key = done.key AND pending.seq = done.seq",
        )
        .bind(CONSUMER)
        .bind(&self.queue.keys)
        .bind(seqs)
        .execute(on)
        .await?;
        all(deleted.rows_affected(), seqs.len())
    }

    async fn capture(&self, on: &mut PgConnection) -> Fallible<()> {
        let captured = sqlx::query(
            "UPDATE payments SET state = 'captured', fingerprint = NULL, customer = asked.customer, \
             currency = asked.currency, amount_minor = asked.amount, charge = asked.charge, version = version + 1 \
             FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) \
             AS asked (key, customer, currency, amount, charge) WHERE payments.key = asked.key",
        )
        .bind(&self.keys)
        .bind(&self.customers)
        .bind(&self.currencies)
        .bind(&self.amounts)
        .bind(&self.references)
        .execute(on)
        .await?;
        all(captured.rows_affected(), self.keys.len())
    }
}
