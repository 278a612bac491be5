//! The OpenAPI document is the router: every route and every answer is in it, and everything in it is real.

#![expect(clippy::expect_used, reason = "a helper that cannot do its part fails the test")]

mod desk;
mod document;

use std::{collections::BTreeSet, convert::Infallible};

use axum::{
    body::{Body, Bytes},
    http::{Method, Request, StatusCode},
};
use http_body_util::BodyExt;
use rstest::rstest;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use stormglass_orders::{events::CancelReason, types::BasketParts};
use stormglass_runtime::{Cause, Failure, Reason};
use tower::ServiceExt;

use self::{
    desk::{Desk, bare, basket, body, keyring, orders, place, request, subject},
    document::{Answer, Document},
};

/// What is asked, and of whom.
type Exchange = (Desk, Request<Body>);

async fn send(desk: &Desk, request: Request<Body>) -> Answer {
    let response = desk.router().oneshot(request).await.expect("a router answers");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes().to_vec();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// The path of the document that a request's path is an instance of.
fn template(path: &str) -> String {
    let part = |(index, part): (usize, &str)| if index == 3 { "{id}".to_owned() } else { part.to_owned() };
    path.split('/').enumerate().map(part).collect::<Vec<_>>().join("/")
}

fn well() -> Desk {
    Desk { rows: orders(), ..Desk::default() }
}

fn sick() -> Desk {
    Desk { sick: true, ..Desk::default() }
}

fn failures() -> [Failure; 3] {
    let no_topic = Failure::Rejected(Reason::UnknownTopic("orders".to_owned()));
    [Failure::NotDone(Cause::TooFewReplicas), Failure::Unknown(Cause::TimedOut), no_topic]
}

/// Gateways that cannot publish, each in another way.
fn mute() -> [Desk; 3] {
    failures().map(|failure| Desk { publishing: Some(failure), ..well() })
}

/// Gateways that cannot read, each in another way.
fn blind() -> [Desk; 3] {
    failures().map(|failure| Desk { reading: Some(failure), ..Desk::default() })
}

fn order(key: &str) -> String {
    format!("/v1/orders/{}", subject(key).order)
}

fn with_receipt(key: &str) -> String {
    format!("?receipt={}", keyring().sign(&subject(key), basket().fingerprint()))
}

fn text(request: axum::http::request::Builder, body: impl ToString) -> Request<Body> {
    request.body(Body::from(body.to_string())).expect("a request")
}

fn placing() -> Vec<Exchange> {
    let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
    let mut other = body();
    other["customer"] = json!("eve");
    let plain =
        request("POST", "/v1/orders").header("idempotency-key", "new").header("content-type", "text/plain");
    let mut exchanges = vec![
        (well(), text(place("new"), body())),
        (well(), text(request("POST", "/v1/orders"), body())),
        (well(), text(place("new"), "{")),
        (well(), place("new").body(endless).expect("a request")),
        (well(), text(place("new"), "x".repeat(5_000))),
        (well(), text(plain, body())),
        (well(), text(place("new"), json!({}))),
        (well(), text(place("open"), other)),
    ];
    exchanges.extend(mute().map(|desk| (desk, text(place("new"), body()))));
    exchanges
}

fn reading() -> Vec<Exchange> {
    let get = |path: &str| bare(request("GET", path));
    let stale = |path: &str| bare(request("GET", path).header("stormglass-freshness", "banana"));
    let mut exchanges = vec![
        (well(), get("/v1/orders")),
        (well(), get("/v1/orders?limit=2")),
        (Desk::default(), get("/v1/orders")),
        (well(), get("/v1/orders?limit=0")),
        (well(), stale("/v1/orders")),
        (Desk::default(), get(&format!("{}{}", order("new"), with_receipt("new")))),
        (well(), stale(&order("open"))),
        (well(), get(&order("new"))),
        (well(), get("/v1/orders/banana")),
        (well(), get(&format!("{}?receipt=banana", order("open")))),
    ];
    let keys = ["foretold", "open", "confirmed", "cancelled", "cancelled-early"];
    exchanges.extend(keys.map(|key| (well(), get(&order(key)))));
    exchanges.extend(blind().map(|desk| (desk, get("/v1/orders"))));
    exchanges.extend(blind().map(|desk| (desk, get(&order("open")))));
    exchanges
}

fn cancelling() -> Vec<Exchange> {
    let cancel = |key: &str, query: &str| request("POST", &format!("{}/cancel{query}", order(key)));
    let mut exchanges = vec![
        (well(), bare(cancel("open", ""))),
        (Desk::default(), bare(cancel("new", &with_receipt("new")))),
        (well(), bare(cancel("open", "").header("stormglass-freshness", "banana"))),
        (well(), bare(cancel("new", ""))),
    ];
    exchanges.extend(mute().map(|desk| (desk, bare(cancel("open", "")))));
    exchanges.extend(blind().map(|desk| (desk, bare(cancel("open", "")))));
    exchanges
}

fn operating() -> Vec<Exchange> {
    let get = |path: &str| bare(request("GET", path));
    let alike = ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs"].map(|path| (well(), get(path)));
    alike.into_iter().chain([(sick(), get("/livez")), (sick(), get("/readyz"))]).collect()
}

#[tokio::test]
async fn every_answer_is_in_the_document_and_every_answer_of_the_document_is_given() {
    let document = Document::read();
    let mut given = BTreeSet::new();
    for (desk, request) in [placing(), reading(), cancelling(), operating()].into_iter().flatten() {
        let (method, path) = (request.method().clone(), template(request.uri().path()));
        let answer = send(&desk, request).await;
        given.insert(document.check((&method, &path), &answer));
    }
    let described = document.answers();
    let never: Vec<_> = described.difference(&given).collect();
    assert!(never.is_empty(), "described, but never given: {never:#?}");
}

/// The paths are read from the router's `Debug`, the one place where axum names them; the methods from `Allow`.
#[tokio::test]
async fn every_route_is_in_the_document() {
    let shown = format!("{:?}", well().router());
    let named = shown.split("fallback_router").next().expect("a first part");
    let mut routes = BTreeSet::new();
    for path in named.split('"').filter(|part| part.starts_with('/')) {
        let nobody_takes =
            bare(request("TRACE", &path.replace("{id}", "0190c7e0-0000-8000-8000-000000000000")));
        let answer = send(&well(), nobody_takes).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = answer.headers["allow"].to_str().expect("text").split(',');
        // Wherever there is GET, axum answers HEAD.
        let methods = allowed.filter(|method| *method != "HEAD").map(str::to_owned).collect();
        routes.insert((path.to_owned(), methods));
    }
    assert_eq!(routes, Document::read().routes());
}

#[test]
fn what_is_ordered_and_why_it_is_cancelled_are_described_as_the_code_has_them() {
    let settings =
        SchemaSettings::draft2020_12().with(|to| to.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    generator.subschema_for::<BasketParts>();
    generator.subschema_for::<CancelReason>();
    let Document(document) = Document::read();
    for (name, schema) in generator.take_definitions(true) {
        assert_eq!(document["components"]["schemas"][&name], schema, "{name} should be:\n{schema:#}");
    }
}

#[test]
fn the_document_is_of_this_release() {
    assert_eq!(Document::read().0["info"]["version"], env!("CARGO_PKG_VERSION"));
}

fn with(pointer: &str, value: Value) -> Value {
    let mut body = body();
    *body.pointer_mut(pointer).expect("a part of the body") = value;
    body
}

/// `Prose`: refused by a rule that the document states in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nobody,
    Schema,
    Prose,
}

#[rstest]
#[case::as_it_should_be(body(), By::Nobody)]
#[case::a_gift_beside(with("/lines", json!([
    { "sku": "a", "quantity": 1, "unit_price_minor": 0 },
    { "sku": "b", "quantity": 1_000_000, "unit_price_minor": 1 }
])), By::Nobody)]
#[case::no_lines(with("/lines", json!([])), By::Schema)]
#[case::quantity_zero(with("/lines/0/quantity", json!(0)), By::Schema)]
#[case::quantity_too_large(with("/lines/0/quantity", json!(1_000_001)), By::Schema)]
#[case::quantity_fraction(with("/lines/0/quantity", json!(1.5)), By::Schema)]
#[case::price_negative(with("/lines/0/unit_price_minor", json!(-1)), By::Schema)]
#[case::sku_of_other_characters(with("/lines/0/sku", json!("a/b")), By::Schema)]
#[case::customer_with_a_space(with("/customer", json!("a b")), By::Schema)]
#[case::currency_in_small_letters(with("/currency", json!("eur")), By::Schema)]
#[case::not_an_object(json!([]), By::Schema)]
#[case::currency_not_in_use(with("/currency", json!("XYZ")), By::Prose)]
#[case::sum_of_zero(with("/lines/0/unit_price_minor", json!(0)), By::Prose)]
#[case::sum_that_overflows(with("/lines/0/unit_price_minor", json!(i64::MAX)), By::Prose)]
#[case::a_sku_twice(with("/lines", json!([body()["lines"][0], body()["lines"][0]])), By::Prose)]
#[tokio::test]
async fn what_the_schema_refuses_the_gateway_refuses(#[case] body: Value, #[case] refused: By) {
    let document = Document::read();
    let schema = json!({ "$ref": "#/components/schemas/BasketParts" });
    assert_eq!(document.faults(&schema, &body).is_empty(), refused != By::Schema, "{body}");
    let answer = send(&well(), text(place("new"), body)).await;
    let expected =
        if refused == By::Nobody { StatusCode::ACCEPTED } else { StatusCode::UNPROCESSABLE_ENTITY };
    assert_eq!(answer.status, expected);
}

/// The check itself is no formality: an answer that differs in one thing is refused.
#[rstest]
#[case::another_status(|answer: &mut Answer| answer.status = StatusCode::OK)]
#[case::no_location(|answer: &mut Answer| { answer.headers.remove("location"); })]
#[case::a_header_more(|answer: &mut Answer| { answer.headers.insert("retry-after", "1".parse().expect("a value")); })]
#[case::another_type(|answer: &mut Answer| { answer.headers.insert("content-type", "text/plain".parse().expect("a value")); })]
#[case::a_member_more(|answer: &mut Answer| answer.body.splice(1..1, *br#""more":1,"#).for_each(drop))]
#[case::no_body(|answer: &mut Answer| answer.body = b"{}".to_vec())]
#[tokio::test]
#[should_panic(expected = "POST /v1/orders 20")]
async fn an_answer_that_is_not_as_described_is_caught(#[case] change: fn(&mut Answer)) {
    let mut answer = send(&well(), text(place("new"), body())).await;
    change(&mut answer);
    Document::read().check((&Method::POST, "/v1/orders"), &answer);
}
