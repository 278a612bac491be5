//! The HTTP that is spoken with a payment provider and a notifier: bodies, and which status means what.
//!
//! `POST /charges`, `/refunds` and `/messages` with the header `Idempotency-Key`, and `POST /keys/{key}/close`. A status
//! answers *did it happen?*, so both ends read it from one table.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use stormglass_orders::{ports::PaymentReply, types::Reference};
use stormglass_runtime::ActError;

/// The header that makes a repeat harmless.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The body of every 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub(super) enum Told {
    /// The money was taken.
    Captured { reference: Reference },
    /// It was refused, as a business answer.
    Declined,
    /// The money went back.
    Refunded { reference: Reference },
    /// The message was sent.
    Sent { reference: Reference },
    /// Nothing was done under the key, and nothing will be: the answer to a closing only.
    Unused,
}

impl From<PaymentReply> for Told {
    fn from(reply: PaymentReply) -> Self {
        match reply {
            PaymentReply::Captured(reference) => Told::Captured { reference },
            PaymentReply::Declined => Told::Declined,
            PaymentReply::Refunded(reference) => Told::Refunded { reference },
        }
    }
}

impl Told {
    /// As a payment provider's word; `None` if nothing was done.
    pub(super) fn payment(self) -> Result<Option<PaymentReply>, ActError> {
        match self {
            Told::Captured { reference } => Ok(Some(PaymentReply::Captured(reference))),
            Told::Declined => Ok(Some(PaymentReply::Declined)),
            Told::Refunded { reference } => Ok(Some(PaymentReply::Refunded(reference))),
            Told::Unused => Ok(None),
            Told::Sent { .. } => Err(besides_the_question()),
        }
    }

    /// As a notifier's word; `None` if nothing was done.
    pub(super) fn message(self) -> Result<Option<Reference>, ActError> {
        match self {
            Told::Sent { reference } => Ok(Some(reference)),
            Told::Unused => Ok(None),
            Told::Captured { .. } | Told::Declined | Told::Refunded { .. } => Err(besides_the_question()),
        }
    }
}

/// An answer to a question that was not asked says nothing about the one that was.
pub(super) fn besides_the_question() -> ActError {
    ActError::Unknown("an answer to another question".to_owned())
}

/// What a status other than 200 says of the effect.
pub(super) fn failure(status: StatusCode, detail: &str) -> ActError {
    let line = format!("{status}: {detail}");
    match status {
        // Nothing was done under the key, and nothing will be. Not 409: by the Idempotency-Key draft of the IETF that is
        // the answer while an earlier request of the same key is still at work, and stays unknown below.
        StatusCode::GONE => ActError::Failed(line),
        // Turned away unread. A wrong key or address is mended by people, not by dead letters.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::TOO_MANY_REQUESTS => ActError::NotSent(line),
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => ActError::Rejected(line),
        // 5xx may come from a proxy that had passed the request on.
        _ => ActError::Unknown(line),
    }
}

/// The status that says this of the effect: what [`failure`] reads back.
pub(super) fn status(error: &ActError) -> StatusCode {
    match error {
        ActError::Failed(_) => StatusCode::GONE,
        ActError::NotSent(_) => StatusCode::TOO_MANY_REQUESTS,
        ActError::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
        ActError::Rejected(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
