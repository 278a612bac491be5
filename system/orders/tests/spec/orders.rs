//! The orders service, one event at a time.

use std::time::Duration;

use rstest::rstest;
use stormglass_orders::{
    Orders, Row,
    events::{
        CancelReason, DeclineReason, PaymentCaptured, PaymentDeclined, PaymentRefunded, ShortageReason,
        StockRejected, StockReleased, StockReserved,
    },
    orders::{Achieved, Foretold, Order, OrderState, OrdersEvent, Placed, Progress},
    types::Fingerprint,
};
use stormglass_runtime::{Decision, Service};

use super::{
    table,
    world::{
        basket, cancel_requested, deadline, done, euros, give_up, kinds, placed, record, reference, subject,
    },
};

const DEADLINE: Duration = Duration::from_secs(600);

fn service() -> Orders {
    Orders::new(DEADLINE)
}

fn details() -> Placed {
    let basket = basket(&[("tea", 2)]);
    Placed { fingerprint: basket.fingerprint(), basket, placed_at_ms: 1_000 }
}

fn order(state: OrderState) -> Row {
    Row::Order(Order { subject: subject("a"), state, conflicts: 0, cancels_refused: 0 })
}

fn state(name: &str) -> Vec<Row> {
    let open = |progress| OrderState::Open { placed: details(), progress };
    let fingerprint = details().fingerprint;
    let foretold = |achieved| OrderState::Foretold(Foretold { fingerprint, achieved });
    let state = match name {
        "absent" => return Vec::new(),
        "foretold-paid" => foretold(Achieved::Paid),
        "foretold-reserved" => foretold(Achieved::Reserved),
        "foretold-both" => foretold(Achieved::Both),
        "open" => open(Progress::Nothing),
        "paid" => open(Progress::Paid),
        "reserved" => open(Progress::Reserved),
        "confirmed" => OrderState::Confirmed { placed: details() },
        "cancelled" => OrderState::Cancelled { placed: Some(details()), reason: CancelReason::Deadline },
        "void" => OrderState::Cancelled { placed: None, reason: CancelReason::Deadline },
        other => panic!("no state {other}"),
    };
    vec![order(state)]
}

fn captured(fingerprint: Fingerprint, minor: i64) -> OrdersEvent {
    let (subject, charge) = (subject("a"), reference("ch-1"));
    OrdersEvent::Captured(PaymentCaptured { subject, fingerprint, amount: euros(minor), charge })
}

fn event(name: &str) -> OrdersEvent {
    let subject = subject("a");
    let fingerprint = details().fingerprint;
    let other = basket(&[("tea", 3)]).fingerprint();
    match name {
        "placed" => OrdersEvent::Placed(placed("a", &[("tea", 2)])),
        "other" => OrdersEvent::Placed(placed("a", &[("tea", 3)])),
        "cancel" => OrdersEvent::CancelRequested(cancel_requested("a")),
        "deadline" => OrdersEvent::Deadline(deadline("a")),
        "captured" => captured(fingerprint, 1000),
        "captured-other" => captured(other, 1500),
        "declined" => OrdersEvent::Declined(PaymentDeclined { subject, reason: DeclineReason::Refused }),
        "refunded" => OrdersEvent::Refunded(PaymentRefunded {
            subject,
            customer: details().basket.customer().clone(),
            amount: euros(1000),
            refund: reference("re-1"),
        }),
        "reserved" => OrdersEvent::Reserved(StockReserved { subject, fingerprint }),
        "reserved-other" => OrdersEvent::Reserved(StockReserved { subject, fingerprint: other }),
        "rejected" => OrdersEvent::Rejected(StockRejected { subject, reason: ShortageReason::GaveUp }),
        "released" => OrdersEvent::Released(StockReleased { subject }),
        other => panic!("no event {other}"),
    }
}

