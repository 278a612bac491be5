//! What the services ask of the world outside: a payment provider and a notifier.
//!
//! Both deduplicate by [`IdempotencyKey`], and both can *close* a key, which is how an unknown outcome becomes known
//! without a second effect. Failures are [`ActError`]s, so an adapter says whether it happened and nothing else.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stormglass_runtime::{ActError, IdempotencyKey};

use crate::{
    events::Subject,
    notifications::NoticeKind,
    types::{Customer, Money, Reference},
};

/// A charge to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// For which order.
    pub subject: Subject,
    /// Whom.
    pub customer: Customer,
    /// How much.
    pub amount: Money,
}

/// A charge to give back in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// For which order.
    pub subject: Subject,
    /// Which charge.
    pub charge: Reference,
    /// How much; what was captured.
    pub amount: Money,
}

/// What a provider says of a charge or a refund.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentReply {
    /// The money was taken.
    Captured(Reference),
    /// The charge was refused, as a business answer.
    Declined,
    /// The money went back.
    Refunded(Reference),
}

/// A payment provider. Requests with one key have one effect together, and every repeat gets the first one's reply, for
/// as long as the provider remembers the key: longer than any outage (see [`stormglass_runtime::Service::act`]).
///
/// A dropped future leaves the outcome unknown.
#[async_trait]
pub trait PaymentProvider: Send + Sync {
    /// Takes the money at once (authorise and capture). Answers `Captured` or `Declined`.
    ///
    /// # Errors
    /// See [`ActError`]; a refusal of the customer's means is `Declined`, not an error.
    async fn charge(&self, charge: Charge, key: IdempotencyKey) -> Result<PaymentReply, ActError>;

    /// Gives a charge back in full. Answers `Refunded`.
    ///
    /// # Errors
    /// See [`ActError`].
    async fn refund(&self, refund: Refund, key: IdempotencyKey) -> Result<PaymentReply, ActError>;

    /// What became of `key`. After `None` no request with it can have an effect any more, however late it arrives:
    /// the provider has closed it, and answers such a request with [`ActError::Failed`].
    ///
    /// # Errors
    /// Any error leaves the question open.
    async fn close(&self, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError>;
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// About which order.
    pub subject: Subject,
    /// What it says.
    pub kind: NoticeKind,
    /// To whom; the tenant itself if the customer never became known.
    pub customer: Option<Customer>,
}

/// Sends messages to customers. Requests with one key send one message together.
///
/// A dropped future leaves the outcome unknown.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// Sends a message and answers with its reference.
    ///
    /// # Errors
    /// See [`ActError`].
    async fn send(&self, notice: Notice, key: IdempotencyKey) -> Result<Reference, ActError>;

    /// As [`PaymentProvider::close`].
    ///
    /// # Errors
    /// Any error leaves the question open.
    async fn close(&self, key: IdempotencyKey) -> Result<Option<Reference>, ActError>;
}
