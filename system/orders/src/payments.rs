//! The payments service: takes an order's money once, and gives it back if the order is cancelled.
//!
//! A charge is asked for only while nothing is known of the order's payment, so none is made after a cancellation was
//! seen first. Which body it is asked for (`Asked`) commits with the intent: under `skip`, the order.placed of another
//! body may come while the first is a dead letter, and must not be charged beside it. A refund is due exactly once per payment: the transition into `RefundOwed` creates the one event that
//! asks for it, a timer of its own, so that its failures hold up no other event and its dead letter stays visible
//! while the row says that the money is owed.
//!
//! `payment.captured` is told only of money that the order may use: a charge that comes through after this service
//! gave up, or after a cancellation, goes straight into `RefundOwed`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stormglass_runtime::{
    ActError, ConsumerName, Context, Decision, IdempotencyKey, Next, Record, Refusal, Service, Timer,
    Violation,
};

use crate::{
    events::{
        DeclineReason, Kind, OrderCancelled, OrderPlaced, Payload, PaymentCaptured, PaymentDeclined,
        PaymentRefundDue, PaymentRefunded, Subject, kind, payload,
    },
    ports::{Charge, PaymentProvider, PaymentReply, Refund},
    rows::{self, Row, RowKey, ensure},
    types::{Customer, Fingerprint, Money, Reference},
};

/// A row of `payments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Of which order.
    pub subject: Subject,
    /// How far it has come.
    pub state: PaymentState,
}

/// A payment's lifecycle: `Void`, or `Asked → Void | Declined | Captured`, then `Captured → RefundOwed → Refunded`; money
/// that comes through after `Void` or `Declined` is owed at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentState {
    /// The order was cancelled before anything was known of a charge: none will be asked for. One that was asked for is
    /// a dead letter whose redrive says what became of it.
    Void,
    /// A charge was asked for, for the body of this fingerprint and no other.
    Asked(Fingerprint),
    /// No money was taken.
    Declined(DeclineReason),
    /// The money was taken. Final if the order is confirmed.
    Captured(Capture),
    /// The money was taken and must go back.
    RefundOwed(Capture),
    /// The money went back. Final.
    Refunded {
        /// What had been taken.
        capture: Capture,
        /// The provider's refund.
        refund: Reference,
    },
}

/// Money that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// From whom.
    pub customer: Customer,
    /// How much.
    pub amount: Money,
    /// The provider's charge.
    pub charge: Reference,
}

impl Payment {
    /// The CHECK constraints of `payments`.
    ///
    /// # Errors
    /// The one that is broken.
    pub fn check(&self) -> Result<(), Violation> {
        match &self.state {
            PaymentState::Void | PaymentState::Asked(_) | PaymentState::Declined(_) => Ok(()),
            PaymentState::Captured(capture)
            | PaymentState::RefundOwed(capture)
            | PaymentState::Refunded { capture, .. } => {
                ensure(capture.amount.minor > 0, "payments_amount_positive")
            }
        }
    }
}

/// What the payments service takes.
#[derive(Clone, Debug, PartialEq)]
pub enum PaymentsEvent {
    /// order.placed.
    Placed(OrderPlaced),
    /// order.cancelled.
    Cancelled(OrderCancelled),
    /// The payment's own timer.
    RefundDue(PaymentRefundDue),
}

impl PaymentsEvent {
    /// The order that it is about.
    pub fn subject(&self) -> &Subject {
        match self {
            PaymentsEvent::Placed(event) => &event.subject,
            PaymentsEvent::Cancelled(event) => &event.subject,
            PaymentsEvent::RefundDue(event) => &event.subject,
        }
    }
}

/// What the payments service asks of the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentCall {
    /// Take money.
    Charge(Charge),
    /// Give it back.
    Refund(Refund),
}

/// The payments service.
#[derive(Clone)]
pub struct Payments {
    provider: Arc<dyn PaymentProvider>,
}

impl Payments {
    /// Payments through `provider`.
    pub fn new(provider: Arc<dyn PaymentProvider>) -> Self {
        Self { provider }
    }
}