/// The state that a decision leaves behind, in the words of [`state`]; `-` if it changes nothing, with `!` in front
/// if it tells the others of an end.
fn became(decision: &Decision<Row>) -> String {
    let name = match decision.rows.as_slice() {
        [] => "-",
        [Row::Order(order)] => match &order.state {
            _ if order.conflicts > 0 => "conflict",
            _ if order.cancels_refused > 0 => "too-late",
            OrderState::Foretold(foretold) => match foretold.achieved {
                Achieved::Paid => "foretold-paid",
                Achieved::Reserved => "foretold-reserved",
                Achieved::Both => "foretold-both",
            },
            OrderState::Open { progress: Progress::Nothing, .. } => "open",
            OrderState::Open { progress: Progress::Paid, .. } => "paid",
            OrderState::Open { progress: Progress::Reserved, .. } => "reserved",
            OrderState::Confirmed { .. } => "confirmed",
            OrderState::Cancelled { placed: Some(_), .. } => "cancelled",
            OrderState::Cancelled { placed: None, .. } => "void",
        },
        other => panic!("more than the order: {other:?}"),
    };
    match kinds(decision).as_slice() {
        [] => name.to_owned(),
        ["order.confirmed.v1" | "order.cancelled.v1"] => format!("!{name}"),
        other => panic!("tells {other:?}"),
    }
}

#[test]
fn every_state_takes_every_event_and_ends_once() {
    table::check(
        "
                          placed     other      cancel   deadline   captured      declined   refunded   reserved          rejected   released
        absent            open       open       !void    -          foretold-paid !void      !void      foretold-reserved !void      !void
        foretold-paid     paid       !cancelled !void    !void      foretold-paid !void      !void      foretold-both     !void      !void
        foretold-reserved reserved   !cancelled !void    !void      foretold-both !void      !void      foretold-reserved !void      !void
        foretold-both     !confirmed !cancelled !void    !void      foretold-both !void      !void      foretold-both     !void      !void
        open              -          conflict   !cancelled !cancelled paid        !cancelled !cancelled reserved          !cancelled !cancelled
        paid              -          conflict   !cancelled !cancelled paid        !cancelled !cancelled !confirmed        !cancelled !cancelled
        reserved          -          conflict   !cancelled !cancelled !confirmed  !cancelled !cancelled reserved          !cancelled !cancelled
        confirmed         -          conflict   too-late -          -             -          -          -                 -          -
        cancelled         -          conflict   -        -          -             -          -          -                 -          -
        void              -          -          -        -          -             -          -          -                 -          -
        ",
        |from, what| became(&done(&service(), &state(from), &event(what))),
    );
}

#[test]
fn what_was_done_for_another_body_ends_the_order_and_never_confirms_it() {
    table::check(
        "
                          captured-other reserved-other
        foretold-paid     !void          !void
        foretold-reserved !void          !void
        foretold-both     !void          !void
        open              !cancelled     !cancelled
        paid              !cancelled     !cancelled
        reserved          !cancelled     !cancelled
        confirmed         -              -
        cancelled         -              -
        void              -              -
        ",
        |from, what| became(&done(&service(), &state(from), &event(what))),
    );
}

/// News that precedes its order is about one body, and stays so until the order itself is read.
#[rstest]
#[case::paid("captured-other", "paid", "!cancelled")]
#[case::reserved("reserved-other", "reserved", "!cancelled")]
#[case::paid_for_its_own("captured", "paid", "paid")]
#[case::reserved_for_its_own("reserved", "reserved", "reserved")]
fn what_was_foretold_counts_for_the_body_it_was_done_for(
    #[case] what: &str,
    #[case] achieved: &str,
    #[case] end: &str,
) {
    let foretold = done(&service(), &[], &event(what));
    assert_eq!(became(&foretold), format!("foretold-{achieved}"));
    let heard_twice = done(&service(), &foretold.rows, &event(what));
    assert_eq!(heard_twice.rows, foretold.rows);
    let read = done(&service(), &heard_twice.rows, &event("placed"));
    assert_eq!(became(&read), end);
}

