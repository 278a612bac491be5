//! The events of the domain, on one topic keyed by order id: CloudEvents in binary mode with JSON data.
//!
//! The type carries the version (`order.placed.v1`). A type nobody declared here is passed over, another *version* of
//! a declared type is refused for now (a rolling deploy may bring it), anything else that cannot be read is refused
//! for good. Fields that a newer producer adds within a version are ignored.

use bytes::Bytes;
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stormglass_runtime::{Emission, Record, Refusal, Topic};

use crate::types::{Basket, Customer, Fingerprint, Item, Money, OrderId, Reference, Sku, Tenant};

/// The one topic of the domain, so that every consumer sees an order's story in one order.
pub const TOPIC: &str = "orders";

/// The version of every payload in this file.
const VERSION: &str = "v1";

/// Whose order an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// Who owns it.
    pub tenant: Tenant,
    /// Which one.
    pub order: OrderId,
}

/// The data of one event type.
pub trait Payload: Serialize + DeserializeOwned + JsonSchema {
    /// Its type, without the version.
    const KIND: Kind;

    /// The order that it is about.
    fn subject(&self) -> &Subject;

    /// The event, ready to be published.
    fn emit(&self) -> Emission {
        #[expect(
            clippy::expect_used,
            reason = "plain structs with text keys always serialize; the tests emit each"
        )]
        let data = serde_json::to_vec(self).expect("a payload serializes");
        Emission {
            topic: Topic::from(TOPIC),
            key: Bytes::from(self.subject().order.to_string()),
            kind: Self::KIND.ce_type(),
            data: Bytes::from(data),
        }
    }
}

/// Declares event types: the payload, its name on the wire, and the exhaustive [`Kind`] and [`Event`] over them.
macro_rules! events {
    ($($(#[$doc:meta])* $kind:ident = $name:literal { $($(#[$field_doc:meta])* $field:ident: $of:ty,)* })*) => {
        /// The types of the domain. No match over it has a default arm: a new type is a question to every consumer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// The name, without the version.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// The JSON Schema of the data.
            pub fn schema(self) -> Schema {
                match self { $(Kind::$kind => schema_for!($kind),)* }
            }
        }

        /// Any event of the domain, for whoever reads the whole log.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $($(#[$doc])* $kind($kind),)*
        }

        impl Event {
            /// Reads any record. `None`: not a type of this domain.
            ///
            /// # Errors
            /// As [`payload`].
            pub fn decode(record: &Record) -> Result<Option<Event>, Refusal> {
                let Some(kind) = kind(record)? else { return Ok(None) };
                Ok(Some(match kind { $(Kind::$kind => Event::$kind(payload(record)?),)* }))
            }

            /// The order that it is about.
            pub fn subject(&self) -> &Subject {
                match self { $(Event::$kind(event) => &event.subject,)* }
            }

            /// Its type.
            pub fn kind(&self) -> Kind {
                match self { $(Event::$kind(_) => Kind::$kind,)* }
            }
        }

        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
            pub struct $kind {
                /// Whose order.
                pub subject: Subject,
                $($(#[$field_doc])* pub $field: $of,)*
            }

            impl Payload for $kind {
                const KIND: Kind = Kind::$kind;
                fn subject(&self) -> &Subject {
                    &self.subject
                }
            }
        )*
    };
}

events! {
    /// A client placed an order: what the gateway publishes before it answers 202.
    OrderPlaced = "order.placed" {
        /// F, so that another body under the same Idempotency-Key is told apart.
        fingerprint: Fingerprint,
        /// What is ordered.
        basket: Basket,
        /// When the gateway accepted it, in milliseconds since the Unix epoch; to show, never to order by.
        placed_at_ms: i64,
    }
    /// A client asked to cancel an order.
    OrderCancelRequested = "order.cancel-requested" {}
    /// An order is paid and reserved: its one good end.
    OrderConfirmed = "order.confirmed" {
        /// Whom to tell.
        customer: Customer,
        /// What is sold by it. Empty if not known: then the reservation says it.
        items: Vec<Item>,
    }
    /// An order will not be: its other end.
    OrderCancelled = "order.cancelled" {
        /// Whom to tell, if the order itself was ever read.
        customer: Option<Customer>,
        /// Why.
        reason: CancelReason,
        /// What may be released by it. Empty if not known: then the reservation says it.
        items: Vec<Item>,
    }
    /// Time is up for an order: a timer of the orders service to itself.
    OrderDeadline = "order.deadline" {}
    /// An order's money was taken, and waits for its confirmation.
    PaymentCaptured = "payment.captured" {
        /// F of the body that was charged.
        fingerprint: Fingerprint,
        /// How much.
        amount: Money,
        /// The provider's charge.
        charge: Reference,
    }
    /// An order's money was not taken and, as far as this event's order is concerned, will not be.
    PaymentDeclined = "payment.declined" {
        /// Why.
        reason: DeclineReason,
    }
    /// A captured payment must go back: a timer of the payments service to itself, created once per payment.
    PaymentRefundDue = "payment.refund-due" {}
    /// The money went back.
    PaymentRefunded = "payment.refunded" {
        /// Whom to tell.
        customer: Customer,
        /// How much.
        amount: Money,
        /// The provider's refund.
        refund: Reference,
    }
    /// All items of an order are held for it.
    StockReserved = "stock.reserved" {
        /// F of the body whose items are held.
        fingerprint: Fingerprint,
    }
    /// Nothing is held for an order, and nothing will be.
    StockRejected = "stock.rejected" {
        /// Why.
        reason: ShortageReason,
    }
    /// What was held for an order is available again.
    StockReleased = "stock.released" {}
}

/// Why an order was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CancelReason {
    /// The client asked for it.
    Requested,
    /// It was not paid.
    NotPaid,
    /// Its items were not to be had.
    OutOfStock,
    /// It took too long.
    Deadline,
    /// Another body under its Idempotency-Key was paid or reserved instead of its own.
    Conflict,
    /// The orders service could not process one of its events, which is a dead letter.
    Failed,
}

