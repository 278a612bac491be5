//! Domain rows as checkers read them: the JSON that the database holds, not the services' types.
//!
//! Shapes and states are written down again here, so that a service which skips a state, or an adapter which mangles
//! a row, cannot take its checker along. A test holds both descriptions to the same JSON. Each body is decoded once.

use serde::Deserialize;
use stormglass_runtime::Image;
use uuid::Uuid;

/// A row of the domain.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub enum Fact {
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
    /// Not readable as any of them.
    #[serde(skip)]
    Unreadable(String),
}

/// Whose order, and which.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Subject {
    /// The tenant.
    pub tenant: String,
    /// The order.
    pub order: Uuid,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Order {
    /// Whose, and which.
    pub subject: Subject,
    /// How far it has come.
    pub state: OrderState,
}

/// The states of an order.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub enum OrderState {
    /// Others acted on it before it was read.
    Foretold(Foretold),
    /// Waits.
    Open {
        /// What was ordered.
        placed: Placed,
    },
    /// Final.
    Confirmed {
        /// What was ordered.
        placed: Placed,
    },
    /// Final.
    Cancelled {
        /// What was ordered, if that was ever read.
        placed: Option<Placed>,
    },
}

/// What is known of an order that was not read yet.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Foretold {
    /// What the others achieved for it.
    pub achieved: String,
}

/// What was ordered.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Placed {
    /// The basket.
    pub basket: Basket,
}

/// A basket.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Basket {
    /// ISO 4217.
    pub currency: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Line {
    /// Of what.
    pub sku: String,
    /// How many.
    pub quantity: i64,
    /// Each.
    pub unit_price_minor: i64,
}

impl Basket {
    /// What it costs, in minor units.
    pub fn total(&self) -> i64 {
        self.lines.iter().map(|line| line.quantity * line.unit_price_minor).sum()
    }
}

impl Order {
    /// What was ordered, if that is known.
    pub fn basket(&self) -> Option<&Basket> {
        match &self.state {
            OrderState::Foretold(_) => None,
            OrderState::Open { placed } | OrderState::Confirmed { placed } => Some(&placed.basket),
            OrderState::Cancelled { placed } => placed.as_ref().map(|placed| &placed.basket),
        }
    }
}

impl OrderState {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            OrderState::Foretold(_) => "foretold",
            OrderState::Open { .. } => "open",
            OrderState::Confirmed { .. } => "confirmed",
            OrderState::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether nothing follows.
    pub fn is_final(&self) -> bool {
        matches!(self, OrderState::Confirmed { .. } | OrderState::Cancelled { .. })
    }
}

/// An order's payment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Payment {
    /// Of which order.
    pub subject: Subject,
    /// How far it has come.
    pub state: PaymentState,
}

/// The states of a payment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub enum PaymentState {
    /// Never asked for.
    Void,
    /// Asked for, for the body with this fingerprint.
    Asked(Uuid),
    /// Refused, or given up.
    Declined(String),
    /// Taken.
    Captured(Capture),
    /// Taken, and to be given back.
    RefundOwed(Capture),
    /// Given back.
    Refunded {
        /// What had been taken.
        capture: Capture,
    },
}

impl PaymentState {
    /// The money that was taken, if it was.
    pub fn capture(&self) -> Option<&Capture> {
        match self {
            PaymentState::Void | PaymentState::Asked(_) | PaymentState::Declined(_) => None,
            PaymentState::Captured(capture)
            | PaymentState::RefundOwed(capture)
            | PaymentState::Refunded { capture } => Some(capture),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            PaymentState::Void => "void",
            PaymentState::Asked(_) => "asked",
            PaymentState::Declined(_) => "declined",
            PaymentState::Captured(_) => "captured",
            PaymentState::RefundOwed(_) => "refund owed",
            PaymentState::Refunded { .. } => "refunded",
        }
    }
}

