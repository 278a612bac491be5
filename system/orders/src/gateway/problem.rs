//! What went wrong with a request, as RFC 9457 `application/problem+json`.
//!
//! A handler returns a [`Problem`]; the one middleware around all routes renders it, since `instance` is the request's
//! path (without its query, which may hold a receipt).

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use stormglass_runtime::{Failure, Reason};
use thiserror::Error;

/// Why a request was not answered with success. The text is the problem's `detail`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// A header or parameter is missing or malformed.
    #[error("{0}")]
    BadRequest(String),
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    MalformedJson(String),
    /// No such path, or no such order of this tenant.
    #[error("there is nothing here that this tenant may see")]
    NotFound,
    /// The path does not know this method; `Allow` says which it knows.
    #[error("this path does not take this method")]
    MethodNotAllowed,
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The body is larger than the limit, in bytes.
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The body is said to be something else than JSON.
    #[error("the body must be application/json")]
    UnsupportedMediaType,
    /// The order cannot be accepted as it is.
    #[error("{0}")]
    InvalidOrder(String),
    /// The Idempotency-Key belongs to an order with another body.
    #[error("this Idempotency-Key was used for an order with another body")]
    KeyReused,
    /// The event certainly was not published.
    #[error("nothing was accepted; the same request may be sent again")]
    NotAccepted,
    /// The event may have been published.
    #[error(
        "the outcome is unknown: it may have been accepted; the same request with the same Idempotency-Key may be \
         repeated safely and has one effect"
    )]
    OutcomeUnknown,
    /// No server that is fresh enough can be read.
    #[error("orders cannot be read at the moment; accepted orders are safe")]
    ReadsUnavailable,
    /// The process is stuck.
    #[error("stuck: {0}")]
    Stuck(String),
    /// Kafka is out of reach.
    #[error("Kafka cannot be reached, so no order can be accepted")]
    NotReady,
    /// Something is configured wrongly.
    #[error("the gateway is misconfigured")]
    Internal,
}

impl Problem {
    /// What a failed publication means to the client.
    pub(super) fn of_publication(failure: &Failure, body_bytes: usize) -> Self {
        tracing::warn!(%failure, "publication failed");
        match failure {
            Failure::NotDone(_) => Problem::NotAccepted,
            Failure::Unknown(_) => Problem::OutcomeUnknown,
            Failure::Rejected(Reason::TooLarge { .. }) => Problem::BodyTooLarge(body_bytes),
            Failure::Rejected(_) => Problem::Internal,
        }
    }

    /// What a failed read means to the client.
    pub(super) fn of_read(failure: &Failure) -> Self {
        tracing::warn!(%failure, "read failed");
        match failure {
            Failure::NotDone(_) | Failure::Unknown(_) => Problem::ReadsUnavailable,
            Failure::Rejected(_) => Problem::Internal,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Problem::BadRequest(_) | Problem::MalformedJson(_) => StatusCode::BAD_REQUEST,
            Problem::NotFound => StatusCode::NOT_FOUND,
            Problem::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Problem::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Problem::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Problem::InvalidOrder(_) | Problem::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Problem::NotAccepted
            | Problem::OutcomeUnknown
            | Problem::ReadsUnavailable
            | Problem::Stuck(_)
            | Problem::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Problem::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The last part of `type`, and `title`.
    fn name(&self) -> (&'static str, &'static str) {
        match self {
            Problem::BadRequest(_) => ("bad-request", "The request is malformed"),
            Problem::MalformedJson(_) => ("malformed-json", "The body is not JSON"),
            Problem::NotFound => ("not-found", "Not found"),
            Problem::MethodNotAllowed => ("method-not-allowed", "Method not allowed"),
            Problem::BodyTimeout => ("body-timeout", "The body came too slowly"),
            Problem::BodyTooLarge(_) => ("body-too-large", "The body is too large"),
            Problem::UnsupportedMediaType => ("unsupported-media-type", "The body is not JSON"),
            Problem::InvalidOrder(_) => ("invalid-order", "The order is not valid"),
            Problem::KeyReused => ("idempotency-key-reused", "The Idempotency-Key is taken"),
            Problem::NotAccepted => ("not-accepted", "Not accepted"),
            Problem::OutcomeUnknown => ("outcome-unknown", "It may have been accepted"),
            Problem::ReadsUnavailable => ("reads-unavailable", "Orders cannot be read"),
            Problem::Stuck(_) => ("stuck", "The process is stuck"),
            Problem::NotReady => ("not-ready", "Not ready"),
            Problem::Internal => ("internal", "Internal error"),
        }
    }
}

/// A response that carries the problem to [`describe`].
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Renders the problem that `response` carries, if it does. Headers that are there stay (`Allow`).
pub(super) fn describe(mut response: Response, path: &str, retry_after: Duration) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let (slug, title) = problem.name();
    let status = problem.status();
    let body = json!({
        "type": format!("urn:stormglass:problem:{slug}"),
        "title": title,
        "status": status.as_u16(),
        "detail": problem.to_string(),
        "instance": path,
    });
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
    }
    *response.body_mut() = axum::body::Body::from(body.to_string());
    response
}
