//! The gateway over HTTP: what clients are promised, and what every mistake of theirs is answered with.

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use rstest::rstest;
use serde_json::{Value, json};
use stormglass_orders::{
    Event, Row,
    events::CancelReason,
    gateway::{FRESHNESS, Keyring, KeyringError, Receipt, Secret, decode_freshness, encode_freshness},
    orders::{Order, OrderState, Placed, Progress},
    types::Fingerprint,
};
use stormglass_runtime::{Cause, Failure, Freshness, Reason, Record};
use tokio::time::Duration;

use super::{
    gateway_fakes::{Answer, Desk, ring, send},
    world::{basket, subject},
};

/// A body that asks for what [`basket`] holds.
fn body(items: &[(&str, i64)]) -> Value {
    let lines: Vec<Value> = items
        .iter()
        .map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity, "unit_price_minor": 500 }))
        .collect();
    json!({ "customer": "ada@example.org", "currency": "EUR", "lines": lines })
}

fn post(path: &str, key: &str, body: impl ToString) -> Request<Body> {
    Request::post(path)
        .header("stormglass-tenant", "acme")
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .expect("a request")
}

fn place(key: &str, items: &[(&str, i64)]) -> Request<Body> {
    post("/v1/orders", key, body(items))
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("stormglass-tenant", "acme").body(Body::empty()).expect("a request")
}

fn order(key: &str, state: OrderState) -> Row {
    Row::Order(Order { subject: subject(key), state, conflicts: 0, cancels_refused: 0 })
}

fn open(key: &str, items: &[(&str, i64)]) -> Row {
    let basket = basket(items);
    let placed = Placed { fingerprint: basket.fingerprint(), basket, placed_at_ms: 1_700_000_000_000 };
    order(key, OrderState::Open { placed, progress: Progress::Nothing })
}

#[track_caller]
fn check_problem(answer: &Answer, status: StatusCode, slug: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.body["type"], format!("urn:stormglass:problem:{slug}"));
    assert_eq!(answer.body["status"], status.as_u16());
    for member in ["title", "detail", "instance"] {
        assert!(answer.body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {answer:?}");
    }
    assert_eq!(status == StatusCode::SERVICE_UNAVAILABLE, answer.headers.contains_key("retry-after"));
}

fn ce_id(record: &Record) -> String {
    record.headers.text("ce_id").expect("an id").to_owned()
}

#[tokio::test]
async fn an_accepted_order_is_on_the_log_and_its_receipt_leads_to_it() {
    let desk = Desk::default();
    let answer = desk.send(place("a", &[("tea", 2)])).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let published = desk.paper().published.clone();
    let [record] = published.as_slice() else { panic!("one record: {published:?}") };
    let Ok(Some(Event::OrderPlaced(event))) = Event::decode(record) else { panic!("{record:?}") };
    assert_eq!(event.subject, subject("a"));
    assert_eq!(event.basket, basket(&[("tea", 2)]));
    assert_eq!(event.placed_at_ms, 1_700_000_000_000);
    assert_eq!(record.headers.text("ce_source"), Some("/stormglass/gateway"));

    let location = answer.header("location");
    assert!(location.starts_with(&format!("/v1/orders/{}?receipt=one.", subject("a").order)), "{location}");
    let pending = desk.send(get(location)).await;
    assert_eq!((pending.status, &pending.body["status"]), (StatusCode::OK, &json!("pending")));
    desk.put(open("a", &[("tea", 2)]));
    let found = desk.send(get(location)).await;
    assert_eq!(found.body["total_minor"], 1000);
    assert_eq!(found.body["placed_at"], "2023-11-14T22:13:20Z");
}

