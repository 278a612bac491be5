//! Hand-made evidence for the checkers' tests: a [`Tale`] is told line by line to a judge with one checker.
//!
//! Orders are numbered; each costs 49.99 EUR. Records lie on `orders@0`, one per offset, readable at once.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use stormglass_embedded::{
    broker,
    database::{self, Change},
};
use stormglass_orders::types::{Currency, Money, Reference};
use stormglass_runtime::{
    ConsumerName, Delivered, EventId, Freshness, Headers, Image, InboxEntry, Offset, OrderingKey, OutboxRow,
    Partition, Pending, PendingId, Position, Record, Timestamp, Topic,
};
use uuid::Uuid;

use super::{EndState, Evidence, Invariant, Judge, Setup, Strike, Verdict};
use crate::{
    client::{self, Answer, Asked, ExchangeId},
    notifier, provider,
};

/// The order with this number.
pub fn order_id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// An event about an order, from the service that emits its type.
pub fn event(kind: &str, order: u128, id: &str) -> Record {
    event_of(kind, order_id(order), id)
}

/// As [`event`], about an order by its id.
pub fn event_of(kind: &str, order: Uuid, id: &str) -> Record {
    let source = match kind.split('.').next() {
        Some("order") if kind == "order.placed" => "gateway",
        Some("order") => "orders",
        Some("payment") => "payments",
        Some("stock") => "inventory",
        _ => "elsewhere",
    };
    let mut headers = Headers::default();
    headers.push("ce_id", id.to_owned());
    headers.push("ce_source", format!("/stormglass/{source}"));
    headers.push("ce_type", format!("{kind}.v1"));
    let value = json!({ "subject": { "tenant": "acme", "order": order } }).to_string().into();
    Record { topic: Topic::from("orders"), key: Some(order.to_string().into()), headers, value }
}

/// The order.placed of an order.
pub fn placed(order: u128) -> Record {
    placed_as(order_id(order))
}

/// The order.placed of an order by its id.
pub fn placed_as(order: Uuid) -> Record {
    event_of("order.placed", order, &format!("placed-{order}"))
}

fn partition() -> Partition {
    Partition::new(&Topic::from("orders"), 0)
}

fn image(table: &str, key: String, row: Value) -> Image {
    Image { table: table.to_owned(), key, body: row.to_string() }
}

/// A story told to one checker.
pub struct Tale {
    judge: Judge,
    records: BTreeMap<Offset, Record>,
    queue: BTreeMap<(String, i64), Pending>,
    now: Timestamp,
    lsn: u64,
    exchanges: u32,
}

impl Tale {
    /// Nothing has happened yet. There are ten mugs.
    pub fn of(checker: impl Invariant + 'static) -> Self {
        Tale::told_to(|setup| Judge::with(setup, vec![Box::new(checker)]))
    }

    /// As [`Tale::of`], told to every checker.
    pub fn of_all() -> Self {
        Tale::told_to(Judge::new)
    }

    fn told_to(judge: impl FnOnce(Setup) -> Judge) -> Self {
        let stock = BTreeMap::from([("acme/mug".to_owned(), 10)]);
        Tale {
            judge: judge(Setup::new(Topic::from("orders"), stock)),
            records: BTreeMap::new(),
            queue: BTreeMap::new(),
            now: Timestamp(1_000_000),
            lsn: 0,
            exchanges: 0,
        }
    }

    fn tell(&mut self, evidence: Evidence) -> Verdict {
        self.now = self.now.after(Duration::from_millis(1));
        self.judge.observe(self.now, evidence)
    }

    pub fn try_append(&mut self, offset: Offset, record: Record) -> Verdict {
        self.records.insert(offset, record.clone());
        let (at, record) = (self.now, record.into());
        self.tell(Evidence::Broker(broker::Observed::Appended {
            at,
            position: partition().at(offset),
            record,
        }))?;
        self.tell(Evidence::Broker(broker::Observed::Committed {
            at,
            partition: partition(),
            end: offset + 1,
        }))
    }

    #[track_caller]
    pub fn append(&mut self, offset: Offset, record: Record) -> &mut Self {
        self.try_append(offset, record).expect("appending is fine");
        self
    }

