//! The inventory service: holds an order's items all or nothing, then sells or releases them.
//!
//! Available + reserved + sold of a SKU is constant, and none is ever negative. A reservation remembers its items, so
//! that selling and releasing never depend on what another event says was ordered. A cancellation that was seen first
//! bars the order: its order.placed then reserves nothing.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stormglass_runtime::{
    ActError, ConsumerName, Context, Decision, IdempotencyKey, Next, Record, Refusal, Rows, Service,
    Violation,
};

use crate::{
    events::{
        Kind, OrderCancelled, OrderConfirmed, OrderPlaced, Payload, ShortageReason, StockRejected,
        StockReleased, StockReserved, Subject, kind, payload,
    },
    rows::{self, Row, RowKey, ensure},
    types::{Invalid, Item, Sku, Tenant},
};

/// A row of `stock`: what there is of one SKU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    /// Whose.
    pub tenant: Tenant,
    /// Of what.
    pub sku: Sku,
    /// May be reserved; not negative.
    pub available: i64,
    /// Held for open orders; not negative.
    pub reserved: i64,
    /// Gone to confirmed orders; not negative.
    pub sold: i64,
}

impl Stock {
    /// Initial stock: `available` of a SKU, none reserved or sold.
    ///
    /// # Errors
    /// If `available` is negative.
    pub fn seed(tenant: &Tenant, sku: &Sku, available: i64) -> Result<Row, Invalid> {
        if available < 0 {
            return Err(Invalid("initial stock is not negative"));
        }
        let (tenant, sku) = (tenant.clone(), sku.clone());
        Ok(Row::Stock(Stock { tenant, sku, available, reserved: 0, sold: 0 }))
    }

    /// The CHECK constraints of `stock`.
    ///
    /// # Errors
    /// The one that is broken.
    pub fn check(&self) -> Result<(), Violation> {
        ensure(self.available >= 0, "stock_available_not_negative")?;
        ensure(self.reserved >= 0, "stock_reserved_not_negative")?;
        ensure(self.sold >= 0, "stock_sold_not_negative")?;
        // With the sum in range and no part negative, moving items between the parts cannot overflow.
        let supply = self.available.checked_add(self.reserved).and_then(|held| held.checked_add(self.sold));
        ensure(supply.is_some(), "stock_supply_fits")
    }
}

/// A row of `reservations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// For which order.
    pub subject: Subject,
    /// How far it has come.
    pub state: ReservationState,
}

/// A reservation's lifecycle: `Barred`, `Rejected`, or `Reserved → Sold | Released`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReservationState {
    /// The order was cancelled before anything was held. Final.
    Barred,
    /// Nothing could be held. Final.
    Rejected(ShortageReason),
    /// These items are held.
    Reserved(Vec<Item>),
    /// These items are sold. Final.
    Sold(Vec<Item>),
    /// These items were held and are available again. Final.
    Released(Vec<Item>),
}

impl Reservation {
    /// The CHECK constraints of `reservations`.
    ///
    /// # Errors
    /// The one that is broken.
    pub fn check(&self) -> Result<(), Violation> {
        match &self.state {
            ReservationState::Barred | ReservationState::Rejected(_) => Ok(()),
            ReservationState::Reserved(items)
            | ReservationState::Sold(items)
            | ReservationState::Released(items) => ensure(!items.is_empty(), "reservations_items_present"),
        }
    }
}

/// What the inventory service takes.
#[derive(Clone, Debug, PartialEq)]
pub enum InventoryEvent {
    /// order.placed.
    Placed(OrderPlaced),
    /// order.confirmed.
    Confirmed(OrderConfirmed),
    /// order.cancelled.
    Cancelled(OrderCancelled),
}

impl InventoryEvent {
    /// The order that it is about.
    pub fn subject(&self) -> &Subject {
        match self {
            InventoryEvent::Placed(event) => &event.subject,
            InventoryEvent::Confirmed(event) => &event.subject,
            InventoryEvent::Cancelled(event) => &event.subject,
        }
    }