#[tokio::test]
async fn a_repeat_is_the_same_event_and_another_body_another_one_of_the_same_order() {
    let desk = Desk::default();
    let spaced = serde_json::to_string_pretty(&body(&[("tea", 2)])).expect("JSON");
    let first = desk.send(place("a", &[("tea", 2)])).await;
    let again = desk.send(post("/v1/orders", "a", spaced)).await;
    assert_eq!(first.header("location"), again.header("location"));
    let other = desk.send(place("a", &[("tea", 3)])).await;
    assert_eq!(other.body["id"], first.body["id"]);
    let published = desk.paper().published.clone();
    assert_eq!(ce_id(&published[0]), ce_id(&published[1]));
    assert_ne!(ce_id(&published[0]), ce_id(&published[2]));
    assert!(published.iter().all(|record| record.key == published[0].key));
}

#[tokio::test]
async fn another_body_under_a_key_that_is_seen_taken_is_refused_and_not_published() {
    let desk = Desk::default();
    desk.put(open("a", &[("tea", 2)]));
    check_problem(
        &desk.send(place("a", &[("tea", 3)])).await,
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
    );
    assert!(desk.paper().published.is_empty());
    assert_eq!(desk.send(place("a", &[("tea", 2)])).await.status, StatusCode::ACCEPTED);
}

#[rstest]
#[case::down(Some(Failure::NotDone(Cause::Disconnected)), Duration::ZERO)]
#[case::slow(None, Duration::from_secs(3600))]
#[tokio::test(start_paused = true)]
async fn orders_are_accepted_while_the_database_is_away(
    #[case] reading: Option<Failure>,
    #[case] delay: Duration,
) {
    let desk = Desk::default();
    (desk.paper().reading, desk.paper().read_delay) = (reading, delay);
    let begun = tokio::time::Instant::now();
    assert_eq!(desk.send(place("a", &[("tea", 1)])).await.status, StatusCode::ACCEPTED);
    assert!(begun.elapsed() <= Duration::from_millis(60), "{:?}", begun.elapsed());
}

