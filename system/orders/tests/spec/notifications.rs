//! The notifications service, one event at a time.

use rstest::rstest;
use stormglass_orders::{
    Notifications, Row,
    events::PaymentRefunded,
    notifications::{Message, MessageState, NoticeKind, NotificationsEvent},
    ports::Notice,
};
use stormglass_runtime::{Decision, Next, Service};

use super::world::{
    basket, cancelled, conclude, confirmed, decide, euros, give_up, nobody, placed, record, reference,
    subject,
};

fn service() -> Notifications {
    Notifications::new(nobody())
}

fn refunded() -> PaymentRefunded {
    let customer = basket(&[("tea", 1)]).customer().clone();
    PaymentRefunded { subject: subject("a"), customer, amount: euros(500), refund: reference("re-1") }
}

fn event(kind: NoticeKind) -> NotificationsEvent {
    match kind {
        NoticeKind::Confirmed => NotificationsEvent::Confirmed(confirmed("a", &[])),
        NoticeKind::Cancelled => NotificationsEvent::Cancelled(cancelled("a", &[])),
        NoticeKind::Refunded => NotificationsEvent::Refunded(refunded()),
    }
}

fn message(kind: NoticeKind, state: MessageState) -> Row {
    Row::Message(Message { subject: subject("a"), kind, state })
}

fn sent() -> MessageState {
    MessageState::Sent(reference("m-1"))
}

#[rstest]
#[case(NoticeKind::Confirmed)]
#[case(NoticeKind::Cancelled)]
#[case(NoticeKind::Refunded)]
fn each_event_sends_its_message_once(#[case] kind: NoticeKind) {
    let (service, event) = (service(), event(kind));
    let Ok(Next::Ask { call: notice, .. }) = decide(&service, &[], &event) else { panic!("asks nothing") };
    let customer = (kind != NoticeKind::Cancelled).then(|| basket(&[("tea", 1)]).customer().clone());
    assert_eq!(notice, Notice { subject: subject("a"), kind, customer });
    let decision = conclude(&service, &[], &event, reference("m-1")).expect("concludes");
    assert_eq!(decision, Decision { rows: vec![message(kind, sent())], ..Decision::default() });
    let again = decide(&service, &decision.rows, &event);
    assert!(matches!(again, Ok(Next::Done(decision)) if decision == Decision::default()));
}

#[test]
fn a_message_that_was_given_up_is_seen_and_can_be_sent_after_all() {
    let (service, event) = (service(), event(NoticeKind::Refunded));
    let given_up = give_up(&service, &[], &event);
    assert_eq!(given_up.rows, [message(NoticeKind::Refunded, MessageState::Undelivered)]);
    assert!(matches!(decide(&service, &given_up.rows, &event), Ok(Next::Ask { .. })));
    let late = conclude(&service, &given_up.rows, &event, reference("m-1")).expect("concludes");
    assert_eq!(late.rows, [message(NoticeKind::Refunded, sent())]);
}

#[test]
fn a_message_that_was_sent_is_never_given_up() {
    let rows = [message(NoticeKind::Confirmed, sent())];
    assert_eq!(give_up(&service(), &rows, &event(NoticeKind::Confirmed)), Decision::default());
}

#[test]
fn the_service_takes_the_events_of_its_line_and_no_others() {
    for kind in [NoticeKind::Confirmed, NoticeKind::Cancelled, NoticeKind::Refunded] {
        let record = match &event(kind) {
            NotificationsEvent::Confirmed(event) => record(event),
            NotificationsEvent::Cancelled(event) => record(event),
            NotificationsEvent::Refunded(event) => record(event),
        };
        assert_eq!(service().decode(&record), Ok(Some(event(kind))));
    }
    assert_eq!(service().decode(&record(&placed("a", &[("tea", 1)]))), Ok(None));
}
