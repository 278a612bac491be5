//! The orders service: the state machine that ends every order confirmed or cancelled.
//!
//! It hears what payments and inventory achieved, confirms when both did, and cancels when one cannot, the client asks
//! for it, or the deadline passes. It tells, it does not ask: undoing is the business of those who did (payments
//! refunds and inventory releases on `order.cancelled`). After the end it changes nothing but counters.
//!
//! Its events come in log order, except after a dead letter was skipped and redriven. So news may precede the order
//! itself; it is kept (`Foretold`) under the same deadline, for money or goods may already be bound to it.
//!
//! Nor need all services have acted on the same order.placed: where one skipped the first as a dead letter, it took
//! the second, which a client may have sent with another body under the same Idempotency-Key. Only what was done for
//! the order's own body counts; word of another is a conflict that cancels it, so that what was done is undone.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stormglass_runtime::{
    ActError, ConsumerName, Context, Decision, IdempotencyKey, Next, Record, Refusal, Service, Timer,
};

use crate::{
    events::{
        CancelReason, Kind, OrderCancelRequested, OrderCancelled, OrderConfirmed, OrderDeadline, OrderPlaced,
        Payload, PaymentCaptured, PaymentDeclined, PaymentRefunded, StockRejected, StockReleased,
        StockReserved, Subject, kind, payload,
    },
    rows::{self, Row, RowKey},
    types::{Basket, Fingerprint},
};

/// A row of `orders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Whose, and which.
    pub subject: Subject,
    /// How far it has come.
    pub state: OrderState,
    /// How many times its Idempotency-Key was used for another body. They had no other effect.
    pub conflicts: u32,
    /// How many cancellations came too late.
    pub cancels_refused: u32,
}

/// An order's lifecycle: `Foretold? → Open → Confirmed | Cancelled`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderState {
    /// Others have acted on it, but its own order.placed has not been read yet.
    Foretold(Foretold),
    /// It waits for payment and stock.
    Open {
        /// What was ordered.
        placed: Placed,
        /// What is achieved.
        progress: Progress,
    },
    /// Paid and reserved. Final.
    Confirmed {
        /// What was ordered.
        placed: Placed,
    },
    /// It will not be. Final.
    Cancelled {
        /// What was ordered, if order.placed was read before.
        placed: Option<Placed>,
        /// Why.
        reason: CancelReason,
    },
}

/// What is known of an order before its order.placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foretold {
    /// F of the body that the others acted on.
    pub fingerprint: Fingerprint,
    /// What they achieved.
    pub achieved: Achieved,
}

/// What others achieved for an order that is not yet known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Achieved {
    /// Its money was taken.
    Paid,
    /// Its items are held.
    Reserved,
    /// Both.
    Both,
}

/// What is achieved for an open order. Both at once is `Confirmed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Nothing yet.
    Nothing,
    /// Its money was taken.
    Paid,
    /// Its items are held.
    Reserved,
}

/// What order.placed said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// F.
    pub fingerprint: Fingerprint,
    /// What was ordered.
    pub basket: Basket,
    /// When the gateway accepted it, in milliseconds since the Unix epoch.
    pub placed_at_ms: i64,
}

impl Order {
    /// F of the body that this order is about, as far as it is known.
    fn fingerprint(&self) -> Option<Fingerprint> {
        match &self.state {
            OrderState::Foretold(heard) => Some(heard.fingerprint),
            OrderState::Open { .. } | OrderState::Confirmed { .. } | OrderState::Cancelled { .. } => {
                self.placed().map(|placed| placed.fingerprint)
            }
        }
    }

    /// What was ordered, as far as it is known.
    pub fn placed(&self) -> Option<&Placed> {
        match &self.state {
            OrderState::Foretold(_) => None,
            OrderState::Open { placed, .. } | OrderState::Confirmed { placed } => Some(placed),
            OrderState::Cancelled { placed, .. } => placed.as_ref(),
        }
    }
}