#[async_trait]
impl Service for Payments {
    type Row = Row;
    type Event = PaymentsEvent;
    type Call = PaymentCall;
    type Reply = PaymentReply;

    fn name(&self) -> ConsumerName {
        ConsumerName::from("payments")
    }

    fn decode(&self, record: &Record) -> Result<Option<PaymentsEvent>, Refusal> {
        let Some(kind) = kind(record)? else { return Ok(None) };
        Ok(Some(match kind {
            Kind::OrderPlaced => PaymentsEvent::Placed(payload(record)?),
            Kind::OrderCancelled => PaymentsEvent::Cancelled(payload(record)?),
            Kind::PaymentRefundDue => PaymentsEvent::RefundDue(payload(record)?),
            Kind::OrderCancelRequested
            | Kind::OrderConfirmed
            | Kind::OrderDeadline
            | Kind::PaymentCaptured
            | Kind::PaymentDeclined
            | Kind::PaymentRefunded
            | Kind::StockReserved
            | Kind::StockRejected
            | Kind::StockReleased => return Ok(None),
        }))
    }

    fn keys(&self, event: &PaymentsEvent) -> Vec<RowKey> {
        vec![RowKey::Payment(event.subject().clone())]
    }

    fn decide(&self, at: Context<'_, Self>) -> Result<Next<Self>, Refusal> {
        let subject = at.event.subject();
        let state = rows::payment(at.rows, subject).map(|payment| payment.state);
        Ok(match (at.event, state) {
            (PaymentsEvent::Placed(event), None) => charge(event),
            // Redriven: its charge failed, and could not be given up.
            (PaymentsEvent::Placed(event), Some(PaymentState::Asked(of))) if of == event.fingerprint => {
                charge(event)
            }
            (PaymentsEvent::Cancelled(_), None | Some(PaymentState::Asked(_))) => {
                Next::Done(change(subject, PaymentState::Void))
            }
            (PaymentsEvent::Cancelled(_), Some(PaymentState::Captured(capture))) => {
                Next::Done(owe(subject, capture))
            }
            (PaymentsEvent::RefundDue(_), Some(PaymentState::RefundOwed(capture))) => {
                let Capture { charge, amount, .. } = capture;
                let call = PaymentCall::Refund(Refund { subject: subject.clone(), charge, amount });
                Next::Ask { call, rows: Vec::new() }
            }
            (PaymentsEvent::Placed(_) | PaymentsEvent::Cancelled(_), Some(_))
            | (PaymentsEvent::RefundDue(_), _) => Next::Done(Decision::default()),
        })
    }

    async fn act(&self, call: PaymentCall, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        match call {
            PaymentCall::Charge(charge) => self.provider.charge(charge, key).await,
            PaymentCall::Refund(refund) => self.provider.refund(refund, key).await,
        }
    }

    async fn inquire(&self, _: PaymentCall, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        self.provider.close(key).await
    }

    fn conclude(&self, at: Context<'_, Self>, reply: PaymentReply) -> Result<Decision<Row>, Refusal> {
        let subject = at.event.subject();
        let state = rows::payment(at.rows, subject).map(|payment| payment.state);
        match (at.event, reply) {
            (PaymentsEvent::Placed(event), PaymentReply::Captured(charge)) => {
                let (customer, amount) = (event.basket.customer().clone(), event.basket.total().clone());
                captured(event, state, Capture { customer, amount, charge })
            }
            (PaymentsEvent::Placed(event), PaymentReply::Declined) => {
                Ok(declined(event, state.as_ref(), DeclineReason::Refused))
            }
            (PaymentsEvent::RefundDue(_), PaymentReply::Refunded(refund)) => {
                Ok(refunded(subject, state, refund))
            }
            (PaymentsEvent::Placed(_), PaymentReply::Refunded(_))
            | (PaymentsEvent::RefundDue(_), PaymentReply::Captured(_) | PaymentReply::Declined)
            | (PaymentsEvent::Cancelled(_), _) => {
                Err(Refusal::Never("the reply is not to this call".to_owned()))
            }
        }
    }