    pub fn truncate(&mut self, end: Offset) {
        let truncated = broker::Observed::Truncated { at: self.now, partition: partition(), end };
        self.tell(Evidence::Broker(truncated)).expect("truncating is fine");
    }

    /// A group's offset is set.
    pub fn report(&mut self, group: &str, next: Offset) {
        let (group, position) = (ConsumerName::from(group), partition().at(next));
        self.tell(Evidence::Broker(broker::Observed::Reported { at: self.now, group, position }))
            .expect("heard later");
    }

    pub fn tx(&mut self, session: &str) -> Tx<'_> {
        Tx { tale: self, session: session.to_owned(), changes: Vec::new() }
    }

    pub fn lsn(&self) -> Freshness {
        Freshness { timeline: 1, lsn: self.lsn }
    }

    pub fn lose_after(&mut self, lsn: Freshness) -> Verdict {
        let at = self.now;
        self.tell(Evidence::Database(database::Observed::LostSuffix { at, lsn }))
    }

    /// What keeps the system from rest.
    pub fn unsettled(&self) -> Option<String> {
        self.judge.unsettled()
    }

    /// The provider is asked for a charge and has captured nothing yet.
    pub fn request(&mut self, order: u128, key: u128) -> Verdict {
        self.request_of(order_id(order), key)
    }

    fn request_of(&mut self, order: Uuid, key: u128) -> Verdict {
        let (key, kind) = (Uuid::from_u128(key), provider::Kind::Charge);
        self.tell(Evidence::Provider(provider::Observed::Requested { at: self.now, key, order, kind }))
    }

    /// The provider is asked for a charge and captures it.
    pub fn charge(&mut self, order: u128, key: u128, minor: i64) -> Verdict {
        self.charge_of(order_id(order), key, minor)
    }

    pub fn charge_of(&mut self, order: Uuid, key: u128, minor: i64) -> Verdict {
        self.request_of(order, key)?;
        let charge = Reference::new(&format!("ch-{key}")).expect("a reference");
        let (at, key, amount) = (self.now, Uuid::from_u128(key), euros(minor));
        self.tell(Evidence::Provider(provider::Observed::Captured { at, key, order, amount, charge }))
    }

    /// The provider turns a caller away.
    pub fn turn_away(&mut self, in_a_row: u32) -> Verdict {
        let at = self.now;
        self.tell(Evidence::Provider(provider::Observed::TurnedAway { at, caller: 1, in_a_row }))
    }

    pub fn refund(&mut self, order: u128, key: u128, minor: i64) -> Verdict {
        let charge = Reference::new("ch-7").expect("a reference");
        let (at, key, order, amount) = (self.now, Uuid::from_u128(key), order_id(order), euros(minor));
        self.tell(Evidence::Provider(provider::Observed::Refunded { at, key, order, amount, charge }))
    }

    /// The notifier is asked to say that an order is confirmed.
    pub fn notify_again(&mut self, order: u128, key: u128) -> Verdict {
        self.notify_again_of(order_id(order), key)
    }

    fn notify_again_of(&mut self, order: Uuid, key: u128) -> Verdict {
        let (at, key, kind) = (self.now, Uuid::from_u128(key), "confirmed".to_owned());
        self.tell(Evidence::Notifier(notifier::Observed::Requested { at, key, order, kind }))
    }

    /// The notifier is asked, and says so.
    pub fn notify(&mut self, order: u128, key: u128) -> Verdict {
        self.notify_of(order_id(order), key)
    }

    pub fn notify_of(&mut self, order: Uuid, key: u128) -> Verdict {
        self.notify_again_of(order, key)?;
        let (at, key, kind) = (self.now, Uuid::from_u128(key), "confirmed".to_owned());
        self.tell(Evidence::Notifier(notifier::Observed::Sent { at, key, order, kind }))
    }

    pub fn exchange(&mut self, asked: Asked, answer: Answer) -> Verdict {
        self.exchanges += 1;
        let (at, exchange) = (self.now, ExchangeId { client: 0, number: self.exchanges });
        let gateway = "gateway-0".to_owned();
        self.tell(Evidence::Client(client::Observed::Sent { at, exchange, gateway, asked }))?;
        self.tell(Evidence::Client(client::Observed::Answered { at, exchange, answer }))
    }

    pub fn heal(&mut self) {
        self.tell(Evidence::Strike(Strike::Healed)).expect("healing is fine");
    }

    pub fn wait_ms(&mut self, ms: u64) -> Verdict {
        for _ in 0..ms / 10 {
            self.now = self.now.after(Duration::from_millis(10));
            self.judge.tick(self.now)?;
        }
        Ok(())
    }

    pub fn end(&mut self) -> Verdict {
        self.end_with(&EndState::default())
    }

    pub fn end_with(&mut self, end: &EndState) -> Verdict {
        self.judge.at_end(end)
    }
}

