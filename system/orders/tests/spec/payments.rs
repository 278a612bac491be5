//! The payments service, one event at a time, and the races around a cancellation.

use std::time::Duration;

use rstest::rstest;
use stormglass_orders::{
    Payments, Row,
    events::{DeclineReason, PaymentRefundDue},
    payments::{Capture, Payment, PaymentCall, PaymentState, PaymentsEvent},
    ports::{Charge, PaymentReply, Refund},
};
use stormglass_runtime::{Decision, Next, Refusal, Service, Timestamp};

use super::{
    table,
    world::{
        basket, cancelled, conclude, confirmed, decide, done, euros, give_up, kinds, nobody, placed, record,
        reference, subject,
    },
};

fn service() -> Payments {
    Payments::new(nobody())
}

fn capture() -> Capture {
    Capture {
        customer: basket(&[("tea", 2)]).customer().clone(),
        amount: euros(1000),
        charge: reference("ch-1"),
    }
}

fn state(name: &str) -> Vec<Row> {
    let state = match name {
        "absent" => return Vec::new(),
        "void" => PaymentState::Void,
        "asked" => PaymentState::Asked(placed("a", &[("tea", 2)]).fingerprint),
        "asked-other" => PaymentState::Asked(placed("a", &[("tea", 1)]).fingerprint),
        "declined" => PaymentState::Declined(DeclineReason::GaveUp),
        "captured" => PaymentState::Captured(capture()),
        "owed" => PaymentState::RefundOwed(capture()),
        "refunded" => PaymentState::Refunded { capture: capture(), refund: reference("re-1") },
        other => panic!("no state {other}"),
    };
    vec![Row::Payment(Payment { subject: subject("a"), state })]
}

fn event(name: &str) -> PaymentsEvent {
    match name {
        "placed" => PaymentsEvent::Placed(placed("a", &[("tea", 2)])),
        "cancelled" => PaymentsEvent::Cancelled(cancelled("a", &[])),
        "refund-due" => PaymentsEvent::RefundDue(PaymentRefundDue { subject: subject("a") }),
        other => panic!("no event {other}"),
    }
}

fn became(decision: &Decision<Row>) -> String {
    let name = match decision.rows.as_slice() {
        [] => "-",
        [Row::Payment(payment)] => match &payment.state {
            PaymentState::Void => "void",
            PaymentState::Asked(_) => "asked",
            PaymentState::Declined(_) => "declined",
            PaymentState::Captured(_) => "captured",
            PaymentState::RefundOwed(_) => "owed",
            PaymentState::Refunded { .. } => "refunded",
        },
        other => panic!("more than the payment: {other:?}"),
    };
    assert_eq!(
        name == "owed",
        !decision.timers.is_empty(),
        "a refund becomes due exactly when it is first owed"
    );
    match kinds(decision).as_slice() {
        [] => name.to_owned(),
        [told] => {
            assert_eq!(*told, format!("payment.{name}.v1"));
            format!("!{name}")
        }
        other => panic!("tells {other:?}"),
    }
}

#[test]
fn a_payment_is_charged_once_and_given_back_once() {
    table::check(
        "
                    placed cancelled refund-due
        absent      charge void      -
        asked       charge void      -
        asked-other -      void      -
        void        -      -         -
        declined    -      -         -
        captured    -      owed      -
        owed        -      -         refund
        refunded    -      -         -
        ",
        |from, what| match decide(&service(), &state(from), &event(what)).expect("payments refuses nothing") {
            Next::Done(decision) => became(&decision),
            Next::Need(keys) => panic!("needs {keys:?}"),
            Next::Ask { call: PaymentCall::Charge(charge), rows } => {
                assert_eq!(rows, state("asked"));
                let customer = capture().customer;
                assert_eq!(charge, Charge { subject: subject("a"), customer, amount: euros(1000) });
                "charge".to_owned()
            }
            Next::Ask { call: PaymentCall::Refund(refund), .. } => {
                let charge = reference("ch-1");
                assert_eq!(refund, Refund { subject: subject("a"), charge, amount: euros(1000) });
                "refund".to_owned()
            }
        },
    );
}