    /// A charge that cannot be made is a declined payment. A refund that cannot be made stays owed, and is visible as
    /// `RefundOwed` with a dead letter; so is a cancellation that could not be processed, as a dead letter.
    fn give_up(&self, at: Context<'_, Self>) -> Decision<Row> {
        match at.event {
            PaymentsEvent::Placed(event) => {
                let payment = rows::payment(at.rows, &event.subject);
                declined(event, payment.map(|payment| payment.state).as_ref(), DeclineReason::GaveUp)
            }
            PaymentsEvent::Cancelled(_) | PaymentsEvent::RefundDue(_) => Decision::default(),
        }
    }
}

fn charge(placed: &OrderPlaced) -> Next<Payments> {
    let call = PaymentCall::Charge(Charge {
        subject: placed.subject.clone(),
        customer: placed.basket.customer().clone(),
        amount: placed.basket.total().clone(),
    });
    let intent = change(&placed.subject, PaymentState::Asked(placed.fingerprint));
    Next::Ask { call, rows: intent.rows }
}

/// Whether the payment is open to the outcome of this order.placed: nothing is known of it, or its own charge was asked for.
fn awaits(state: Option<&PaymentState>, placed: &OrderPlaced) -> bool {
    match state {
        None => true,
        Some(PaymentState::Asked(of)) => *of == placed.fingerprint,
        Some(
            PaymentState::Void
            | PaymentState::Declined(_)
            | PaymentState::Captured(_)
            | PaymentState::RefundOwed(_)
            | PaymentState::Refunded { .. },
        ) => false,
    }
}

fn captured(
    placed: &OrderPlaced,
    state: Option<PaymentState>,
    capture: Capture,
) -> Result<Decision<Row>, Refusal> {
    let subject = &placed.subject;
    if awaits(state.as_ref(), placed) {
        let event = PaymentCaptured {
            subject: subject.clone(),
            fingerprint: placed.fingerprint,
            amount: capture.amount.clone(),
            charge: capture.charge.clone(),
        };
        return Ok(Decision {
            events: vec![event.emit()],
            ..change(subject, PaymentState::Captured(capture))
        });
    }
    match state {
        // A redriven charge came through although its order was already told that it would not.
        Some(PaymentState::Void | PaymentState::Declined(_)) => Ok(owe(subject, capture)),
        Some(
            PaymentState::Captured(known)
            | PaymentState::RefundOwed(known)
            | PaymentState::Refunded { capture: known, .. },
        ) if known.charge == capture.charge => Ok(Decision::default()),
        // Two charges of one order: money that no state can hold, so somebody has to look.
        other => Err(Refusal::Never(format!("{} was captured beside {other:?}", capture.charge))),
    }
}

fn declined(placed: &OrderPlaced, state: Option<&PaymentState>, reason: DeclineReason) -> Decision<Row> {
    if !awaits(state, placed) {
        return Decision::default();
    }
    let event = PaymentDeclined { subject: placed.subject.clone(), reason };
    Decision { events: vec![event.emit()], ..change(&placed.subject, PaymentState::Declined(reason)) }
}

/// The one place where a refund becomes due.
fn owe(subject: &Subject, capture: Capture) -> Decision<Row> {
    let timer = Timer { after: Duration::ZERO, event: PaymentRefundDue { subject: subject.clone() }.emit() };
    Decision { timers: vec![timer], ..change(subject, PaymentState::RefundOwed(capture)) }
}

fn refunded(subject: &Subject, state: Option<PaymentState>, refund: Reference) -> Decision<Row> {
    let Some(PaymentState::RefundOwed(capture)) = state else { return Decision::default() };
    let event = PaymentRefunded {
        subject: subject.clone(),
        customer: capture.customer.clone(),
        amount: capture.amount.clone(),
        refund: refund.clone(),
    };
    Decision { events: vec![event.emit()], ..change(subject, PaymentState::Refunded { capture, refund }) }
}

fn change(subject: &Subject, state: PaymentState) -> Decision<Row> {
    let payment = Payment { subject: subject.clone(), state };
    Decision { rows: vec![Row::Payment(payment)], ..Decision::default() }
}