/// Money that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Capture {
    /// How much.
    pub amount: Amount,
    /// The provider's charge.
    pub charge: String,
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Amount {
    /// In minor units.
    pub minor: i64,
    /// ISO 4217.
    pub currency: String,
}

/// An order's reservation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Reservation {
    /// For which order.
    pub subject: Subject,
    /// How far it has come.
    pub state: ReservationState,
}

/// The states of a reservation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub enum ReservationState {
    /// Cancelled first.
    Barred,
    /// Not to be had.
    Rejected(serde_json::Value),
    /// Held.
    Reserved(Vec<Item>),
    /// Sold.
    Sold(Vec<Item>),
    /// Available again.
    Released(Vec<Item>),
}

impl ReservationState {
    /// The items that it is about, if any.
    pub fn items(&self) -> Option<&[Item]> {
        match self {
            ReservationState::Barred | ReservationState::Rejected(_) => None,
            ReservationState::Reserved(items)
            | ReservationState::Sold(items)
            | ReservationState::Released(items) => Some(items),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            ReservationState::Barred => "barred",
            ReservationState::Rejected(_) => "rejected",
            ReservationState::Reserved(_) => "reserved",
            ReservationState::Sold(_) => "sold",
            ReservationState::Released(_) => "released",
        }
    }
}

/// So many of one SKU.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Item {
    /// Of what.
    pub sku: String,
    /// How many.
    pub quantity: i64,
}

/// What there is of one SKU.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Stock {
    /// Whose.
    pub tenant: String,
    /// Of what.
    pub sku: String,
    /// May be reserved.
    pub available: i64,
    /// Held.
    pub reserved: i64,
    /// Sold.
    pub sold: i64,
}

/// A message to a customer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Message {
    /// About which order.
    pub subject: Subject,
    /// What it says.
    pub kind: String,
    /// What became of it.
    pub state: MessageState,
}

impl MessageState {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            MessageState::Sent(_) => "sent",
            MessageState::Undelivered => "undelivered",
        }
    }
}

/// The states of a message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum MessageState {
    /// The notifier took it.
    Sent(String),
    /// It could not be sent.
    Undelivered,
}

impl Fact {
    /// Reads a row as it is stored.
    pub fn read(image: &Image) -> Fact {
        serde_json::from_str(&image.body).unwrap_or_else(|error| Fact::Unreadable(error.to_string()))
    }

    /// The order that the row is about.
    pub fn order(&self) -> Option<Uuid> {
        match self {
            Fact::Order(row) => Some(row.subject.order),
            Fact::Payment(row) => Some(row.subject.order),
            Fact::Reservation(row) => Some(row.subject.order),
            Fact::Message(row) => Some(row.subject.order),
            Fact::Stock(_) | Fact::Unreadable(_) => None,
        }
    }

    /// The name of the row's state; nothing where it has none.
    pub fn state(&self) -> &'static str {
        match self {
            Fact::Order(row) => row.state.name(),
            Fact::Payment(row) => row.state.name(),
            Fact::Reservation(row) => row.state.name(),
            Fact::Message(row) => row.state.name(),
            Fact::Stock(_) => "",
            Fact::Unreadable(_) => "unreadable",
        }
    }
}

