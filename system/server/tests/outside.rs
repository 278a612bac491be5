//! The HTTP adapters of payment provider and notifier against the stand-ins: what each answer says of the effect.

#![expect(clippy::expect_used, reason = "a helper that cannot do its part fails the test")]

use std::{sync::Arc, time::Duration};

use axum::Router;
use rstest::rstest;
use stormglass_orders::{
    Subject,
    notifications::NoticeKind,
    ports::{Charge, Notice, Notifier, PaymentProvider, PaymentReply, Refund},
    types::{Currency, Customer, Money, OrderId, Tenant},
};
use stormglass_runtime::{ActError, Entropy, IdempotencyKey};
use stormglass_server::{
    outside::{self, Manners, Outside, StandIn},
    settings::OutsideSettings,
};
use tokio::net::TcpListener;
use uuid::Uuid;

const KEY: IdempotencyKey = IdempotencyKey(Uuid::from_u128(7));

/// Always the same luck.
struct Luck(f64);

impl Entropy for Luck {
    fn draw(&self, _: &'static str, _: u128, _: u32) -> f64 {
        self.0
    }
}

fn stand_in(manners: Manners, luck: f64) -> Arc<StandIn> {
    Arc::new(StandIn::new(manners, Arc::new(Luck(luck))))
}

/// A client of whatever `router` serves.
async fn client(router: Router) -> Outside {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    outside_at(&format!("http://{address}"))
}

fn outside_at(url: &str) -> Outside {
    let settings = OutsideSettings { url: url.to_owned().try_into().expect("a URL"), timeout_ms: 300 };
    Outside::new("payments", &settings).expect("the address is one")
}

fn subject() -> Subject {
    Subject { tenant: Tenant::new("acme").expect("valid"), order: OrderId(Uuid::from_u128(1)) }
}

fn charge() -> Charge {
    let amount = Money { minor: 4999, currency: Currency::new("EUR").expect("valid") };
    Charge { subject: subject(), customer: Customer::new("ann").expect("valid"), amount }
}

async fn close(client: &Outside) -> Result<Option<PaymentReply>, ActError> {
    PaymentProvider::close(client, KEY).await
}

#[tokio::test]
async fn a_repeat_and_a_closing_are_told_what_the_first_was() {
    let client = client(outside::payments(stand_in(Manners::default(), 0.5))).await;
    let first = client.charge(charge(), KEY).await.expect("captured");
    assert!(matches!(&first, PaymentReply::Captured(_)));
    assert_eq!(client.charge(charge(), KEY).await, Ok(first.clone()));
    assert_eq!(close(&client).await, Ok(Some(first.clone())));
    let PaymentReply::Captured(reference) = first else { return };
    let refund = Refund { subject: subject(), charge: reference, amount: charge().amount };
    let refunded = client.refund(refund, IdempotencyKey(Uuid::from_u128(8))).await;
    assert!(matches!(refunded, Ok(PaymentReply::Refunded(_))), "{refunded:?}");
}

#[tokio::test]
async fn a_key_that_was_closed_unused_has_no_effect_any_more() {
    let client = client(outside::payments(stand_in(Manners::default(), 0.5))).await;
    assert_eq!(close(&client).await, Ok(None));
    assert!(matches!(client.charge(charge(), KEY).await, Err(ActError::Failed(_))));
    assert_eq!(close(&client).await, Ok(None));
}

#[rstest]
#[case::before_it_had_an_effect(0.1, false)]
#[case::after_it_had_one(0.9, true)]
#[tokio::test]
async fn a_request_that_failed_may_have_happened(#[case] luck: f64, #[case] happened: bool) {
    let manners = Manners { fail: 1.0, ..Manners::default() };
    let client = client(outside::payments(stand_in(manners, luck))).await;
    assert!(matches!(client.charge(charge(), KEY).await, Err(ActError::Unknown(_))));
    assert_eq!(close(&client).await.expect("closing does not fail").is_some(), happened);
}

#[tokio::test]
async fn a_refusal_of_the_customers_means_is_an_answer() {
    let manners = Manners { decline: 1.0, ..Manners::default() };
    let client = client(outside::payments(stand_in(manners, 0.5))).await;
    assert_eq!(client.charge(charge(), KEY).await, Ok(PaymentReply::Declined));
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_unknown() {
    let manners = Manners { latency: Duration::from_secs(5), ..Manners::default() };
    let client = client(outside::payments(stand_in(manners, 0.5))).await;
    assert!(matches!(client.charge(charge(), KEY).await, Err(ActError::Unknown(_))));
}

#[tokio::test]
async fn what_reached_nobody_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let nobody = outside_at(&format!("http://{address}"));
    assert!(matches!(nobody.charge(charge(), KEY).await, Err(ActError::NotSent(_))));
    let elsewhere = client(Router::new()).await;
    assert!(matches!(elsewhere.charge(charge(), KEY).await, Err(ActError::NotSent(_))));
}

#[tokio::test]
async fn a_message_is_sent_once_and_told_again() {
    let client = client(outside::notifications(stand_in(Manners::default(), 0.5))).await;
    let notice = Notice { subject: subject(), kind: NoticeKind::Confirmed, customer: None };
    let sent = client.send(notice.clone(), KEY).await.expect("sent");
    assert_eq!(client.send(notice, KEY).await, Ok(sent.clone()));
    assert_eq!(Notifier::close(&client, KEY).await, Ok(Some(sent)));
}
