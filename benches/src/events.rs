//! Events and rows of the order backend, as many as a bench wants.

use stormglass_orders::{
    Row, Stock, Subject,
    events::{OrderPlaced, Payload},
    types::{Basket, BasketParts, Currency, Customer, Line, OrderId, Quantity, Sku, Tenant},
};
use stormglass_runtime::{ConsumerName, Image, Record, RowSet, Timestamp, derive_id};

const TENANT: &str = "acme";

/// `count` orders, each of one item; the SKUs take turns.
pub fn orders_placed(count: u32, skus: u32) -> Vec<Record> {
    let source = ConsumerName::from("gateway");
    let record = |number: u32| {
        let emission = order(number, number % skus).emit();
        let id = derive_id("bench/v1", &[&number.to_be_bytes()]);
        emission.into_record(&source, id, Timestamp(0), None)
    };
    (0..count).map(record).collect()
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

#[expect(clippy::expect_used, reason = "a constant that satisfies its type")]
fn tenant() -> Tenant {
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
