//! The notifications service: one message per order and event that a customer should hear of.
//!
//! The row of a message is written with its outcome, so it never says "sent" of a message that was not. A message
//! that could not be sent is `Undelivered` beside its dead letter; a redrive sends it after all.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stormglass_runtime::{
    ActError, ConsumerName, Context, Decision, IdempotencyKey, Next, Record, Refusal, Service,
};

use crate::{
    events::{Kind, OrderCancelled, OrderConfirmed, PaymentRefunded, Subject, kind, payload},
    ports::{Notice, Notifier},
    rows::{self, Row, RowKey},
    types::{Customer, Reference},
};

/// A row of `messages`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// About which order.
    pub subject: Subject,
    /// What it says.
    pub kind: NoticeKind,
    /// What became of it.
    pub state: MessageState,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageState {
    /// The notifier took it. Final.
    Sent(Reference),
    /// It could not be sent; the event is a dead letter.
    Undelivered,
}

/// What a message says. In the order of their names, which are part of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeKind {
    /// The order was cancelled.
    Cancelled,
    /// The order was confirmed.
    Confirmed,
    /// The money went back.
    Refunded,
}

impl NoticeKind {
    /// Its name in keys and columns.
    pub fn as_str(self) -> &'static str {
        match self {
            NoticeKind::Cancelled => "cancelled",
            NoticeKind::Confirmed => "confirmed",
            NoticeKind::Refunded => "refunded",
        }
    }
}

/// What the notifications service takes.
#[derive(Clone, Debug, PartialEq)]
pub enum NotificationsEvent {
    /// order.confirmed.
    Confirmed(OrderConfirmed),
    /// order.cancelled.
    Cancelled(OrderCancelled),
    /// payment.refunded.
    Refunded(PaymentRefunded),
}

impl NotificationsEvent {
    fn notice(&self) -> Notice {
        let notice = |subject: &Subject, kind, customer: Option<&Customer>| Notice {
            subject: subject.clone(),
            kind,
            customer: customer.cloned(),
        };
        match self {
            Self::Confirmed(event) => notice(&event.subject, NoticeKind::Confirmed, Some(&event.customer)),
            Self::Cancelled(event) => notice(&event.subject, NoticeKind::Cancelled, event.customer.as_ref()),
            Self::Refunded(event) => notice(&event.subject, NoticeKind::Refunded, Some(&event.customer)),
        }
    }
}

/// The notifications service.
#[derive(Clone)]
pub struct Notifications {
    notifier: Arc<dyn Notifier>,
}

impl Notifications {
    /// Messages through `notifier`.
    pub fn new(notifier: Arc<dyn Notifier>) -> Self {
        Self { notifier }
    }
}

#[async_trait]
impl Service for Notifications {
    type Row = Row;
    type Event = NotificationsEvent;
    type Call = Notice;
    type Reply = Reference;

    fn name(&self) -> ConsumerName {
        ConsumerName::from("notifications")
    }

    fn decode(&self, record: &Record) -> Result<Option<NotificationsEvent>, Refusal> {
        let Some(kind) = kind(record)? else { return Ok(None) };
        Ok(Some(match kind {
            Kind::OrderConfirmed => NotificationsEvent::Confirmed(payload(record)?),
            Kind::OrderCancelled => NotificationsEvent::Cancelled(payload(record)?),
            Kind::PaymentRefunded => NotificationsEvent::Refunded(payload(record)?),
            Kind::OrderPlaced
            | Kind::OrderCancelRequested
            | Kind::OrderDeadline
            | Kind::PaymentCaptured
            | Kind::PaymentDeclined
            | Kind::PaymentRefundDue
            | Kind::StockReserved
            | Kind::StockRejected
            | Kind::StockReleased => return Ok(None),
        }))
    }

    fn keys(&self, event: &NotificationsEvent) -> Vec<RowKey> {
        let notice = event.notice();
        vec![RowKey::Message(notice.subject, notice.kind)]
    }

    fn decide(&self, at: Context<'_, Self>) -> Result<Next<Self>, Refusal> {
        let notice = at.event.notice();
        let state = rows::message(at.rows, &notice.subject, notice.kind).map(|message| message.state);
        Ok(match state {
            None | Some(MessageState::Undelivered) => Next::Ask { call: notice, rows: Vec::new() },
            Some(MessageState::Sent(_)) => Next::Done(Decision::default()),
        })
    }

    async fn act(&self, notice: Notice, key: IdempotencyKey) -> Result<Reference, ActError> {
        self.notifier.send(notice, key).await
    }

    async fn inquire(&self, _: Notice, key: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        self.notifier.close(key).await
    }

    fn conclude(&self, at: Context<'_, Self>, message: Reference) -> Result<Decision<Row>, Refusal> {
        Ok(change(at.event.notice(), MessageState::Sent(message)))
    }

    fn give_up(&self, at: Context<'_, Self>) -> Decision<Row> {
        let notice = at.event.notice();
        match rows::message(at.rows, &notice.subject, notice.kind) {
            None => change(notice, MessageState::Undelivered),
            Some(_) => Decision::default(),
        }
    }
}

fn change(notice: Notice, state: MessageState) -> Decision<Row> {
    let Notice { subject, kind, .. } = notice;
    Decision { rows: vec![Row::Message(Message { subject, kind, state })], ..Decision::default() }
}
