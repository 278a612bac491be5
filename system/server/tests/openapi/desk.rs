//! A gateway whose ports hold what they are given and fail as they are told, and requests to it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{Request, request::Builder},
};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use stormglass_orders::{
    Row, RowKey, TOPIC,
    events::{CancelReason, Subject},
    gateway::{Gateway, Health, Keyring, Limits, Reach, Secret},
    orders::{Achieved, Foretold, Order, OrderState, Placed, Progress},
    types::{Basket, BasketParts, OrderId, Tenant},
};
use stormglass_runtime::{
    Failure, Freshness, Partition, Position, Producer, Reader, Record, RowSet, Scan, Topic, Versioned,
};
use stormglass_server::{host::SystemClock, http};

/// What stands behind the gateway.
#[derive(Clone, Default)]
pub struct Desk {
    pub rows: Vec<Row>,
    /// What publishing comes to, if not success.
    pub publishing: Option<Failure>,
    /// What reading comes to, if not success.
    pub reading: Option<Failure>,
    /// Whether the process is stuck and Kafka away.
    pub sick: bool,
}

impl Desk {
    /// All routes of a process with a gateway.
    pub fn router(&self) -> Router {
        let limits = Limits {
            body_bytes: 4096,
            body_time: Duration::from_millis(50),
            page_max: 10,
            ..Limits::default()
        };
        let gateway = Gateway {
            producer: Arc::new(self.clone()),
            reader: Arc::new(self.clone()),
            clock: Arc::new(SystemClock),
            keyring: Arc::new(keyring()),
            health: Arc::new(self.clone()),
            limits,
        };
        http::gateway(gateway, Some(PrometheusBuilder::new().build_recorder().handle()))
    }

    fn answer(&self, rows: Vec<&Row>) -> Result<(Vec<Versioned<Row>>, Freshness), Failure> {
        let rows = rows.into_iter().map(|row| Versioned { row: row.clone(), version: 1 }).collect();
        self.reading.clone().map_or(Ok((rows, Freshness { timeline: 1, lsn: 7 })), Err)
    }
}

#[async_trait]
impl Producer for Desk {
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        let outcome =
            || self.publishing.clone().map_or(Ok(Partition::new(&Topic::from(TOPIC), 0).at(0)), Err);
        records.iter().map(|_| outcome()).collect()
    }
}

#[async_trait]
impl Reader<Row> for Desk {
    async fn read(
        &self,
        keys: Vec<RowKey>,
        _at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<Row>>, Freshness), Failure> {
        self.answer(self.rows.iter().filter(|row| keys.contains(&row.key())).collect())
    }

    async fn scan(
        &self,
        scan: Scan,
        _at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<Row>>, Freshness), Failure> {
        let sorted: BTreeMap<String, &Row> =
            self.rows.iter().map(|row| (Row::key_text(&row.key()), row)).collect();
        let after = |key: &str| scan.after.as_deref().is_none_or(|after| key > after);
        let found = sorted.into_iter().filter(|(key, _)| key.starts_with(&scan.prefix) && after(key));
        self.answer(found.map(|(_, row)| row).take(scan.limit as usize).collect())
    }
}

impl Health for Desk {
    fn stuck(&self) -> Option<String> {
        self.sick.then(|| "a part".to_owned())
    }

    fn broker(&self) -> Reach {
        if self.sick { Reach::Down } else { Reach::Up }
    }

    fn database(&self) -> Reach {
        Reach::Down
    }
}

pub fn keyring() -> Keyring {
    let secret = Secret::new(b"0123456789abcdef0123456789abcdef").expect("long enough");
    Keyring::new([("test".to_owned(), secret)].into(), "test").expect("a ring")
}

/// The order that `request` places under this Idempotency-Key.
pub fn subject(key: &str) -> Subject {
    let tenant = Tenant::new("acme").expect("a tenant");
    Subject { order: OrderId::derive(&tenant, key), tenant }
}

/// What is ordered here.
pub fn body() -> Value {
    let line = json!({ "sku": "umbrella", "quantity": 2, "unit_price_minor": 500 });
    json!({ "customer": "ada", "currency": "EUR", "lines": [line] })
}

pub fn basket() -> Basket {
    let parts: BasketParts = serde_json::from_value(body()).expect("parts");
    Basket::try_from(parts).expect("a basket")
}

/// An order in each state, under the key that names it.
pub fn orders() -> Vec<Row> {
    let basket = basket();
    let placed = Placed { fingerprint: basket.fingerprint(), basket, placed_at_ms: 1_700_000_000_000 };
    let foretold = Foretold { fingerprint: placed.fingerprint, achieved: Achieved::Paid };
    let reason = CancelReason::OutOfStock;
    let states = [
        ("foretold", OrderState::Foretold(foretold)),
        ("open", OrderState::Open { placed: placed.clone(), progress: Progress::Nothing }),
        ("confirmed", OrderState::Confirmed { placed: placed.clone() }),
        ("cancelled", OrderState::Cancelled { placed: Some(placed), reason }),
        ("cancelled-early", OrderState::Cancelled { placed: None, reason }),
    ];
    let order = |(key, state)| Order { subject: subject(key), state, conflicts: 0, cancels_refused: 0 };
    states.map(|state| Row::Order(order(state))).into()
}

/// A request as a tenant sends it.
pub fn request(method: &str, path: &str) -> Builder {
    Request::builder().method(method).uri(path).header("stormglass-tenant", "acme")
}

/// A request that places an order.
pub fn place(key: &str) -> Builder {
    request("POST", "/v1/orders").header("idempotency-key", key).header("content-type", "application/json")
}

/// Without a body.
pub fn bare(request: Builder) -> Request<Body> {
    request.body(Body::empty()).expect("a request")
}
