//! What requests carry: the tenant, the Idempotency-Key, the freshness token, the JSON body.

use axum::{
    body::{Body, Bytes},
    extract::{Path, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, header},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::LengthLimitError;
use serde_json::Value;
use stormglass_runtime::Freshness;
use uuid::Uuid;

use super::{Limits, Problem};
use crate::{
    events::Subject,
    types::{Basket, BasketParts, OrderId, Tenant},
};

/// Who asks. One header until API keys tell.
pub const TENANT: &str = "stormglass-tenant";

/// Names the order to place; 1 to 255 visible ASCII characters
/// (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How fresh an answer was; sent back, the next one is no older.
pub const FRESHNESS: &str = "stormglass-freshness";

/// The tenant that asks: the one place that decides it.
pub(super) fn tenant(headers: &HeaderMap) -> Result<Tenant, Problem> {
    let text = text(headers, TENANT)?
        .ok_or_else(|| Problem::BadRequest(format!("the header {TENANT} is missing")))?;
    Tenant::new(text).map_err(|invalid| Problem::BadRequest(invalid.to_string()))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<&str, Problem> {
    let key = text(headers, IDEMPOTENCY_KEY)?
        .ok_or_else(|| Problem::BadRequest("the header Idempotency-Key is missing".to_owned()))?;
    if (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(key)
    } else {
        Err(Problem::BadRequest("an Idempotency-Key is 1 to 255 visible ASCII characters".to_owned()))
    }
}

pub(super) fn freshness(headers: &HeaderMap) -> Result<Option<Freshness>, Problem> {
    let Some(token) = text(headers, FRESHNESS)? else { return Ok(None) };
    decode_freshness(token)
        .map(Some)
        .ok_or_else(|| Problem::BadRequest(format!("{FRESHNESS} is not a token of this service")))
}

/// The order that a path names, as this tenant's. What is no id names nothing.
pub(super) fn subject(
    headers: &HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Subject, Problem> {
    let tenant = tenant(headers)?;
    let Path(id) = id.map_err(|_| Problem::NotFound)?;
    let id = Uuid::try_parse(&id).map_err(|_| Problem::NotFound)?;
    Ok(Subject { tenant, order: OrderId(id) })
}

/// A basket from a request body. Not JSON is 400; JSON that is no order is 422.
pub(super) async fn basket(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Basket, Problem> {
    let json = |kind: &HeaderValue| {
        let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
        kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json")
    };
    if !headers.get(header::CONTENT_TYPE).is_none_or(json) {
        return Err(Problem::UnsupportedMediaType);
    }
    let body = read_body(body, limits).await?;
    let value: Value =
        serde_json::from_slice(&body).map_err(|error| Problem::MalformedJson(error.to_string()))?;
    let parts: BasketParts =
        serde_json::from_value(value).map_err(|error| Problem::InvalidOrder(error.to_string()))?;
    Basket::try_from(parts).map_err(|invalid| Problem::InvalidOrder(invalid.to_string()))
}

async fn read_body(body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let reading = axum::body::to_bytes(body, limits.body_bytes);
    match tokio::time::timeout(limits.body_time, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error))
            if std::error::Error::source(&error).is_some_and(|cause| cause.is::<LengthLimitError>()) =>
        {
            Err(Problem::BodyTooLarge(limits.body_bytes))
        }
        Ok(Err(_)) => Err(Problem::BadRequest("the body broke off".to_owned())),
        Err(_) => Err(Problem::BodyTimeout),
    }
}

/// A freshness token as text; opaque to clients.
pub fn encode_freshness(freshness: Freshness) -> String {
    let mut bytes = freshness.timeline.to_be_bytes().to_vec();
    bytes.extend(freshness.lsn.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads what [`encode_freshness`] wrote; `None` for anything else.
pub fn decode_freshness(token: &str) -> Option<Freshness> {
    let bytes: [u8; 12] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
    let (timeline, lsn) = bytes.split_first_chunk::<4>()?;
    Some(Freshness { timeline: u32::from_be_bytes(*timeline), lsn: u64::from_be_bytes(lsn.try_into().ok()?) })
}

/// A header that may occur once, as text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::BadRequest(format!("the header {name} occurs more than once")));
    }
    first
        .map(|value| {
            value.to_str().map_err(|_| Problem::BadRequest(format!("the header {name} is not ASCII")))
        })
        .transpose()
}
