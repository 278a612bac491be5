//! Events and rows of the order backend, as many as a bench wants.

use std::ops::Range;

use stormglass_orders::{
    Row, Stock, Subject,
    events::{OrderPlaced, Payload, PaymentCaptured, StockReserved},
    types::{Basket, BasketParts, Currency, Customer, Line, OrderId, Quantity, Reference, Sku, Tenant},
};
use stormglass_runtime::{ConsumerName, Image, Record, RowSet, Timestamp, derive_id};

/// Whose orders they are.
pub const TENANT: &str = "acme";

/// `count` orders, each of one item; the SKUs take turns.
pub fn orders_placed(count: u32, skus: u32) -> Vec<Record> {
    (0..count).map(|number| order_placed(number, skus)).collect()
}

/// One of them.
pub fn order_placed(number: u32, skus: u32) -> Record {
    record(&order(number, number % skus), "gateway", number)
}

/// The events of a log on which every order is placed, later reserved, and later still paid: number by number.
/// Between the three of one order lie [`RESERVED_AFTER`] and [`PAID_AFTER`] orders.
pub fn stories(numbers: Range<u32>, orders: u32) -> Vec<Record> {
    let mut records = Vec::new();
    for number in numbers {
        if number < orders {
            records.push(order_placed(number, 100));
        }
        let at = |after: u32| number.checked_sub(after).filter(|number| *number < orders);
        records.extend(at(RESERVED_AFTER).map(stock_reserved));
        records.extend(at(PAID_AFTER).map(payment_captured));
    }
    records
}

/// How many orders are placed before one is reserved: more than are in one transaction.
pub const RESERVED_AFTER: u32 = 1_000;
/// How many orders are placed before one is paid.
pub const PAID_AFTER: u32 = 3_000;

fn stock_reserved(number: u32) -> Record {
    let OrderPlaced { subject, fingerprint, .. } = order(number, number % 100);
    record(&StockReserved { subject, fingerprint }, "inventory", number)
}

#[expect(clippy::expect_used, reason = "a constant that satisfies its type")]
fn payment_captured(number: u32) -> Record {
    let OrderPlaced { subject, fingerprint, basket, .. } = order(number, number % 100);
    let charge = Reference::new(&subject.order.to_string()).expect("valid");
    let amount = basket.total().clone();
    record(&PaymentCaptured { subject, fingerprint, amount, charge }, "payments", number)
}

fn record<P: Payload>(event: &P, source: &str, number: u32) -> Record {
    let id = derive_id("bench/v1", &[source.as_bytes(), &number.to_be_bytes()]);
    event.emit().into_record(&ConsumerName::from(source), id, Timestamp(0), None)
}

/// Rows of `stock`, enough of each SKU for all orders.
pub fn stock(skus: u32) -> Vec<Row> {
    (0..skus).filter_map(|number| Stock::seed(&tenant(), &sku(number), 1_000_000_000).ok()).collect()
}

#[expect(clippy::expect_used, reason = "constants that satisfy their types")]
fn order(number: u32, of: u32) -> OrderPlaced {
    let line = Line { sku: sku(of), quantity: Quantity::new(1).expect("valid"), unit_price_minor: 4_999 };
    let parts = BasketParts {
        customer: Customer::new("ada@example.org").expect("valid"),
        currency: Currency::new("EUR").expect("valid"),
        lines: vec![line],
    };
    let basket = Basket::try_from(parts).expect("valid");
    let subject = Subject { tenant: tenant(), order: OrderId::derive(&tenant(), &number.to_string()) };
    OrderPlaced { subject, fingerprint: basket.fingerprint(), basket, placed_at_ms: 0 }
}

/// [`TENANT`], as a type.
#[expect(clippy::expect_used, reason = "a constant that satisfies its type")]
pub fn tenant() -> Tenant {
    Tenant::new(TENANT).expect("valid")
}

#[expect(clippy::expect_used, reason = "a name that satisfies its type")]
fn sku(number: u32) -> Sku {
    Sku::new(&format!("sku-{number}")).expect("valid")
}

/// A row as adapters that know no domain store it.
#[expect(clippy::expect_used, reason = "rows always serialize")]
pub fn image(row: &Row) -> Image {
    let key = row.key();
    let body = serde_json::to_string(row).expect("serializes");
    Image { table: Row::table(&key).to_owned(), key: Row::key_text(&key), body }
}