#[rstest]
#[case::not_done(Failure::NotDone(Cause::TooFewReplicas), StatusCode::SERVICE_UNAVAILABLE, "not-accepted")]
#[case::unknown(Failure::Unknown(Cause::TimedOut), StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown")]
#[case::too_large(Failure::Rejected(Reason::TooLarge { bytes: 9, limit: 8 }), StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")]
#[case::no_topic(Failure::Rejected(Reason::UnknownTopic("orders".to_owned())), StatusCode::INTERNAL_SERVER_ERROR, "internal")]
#[tokio::test]
async fn a_failed_publication_says_whether_it_happened(
    #[case] failure: Failure,
    #[case] status: StatusCode,
    #[case] slug: &str,
) {
    let desk = Desk::default();
    desk.paper().publishing = Some(failure);
    let answer = desk.send(place("a", &[("tea", 1)])).await;
    check_problem(&answer, status, slug);
    assert!(!answer.headers.contains_key("location"), "a receipt is revealed only in a 202");
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_never_answers_leaves_the_outcome_unknown() {
    let desk = Desk::default();
    desk.paper().producer_hangs = true;
    let answer = desk.send(place("a", &[("tea", 1)])).await;
    check_problem(&answer, StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown");
    assert!(answer.body["detail"].as_str().is_some_and(|text| text.contains("same Idempotency-Key")));
}

#[rstest]
#[case::currency(json!({ "customer": "a", "currency": "XYZ", "lines": [{ "sku": "tea", "quantity": 1, "unit_price_minor": 1 }] }))]
#[case::quantity_zero(json!({ "customer": "a", "currency": "EUR", "lines": [{ "sku": "tea", "quantity": 0, "unit_price_minor": 1 }] }))]
#[case::quantity_fraction(json!({ "customer": "a", "currency": "EUR", "lines": [{ "sku": "tea", "quantity": 1.5, "unit_price_minor": 1 }] }))]
#[case::price_negative(json!({ "customer": "a", "currency": "EUR", "lines": [{ "sku": "tea", "quantity": 1, "unit_price_minor": -1 }] }))]
#[case::overflow(json!({ "customer": "a", "currency": "EUR", "lines": [{ "sku": "tea", "quantity": 2, "unit_price_minor": i64::MAX }] }))]
#[case::beyond_i64(json!({ "customer": "a", "currency": "EUR", "lines": [{ "sku": "tea", "quantity": 1, "unit_price_minor": u64::MAX }] }))]
#[case::free(json!({ "customer": "a", "currency": "EUR", "lines": [{ "sku": "tea", "quantity": 1, "unit_price_minor": 0 }] }))]
#[case::empty(json!({ "customer": "a", "currency": "EUR", "lines": [] }))]
#[case::bad_sku(json!({ "customer": "a", "currency": "EUR", "lines": [{ "sku": "te/a", "quantity": 1, "unit_price_minor": 1 }] }))]
#[case::sku_twice(body(&[("tea", 1), ("tea", 2)]))]
#[case::nul(json!({ "customer": "a\u{0}", "currency": "EUR", "lines": [{ "sku": "tea", "quantity": 1, "unit_price_minor": 1 }] }))]
#[case::no_customer(json!({ "currency": "EUR", "lines": [] }))]
#[case::not_an_object(json!([]))]
#[tokio::test]
async fn an_order_that_is_not_valid_is_refused(#[case] body: Value) {
    let desk = Desk::default();
    check_problem(
        &desk.send(post("/v1/orders", "a", body)).await,
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid-order",
    );
    assert!(desk.paper().published.is_empty());
}

#[tokio::test]
async fn an_order_of_too_many_lines_is_refused() {
    let mut desk = Desk::default().gateway();
    desk.limits.body_bytes = 64 * 1024;
    let names: Vec<String> = (0..101).map(|line| format!("sku-{line}")).collect();
    let items: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let accepted = send(desk.clone().router(), place("a", &items[..100])).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    check_problem(
        &send(desk.router(), place("b", &items)).await,
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid-order",
    );
}

#[rstest]
#[case::no_tenant(Some("a"), None, "bad-request")]
#[case::tenant_of_other_characters(Some("a"), Some("ac/me"), "bad-request")]
#[case::no_key(None, Some("acme"), "bad-request")]
#[case::empty_key(Some(""), Some("acme"), "bad-request")]
#[case::key_with_a_space(Some("a b"), Some("acme"), "bad-request")]
#[tokio::test]
async fn headers_that_are_missing_or_malformed_are_refused(
    #[case] key: Option<&str>,
    #[case] tenant: Option<&str>,
    #[case] slug: &str,
) {
    let mut request = Request::post("/v1/orders");
    for (name, value) in [("idempotency-key", key), ("stormglass-tenant", tenant)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    let request = request.body(Body::from(body(&[("tea", 1)]).to_string())).expect("a request");
    check_problem(&Desk::default().send(request).await, StatusCode::BAD_REQUEST, slug);
}

#[tokio::test]
async fn an_idempotency_key_has_at_most_255_characters() {
    let desk = Desk::default();
    assert_eq!(desk.send(place(&"k".repeat(255), &[("tea", 1)])).await.status, StatusCode::ACCEPTED);
    check_problem(
        &desk.send(place(&"k".repeat(256), &[("tea", 1)])).await,
        StatusCode::BAD_REQUEST,
        "bad-request",
    );
}

#[rstest]
#[case::not_json("{", StatusCode::BAD_REQUEST, "malformed-json")]
#[case::nothing("", StatusCode::BAD_REQUEST, "malformed-json")]
#[case::too_large(&"x".repeat(4097), StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")]
#[case::deep(&"[".repeat(4000), StatusCode::BAD_REQUEST, "malformed-json")]
#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused(
    #[case] body: &str,
    #[case] status: StatusCode,
    #[case] slug: &str,
) {
    check_problem(&Desk::default().send(post("/v1/orders", "a", body)).await, status, slug);
}

#[tokio::test]
async fn a_body_that_is_not_json_by_its_own_word_is_refused() {
    let mut request = place("a", &[("tea", 1)]);
    request.headers_mut().insert("content-type", "text/plain".parse().expect("a value"));
    let answer = Desk::default().send(request).await;
    check_problem(&answer, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type");
}

#[rstest]
#[case::unknown_path(Method::GET, "/v2", StatusCode::NOT_FOUND, "not-found")]
#[case::unknown_order(
    Method::GET,
    "/v1/orders/0190c7e0-0000-8000-8000-000000000000",
    StatusCode::NOT_FOUND,
    "not-found"
)]
#[case::no_id(Method::GET, "/v1/orders/banana", StatusCode::NOT_FOUND, "not-found")]
#[case::no_text(Method::GET, "/v1/orders/%ff", StatusCode::NOT_FOUND, "not-found")]
#[case::method(Method::DELETE, "/v1/orders", StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed")]
#[case::bad_query(Method::GET, "/v1/orders?limit=many", StatusCode::BAD_REQUEST, "bad-request")]
#[case::limit_zero(Method::GET, "/v1/orders?limit=0", StatusCode::BAD_REQUEST, "bad-request")]
#[case::limit_too_large(Method::GET, "/v1/orders?limit=4", StatusCode::BAD_REQUEST, "bad-request")]
#[case::bad_cursor(Method::GET, "/v1/orders?cursor=banana", StatusCode::BAD_REQUEST, "bad-request")]
#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_a_problem_too(
    #[case] method: Method,
    #[case] path: &str,
    #[case] status: StatusCode,
    #[case] slug: &str,
) {
    let mut request = get(path);
    *request.method_mut() = method;
    let answer = Desk::default().send(request).await;
    check_problem(&answer, status, slug);
    assert_eq!(answer.body["instance"], path.split('?').next().expect("a path"));
    assert_eq!(status == StatusCode::METHOD_NOT_ALLOWED, answer.headers.contains_key("allow"));
}