/// What the orders service takes.
#[derive(Clone, Debug, PartialEq)]
pub enum OrdersEvent {
    /// order.placed.
    Placed(OrderPlaced),
    /// order.cancel-requested.
    CancelRequested(OrderCancelRequested),
    /// The order's own timer.
    Deadline(OrderDeadline),
    /// payment.captured.
    Captured(PaymentCaptured),
    /// payment.declined.
    Declined(PaymentDeclined),
    /// payment.refunded.
    Refunded(PaymentRefunded),
    /// stock.reserved.
    Reserved(StockReserved),
    /// stock.rejected.
    Rejected(StockRejected),
    /// stock.released.
    Released(StockReleased),
}

impl OrdersEvent {
    /// The order that it is about.
    pub fn subject(&self) -> &Subject {
        match self {
            OrdersEvent::Placed(event) => &event.subject,
            OrdersEvent::CancelRequested(event) => &event.subject,
            OrdersEvent::Deadline(event) => &event.subject,
            OrdersEvent::Captured(event) => &event.subject,
            OrdersEvent::Declined(event) => &event.subject,
            OrdersEvent::Refunded(event) => &event.subject,
            OrdersEvent::Reserved(event) => &event.subject,
            OrdersEvent::Rejected(event) => &event.subject,
            OrdersEvent::Released(event) => &event.subject,
        }
    }

    fn news(&self) -> News {
        match self {
            OrdersEvent::Placed(event) => News::Placed(Placed {
                fingerprint: event.fingerprint,
                basket: event.basket.clone(),
                placed_at_ms: event.placed_at_ms,
            }),
            OrdersEvent::CancelRequested(_) => News::CancelRequested,
            OrdersEvent::Deadline(_) => News::Deadline,
            OrdersEvent::Captured(event) => News::Paid(event.fingerprint),
            OrdersEvent::Reserved(event) => News::Reserved(event.fingerprint),
            // A refund or a release follows a cancellation. Heard before its own order's end, it still says that
            // the order can no longer be fulfilled.
            OrdersEvent::Declined(_) | OrdersEvent::Refunded(_) => News::Impossible(CancelReason::NotPaid),
            OrdersEvent::Rejected(_) | OrdersEvent::Released(_) => News::Impossible(CancelReason::OutOfStock),
        }
    }
}

/// What an event means to an order.
enum News {
    Placed(Placed),
    Paid(Fingerprint),
    Reserved(Fingerprint),
    CancelRequested,
    Deadline,
    Impossible(CancelReason),
}

/// The orders service.
#[derive(Clone, Debug)]
pub struct Orders {
    deadline: Duration,
}

impl Orders {
    /// Orders that are not final `deadline` after they became known are cancelled. It should exceed what payments
    /// need for their whole attempt budget, or slow payments are refunded instead of used.
    pub fn new(deadline: Duration) -> Self {
        Self { deadline }
    }

    fn first(&self, subject: &Subject, news: News) -> Decision<Row> {
        let state = match news {
            News::Placed(placed) => OrderState::Open { placed, progress: Progress::Nothing },
            News::Paid(fingerprint) => {
                OrderState::Foretold(Foretold { fingerprint, achieved: Achieved::Paid })
            }
            News::Reserved(fingerprint) => {
                OrderState::Foretold(Foretold { fingerprint, achieved: Achieved::Reserved })
            }
            News::CancelRequested => return cancelled_unknown(subject, CancelReason::Requested),
            News::Impossible(reason) => return cancelled_unknown(subject, reason),
            // Its order was lost with a database suffix; what brings the order back brings a new deadline.
            News::Deadline => return Decision::default(),
        };
        let timer = Timer { after: self.deadline, event: OrderDeadline { subject: subject.clone() }.emit() };
        Decision { timers: vec![timer], ..change(Order::new(subject, state)) }
    }
}

#[async_trait]
impl Service for Orders {
    type Row = Row;
    type Event = OrdersEvent;
    type Call = ();
    type Reply = ();

    fn name(&self) -> ConsumerName {
        ConsumerName::from("orders")
    }