/// Money as people write it: `49.99 EUR`, `500 JPY`.
pub fn money(minor: i64, currency: &str) -> String {
    /// ISO 4217 currencies whose minor unit is the currency itself, of those that the workload uses.
    const WITHOUT_CENTS: [&str; 2] = ["JPY", "KRW"];
    if WITHOUT_CENTS.contains(&currency) {
        return format!("{minor} {currency}");
    }
    let sign = if minor < 0 { "-" } else { "" };
    format!("{sign}{}.{:02} {currency}", minor.abs() / 100, minor.abs() % 100)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stormglass_orders::{
        Row, Stock as StockRow,
        types::{Sku, Tenant},
    };

    use super::*;

    #[track_caller]
    fn check(row: serde_json::Value, expected: impl Fn(&Fact) -> bool) {
        let row: Row = serde_json::from_value(row).expect("the services read this JSON");
        let body = serde_json::to_string(&row).expect("rows are JSON");
        let fact = Fact::read(&Image { table: String::new(), key: String::new(), body });
        assert!(expected(&fact), "{fact:?}");
    }

    fn subject() -> serde_json::Value {
        json!({ "tenant": "acme", "order": Uuid::from_u128(1) })
    }

    fn placed() -> serde_json::Value {
        let line = json!({ "sku": "mug", "quantity": 2, "unit_price_minor": 150 });
        let basket = json!({ "customer": "ann", "currency": "EUR", "lines": [line] });
        json!({ "fingerprint": Uuid::nil(), "basket": basket, "placed_at_ms": 5 })
    }

    #[test]
    fn checkers_and_services_read_the_same_rows() {
        let order = |state| json!({ "Order": { "subject": subject(), "state": state, "conflicts": 0, "cancels_refused": 0 } });
        check(
            order(json!({ "Foretold": { "fingerprint": Uuid::nil(), "achieved": "Paid" } })),
            |fact| matches!(fact, Fact::Order(order) if order.basket().is_none()),
        );
        check(
            order(json!({ "Open": { "placed": placed(), "progress": "Paid" } })),
            |fact| matches!(fact, Fact::Order(order) if order.basket().is_some_and(|basket| basket.total() == 300)),
        );
        check(
            order(json!({ "Confirmed": { "placed": placed() } })),
            |fact| matches!(fact, Fact::Order(order) if order.state.is_final()),
        );
        check(
            order(json!({ "Cancelled": { "placed": null, "reason": "deadline" } })),
            |fact| matches!(fact, Fact::Order(order) if order.state.name() == "cancelled"),
        );
    }

    #[test]
    fn checkers_and_services_read_the_same_side_rows() {
        let capture =
            json!({ "customer": "ann", "amount": { "minor": 300, "currency": "EUR" }, "charge": "ch-1" });
        for state in [
            json!("Void"),
            json!({ "Asked": Uuid::nil() }),
            json!({ "Declined": "refused" }),
            json!({ "Captured": capture }),
            json!({ "RefundOwed": capture }),
            json!({ "Refunded": { "capture": capture, "refund": "re-1" } }),
        ] {
            check(json!({ "Payment": { "subject": subject(), "state": state } }), |fact| {
                matches!(fact, Fact::Payment(_))
            });
        }
        let items = json!([{ "sku": "mug", "quantity": 2 }]);
        for state in [
            json!("Barred"),
            json!({ "Rejected": { "sold-out": "mug" } }),
            json!({ "Rejected": "gave-up" }),
            json!({ "Reserved": items }),
            json!({ "Sold": items }),
            json!({ "Released": items }),
        ] {
            let row = json!({ "Reservation": { "subject": subject(), "state": state } });
            check(row, |fact| matches!(fact, Fact::Reservation(_)));
        }
        for state in [json!({ "Sent": "m-1" }), json!("Undelivered")] {
            let row = json!({ "Message": { "subject": subject(), "kind": "refunded", "state": state } });
            check(row, |fact| matches!(fact, Fact::Message(message) if message.kind == "refunded"));
        }
        let stock = StockRow::seed(&Tenant::new("acme").unwrap(), &Sku::new("mug").unwrap(), 7).unwrap();
        check(
            serde_json::to_value(stock).unwrap(),
            |fact| matches!(fact, Fact::Stock(stock) if stock.available == 7),
        );
    }

    #[test]
    fn money_reads_as_people_write_it() {
        assert_eq!(money(4999, "EUR"), "49.99 EUR");
        assert_eq!(money(-5, "USD"), "-0.05 USD");
        assert_eq!(money(500, "JPY"), "500 JPY");
    }
}