/// The table of GET in DESIGN section 7: what is there × which receipt is shown.
#[rstest]
#[case::row_without_receipt(true, "", StatusCode::OK)]
#[case::row_with_its_receipt(true, "right", StatusCode::OK)]
#[case::row_with_another_body(true, "other", StatusCode::UNPROCESSABLE_ENTITY)]
#[case::row_with_nonsense(true, "nonsense", StatusCode::UNPROCESSABLE_ENTITY)]
#[case::no_row_no_receipt(false, "", StatusCode::NOT_FOUND)]
#[case::no_row_with_its_receipt(false, "right", StatusCode::OK)]
#[case::no_row_with_the_receipt_of_a_conflict(false, "other", StatusCode::OK)]
#[case::no_row_with_a_receipt_of_another_order(false, "stolen", StatusCode::NOT_FOUND)]
#[case::no_row_with_a_forged_receipt(false, "forged", StatusCode::NOT_FOUND)]
#[case::no_row_with_nonsense(false, "nonsense", StatusCode::NOT_FOUND)]
#[tokio::test]
async fn reading_an_order_follows_its_receipt(
    #[case] row: bool,
    #[case] receipt: &str,
    #[case] status: StatusCode,
) {
    let desk = Desk::default();
    if row {
        desk.put(open("a", &[("tea", 2)]));
    }
    let fingerprint = basket(&[("tea", 2)]).fingerprint();
    let signed = |key: &str, fingerprint: Fingerprint| {
        ring(&["one"], "one").sign(&subject(key), fingerprint).to_string()
    };
    let receipt = match receipt {
        "right" => signed("a", fingerprint),
        "other" => signed("a", basket(&[("tea", 3)]).fingerprint()),
        "stolen" => signed("b", fingerprint),
        "forged" => ring(&["two"], "two").sign(&subject("a"), fingerprint).to_string(),
        other => other.to_owned(),
    };
    let query = if receipt.is_empty() { String::new() } else { format!("?receipt={receipt}") };
    let answer = desk.send(get(&format!("/v1/orders/{}{query}", subject("a").order))).await;
    assert_eq!(answer.status, status, "{answer:?}");
}