    fn decode(&self, record: &Record) -> Result<Option<OrdersEvent>, Refusal> {
        let Some(kind) = kind(record)? else { return Ok(None) };
        Ok(Some(match kind {
            Kind::OrderPlaced => OrdersEvent::Placed(payload(record)?),
            Kind::OrderCancelRequested => OrdersEvent::CancelRequested(payload(record)?),
            Kind::OrderDeadline => OrdersEvent::Deadline(payload(record)?),
            Kind::PaymentCaptured => OrdersEvent::Captured(payload(record)?),
            Kind::PaymentDeclined => OrdersEvent::Declined(payload(record)?),
            Kind::PaymentRefunded => OrdersEvent::Refunded(payload(record)?),
            Kind::StockReserved => OrdersEvent::Reserved(payload(record)?),
            Kind::StockRejected => OrdersEvent::Rejected(payload(record)?),
            Kind::StockReleased => OrdersEvent::Released(payload(record)?),
            Kind::OrderConfirmed | Kind::OrderCancelled | Kind::PaymentRefundDue => return Ok(None),
        }))
    }

    fn keys(&self, event: &OrdersEvent) -> Vec<RowKey> {
        vec![RowKey::Order(event.subject().clone())]
    }

    fn decide(&self, at: Context<'_, Self>) -> Result<Next<Self>, Refusal> {
        let (subject, news) = (at.event.subject(), at.event.news());
        Ok(Next::Done(match rows::order(at.rows, subject) {
            None => self.first(subject, news),
            Some(order) => order.hear(news),
        }))
    }

    async fn act(&self, _: (), _: IdempotencyKey) -> Result<(), ActError> {
        Err(ActError::Rejected("orders calls nobody".to_owned()))
    }

    async fn inquire(&self, _: (), _: IdempotencyKey) -> Result<Option<()>, ActError> {
        Ok(None)
    }

    fn conclude(&self, _: Context<'_, Self>, _: ()) -> Result<Decision<Row>, Refusal> {
        Err(Refusal::Never("orders calls nobody".to_owned()))
    }

    /// An event that could not be processed may be the one an order waits for, so the order is cancelled. Nothing of
    /// the event but its subject is written: its content may be what the store refused.
    fn give_up(&self, at: Context<'_, Self>) -> Decision<Row> {
        let subject = at.event.subject();
        match (rows::order(at.rows, subject), at.event) {
            (None, OrdersEvent::Deadline(_)) => Decision::default(),
            (None, _) => cancelled_unknown(subject, CancelReason::Failed),
            // A second order.placed is a copy or a conflict: it says nothing about the order that is there.
            (Some(order), OrdersEvent::Placed(_)) if order.placed().is_some() => Decision::default(),
            (Some(order), _) => order.hear(News::Impossible(CancelReason::Failed)),
        }
    }
}

impl Order {
    fn new(subject: &Subject, state: OrderState) -> Self {
        Self { subject: subject.clone(), state, conflicts: 0, cancels_refused: 0 }
    }

    /// The next state, and what it tells the others.
    fn hear(self, news: News) -> Decision<Row> {
        let news = match news {
            News::Paid(of) | News::Reserved(of) if self.fingerprint().is_some_and(|own| own != of) => {
                News::Impossible(CancelReason::Conflict)
            }
            of_its_own => of_its_own,
        };
        match &self.state {
            OrderState::Foretold(heard) => {
                let heard = *heard;
                self.hear_foretold(heard, news)
            }
            OrderState::Open { placed, progress } => {
                let (placed, progress) = (placed.clone(), *progress);
                self.hear_open(placed, progress, news)
            }
            OrderState::Confirmed { .. } | OrderState::Cancelled { .. } => self.hear_final(news),
        }
    }

