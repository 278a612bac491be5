//! Placing and cancelling orders: each publishes one event, whose id is a hash of what was asked.
//!
//! A repeat publishes a copy with the same `ce_id`, which every inbox drops; so a repeat is safe after any outcome.

use axum::{
    Json,
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use stormglass_runtime::{Cause, ConsumerName, Emission, Failure, TRACEPARENT, derive_id};
use uuid::Uuid;

use super::{Gateway, Problem, Receipt, read, request};
use crate::{
    events::{OrderCancelRequested, OrderPlaced, Payload, Subject},
    types::{Fingerprint, OrderId},
};

/// `?receipt=`, as `Location` gave it out.
#[derive(Debug, Deserialize)]
pub(super) struct WithReceipt {
    pub(super) receipt: Option<String>,
}

/// `POST /v1/orders`.
pub(super) async fn place(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let tenant = request::tenant(&headers)?;
    let order = OrderId::derive(&tenant, request::idempotency_key(&headers)?);
    let basket = request::basket(&headers, body, &gateway.limits).await?;
    let (subject, fingerprint) = (Subject { tenant, order }, basket.fingerprint());
    refuse_early(&gateway, &subject, fingerprint).await?;
    let event = OrderPlaced {
        subject: subject.clone(),
        fingerprint,
        basket,
        placed_at_ms: gateway.clock.now().millis(),
    };
    let id = derive_id("order.placed", &[order.0.as_bytes(), fingerprint.0.as_bytes()]);
    publish(&gateway, event.emit(), id, &headers).await?;
    Ok(accepted(order, &gateway.keyring.sign(&subject, fingerprint)))
}

/// `POST /v1/orders/{id}/cancel`. Asks; whether the order could still be cancelled, the order shows.
///
/// The order must be known to exist, by its row or by its receipt, so that nobody fills the log with cancellations of
/// orders that never were. With the receipt this needs no database.
pub(super) async fn cancel(
    State(gateway): State<Gateway>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<WithReceipt>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::BadRequest(rejection.to_string()))?;
    let subject = request::subject(&headers, id)?;
    let receipt = query.receipt.as_deref().and_then(Receipt::parse);
    if !receipt.is_some_and(|receipt| gateway.keyring.verify(&subject, &receipt)) {
        let (found, _) = read::find(&gateway, &subject, request::freshness(&headers)?).await?;
        found.ok_or(Problem::NotFound)?;
    }
    let id = derive_id("order.cancel-requested", &[subject.order.0.as_bytes()]);
    let order = subject.order;
    publish(&gateway, OrderCancelRequested { subject }.emit(), id, &headers).await?;
    let body = Json(json!({ "id": order, "status": "cancel-requested" }));
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, format!("/v1/orders/{order}"))], body).into_response())
}

/// Refuses another body under a key that is known to be taken, if the read side says so in time. It is a courtesy:
/// what slips through is recorded as a conflict by the orders service and has no other effect.
async fn refuse_early(gateway: &Gateway, subject: &Subject, fingerprint: Fingerprint) -> Result<(), Problem> {
    let reading = read::find(gateway, subject, None);
    match tokio::time::timeout(gateway.limits.early_read_time, reading).await {
        Ok(Ok((Some(order), _)))
            if order.placed().is_some_and(|placed| placed.fingerprint != fingerprint) =>
        {
            Err(Problem::KeyReused)
        }
        Ok(Ok(_) | Err(_)) | Err(_) => Ok(()),
    }
}

async fn publish(gateway: &Gateway, event: Emission, id: Uuid, headers: &HeaderMap) -> Result<(), Problem> {
    let trace = headers.get(TRACEPARENT).map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let record = event.into_record(&ConsumerName::from("gateway"), id, gateway.clock.now(), trace.as_ref());
    let publishing = gateway.producer.publish(vec![record]);
    let outcome = match tokio::time::timeout(gateway.limits.publish_time, publishing).await {
        Ok(results) => results.into_iter().next().unwrap_or(Err(Failure::Unknown(Cause::Protocol))),
        Err(_) => Err(Failure::Unknown(Cause::TimedOut)),
    };
    match outcome {
        Ok(_) => Ok(()),
        Err(failure) => Err(Problem::of_publication(&failure, gateway.limits.body_bytes)),
    }
}

fn accepted(order: OrderId, receipt: &Receipt) -> Response {
    let location = format!("/v1/orders/{order}?receipt={receipt}");
    let body = json!({
        "id": order,
        "status": "pending",
        "receipt": receipt.to_string(),
        "links": { "self": location, "cancel": format!("/v1/orders/{order}/cancel?receipt={receipt}") },
    });
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response()
}
