//! The HTTP gateway: a router that is a function of its ports, so the storm serves it as it is.
//!
//! Placing an order writes to Kafka and to nothing else, so orders are accepted while PostgreSQL is down. 202 means
//! that all in-sync replicas have it (G11). What a repeat, a lost answer or another body under the same key do
//! follows from three hashes (see [`receipt`]); there is no state here.
//!
//! Left out: sockets, TLS, API keys, rate limits; whoever serves the router brings them.

mod place;
mod problem;
mod read;
mod receipt;
mod request;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;
use stormglass_runtime::{Clock, Producer, Reader};

pub use problem::Problem;
pub use receipt::{Keyring, KeyringError, Receipt, Secret};
pub use request::{FRESHNESS, IDEMPOTENCY_KEY, TENANT, decode_freshness, encode_freshness};

use crate::rows::Row;

/// The gateway's ports and settings.
#[derive(Clone)]
pub struct Gateway {
    /// Where orders go.
    pub producer: Arc<dyn Producer>,
    /// Where they are read.
    pub reader: Arc<dyn Reader<Row>>,
    /// What time it is, for `ce_time` and `placed_at`.
    pub clock: Arc<dyn Clock>,
    /// What signs receipts.
    pub keyring: Arc<Keyring>,
    /// What `/livez` and `/readyz` report.
    pub health: Arc<dyn Health>,
    /// Sizes and times.
    pub limits: Limits,
}

/// Sizes and times of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body, in bytes. Keep it well below the topic's `max.message.bytes`.
    pub body_bytes: usize,
    /// How long a client may take to send its body.
    pub body_time: Duration,
    /// How long to wait for all in-sync replicas. Keep it above the producer's own delivery timeout, whose answer
    /// says more.
    pub publish_time: Duration,
    /// How long a read may take.
    pub read_time: Duration,
    /// How long placing an order asks the read side for an early 422; it never needs the answer.
    pub early_read_time: Duration,
    /// What `Retry-After` says.
    pub retry_after: Duration,
    /// Most orders on a page.
    pub page_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 * 1024,
            body_time: Duration::from_secs(10),
            publish_time: Duration::from_secs(30),
            read_time: Duration::from_secs(5),
            early_read_time: Duration::from_millis(50),
            retry_after: Duration::from_secs(1),
            page_max: 200,
        }
    }
}

/// What the process around the router knows of its own health.
pub trait Health: Send + Sync {
    /// What is stuck, if anything is: a watchdog's word. The process should then be restarted.
    fn stuck(&self) -> Option<String>;

    /// Whether Kafka can be reached. Without it no order is accepted.
    fn broker(&self) -> Reach;

    /// Whether PostgreSQL can be reached. Without it orders are accepted, but not shown.
    fn database(&self) -> Reach;
}

/// Whether something can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// It answered lately.
    Up,
    /// It did not.
    Down,
}

/// The health of a router that nothing watches: always well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Health for Unwatched {
    fn stuck(&self) -> Option<String> {
        None
    }

    fn broker(&self) -> Reach {
        Reach::Up
    }

    fn database(&self) -> Reach {
        Reach::Up
    }
}

impl Gateway {
    /// The router over these ports. Dropping a request's future leaves what it published in an unknown state, which a
    /// repeat with the same Idempotency-Key resolves.
    pub fn router(self) -> Router {
        let retry_after = self.limits.retry_after;
        Router::new()
            .route("/v1/orders", post(place::place).get(read::list))
            .route("/v1/orders/{id}", get(read::one))
            .route("/v1/orders/{id}/cancel", post(place::cancel))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .fallback(async || Problem::NotFound)
            .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
            .layer(middleware::from_fn(move |request: Request, next: Next| async move {
                let path = request.uri().path().to_owned();
                problem::describe(next.run(request).await, &path, retry_after)
            }))
            .with_state(self)
    }
}

/// 200 while nothing is stuck: restarting the process would not help.
async fn livez(State(gateway): State<Gateway>) -> Response {
    match gateway.health.stuck() {
        None => Json(json!({ "live": true })).into_response(),
        Some(what) => Problem::Stuck(what).into_response(),
    }
}

/// 200 while orders can be accepted, which takes Kafka alone.
async fn readyz(State(gateway): State<Gateway>) -> Response {
    let (broker, database) = (gateway.health.broker(), gateway.health.database());
    match broker {
        Reach::Up => Json(json!({ "ready": true, "kafka": broker, "postgresql": database })).into_response(),
        Reach::Down => Problem::NotReady.into_response(),
    }
}