    fn items(&self) -> Vec<Item> {
        match self {
            InventoryEvent::Placed(event) => event.basket.items(),
            InventoryEvent::Confirmed(event) => event.items.clone(),
            InventoryEvent::Cancelled(event) => event.items.clone(),
        }
    }
}

/// The inventory service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inventory;

#[async_trait]
impl Service for Inventory {
    type Row = Row;
    type Event = InventoryEvent;
    type Call = ();
    type Reply = ();

    fn name(&self) -> ConsumerName {
        ConsumerName::from("inventory")
    }

    fn decode(&self, record: &Record) -> Result<Option<InventoryEvent>, Refusal> {
        let Some(kind) = kind(record)? else { return Ok(None) };
        Ok(Some(match kind {
            Kind::OrderPlaced => InventoryEvent::Placed(payload(record)?),
            Kind::OrderConfirmed => InventoryEvent::Confirmed(payload(record)?),
            Kind::OrderCancelled => InventoryEvent::Cancelled(payload(record)?),
            Kind::OrderCancelRequested
            | Kind::OrderDeadline
            | Kind::PaymentCaptured
            | Kind::PaymentDeclined
            | Kind::PaymentRefundDue
            | Kind::PaymentRefunded
            | Kind::StockReserved
            | Kind::StockRejected
            | Kind::StockReleased => return Ok(None),
        }))
    }

    /// The items that an event names are a guess that saves a round; what counts is what the reservation holds.
    fn keys(&self, event: &InventoryEvent) -> Vec<RowKey> {
        let subject = event.subject();
        let mut keys = vec![RowKey::Reservation(subject.clone())];
        keys.extend(stock_keys(&subject.tenant, &event.items()));
        keys
    }

    fn decide(&self, at: Context<'_, Self>) -> Result<Next<Self>, Refusal> {
        let subject = at.event.subject();
        let state = rows::reservation(at.rows, subject).map(|reservation| reservation.state);
        match (at.event, state) {
            (InventoryEvent::Placed(event), None) => Ok(Next::Done(reserve(at.rows, event))),
            // A copy, a conflicting body, or an order that was cancelled first.
            (InventoryEvent::Placed(_), Some(_)) => Ok(Next::Done(Decision::default())),
            (InventoryEvent::Confirmed(_), Some(ReservationState::Reserved(items))) => {
                close(at.rows, subject, items, Closing::Sale)
            }
            (InventoryEvent::Cancelled(_), Some(ReservationState::Reserved(items))) => {
                close(at.rows, subject, items, Closing::Release)
            }
            (InventoryEvent::Cancelled(_), None) => Ok(Next::Done(change(subject, ReservationState::Barred))),
            (InventoryEvent::Confirmed(_), Some(ReservationState::Sold(_)))
            | (
                InventoryEvent::Cancelled(_),
                Some(
                    ReservationState::Barred | ReservationState::Rejected(_) | ReservationState::Released(_),
                ),
            ) => Ok(Next::Done(Decision::default())),
            (
                InventoryEvent::Confirmed(_),
                None
                | Some(
                    ReservationState::Barred | ReservationState::Rejected(_) | ReservationState::Released(_),
                ),
            ) => Err(Refusal::Never("confirmed, but nothing is held for it".to_owned())),
            (InventoryEvent::Cancelled(_), Some(ReservationState::Sold(_))) => {
                Err(Refusal::Never("cancelled, but its items are sold".to_owned()))
            }
        }
    }

    async fn act(&self, _: (), _: IdempotencyKey) -> Result<(), ActError> {
        Err(ActError::Rejected("inventory calls nobody".to_owned()))
    }

    async fn inquire(&self, _: (), _: IdempotencyKey) -> Result<Option<()>, ActError> {
        Ok(None)
    }

    fn conclude(&self, _: Context<'_, Self>, _: ()) -> Result<Decision<Row>, Refusal> {
        Err(Refusal::Never("inventory calls nobody".to_owned()))
    }