fn euros(minor: i64) -> Money {
    Money { minor, currency: Currency::new("EUR").expect("a currency") }
}

/// A transaction in the making.
#[must_use]
pub struct Tx<'a> {
    tale: &'a mut Tale,
    session: String,
    changes: Vec<Change>,
}

impl Tx<'_> {
    fn record(&self, offset: Offset) -> Record {
        self.tale.records.get(&offset).cloned().unwrap_or_else(|| placed(0xdead))
    }

    fn event_id(&self, offset: Offset) -> EventId {
        EventId::of(&Delivered { at: partition().at(offset), record: self.record(offset) })
    }

    /// Marks the event at `offset` as taken.
    pub fn take(mut self, consumer: &str, offset: Offset) -> Self {
        let entry = InboxEntry { event_id: self.event_id(offset), at: partition().at(offset) };
        self.changes.push(Change::Taken { consumer: consumer.into(), entry });
        self
    }

    /// Moves the position.
    pub fn at(mut self, consumer: &str, next: Offset) -> Self {
        self.changes.push(Change::Moved { consumer: consumer.into(), position: partition().at(next) });
        self
    }

    /// Queues the event at `offset` as row `seq`.
    pub fn queue(self, consumer: &str, offset: Offset, seq: i64) -> Self {
        let row = self.new_row(offset, seq);
        self.insert(consumer, row)
    }

    /// Queues the event at `offset` with a call to make.
    pub fn queue_call(self, consumer: &str, offset: Offset, seq: i64) -> Self {
        let mut row = self.new_row(offset, seq);
        row.call = Some("{}".into());
        self.insert(consumer, row)
    }

    fn new_row(&self, offset: Offset, seq: i64) -> Pending {
        let record = self.record(offset);
        let key = OrderingKey(record.key.clone().unwrap_or_default());
        pending((key, seq), self.event_id(offset), (partition().at(offset), record))
    }

    /// Queues a timer.
    pub fn timer(self, consumer: &str, seq: i64, due: Timestamp) -> Self {
        let id = Uuid::from_u128(0x71_0000 + seq as u128);
        let key = OrderingKey(id.to_string().into());
        let mut row = pending((key, seq), EventId(id), (partition().at(0), self.record(0)));
        row.due = due;
        // A timer is set by an event that took effect; an unrelated queue row stands for it.
        let cause = pending(
            (OrderingKey("cause".into()), 0),
            EventId(Uuid::nil()),
            (partition().at(0), self.record(0)),
        );
        let mut tx = self.insert(consumer, row);
        tx.changes.push(Change::Pending {
            consumer: consumer.into(),
            before: Some(Box::new(cause)),
            after: None,
        });
        tx
    }

    fn insert(mut self, consumer: &str, row: Pending) -> Self {
        self.tale.queue.insert((consumer.to_owned(), row.id.seq), row.clone());
        self.changes.push(Change::Pending {
            consumer: consumer.into(),
            before: None,
            after: Some(Box::new(row)),
        });
        self
    }

    fn row_of_queue(&self, consumer: &str, seq: i64) -> Pending {
        self.tale.queue.get(&(consumer.to_owned(), seq)).cloned().expect("a queue row")
    }

    /// Deletes queue row `seq`.
    pub fn dequeue(mut self, consumer: &str, seq: i64) -> Self {
        let before = Some(Box::new(self.row_of_queue(consumer, seq)));
        self.tale.queue.remove(&(consumer.to_owned(), seq));
        self.changes.push(Change::Pending { consumer: consumer.into(), before, after: None });
        self
    }

    /// Changes queue row `seq`.
    pub fn change(mut self, consumer: &str, seq: i64, change: impl FnOnce(&mut Pending)) -> Self {
        let before = self.row_of_queue(consumer, seq);
        let mut after = before.clone();
        change(&mut after);
        self.tale.queue.insert((consumer.to_owned(), seq), after.clone());
        let (before, after) = (Some(Box::new(before)), Some(Box::new(after)));
        self.changes.push(Change::Pending { consumer: consumer.into(), before, after });
        self
    }

    /// Makes queue row `seq` a dead letter, with its record for the dead letter topic.
    pub fn bury(self, consumer: &str, seq: i64) -> Self {
        let mut record = event("stormglass.dead-letter", 1, &format!("dead-{seq}"));
        record.topic = Topic::from(format!("{consumer}.dlq").as_str());
        record.headers.push("ce_type", "stormglass.dead-letter");
        let mut tx = self.bury_without_record(consumer, seq);
        tx.changes.push(Change::Emitted { row: OutboxRow { seq: 1_000 + seq, record } });
        tx
    }

    pub fn bury_without_record(self, consumer: &str, seq: i64) -> Self {
        let now = self.tale.now;
        self.change(consumer, seq, |row| row.dead_at = Some(now))
    }

    /// Writes an outbox row whose event has the id `id`.
    pub fn emit(mut self, seq: i64, id: &str, mut record: Record) -> Self {
        record.headers.0.retain(|(name, _)| name != "ce_id");
        record.headers.push("ce_id", id.to_owned());
        self.changes.push(Change::Emitted { row: OutboxRow { seq, record } });
        self
    }

    pub fn delete_outbox(mut self, seq: i64) -> Self {
        self.changes.push(Change::Published { seq });
        self
    }

    /// Writes the order's row: `placed` and `open` are open, else `confirmed` or `cancelled`.
    pub fn order_row(self, order: u128, state: &str) -> Self {
        self.order_row_of(order_id(order), state)
    }

    pub fn order_row_of(mut self, order: Uuid, state: &str) -> Self {
        let line = json!({ "sku": "mug", "quantity": 1, "unit_price_minor": 4999 });
        let placed = json!({ "basket": { "customer": "ann", "currency": "EUR", "lines": [line] } });
        let state = match state {
            "confirmed" => json!({ "Confirmed": { "placed": placed } }),
            "cancelled" => json!({ "Cancelled": { "placed": placed, "reason": "requested" } }),
            _ => json!({ "Open": { "placed": placed, "progress": "Nothing" } }),
        };
        let row = json!({ "Order": { "subject": { "tenant": "acme", "order": order }, "state": state } });
        self.changes.push(Change::Row { before: None, after: image("orders", format!("acme/{order}"), row) });
        self
    }

    /// Writes a row of `payments` or `reservations`.
    pub fn row(self, table: &str, order: u128, state: Value) -> Self {
        self.row_of(table, order_id(order), state)
    }

    pub fn row_of(mut self, table: &str, order: Uuid, state: Value) -> Self {
        let kind = if table == "payments" { "Payment" } else { "Reservation" };
        let row = json!({ kind: { "subject": { "tenant": "acme", "order": order }, "state": state } });
        self.changes.push(Change::Row { before: None, after: image(table, format!("acme/{order}"), row) });
        self
    }

    /// Writes a row of `stock`: available, reserved, sold.
    pub fn stock(mut self, sku: &str, (available, reserved, sold): (i64, i64, i64)) -> Self {
        let counts = json!({ "tenant": "acme", "sku": sku, "available": available, "reserved": reserved, "sold": sold });
        let after = image("stock", format!("acme/{sku}"), json!({ "Stock": counts }));
        self.changes.push(Change::Row { before: None, after });
        self
    }

    pub fn commit(self) -> Verdict {
        let Tx { tale, session, changes } = self;
        tale.lsn += 1;
        let (at, lsn) = (tale.now, tale.lsn());
        tale.tell(Evidence::Database(database::Observed::Committed { at, lsn, session, changes }))
    }
}

fn pending(
    (key, seq): (OrderingKey, i64),
    event_id: EventId,
    (origin, record): (Position, Record),
) -> Pending {
    Pending {
        id: PendingId { key, seq },
        event_id,
        origin,
        record,
        call: None,
        epoch: 0,
        attempts: 0,
        due: Timestamp(0),
        claim: None,
        error: None,
        dead_at: None,
    }
}