#[test]
fn an_event_that_cannot_be_processed_ends_its_order_unless_it_was_a_second_placement() {
    table::check(
        "
                      placed other cancel     deadline   captured   declined   reserved   rejected
        absent        !void  !void !void      -          !void      !void      !void      !void
        foretold-paid !void  !void !void      !void      !void      !void      !void      !void
        open          -      -     !cancelled !cancelled !cancelled !cancelled !cancelled !cancelled
        reserved      -      -     !cancelled !cancelled !cancelled !cancelled !cancelled !cancelled
        confirmed     -      -     -          -          -          -          -          -
        cancelled     -      -     -          -          -          -          -          -
        void          -      -     -          -          -          -          -          -
        ",
        |from, what| became(&give_up(&service(), &state(from), &event(what))),
    );
}

#[rstest]
#[case::declined("declined", CancelReason::NotPaid)]
#[case::rejected("rejected", CancelReason::OutOfStock)]
#[case::asked_for("cancel", CancelReason::Requested)]
#[case::too_slow("deadline", CancelReason::Deadline)]
#[case::paid_for_another_body("captured-other", CancelReason::Conflict)]
fn a_cancelled_order_says_why_and_what_to_release(#[case] what: &str, #[case] expected: CancelReason) {
    let decision = done(&service(), &state("reserved"), &event(what));
    let told: serde_json::Value = serde_json::from_slice(&decision.events[0].data).expect("JSON");
    assert_eq!(told["reason"], serde_json::to_value(expected).expect("JSON"));
    assert_eq!(told["items"], serde_json::json!([{ "sku": "tea", "quantity": 2 }]));
    assert_eq!(told["customer"], "ada@example.org");
}

#[rstest]
#[case::placed("absent", "placed", true)]
#[case::paid_before_it_was_placed("absent", "captured", true)]
#[case::reserved_before_it_was_placed("absent", "reserved", true)]
#[case::placed_after_it_was_paid("foretold-paid", "placed", false)]
#[case::placed_again("open", "placed", false)]
#[case::paid("open", "captured", false)]
fn an_order_that_becomes_known_sets_its_deadline_once(
    #[case] from: &str,
    #[case] what: &str,
    #[case] sets: bool,
) {
    let decision = done(&service(), &state(from), &event(what));
    assert_eq!(decision.timers.len(), usize::from(sets));
    for timer in decision.timers {
        assert_eq!(timer.after, DEADLINE);
        let record = timer.event.into_record(
            &service().name(),
            subject("a").order.0,
            stormglass_runtime::Timestamp(0),
            None,
        );
        assert_eq!(service().decode(&record), Ok(Some(event("deadline"))));
    }
}

#[test]
fn a_conflict_leaves_the_order_as_it_was() {
    let decision = done(&service(), &state("paid"), &event("other"));
    let Some(Row::Order(after)) = decision.rows.first() else { panic!("no order") };
    assert_eq!(after.conflicts, 1);
    assert_eq!(after.placed(), Some(&details()));
}

#[test]
fn the_service_takes_the_events_of_its_line_and_no_others() {
    for name in [
        "placed", "cancel", "deadline", "captured", "declined", "refunded", "reserved", "rejected",
        "released",
    ] {
        let event = event(name);
        let record = match &event {
            OrdersEvent::Placed(event) => record(event),
            OrdersEvent::CancelRequested(event) => record(event),
            OrdersEvent::Deadline(event) => record(event),
            OrdersEvent::Captured(event) => record(event),
            OrdersEvent::Declined(event) => record(event),
            OrdersEvent::Refunded(event) => record(event),
            OrdersEvent::Reserved(event) => record(event),
            OrdersEvent::Rejected(event) => record(event),
            OrdersEvent::Released(event) => record(event),
        };
        assert_eq!(service().decode(&record), Ok(Some(event)));
    }
    assert_eq!(service().decode(&record(&super::world::confirmed("a", &[]))), Ok(None));
    assert_eq!(service().decode(&record(&super::world::cancelled("a", &[]))), Ok(None));
}