/// Why a payment was declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeclineReason {
    /// The provider refused the charge: a business answer, not a failure.
    Refused,
    /// The charge could not be made; the event is a dead letter, and the provider has closed its key.
    GaveUp,
}

/// Why nothing was reserved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ShortageReason {
    /// No such SKU.
    UnknownSku(Sku),
    /// Fewer available than ordered.
    SoldOut(Sku),
    /// The reservation could not be made; the event is a dead letter.
    GaveUp,
}

impl Kind {
    /// `ce_type`: name and version.
    pub fn ce_type(self) -> String {
        format!("{}.{VERSION}", self.name())
    }
}

/// The type of a record, whatever its version. `None`: not a type of this domain.
///
/// # Errors
/// `Never` if it has no readable `ce_type`: then it is no CloudEvent, and passing over it would lose it silently.
pub fn kind(record: &Record) -> Result<Option<Kind>, Refusal> {
    let ce_type = record.headers.text("ce_type").ok_or_else(|| Refusal::Never("no ce_type".to_owned()))?;
    let name = ce_type.rsplit_once(".v").map_or(ce_type, |(name, _)| name);
    Ok(Kind::ALL.iter().copied().find(|kind| kind.name() == name))
}

/// The data of a record whose [`kind`] is `P::KIND`.
///
/// # Errors
/// `Later` for another version, `Never` for data that does not have the type's shape, or a record that is not keyed
/// by the order it is about: the order of its story would not be kept.
pub fn payload<P: Payload>(record: &Record) -> Result<P, Refusal> {
    let expected = P::KIND.ce_type();
    let found = record.headers.text("ce_type").unwrap_or_default();
    if found != expected {
        return Err(Refusal::Later(format!("{found}: this version reads {expected}")));
    }
    let event: P = serde_json::from_slice(&record.value)
        .map_err(|error| Refusal::Never(format!("{expected}: {error}")))?;
    if record.key.as_deref() != Some(event.subject().order.to_string().as_bytes()) {
        return Err(Refusal::Never(format!("{expected}: the record is not keyed by its order")));
    }
    Ok(event)
}
