//! The words that the tests speak in: orders, baskets, events, and a decision over a few rows.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use stormglass_orders::{
    Row, Stock, Subject,
    events::{
        CancelReason, OrderCancelRequested, OrderCancelled, OrderConfirmed, OrderDeadline, OrderPlaced,
        Payload,
    },
    ports::{Charge, Notice, Notifier, PaymentProvider, PaymentReply, Refund},
    types::{
        Basket, BasketParts, Currency, Customer, Item, Line, Money, OrderId, Quantity, Reference, Sku, Tenant,
    },
};
use stormglass_runtime::{
    ActError, ConsumerName, Context, Decision, EventId, IdempotencyKey, Next, Record, Refusal, Rows, Service,
    Timestamp, Versioned, derive_id,
};

pub fn tenant() -> Tenant {
    Tenant::new("acme").expect("valid")
}

pub fn subject(order: &str) -> Subject {
    Subject { tenant: tenant(), order: OrderId::derive(&tenant(), order) }
}

pub fn sku(name: &str) -> Sku {
    Sku::new(name).expect("valid")
}

pub fn reference(text: &str) -> Reference {
    Reference::new(text).expect("valid")
}

pub fn item(name: &str, quantity: i64) -> Item {
    Item { sku: sku(name), quantity: Quantity::new(quantity).expect("valid") }
}

/// A basket in euros, 5.00 each.
pub fn basket(items: &[(&str, i64)]) -> Basket {
    let line = |(name, quantity): &(&str, i64)| {
        let Item { sku, quantity } = item(name, *quantity);
        Line { sku, quantity, unit_price_minor: 500 }
    };
    let customer = Customer::new("ada@example.org").expect("valid");
    let currency = Currency::new("EUR").expect("valid");
    Basket::try_from(BasketParts { customer, currency, lines: items.iter().map(line).collect() })
        .expect("valid")
}

pub fn euros(minor: i64) -> Money {
    Money { minor, currency: Currency::new("EUR").expect("valid") }
}

pub fn placed(order: &str, items: &[(&str, i64)]) -> OrderPlaced {
    let basket = basket(items);
    OrderPlaced { subject: subject(order), fingerprint: basket.fingerprint(), basket, placed_at_ms: 1_000 }
}

pub fn confirmed(order: &str, items: &[(&str, i64)]) -> OrderConfirmed {
    let items = items.iter().map(|(name, quantity)| item(name, *quantity)).collect();
    OrderConfirmed { subject: subject(order), customer: basket(&[("tea", 1)]).customer().clone(), items }
}

pub fn cancelled(order: &str, items: &[(&str, i64)]) -> OrderCancelled {
    let items = items.iter().map(|(name, quantity)| item(name, *quantity)).collect();
    OrderCancelled { subject: subject(order), customer: None, reason: CancelReason::Deadline, items }
}

pub fn cancel_requested(order: &str) -> OrderCancelRequested {
    OrderCancelRequested { subject: subject(order) }
}

pub fn deadline(order: &str) -> OrderDeadline {
    OrderDeadline { subject: subject(order) }
}

pub fn stock(name: &str, available: i64, reserved: i64, sold: i64) -> Row {
    Row::Stock(Stock { tenant: tenant(), sku: sku(name), available, reserved, sold })
}

/// The record of an event, as a service would publish it.
pub fn record(event: &impl Payload) -> Record {
    let emission = event.emit();
    let id = derive_id("test", &[emission.kind.as_bytes(), &emission.data]);
    emission.into_record(&ConsumerName::from("test"), id, Timestamp(0), None)
}

/// The same record under another `ce_type`.
pub fn retyped(mut record: Record, ce_type: &'static str) -> Record {
    record.headers.0.retain(|(name, _)| name != "ce_type");
    record.headers.push("ce_type", Bytes::from(ce_type));
    record
}

/// What `service` decides on `event` over `rows`.
pub fn decide<S: Service<Row = Row>>(
    service: &S,
    rows: &[Row],
    event: &S::Event,
) -> Result<Next<S>, Refusal> {
    with_context(rows, event, |at| service.decide(at))
}

/// A decision that asks for nothing.
#[track_caller]
pub fn done<S: Service<Row = Row>>(service: &S, rows: &[Row], event: &S::Event) -> Decision<Row> {
    match decide(service, rows, event) {
        Ok(Next::Done(decision)) => decision,
        Ok(Next::Need(keys)) => panic!("needs {keys:?}"),
        Ok(Next::Ask { call, .. }) => panic!("asks {call:?}"),
        Err(refusal) => panic!("refuses: {refusal}"),
    }
}

pub fn conclude<S: Service<Row = Row>>(
    service: &S,
    rows: &[Row],
    event: &S::Event,
    reply: S::Reply,
) -> Result<Decision<Row>, Refusal> {
    with_context(rows, event, |at| service.conclude(at, reply))
}

pub fn give_up<S: Service<Row = Row>>(service: &S, rows: &[Row], event: &S::Event) -> Decision<Row> {
    with_context(rows, event, |at| service.give_up(at))
}

fn with_context<S: Service<Row = Row>, T>(
    rows: &[Row],
    event: &S::Event,
    run: impl FnOnce(Context<'_, S>) -> T,
) -> T {
    let rows = Rows::read(rows.iter().map(|row| Versioned { row: row.clone(), version: 1 }));
    let event_id = EventId(derive_id("test", &[]));
    run(Context { event, event_id, rows: &rows, now: Timestamp(0) })
}

/// The names of the events of a decision.
pub fn kinds(decision: &Decision<Row>) -> Vec<&str> {
    decision.events.iter().map(|event| event.kind.as_str()).collect()
}

/// Nobody outside: for tests in which nobody may be called.
pub struct Nobody;

pub fn nobody() -> Arc<Nobody> {
    Arc::new(Nobody)
}

#[async_trait]
impl PaymentProvider for Nobody {
    async fn charge(&self, charge: Charge, _: IdempotencyKey) -> Result<PaymentReply, ActError> {
        panic!("called: {charge:?}")
    }

    async fn refund(&self, refund: Refund, _: IdempotencyKey) -> Result<PaymentReply, ActError> {
        panic!("called: {refund:?}")
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        panic!("called: {key}")
    }
}

#[async_trait]
impl Notifier for Nobody {
    async fn send(&self, notice: Notice, _: IdempotencyKey) -> Result<Reference, ActError> {
        panic!("called: {notice:?}")
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        panic!("called: {key}")
    }
}
