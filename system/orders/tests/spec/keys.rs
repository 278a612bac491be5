//! Keys and rows: the order of locks is the order of the stored keys, and a row survives its image.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rstest::rstest;
use stormglass_orders::{
    Row, RowKey, Subject,
    events::ShortageReason,
    inventory::{Reservation, ReservationState},
    notifications::{Message, MessageState, NoticeKind},
    orders::{Order, OrderState, Placed, Progress},
    payments::{Capture, Payment, PaymentState},
    rows::CHECKED,
    types::{Currency, OrderId, Quantity, Sku, Tenant},
};
use stormglass_runtime::{Image, RowSet, Violation};
use uuid::Uuid;

use super::world::{basket, euros, reference, stock, subject};

fn keys() -> impl Strategy<Value = RowKey> {
    let subject = ("[a-c0-]{1,3}", any::<u128>().prop_map(|id| id % 3)).prop_map(|(tenant, id)| Subject {
        tenant: Tenant::new(&tenant).expect("valid"),
        order: OrderId(Uuid::from_u128(id << 100 | id)),
    });
    let kind = prop::sample::select(vec![NoticeKind::Refunded, NoticeKind::Confirmed, NoticeKind::Cancelled]);
    (subject, "[A-Za-z0-9._-]{1,3}", kind, 0..5).prop_map(|(subject, sku, kind, table)| match table {
        0 => RowKey::Order(subject),
        1 => RowKey::Payment(subject),
        2 => RowKey::Reservation(subject),
        3 => RowKey::Stock(subject.tenant, Sku::new(&sku).expect("valid")),
        _ => RowKey::Message(subject, kind),
    })
}

fn place_of_table(key: &RowKey) -> Option<usize> {
    Row::TABLES.iter().position(|table| *table == Row::table(key))
}

proptest! {
    #[test]
    fn keys_are_locked_by_table_and_then_in_the_order_of_their_stored_text(left in keys(), right in keys()) {
        let stored = |key: &RowKey| (place_of_table(key), Row::key_text(key).into_bytes());
        prop_assert_eq!(left.cmp(&right), stored(&left).cmp(&stored(&right)));
    }

    #[test]
    fn a_tenants_prefix_reaches_no_other_tenants_rows(left in keys(), right in keys()) {
        let tenant = |key: &RowKey| match key {
            RowKey::Order(subject) | RowKey::Payment(subject) | RowKey::Reservation(subject)
            | RowKey::Message(subject, _) => subject.tenant.clone(),
            RowKey::Stock(tenant, _) => tenant.clone(),
        };
        let reaches = Row::key_text(&right).starts_with(&format!("{}/", tenant(&left)));
        prop_assert_eq!(reaches, tenant(&left) == tenant(&right));
    }
}

fn samples() -> Vec<Row> {
    let subject = subject("a");
    let basket = basket(&[("tea", 1)]);
    let customer = basket.customer().clone();
    let placed = Placed { fingerprint: basket.fingerprint(), basket, placed_at_ms: 1 };
    let open = OrderState::Open { placed, progress: Progress::Paid };
    let capture = Capture { customer, amount: euros(500), charge: reference("ch-1") };
    vec![
        Row::Order(Order { subject: subject.clone(), state: open, conflicts: 1, cancels_refused: 2 }),
        Row::Payment(Payment { subject: subject.clone(), state: PaymentState::RefundOwed(capture) }),
        Row::Reservation(Reservation {
            subject: subject.clone(),
            state: ReservationState::Rejected(ShortageReason::SoldOut(super::world::sku("tea"))),
        }),
        stock("tea", 1, 2, 3),
        Row::Message(Message { subject, kind: NoticeKind::Confirmed, state: MessageState::Undelivered }),
    ]
}

#[test]
fn a_row_of_each_table_survives_its_image_and_satisfies_its_checks() {
    let samples = samples();
    let tables: BTreeSet<&str> = Row::TABLES.iter().copied().collect();
    assert_eq!(tables.len(), samples.len(), "a sample of each table");
    for row in samples {
        let key = row.key();
        assert!(tables.contains(Row::table(&key)));
        assert_eq!(row.check(), Ok(()));
        let body = serde_json::to_string(&row).expect("JSON");
        let image = Image { table: Row::table(&key).to_owned(), key: Row::key_text(&key), body };
        assert_eq!(Row::from_image(&image).expect("a row"), row);
    }
}

#[test]
fn every_check_that_rows_evaluate_can_fail() {
    let capture = |minor| {
        let customer = basket(&[("tea", 1)]).customer().clone();
        PaymentState::Captured(Capture { customer, amount: euros(minor), charge: reference("ch-1") })
    };
    let reserved = ReservationState::Reserved(Vec::new());
    let broken = [
        Row::Payment(Payment { subject: subject("a"), state: capture(0) }),
        Row::Reservation(Reservation { subject: subject("a"), state: reserved }),
        stock("tea", -1, 0, 0),
        stock("tea", 0, -1, 0),
        stock("tea", 0, 0, -1),
        stock("tea", i64::MAX, 0, 1),
    ];
    let failed: BTreeSet<&str> =
        broken.iter().filter_map(|row| row.check().err().map(|Violation(name)| name)).collect();
    assert_eq!(failed, CHECKED.iter().copied().collect());
}

#[rstest]
#[case::tenant(Tenant::new("a/b").is_err())]
#[case::tenant_too_long(Tenant::new(&"a".repeat(65)).is_err())]
#[case::tenant_in_capitals(Tenant::new("Acme").is_err())]
#[case::sku_with_a_slash(Sku::new("a/b").is_err())]
#[case::sku_empty(Sku::new("").is_err())]
#[case::currency_out_of_use(Currency::new("DEM").is_err())]
#[case::currency_in_use(Currency::new("ZWG").is_ok())]
#[case::quantity_above_a_million(Quantity::new(1_000_001).is_err())]
#[case::quantity_of_a_million(Quantity::new(1_000_000).is_ok())]
fn values_keep_their_rules(#[case] holds: bool) {
    assert!(holds);
}

#[test]
fn the_same_key_of_two_tenants_is_two_orders() {
    let order = |tenant: &str, key: &str| OrderId::derive(&Tenant::new(tenant).expect("valid"), key);
    assert_eq!(order("acme", "k").0.get_version_num(), 8);
    assert_eq!(order("acme", "k"), order("acme", "k"));
    assert_ne!(order("acme", "k"), order("bcme", "k"));
    // Parts are length-prefixed: moving a character from one to the other is another order.
    assert_ne!(order("acme", "k"), order("acm", "ek"));
}

#[test]
fn a_fingerprint_knows_every_field_of_the_body() {
    let all = [
        basket(&[("tea", 1)]),
        basket(&[("tea", 2)]),
        basket(&[("te", 1)]),
        basket(&[("tea", 1), ("milk", 1)]),
    ];
    let distinct: BTreeSet<_> = all.iter().map(|basket| basket.fingerprint()).collect();
    assert_eq!(distinct.len(), all.len());
    let change = |field: &str, value: serde_json::Value| {
        let mut json = serde_json::to_value(&all[0]).expect("JSON");
        *json.pointer_mut(field).expect("a field") = value;
        serde_json::from_value::<stormglass_orders::types::Basket>(json).expect("a basket").fingerprint()
    };
    assert_eq!(change("/customer", "ada@example.org".into()), all[0].fingerprint());
    for (field, value) in
        [("/customer", "bob".into()), ("/currency", "USD".into()), ("/lines/0/unit_price_minor", 501.into())]
    {
        assert_ne!(change(field, value), all[0].fingerprint(), "{field}");
    }
}