#[test]
fn an_answer_is_told_only_if_the_order_may_still_use_it() {
    table::check(
        "
                 captured  declined
        absent   !captured !declined
        asked    !captured !declined
        void     owed      -
        declined owed      -
        captured -         -
        owed     -         -
        refunded -         -
        ",
        |from, reply| {
            let reply = match reply {
                "captured" => PaymentReply::Captured(reference("ch-1")),
                _ => PaymentReply::Declined,
            };
            became(&conclude(&service(), &state(from), &event("placed"), reply).expect("concludes"))
        },
    );
}

#[test]
fn a_refund_is_told_once() {
    for (from, expected) in [("owed", "!refunded"), ("refunded", "-"), ("absent", "-"), ("captured", "-")] {
        let reply = PaymentReply::Refunded(reference("re-1"));
        let decision = conclude(&service(), &state(from), &event("refund-due"), reply).expect("concludes");
        assert_eq!(became(&decision), expected, "{from}");
    }
}

#[test]
fn giving_up_a_charge_declines_and_giving_up_a_refund_leaves_it_owed() {
    table::check(
        "
                    placed    cancelled refund-due
        absent      !declined -         -
        asked       !declined -         -
        asked-other -         -         -
        void        -         -         -
        declined    -         -         -
        captured    -         -         -
        owed        -         -         -
        refunded    -         -         -
        ",
        |from, what| became(&give_up(&service(), &state(from), &event(what))),
    );
}

#[rstest]
#[case::a_charge_that_was_refunded("placed", PaymentReply::Refunded(reference("re-1")))]
#[case::a_refund_that_was_declined("refund-due", PaymentReply::Declined)]
#[case::a_cancellation_that_was_captured("cancelled", PaymentReply::Captured(reference("ch-1")))]
fn a_reply_to_another_call_is_refused(#[case] what: &str, #[case] reply: PaymentReply) {
    let refused = conclude(&service(), &state("captured"), &event(what), reply);
    assert!(matches!(refused, Err(Refusal::Never(_))), "{refused:?}");
}

#[rstest]
#[case::of_another_body("asked-other")]
#[case::beside_another("captured")]
#[case::after_another_went_back("refunded")]
fn a_second_charge_is_not_passed_over(#[case] from: &str) {
    let reply = PaymentReply::Captured(reference("ch-2"));
    let refused = conclude(&service(), &state(from), &event("placed"), reply);
    assert!(matches!(refused, Err(Refusal::Never(_))), "{refused:?}");
}

#[test]
fn a_refund_is_an_event_of_its_own_that_is_due_at_once() {
    let decision = done(&service(), &state("captured"), &event("cancelled"));
    let timer = decision.timers.into_iter().next().expect("a timer");
    assert_eq!(timer.after, Duration::ZERO);
    let record = timer.event.into_record(&service().name(), subject("a").order.0, Timestamp(0), None);
    assert_eq!(service().decode(&record), Ok(Some(event("refund-due"))));
}

#[test]
fn a_charge_redriven_after_it_was_given_up_goes_back() {
    let given_up = give_up(&service(), &[], &event("placed"));
    assert_eq!(became(&given_up), "!declined");
    let ignored = done(&service(), &given_up.rows, &event("cancelled"));
    assert_eq!(became(&ignored), "-");
    let reply = PaymentReply::Captured(reference("ch-2"));
    let late = conclude(&service(), &given_up.rows, &event("placed"), reply).expect("concludes");
    assert_eq!(became(&late), "owed");
    assert!(matches!(
        decide(&service(), &late.rows, &event("refund-due")),
        Ok(Next::Ask { call: PaymentCall::Refund(_), .. })
    ));
}

#[test]
fn the_service_takes_the_events_of_its_line_and_no_others() {
    assert_eq!(service().decode(&record(&placed("a", &[("tea", 2)]))), Ok(Some(event("placed"))));
    assert_eq!(service().decode(&record(&cancelled("a", &[]))), Ok(Some(event("cancelled"))));
    assert_eq!(service().decode(&record(&confirmed("a", &[]))), Ok(None));
}