    fn hear_foretold(self, heard: Foretold, news: News) -> Decision<Row> {
        let foretold = |achieved| OrderState::Foretold(Foretold { achieved, ..heard });
        let state = match (heard.achieved, news) {
            (_, News::Placed(placed)) if placed.fingerprint != heard.fingerprint => {
                return self.cancel(Some(placed), CancelReason::Conflict);
            }
            (Achieved::Both, News::Placed(placed)) => return self.confirm(placed),
            (Achieved::Paid, News::Placed(placed)) => OrderState::Open { placed, progress: Progress::Paid },
            (Achieved::Reserved, News::Placed(placed)) => {
                OrderState::Open { placed, progress: Progress::Reserved }
            }
            (Achieved::Paid, News::Paid(_)) => foretold(Achieved::Paid),
            (Achieved::Reserved, News::Reserved(_)) => foretold(Achieved::Reserved),
            (Achieved::Paid | Achieved::Both, News::Reserved(_))
            | (Achieved::Reserved | Achieved::Both, News::Paid(_)) => foretold(Achieved::Both),
            (_, News::CancelRequested) => return self.cancel(None, CancelReason::Requested),
            (_, News::Deadline) => return self.cancel(None, CancelReason::Deadline),
            (_, News::Impossible(reason)) => return self.cancel(None, reason),
        };
        change(Order { state, ..self })
    }

    fn hear_open(self, placed: Placed, progress: Progress, news: News) -> Decision<Row> {
        let progress = match (progress, news) {
            (_, News::Placed(again)) => return self.note_conflict(&again),
            (Progress::Nothing | Progress::Paid, News::Paid(_)) => Progress::Paid,
            (Progress::Nothing | Progress::Reserved, News::Reserved(_)) => Progress::Reserved,
            (Progress::Reserved, News::Paid(_)) | (Progress::Paid, News::Reserved(_)) => {
                return self.confirm(placed);
            }
            (_, News::CancelRequested) => return self.cancel(Some(placed), CancelReason::Requested),
            (_, News::Deadline) => return self.cancel(Some(placed), CancelReason::Deadline),
            (_, News::Impossible(reason)) => return self.cancel(Some(placed), reason),
        };
        change(Order { state: OrderState::Open { placed, progress }, ..self })
    }

    fn hear_final(self, news: News) -> Decision<Row> {
        match news {
            News::Placed(again) => self.note_conflict(&again),
            News::CancelRequested if matches!(self.state, OrderState::Confirmed { .. }) => {
                change(Order { cancels_refused: self.cancels_refused.saturating_add(1), ..self })
            }
            News::CancelRequested
            | News::Paid(_)
            | News::Reserved(_)
            | News::Deadline
            | News::Impossible(_) => Decision::default(),
        }
    }

    fn note_conflict(self, again: &Placed) -> Decision<Row> {
        match self.placed() {
            Some(placed) if placed.fingerprint != again.fingerprint => {
                change(Order { conflicts: self.conflicts.saturating_add(1), ..self })
            }
            Some(_) | None => Decision::default(),
        }
    }

    fn confirm(self, placed: Placed) -> Decision<Row> {
        let event = OrderConfirmed {
            subject: self.subject.clone(),
            customer: placed.basket.customer().clone(),
            items: placed.basket.items(),
        };
        let row = Order { state: OrderState::Confirmed { placed }, ..self };
        Decision { events: vec![event.emit()], ..change(row) }
    }

    fn cancel(self, placed: Option<Placed>, reason: CancelReason) -> Decision<Row> {
        let event = OrderCancelled {
            subject: self.subject.clone(),
            customer: placed.as_ref().map(|placed| placed.basket.customer().clone()),
            reason,
            items: placed.as_ref().map(|placed| placed.basket.items()).unwrap_or_default(),
        };
        let row = Order { state: OrderState::Cancelled { placed, reason }, ..self };
        Decision { events: vec![event.emit()], ..change(row) }
    }
}

/// An order that is cancelled before its order.placed was read.
fn cancelled_unknown(subject: &Subject, reason: CancelReason) -> Decision<Row> {
    Order::new(subject, OrderState::Cancelled { placed: None, reason }).cancel(None, reason)
}

fn change(order: Order) -> Decision<Row> {
    Decision { rows: vec![Row::Order(order)], ..Decision::default() }
}
