//! The inventory service, one event at a time.

use rstest::rstest;
use stormglass_orders::{
    Inventory, Row, RowKey, Stock,
    events::ShortageReason,
    inventory::{InventoryEvent, Reservation, ReservationState},
};
use stormglass_runtime::{Decision, Next, Refusal, RowSet, Service, Violation};

use super::{
    table,
    world::{
        cancel_requested, cancelled, confirmed, decide, done, give_up, item, kinds, placed, record, sku,
        stock, subject, tenant,
    },
};

const TEA_AND_MILK: &[(&str, i64)] = &[("tea", 2), ("milk", 1)];

/// What is on the shelves while an order over 2 tea and 1 milk is in this state.
fn state(name: &str) -> Vec<Row> {
    let items = || vec![item("tea", 2), item("milk", 1)];
    let (state, tea, milk) = match name {
        "absent" => return vec![stock("tea", 5, 0, 0), stock("milk", 1, 0, 0)],
        "barred" => (ReservationState::Barred, (5, 0, 0), (1, 0, 0)),
        "rejected" => (ReservationState::Rejected(ShortageReason::GaveUp), (5, 0, 0), (1, 0, 0)),
        "reserved" => (ReservationState::Reserved(items()), (3, 2, 0), (0, 1, 0)),
        "sold" => (ReservationState::Sold(items()), (3, 0, 2), (0, 0, 1)),
        "released" => (ReservationState::Released(items()), (5, 0, 0), (1, 0, 0)),
        other => panic!("no state {other}"),
    };
    vec![
        Row::Reservation(Reservation { subject: subject("a"), state }),
        stock("tea", tea.0, tea.1, tea.2),
        stock("milk", milk.0, milk.1, milk.2),
    ]
}

fn event(name: &str) -> InventoryEvent {
    match name {
        "placed" => InventoryEvent::Placed(placed("a", TEA_AND_MILK)),
        "confirmed" => InventoryEvent::Confirmed(confirmed("a", TEA_AND_MILK)),
        "cancelled" => InventoryEvent::Cancelled(cancelled("a", TEA_AND_MILK)),
        other => panic!("no event {other}"),
    }
}

/// The state that a decision leaves behind; its stock must be that of [`state`].
fn became(decision: &Decision<Row>) -> String {
    let reservation = decision.rows.iter().find_map(|row| match row {
        Row::Reservation(reservation) => Some(&reservation.state),
        _ => None,
    });
    let name = match reservation {
        None => return "-".to_owned(),
        Some(ReservationState::Barred) => "barred",
        Some(ReservationState::Rejected(_)) => "rejected",
        Some(ReservationState::Reserved(_)) => "reserved",
        Some(ReservationState::Sold(_)) => "sold",
        Some(ReservationState::Released(_)) => "released",
    };
    let expected = state(name);
    for row in decision.rows.iter().filter(|row| matches!(row, Row::Stock(_))) {
        assert!(expected.contains(row), "{name}: {row:?}");
    }
    match kinds(decision).as_slice() {
        [] => name.to_owned(),
        [told] => {
            assert_eq!(*told, format!("stock.{name}.v1"));
            format!("!{name}")
        }
        other => panic!("tells {other:?}"),
    }
}

#[test]
fn items_are_held_once_and_sold_or_released_once() {
    table::check(
        "
                 placed    confirmed cancelled
        absent   !reserved never     barred
        barred   -         never     -
        rejected -         never     -
        reserved -         sold      !released
        sold     -         -         never
        released -         never     -
        ",
        |from, what| match decide(&Inventory, &state(from), &event(what)) {
            Ok(Next::Done(decision)) => became(&decision),
            Ok(Next::Need(keys)) => panic!("needs {keys:?}"),
            Ok(Next::Ask { .. }) => panic!("asks"),
            Err(Refusal::Never(_)) => "never".to_owned(),
            Err(Refusal::Later(why)) => panic!("later: {why}"),
        },
    );
}

#[test]
fn giving_up_an_order_rejects_it_and_giving_up_its_end_leaves_the_items_held() {
    table::check(
        "
                 placed    confirmed cancelled
        absent   !rejected -         -
        reserved -         -         -
        rejected -         -         -
        ",
        |from, what| became(&give_up(&Inventory, &state(from), &event(what))),
    );
}

