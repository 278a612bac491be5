//! Reading orders: one, and all of a tenant. Answers carry a freshness token; sent back, reads never go backwards.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stormglass_runtime::{Cause, Failure, Freshness, RowSet, Scan, Timestamp, Versioned};
use uuid::Uuid;

use super::{FRESHNESS, Gateway, Problem, Receipt, encode_freshness, place::WithReceipt, request};
use crate::{
    events::{CancelReason, Subject},
    orders::{Order, OrderState},
    rows::{Row, RowKey},
    types::{Line, OrderId, Tenant},
};

/// Orders on a page, unless asked otherwise.
const PAGE_DEFAULT: u32 = 50;

/// An order as clients see it.
#[derive(Debug, Serialize)]
struct Shown {
    id: OrderId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<CancelReason>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    placed: Option<ShownBasket>,
}

#[derive(Debug, Serialize)]
struct ShownBasket {
    customer: String,
    currency: String,
    lines: Vec<Line>,
    total_minor: i64,
    placed_at: String,
}

/// `GET /v1/orders/{id}`, by the table in DESIGN section 7: a row of this tenant, if the receipt is for it; a valid
/// receipt stands for an order that is not there yet.
pub(super) async fn one(
    State(gateway): State<Gateway>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<WithReceipt>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::BadRequest(rejection.to_string()))?;
    let subject = request::subject(&headers, id)?;
    let receipt = query.receipt.as_deref().map(Receipt::parse);
    let (found, fresh) = find(&gateway, &subject, request::freshness(&headers)?).await?;
    let shown = match (found, receipt) {
        (Some(order), None) => show(&order),
        (Some(order), Some(receipt)) => {
            let placed = order.placed().map(|placed| placed.fingerprint);
            // An order that was cancelled before it was ever read has no F to differ from.
            if placed.is_some() && placed != receipt.map(|receipt| receipt.fingerprint) {
                return Err(Problem::KeyReused);
            }
            show(&order)
        }
        (None, Some(Some(receipt))) if gateway.keyring.verify(&subject, &receipt) => {
            Shown { id: subject.order, status: "pending", reason: None, placed: None }
        }
        (None, _) => return Err(Problem::NotFound),
    };
    Ok(([(FRESHNESS, encode_freshness(fresh))], Json(shown)).into_response())
}

/// `?cursor=&limit=`.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    cursor: Option<String>,
    limit: Option<u32>,
}

/// `GET /v1/orders`: the tenant's orders, by id. `next` is the cursor of the next page, null on the last.
pub(super) async fn list(
    State(gateway): State<Gateway>,
    query: Result<Query<Page>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(page) = query.map_err(|rejection| Problem::BadRequest(rejection.to_string()))?;
    let tenant = request::tenant(&headers)?;
    let limit = page.limit.unwrap_or(PAGE_DEFAULT.min(gateway.limits.page_max));
    if !(1..=gateway.limits.page_max).contains(&limit) {
        return Err(Problem::BadRequest(format!("limit is 1 to {}", gateway.limits.page_max)));
    }
    let scan = Scan {
        table: "orders".to_owned(),
        prefix: format!("{tenant}/"),
        after: page.cursor.map(|cursor| parse_cursor(&tenant, &cursor)).transpose()?,
        // One more than is shown tells whether there is a next page.
        limit: limit.saturating_add(1),
    };
    let at_least = request::freshness(&headers)?;
    let (rows, fresh) = in_time(&gateway, gateway.reader.scan(scan, at_least)).await?;
    let shown = limit as usize;
    let last = rows.get(shown.saturating_sub(1)).filter(|_| rows.len() > shown);
    let next = last.map(|last| URL_SAFE_NO_PAD.encode(Row::key_text(&last.row.key())));
    let orders: Vec<Shown> = rows.iter().take(shown).filter_map(|row| as_order(&row.row)).map(show).collect();
    let body = Json(json!({ "orders": orders, "next": next }));
    Ok(([(FRESHNESS, encode_freshness(fresh))], body).into_response())
}

/// The tenant's order, if the read side has it.
pub(super) async fn find(
    gateway: &Gateway,
    subject: &Subject,
    at_least: Option<Freshness>,
) -> Result<(Option<Order>, Freshness), Problem> {
    let keys = vec![RowKey::Order(subject.clone())];
    let (rows, fresh) = in_time(gateway, gateway.reader.read(keys, at_least)).await?;
    let order = rows.iter().find_map(|row| as_order(&row.row)).cloned();
    Ok((order, fresh))
}

type ReadResult = Result<(Vec<Versioned<Row>>, Freshness), Failure>;

async fn in_time(
    gateway: &Gateway,
    reading: impl Future<Output = ReadResult>,
) -> Result<(Vec<Versioned<Row>>, Freshness), Problem> {
    let outcome = tokio::time::timeout(gateway.limits.read_time, reading).await;
    outcome.unwrap_or(Err(Failure::NotDone(Cause::TimedOut))).map_err(|failure| Problem::of_read(&failure))
}

/// The key text that a cursor stands for; only one of this tenant's.
fn parse_cursor(tenant: &Tenant, cursor: &str) -> Result<String, Problem> {
    let key = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let of_tenant = |key: &String| {
        let id = key.strip_prefix(tenant.as_str()).and_then(|rest| rest.strip_prefix('/'));
        id.is_some_and(|id| Uuid::try_parse(id).is_ok())
    };
    key.filter(of_tenant).ok_or_else(|| Problem::BadRequest("the cursor is not one of this list".to_owned()))
}

fn as_order(row: &Row) -> Option<&Order> {
    if let Row::Order(order) = row { Some(order) } else { None }
}

fn show(order: &Order) -> Shown {
    let (status, reason) = match &order.state {
        OrderState::Foretold(_) | OrderState::Open { .. } => ("pending", None),
        OrderState::Confirmed { .. } => ("confirmed", None),
        OrderState::Cancelled { reason, .. } => ("cancelled", Some(*reason)),
    };
    let placed = order.placed().map(|placed| ShownBasket {
        customer: placed.basket.customer().to_string(),
        currency: placed.basket.total().currency.to_string(),
        lines: placed.basket.lines().to_vec(),
        total_minor: placed.basket.total().minor,
        placed_at: Timestamp(placed.placed_at_ms.saturating_mul(1_000)).rfc3339(),
    });
    Shown { id: order.subject.order, status, reason, placed }
}