    /// An order whose items cannot be held is told so. A sale or release that cannot be made leaves the items
    /// reserved and a dead letter: to guess either way would sell twice or not at all.
    fn give_up(&self, at: Context<'_, Self>) -> Decision<Row> {
        match (at.event, rows::reservation(at.rows, at.event.subject())) {
            (InventoryEvent::Placed(event), None) => reject(&event.subject, ShortageReason::GaveUp),
            (InventoryEvent::Placed(_), Some(_))
            | (InventoryEvent::Confirmed(_) | InventoryEvent::Cancelled(_), _) => Decision::default(),
        }
    }
}

#[derive(Clone, Copy)]
enum Closing {
    Sale,
    Release,
}

fn reserve(locked: &Rows<Row>, event: &OrderPlaced) -> Decision<Row> {
    let subject = &event.subject;
    let items = event.basket.items();
    let mut changed = Vec::with_capacity(items.len() + 1);
    for Item { sku, quantity } in &items {
        let Some(stock) = rows::stock(locked, &subject.tenant, sku) else {
            return reject(subject, ShortageReason::UnknownSku(sku.clone()));
        };
        if stock.available < quantity.get() {
            return reject(subject, ShortageReason::SoldOut(sku.clone()));
        }
        let (available, reserved) = (stock.available - quantity.get(), stock.reserved + quantity.get());
        changed.push(Row::Stock(Stock { available, reserved, ..stock }));
    }
    changed.push(Row::Reservation(Reservation {
        subject: subject.clone(),
        state: ReservationState::Reserved(items),
    }));
    let event = StockReserved { subject: subject.clone(), fingerprint: event.fingerprint };
    Decision { rows: changed, events: vec![event.emit()], ..Decision::default() }
}

fn reject(subject: &Subject, reason: ShortageReason) -> Decision<Row> {
    let event = StockRejected { subject: subject.clone(), reason: reason.clone() };
    Decision { events: vec![event.emit()], ..change(subject, ReservationState::Rejected(reason)) }
}

/// Ends a reservation. The stock rows are missing if the event did not name the items: then they are asked for.
fn close(
    locked: &Rows<Row>,
    subject: &Subject,
    items: Vec<Item>,
    closing: Closing,
) -> Result<Next<Inventory>, Refusal> {
    let mut changed = Vec::with_capacity(items.len() + 1);
    for Item { sku, quantity } in &items {
        let Some(stock) = rows::stock(locked, &subject.tenant, sku) else {
            return Ok(Next::Need(stock_keys(&subject.tenant, &items).collect()));
        };
        if stock.reserved < quantity.get() {
            return Err(Refusal::Never(format!("{sku}: fewer reserved than this reservation holds")));
        }
        let reserved = stock.reserved - quantity.get();
        changed.push(Row::Stock(match closing {
            Closing::Sale => Stock { reserved, sold: stock.sold + quantity.get(), ..stock },
            Closing::Release => Stock { reserved, available: stock.available + quantity.get(), ..stock },
        }));
    }
    let (state, events) = match closing {
        Closing::Sale => (ReservationState::Sold(items), Vec::new()),
        Closing::Release => {
            (ReservationState::Released(items), vec![StockReleased { subject: subject.clone() }.emit()])
        }
    };
    changed.push(Row::Reservation(Reservation { subject: subject.clone(), state }));
    Ok(Next::Done(Decision { rows: changed, events, ..Decision::default() }))
}

fn stock_keys(tenant: &Tenant, items: &[Item]) -> impl Iterator<Item = RowKey> {
    items.iter().map(move |item| RowKey::Stock(tenant.clone(), item.sku.clone()))
}

fn change(subject: &Subject, state: ReservationState) -> Decision<Row> {
    let reservation = Reservation { subject: subject.clone(), state };
    Decision { rows: vec![Row::Reservation(reservation)], ..Decision::default() }
}