#[rstest]
#[case::one_too_few(&[("tea", 5), ("milk", 2)], ShortageReason::SoldOut(sku("milk")))]
#[case::unknown(&[("tea", 1), ("honey", 1)], ShortageReason::UnknownSku(sku("honey")))]
fn an_order_of_which_one_item_is_missing_holds_nothing(
    #[case] items: &[(&str, i64)],
    #[case] why: ShortageReason,
) {
    let decision = done(&Inventory, &state("absent"), &InventoryEvent::Placed(placed("a", items)));
    let state = ReservationState::Rejected(why);
    assert_eq!(decision.rows, [Row::Reservation(Reservation { subject: subject("a"), state })]);
    assert_eq!(kinds(&decision), ["stock.rejected.v1"]);
}

#[test]
fn the_last_item_can_be_held() {
    let decision = done(&Inventory, &state("absent"), &InventoryEvent::Placed(placed("a", &[("milk", 1)])));
    assert!(decision.rows.contains(&stock("milk", 0, 1, 0)));
}

#[rstest]
#[case::sale(InventoryEvent::Confirmed(confirmed("a", &[])), "sold")]
#[case::release(InventoryEvent::Cancelled(cancelled("a", &[])), "!released")]
fn an_end_that_names_no_items_asks_for_the_stock_that_is_held(
    #[case] event: InventoryEvent,
    #[case] end: &str,
) {
    let all = state("reserved");
    let locked: Vec<Row> =
        all.iter().filter(|row| Inventory.keys(&event).contains(&row.key())).cloned().collect();
    let Ok(Next::Need(keys)) = decide(&Inventory, &locked, &event) else { panic!("needs nothing") };
    assert_eq!(keys, [RowKey::Stock(tenant(), sku("tea")), RowKey::Stock(tenant(), sku("milk"))]);
    assert_eq!(became(&done(&Inventory, &all, &event)), end);
}

#[test]
fn what_is_released_is_what_was_held_whatever_the_event_names() {
    let mut rows = state("reserved");
    rows.push(stock("honey", 0, 9, 0));
    let decision = done(&Inventory, &rows, &InventoryEvent::Cancelled(cancelled("a", &[("honey", 9)])));
    assert_eq!(became(&decision), "!released");
    assert!(!decision.rows.contains(&stock("honey", 9, 0, 0)));
}

#[test]
fn stock_that_was_tampered_with_is_refused_and_never_negative() {
    let mut rows = state("reserved");
    rows[1] = stock("tea", 3, 1, 0);
    for what in ["confirmed", "cancelled"] {
        assert!(matches!(decide(&Inventory, &rows, &event(what)), Err(Refusal::Never(_))), "{what}");
    }
}

#[rstest]
#[case(-1, 0, 0, "stock_available_not_negative")]
#[case(0, -1, 0, "stock_reserved_not_negative")]
#[case(0, 0, -1, "stock_sold_not_negative")]
#[case(i64::MAX, 1, 0, "stock_supply_fits")]
fn stock_has_its_checks(
    #[case] available: i64,
    #[case] reserved: i64,
    #[case] sold: i64,
    #[case] name: &'static str,
) {
    assert_eq!(stock("tea", available, reserved, sold).check(), Err(Violation(name)));
}

#[test]
fn stock_is_seeded_as_available_or_not_at_all() {
    assert_eq!(Stock::seed(&tenant(), &sku("tea"), 7), Ok(stock("tea", 7, 0, 0)));
    assert!(Stock::seed(&tenant(), &sku("tea"), -1).is_err());
}

#[test]
fn the_service_takes_the_events_of_its_line_and_no_others() {
    assert_eq!(Inventory.decode(&record(&placed("a", TEA_AND_MILK))), Ok(Some(event("placed"))));
    assert_eq!(Inventory.decode(&record(&confirmed("a", TEA_AND_MILK))), Ok(Some(event("confirmed"))));
    assert_eq!(Inventory.decode(&record(&cancelled("a", TEA_AND_MILK))), Ok(Some(event("cancelled"))));
    assert_eq!(Inventory.decode(&record(&cancel_requested("a"))), Ok(None));
}
