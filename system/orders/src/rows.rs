//! The rows of the domain: one variant per table, its keys in the order in which they are locked, its CHECKs.
//!
//! Each table has one writing service, so services never wait for each other's rows. The lifecycles themselves stand
//! beside the deciders that move them; the typed tables are in `migrations/0002_orders.sql`.

use serde::{Deserialize, Serialize};
use stormglass_runtime::{Image, RowSet, Rows, Violation};

use crate::{
    events::Subject,
    inventory::{Reservation, Stock},
    notifications::{Message, NoticeKind},
    orders::Order,
    payments::Payment,
    types::{Sku, Tenant},
};

/// A row of one of the domain's tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Row {
    /// Of `orders`.
    Order(Order),
    /// Of `payments`.
    Payment(Payment),
    /// Of `reservations`.
    Reservation(Reservation),
    /// Of `stock`.
    Stock(Stock),
    /// Of `messages`.
    Message(Message),
}

/// Names a row. The derived order is the order of locking: by table, then by key text, bytewise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowKey {
    /// Of `orders`: one per order.
    Order(Subject),
    /// Of `payments`: one per order.
    Payment(Subject),
    /// Of `reservations`: one per order.
    Reservation(Subject),
    /// Of `stock`: one per tenant and SKU.
    Stock(Tenant, Sku),
    /// Of `messages`: one per order and kind.
    Message(Subject, NoticeKind),
}

/// The constraints that [`RowSet::check`] evaluates, by table, named as in the migration.
pub const CHECKED: &[&str] = &[
    "payments_amount_positive",
    "reservations_items_present",
    "stock_available_not_negative",
    "stock_reserved_not_negative",
    "stock_sold_not_negative",
    "stock_supply_fits",
];

/// The constraints of the migration that Rust's types hold already: a row that breaks them cannot be built.
pub const HELD_BY_TYPES: &[&str] = &[
    "messages_key_composed",
    "messages_kind_known",
    "messages_reference_iff_sent",
    "messages_state_known",
    "messages_version_positive",
    "orders_counts_not_negative",
    "orders_details_whole",
    "orders_foretold_known",
    "orders_key_composed",
    "orders_progress_iff_open",
    "orders_reason_iff_cancelled",
    "orders_state_known",
    "orders_total_positive",
    "orders_version_positive",
    "payments_charge_iff_captured",
    "payments_fingerprint_iff_asked",
    "payments_key_composed",
    "payments_reason_iff_declined",
    "payments_refund_iff_refunded",
    "payments_state_known",
    "payments_version_positive",
    "reservations_items_iff_reserved",
    "reservations_key_composed",
    "reservations_reason_iff_rejected",
    "reservations_state_known",
    "reservations_version_positive",
    "stock_key_composed",
    "stock_version_positive",
    "tenant_valid",
];

impl RowSet for Row {
    type Key = RowKey;

    const TABLES: &'static [&'static str] = &["orders", "payments", "reservations", "stock", "messages"];

    fn key(&self) -> RowKey {
        match self {
            Row::Order(order) => RowKey::Order(order.subject.clone()),
            Row::Payment(payment) => RowKey::Payment(payment.subject.clone()),
            Row::Reservation(reservation) => RowKey::Reservation(reservation.subject.clone()),
            Row::Stock(stock) => RowKey::Stock(stock.tenant.clone(), stock.sku.clone()),
            Row::Message(message) => RowKey::Message(message.subject.clone(), message.kind),
        }
    }

    fn table(key: &RowKey) -> &str {
        match key {
            RowKey::Order(_) => "orders",
            RowKey::Payment(_) => "payments",
            RowKey::Reservation(_) => "reservations",
            RowKey::Stock(..) => "stock",
            RowKey::Message(..) => "messages",
        }
    }

    fn key_text(key: &RowKey) -> String {
        match key {
            RowKey::Order(subject) | RowKey::Payment(subject) | RowKey::Reservation(subject) => {
                subject.to_string()
            }
            RowKey::Stock(tenant, sku) => format!("{tenant}/{sku}"),
            RowKey::Message(subject, kind) => format!("{subject}/{}", kind.as_str()),
        }
    }

    fn check(&self) -> Result<(), Violation> {
        match self {
            Row::Payment(payment) => payment.check(),
            Row::Reservation(reservation) => reservation.check(),
            Row::Stock(stock) => stock.check(),
            // Their types leave nothing to check.
            Row::Order(_) | Row::Message(_) => Ok(()),
        }
    }
}

impl Row {
    /// Reads the row that an adapter without knowledge of the domain stored.
    ///
    /// # Errors
    /// If the body is not a row of this domain.
    pub fn from_image(image: &Image) -> Result<Row, serde_json::Error> {
        serde_json::from_str(&image.body)
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.tenant, self.order)
    }
}

/// Typed access to locked rows.
macro_rules! getters {
    ($($(#[$doc:meta])* $get:ident($($arg:ident: $of:ty),*) -> $row:ident = $key:expr;)*) => {
        $(
            $(#[$doc])*
            pub(crate) fn $get(rows: &Rows<Row>, $($arg: $of),*) -> Option<$row> {
                match rows.get(&$key) {
                    Some(Row::$row(row)) => Some(row.clone()),
                    Some(_) | None => None,
                }
            }
        )*
    };
}

getters! {
    /// The order, if it is known.
    order(subject: &Subject) -> Order = RowKey::Order(subject.clone());
    /// The payment of an order.
    payment(subject: &Subject) -> Payment = RowKey::Payment(subject.clone());
    /// The reservation of an order.
    reservation(subject: &Subject) -> Reservation = RowKey::Reservation(subject.clone());
    /// The stock of a SKU.
    stock(tenant: &Tenant, sku: &Sku) -> Stock = RowKey::Stock(tenant.clone(), sku.clone());
    /// A message about an order.
    message(subject: &Subject, kind: NoticeKind) -> Message = RowKey::Message(subject.clone(), kind);
}

/// `Ok` if it holds.
pub(crate) fn ensure(holds: bool, constraint: &'static str) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(constraint)) }
}