#[tokio::test]
async fn no_tenant_sees_another_ones_order_even_with_its_receipt() {
    let desk = Desk::default();
    let accepted = desk.send(place("a", &[("tea", 2)])).await;
    desk.put(open("a", &[("tea", 2)]));
    for path in [accepted.header("location"), "/v1/orders"] {
        let mut request = get(path);
        request.headers_mut().insert("stormglass-tenant", "acm".parse().expect("a value"));
        let answer = desk.send(request).await;
        let sees = answer.status == StatusCode::OK && answer.body["orders"] != json!([]);
        assert!(!sees, "{answer:?}");
    }
}

#[tokio::test]
async fn a_list_is_walked_by_its_cursor_and_shows_each_order_once() {
    let desk = Desk::default();
    let keys = ["a", "b", "c", "d", "e"];
    for key in keys {
        desk.put(open(key, &[("tea", 1)]));
    }
    let (mut path, mut seen) = ("/v1/orders?limit=2".to_owned(), Vec::new());
    for page in [2, 2, 1] {
        let answer = desk.send(get(&path)).await;
        let orders = answer.body["orders"].as_array().expect("a list").clone();
        assert_eq!(orders.len(), page);
        seen.extend(orders.iter().map(|order| order["id"].as_str().expect("an id").to_owned()));
        let next = answer.body["next"].as_str().unwrap_or_default().to_owned();
        assert_eq!(next.is_empty(), page == 1);
        path = format!("/v1/orders?limit=2&cursor={next}");
    }
    let mut expected: Vec<String> = keys.iter().map(|key| subject(key).order.to_string()).collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_page_that_ends_the_list_has_no_next() {
    let desk = Desk::default();
    desk.put(open("a", &[("tea", 1)]));
    desk.put(open("b", &[("tea", 1)]));
    assert_eq!(desk.send(get("/v1/orders?limit=2")).await.body["next"], Value::Null);
}

#[tokio::test]
async fn freshness_goes_out_with_an_answer_and_comes_back_with_the_next_request() {
    let desk = Desk::default();
    desk.put(open("a", &[("tea", 1)]));
    desk.paper().lsn = 7;
    let path = format!("/v1/orders/{}", subject("a").order);
    for path in [path.as_str(), "/v1/orders"] {
        let token = desk.send(get(path)).await.header(FRESHNESS).to_owned();
        let mut request = get(path);
        request.headers_mut().insert(FRESHNESS, token.parse().expect("a value"));
        assert_eq!(desk.send(request).await.status, StatusCode::OK);
        assert_eq!(desk.paper().asked.last(), Some(&Some(Freshness { timeline: 1, lsn: 7 })));
    }
    let mut request = get("/v1/orders");
    request.headers_mut().insert(FRESHNESS, "banana".parse().expect("a value"));
    check_problem(&desk.send(request).await, StatusCode::BAD_REQUEST, "bad-request");
}

#[rstest]
#[case(Freshness { timeline: 0, lsn: 0 })]
#[case(Freshness { timeline: u32::MAX, lsn: u64::MAX })]
fn a_freshness_token_survives_the_trip(#[case] freshness: Freshness) {
    assert_eq!(decode_freshness(&encode_freshness(freshness)), Some(freshness));
}

#[tokio::test(start_paused = true)]
async fn reads_that_nobody_answers_are_unavailable_and_not_empty() {
    let desk = Desk::default();
    let accepted = desk.send(place("a", &[("tea", 1)])).await;
    desk.paper().read_delay = Duration::from_secs(3600);
    for path in [accepted.header("location"), "/v1/orders"] {
        check_problem(&desk.send(get(path)).await, StatusCode::SERVICE_UNAVAILABLE, "reads-unavailable");
    }
}

#[tokio::test]
async fn an_order_is_cancelled_by_its_receipt_or_once_it_is_seen_and_each_cancellation_is_one_event() {
    let desk = Desk::default();
    let accepted = desk.send(place("a", &[("tea", 1)])).await;
    let with_receipt = accepted.body["links"]["cancel"].as_str().expect("a link").to_owned();
    let bare = format!("/v1/orders/{}/cancel", subject("a").order);
    let cancel = |path: &str| {
        Request::post(path).header("stormglass-tenant", "acme").body(Body::empty()).expect("a request")
    };
    check_problem(&desk.send(cancel(&bare)).await, StatusCode::NOT_FOUND, "not-found");
    desk.paper().reading = Some(Failure::NotDone(Cause::Disconnected));
    assert_eq!(desk.send(cancel(&with_receipt)).await.status, StatusCode::ACCEPTED);
    desk.paper().reading = None;
    desk.put(order("a", OrderState::Cancelled { placed: None, reason: CancelReason::Failed }));
    assert_eq!(desk.send(cancel(&bare)).await.status, StatusCode::ACCEPTED);
    let published = desk.paper().published.clone();
    assert_eq!(ce_id(&published[1]), ce_id(&published[2]));
    let Ok(Some(Event::OrderCancelRequested(event))) = Event::decode(&published[1]) else {
        panic!("{published:?}")
    };
    assert_eq!(event.subject, subject("a"));
}

#[tokio::test]
async fn a_cancelled_order_says_why() {
    let desk = Desk::default();
    desk.put(order("a", OrderState::Cancelled { placed: None, reason: CancelReason::OutOfStock }));
    let answer = desk.send(get(&format!("/v1/orders/{}", subject("a").order))).await;
    assert_eq!(answer.body["status"], "cancelled");
    assert_eq!(answer.body["reason"], "out-of-stock");
}

#[tokio::test]
async fn live_means_not_stuck_and_ready_means_that_orders_can_be_accepted() {
    let desk = Desk::default();
    assert_eq!(desk.send(get("/livez")).await.status, StatusCode::OK);
    let ready = desk.send(get("/readyz")).await;
    assert_eq!((ready.status, &ready.body["postgresql"]), (StatusCode::OK, &json!("down")));
    desk.paper().stuck = Some("lane 3 has not moved".to_owned());
    desk.paper().broker_down = true;
    check_problem(&desk.send(get("/livez")).await, StatusCode::SERVICE_UNAVAILABLE, "stuck");
    check_problem(&desk.send(get("/readyz")).await, StatusCode::SERVICE_UNAVAILABLE, "not-ready");
}

#[test]
fn a_new_key_verifies_before_it_signs_and_an_old_one_after_it_signed() {
    let (subject, fingerprint) = (subject("a"), basket(&[("tea", 1)]).fingerprint());
    let old = ring(&["one"], "one");
    let distributed = ring(&["one", "two"], "one");
    let rotated = ring(&["one", "two"], "two");
    assert!(distributed.verify(&subject, &old.sign(&subject, fingerprint)));
    assert!(distributed.verify(&subject, &rotated.sign(&subject, fingerprint)));
    assert!(rotated.verify(&subject, &old.sign(&subject, fingerprint)));
    assert!(!old.verify(&subject, &rotated.sign(&subject, fingerprint)));
    let receipt = old.sign(&subject, fingerprint);
    assert_eq!(Receipt::parse(&receipt.to_string()), Some(receipt));
}

#[test]
fn a_ring_that_could_not_work_is_refused_and_never_shows_its_keys() {
    let secret = || Secret::new(b"0123456789abcdef0123456789abcdef").expect("long enough");
    let ring = |id: &str, signer| Keyring::new([(id.to_owned(), secret())].into(), signer);
    assert_eq!(ring("one", "two").err(), Some(KeyringError::NoSigner("two".to_owned())));
    assert_eq!(ring("o.ne", "o.ne").err(), Some(KeyringError::KeyId("o.ne".to_owned())));
    assert_eq!(Secret::new(b"short").err(), Some(KeyringError::ShortKey));
    let shown = format!("{:?}", ring("one", "one"));
    assert!(!shown.contains("0123") && !shown.contains("48, 49"), "{shown}");
}
