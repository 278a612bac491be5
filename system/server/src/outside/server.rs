//! Either port as an HTTP service: what `stand-in` serves, and the other end of `client.rs`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;
use stormglass_orders::{
    ports::{Charge, Notice, Notifier, PaymentProvider, Refund},
    types::Reference,
};
use stormglass_runtime::{ActError, IdempotencyKey};
use uuid::Uuid;

use super::wire::{IDEMPOTENCY_KEY, Told, status};

/// `/charges`, `/refunds` and `/keys/{key}/close` over a provider.
pub fn payments(provider: Arc<dyn PaymentProvider>) -> Router {
    type Provider = State<Arc<dyn PaymentProvider>>;
    let charge = async |State(provider): Provider, Key(key): Key, Json(charge): Json<Charge>| {
        answer(provider.charge(charge, key).await.map(Told::from))
    };
    let refund = async |State(provider): Provider, Key(key): Key, Json(refund): Json<Refund>| {
        answer(provider.refund(refund, key).await.map(Told::from))
    };
    let close = async |State(provider): Provider, Path(key): Path<Uuid>| {
        let found = provider.close(IdempotencyKey(key)).await;
        answer(found.map(|found| found.map_or(Told::Unused, Told::from)))
    };
    Router::new()
        .route("/charges", post(charge))
        .route("/refunds", post(refund))
        .route("/keys/{key}/close", post(close))
        .with_state(provider)
}

/// `/messages` and `/keys/{key}/close` over a notifier.
pub fn notifications(notifier: Arc<dyn Notifier>) -> Router {
    type Port = State<Arc<dyn Notifier>>;
    let sent = |reference: Reference| Told::Sent { reference };
    let send = async move |State(notifier): Port, Key(key): Key, Json(notice): Json<Notice>| {
        answer(notifier.send(notice, key).await.map(sent))
    };
    let close = async move |State(notifier): Port, Path(key): Path<Uuid>| {
        let found = notifier.close(IdempotencyKey(key)).await;
        answer(found.map(|found| found.map_or(Told::Unused, sent)))
    };
    Router::new().route("/messages", post(send)).route("/keys/{key}/close", post(close)).with_state(notifier)
}

fn answer(outcome: Result<Told, ActError>) -> Response {
    match outcome {
        Ok(told) => Json(told).into_response(),
        Err(error) => (status(&error), Json(json!({ "detail": error.to_string() }))).into_response(),
    }
}

/// The request's Idempotency-Key.
struct Key(IdempotencyKey);

impl<S: Sync> axum::extract::FromRequestParts<S> for Key {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Self::Rejection> {
        let key = key_of(&parts.headers)
            .ok_or((StatusCode::BAD_REQUEST, "the header Idempotency-Key is no UUID"))?;
        Ok(Self(key))
    }
}

fn key_of(headers: &HeaderMap) -> Option<IdempotencyKey> {
    let text = headers.get(IDEMPOTENCY_KEY)?.to_str().ok()?;
    Uuid::try_parse(text).ok().map(IdempotencyKey)
}
