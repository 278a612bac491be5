//! Records as a consumer meets them: never a crash, never a silent skip.

use bytes::Bytes;
use rstest::rstest;
use stormglass_orders::{Event, Inventory, Kind, Notifications, Orders, Payments};
use stormglass_runtime::{Record, Refusal, Service};
use tokio::time::Duration;

use super::world::{cancel_requested, nobody, placed, record, retyped};

/// What each of the four services makes of a record: "takes", "passes", "later" or "never".
fn taken(record: &Record) -> [&'static str; 4] {
    fn name<T>(decoded: Result<Option<T>, Refusal>) -> &'static str {
        match decoded {
            Ok(Some(_)) => "takes",
            Ok(None) => "passes",
            Err(Refusal::Later(_)) => "later",
            Err(Refusal::Never(_)) => "never",
        }
    }
    [
        name(Orders::new(Duration::from_secs(1)).decode(record)),
        name(Payments::new(nobody()).decode(record)),
        name(Inventory.decode(record)),
        name(Notifications::new(nobody()).decode(record)),
    ]
}

fn order_placed() -> Record {
    record(&placed("a", &[("tea", 1)]))
}

fn with_value(value: &'static str) -> Record {
    Record { value: Bytes::from(value), ..order_placed() }
}

fn with_key(key: Option<&'static str>) -> Record {
    Record { key: key.map(Bytes::from), ..order_placed() }
}

fn without_type() -> Record {
    let mut record = order_placed();
    record.headers.0.retain(|(name, _)| name != "ce_type");
    record
}

#[rstest]
#[case::good(order_placed(), ["takes", "takes", "takes", "passes"])]
#[case::of_no_known_type(retyped(order_placed(), "weather.changed.v1"), ["passes"; 4])]
#[case::of_a_newer_version(retyped(order_placed(), "order.placed.v2"), ["later", "later", "later", "passes"])]
#[case::of_no_version(retyped(order_placed(), "order.placed"), ["later", "later", "later", "passes"])]
#[case::not_json(with_value("banana"), ["never", "never", "never", "passes"])]
#[case::empty(with_value(""), ["never", "never", "never", "passes"])]
#[case::of_another_shape(with_value("{}"), ["never", "never", "never", "passes"])]
#[case::keyed_by_another_order(with_key(Some("x")), ["never", "never", "never", "passes"])]
#[case::without_a_key(with_key(None), ["never", "never", "never", "passes"])]
#[case::no_cloud_event(without_type(), ["never"; 4])]
fn each_service_takes_passes_or_refuses_a_record(#[case] record: Record, #[case] expected: [&str; 4]) {
    assert_eq!(taken(&record), expected);
}

#[test]
fn fields_that_a_newer_producer_adds_are_ignored() {
    let mut value: serde_json::Value = serde_json::from_slice(&order_placed().value).expect("JSON");
    value["gift_wrap"] = true.into();
    value["basket"]["lines"][0]["colour"] = "green".into();
    let newer = Record { value: Bytes::from(value.to_string()), ..order_placed() };
    assert_eq!(Event::decode(&newer), Event::decode(&order_placed()));
}

#[rstest]
#[case::quantity("/basket/lines/0/quantity", 0.into())]
#[case::tenant("/subject/tenant", "A".into())]
#[case::price("/basket/lines/0/unit_price_minor", (-1).into())]
#[case::nothing_to_pay("/basket/lines/0/unit_price_minor", 0.into())]
#[case::no_lines("/basket/lines", serde_json::json!([]))]
#[case::nul("/basket/customer", "a\u{0}".into())]
fn values_that_could_not_be_stored_are_refused_at_the_edge(
    #[case] field: &str,
    #[case] value: serde_json::Value,
) {
    let mut json: serde_json::Value = serde_json::from_slice(&order_placed().value).expect("JSON");
    *json.pointer_mut(field).expect("a field") = value;
    let broken = Record { value: Bytes::from(json.to_string()), ..order_placed() };
    assert!(matches!(Event::decode(&broken), Err(Refusal::Never(_))));
}

#[test]
fn an_event_is_a_cloud_event_in_binary_mode_keyed_by_its_order() {
    let event = cancel_requested("a");
    let record = record(&event);
    for name in ["ce_id", "ce_source", "ce_type", "ce_time", "ce_specversion"] {
        assert!(record.headers.text(name).is_some(), "{name}");
    }
    assert_eq!(record.headers.text("ce_type"), Some("order.cancel-requested.v1"));
    assert_eq!(record.key, Some(Bytes::from(event.subject.order.to_string())));
    let decoded = Event::decode(&record).expect("readable").expect("of this domain");
    assert_eq!((decoded.kind(), decoded.subject()), (Kind::OrderCancelRequested, &event.subject));
}
