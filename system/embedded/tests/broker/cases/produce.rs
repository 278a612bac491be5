//! B9, B11–B14: what a producer knows of its records, and the order it keeps.

use std::{sync::atomic::Ordering, time::Duration};

use stormglass_runtime::{Cause, Failure, Reason};
use tokio::time::sleep;

use super::sut::*;

const BRIEF: Tuning = Tuning {
    delivery_timeout: Duration::from_secs(5),
    max_poll_interval: LONG,
    revocation_grace: SESSION,
    queue_records: 1_000,
    reset: stormglass_embedded::broker::OffsetReset::Earliest,
};

pub async fn b9_what_never_left_is_not_done(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, faults) = sut.client(BRIEF);
    Faults::raise(&faults.mute);
    let lost = publish(&client, "k", "lost").await;
    assert!(matches!(lost, Err(Failure::NotDone(Cause::Disconnected | Cause::TimedOut))), "{lost:?}");
    Faults::lower(&faults.mute);
    publish(&client, "k", "next").await.unwrap();
    assert_eq!(values(&*sut).await, ["next"]);
}

pub async fn b9_without_an_answer_the_outcome_is_unknown(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, faults) = sut.client(BRIEF);
    publish(&client, "k", "first").await.unwrap();
    Faults::raise(&faults.deaf);
    assert!(matches!(publish(&client, "k", "unheard").await, Err(Failure::Unknown(_))));
    Faults::lower(&faults.deaf);
    publish(&client, "k", "next").await.unwrap();
    assert_eq!(values(&*sut).await, ["first", "unheard", "next"]);
}

pub async fn b9_a_doubt_is_not_forgotten_over_a_later_refusal(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, faults) = sut.client(BRIEF);
    publish(&client, "k", "first").await.unwrap();
    // The first attempt is taken and not heard of; all later ones are refused, since nobody can be reached.
    faults.lose_acks.store(1, Ordering::SeqCst);
    let (result, ()) = tokio::join!(publish(&client, "k", "taken"), async {
        sleep(Duration::from_millis(50)).await;
        Faults::raise(&faults.mute);
    });
    assert!(matches!(result, Err(Failure::Unknown(_))));
    assert_eq!(values(&*sut).await, ["first", "taken"]);
}

pub async fn b11_a_retry_after_a_lost_ack_leaves_one_copy(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, faults) = sut.client(Tuning::default());
    for i in 0..8 {
        faults.lose_acks.store(i % 3, Ordering::SeqCst);
        assert_eq!(publish(&client, "k", &i.to_string()).await.unwrap().offset, i64::try_from(i).unwrap());
    }
    assert_eq!(values(&*sut).await, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

pub async fn b11_a_restarted_producer_is_a_new_one_and_leaves_two(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let ((before, _), (after, _)) = (sut.client(Tuning::default()), sut.client(Tuning::default()));
    publish(&before, "k", "twice").await.unwrap();
    publish(&after, "k", "twice").await.unwrap();
    assert_eq!(values(&*sut).await, ["twice", "twice"]);
}

pub async fn b11_a_retry_at_the_next_leader_leaves_one_copy(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, faults) = sut.client(Tuning::default());
    publish(&client, "k", "first").await.unwrap();
    let leader = sut.leader(&partition(0)).await.unwrap();
    faults.lose_acks.store(1, Ordering::SeqCst);
    let (result, ()) = tokio::join!(publish(&client, "k", "once"), async {
        sleep(Duration::from_millis(5)).await;
        sut.kill(leader).await;
    });
    assert_eq!(result.unwrap().offset, 1);
    assert_ne!(sut.leader(&partition(0)).await, Some(leader));
    assert_eq!(values(&*sut).await, ["first", "once"]);
}

/// When a batch that was given up arrives at last.
enum Arrival {
    BeforeTheNext,
    BehindTheNext,
}

pub async fn a_batch_given_up_may_land_before_what_is_published_after_it(kind: &dyn Kind) {
    given_up(kind, Arrival::BeforeTheNext, &["first", "late", "second"]).await;
}

pub async fn a_batch_given_up_never_lands_behind_what_is_published_after_it(kind: &dyn Kind) {
    given_up(kind, Arrival::BehindTheNext, &["first", "second"]).await;
}

async fn given_up(kind: &dyn Kind, arrival: Arrival, expected: &[&str]) {
    let sut = kind.start(Setup::default()).await;
    let (client, faults) = sut.client(BRIEF);
    publish(&client, "k", "first").await.unwrap();
    Faults::raise(&faults.hold);
    assert!(matches!(publish(&client, "k", "late").await, Err(Failure::Unknown(_))));
    Faults::lower(&faults.hold);
    match arrival {
        Arrival::BehindTheNext => {
            publish(&client, "k", "second").await.unwrap();
            assert!(sut.deliver_held(&faults).await > 0);
        }
        Arrival::BeforeTheNext => {
            assert!(sut.deliver_held(&faults).await > 0);
            publish(&client, "k", "second").await.unwrap();
        }
    }
    assert_eq!(values(&*sut).await, expected);
}

pub async fn the_report_comes_by_the_delivery_timeout(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, faults) = sut.client(BRIEF);
    publish(&client, "k", "first").await.unwrap();
    for fault in [&faults.deaf, &faults.mute, &faults.hold] {
        Faults::raise(fault);
        let begun = tokio::time::Instant::now();
        assert!(publish(&client, "k", "v").await.is_err());
        let late = begun.elapsed().saturating_sub(BRIEF.delivery_timeout);
        assert!(late < sut.lateness(), "{late:?} late");
        Faults::lower(fault);
    }
}

pub async fn b12_a_record_that_expires_leaves_a_gap(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(BRIEF);
    publish(&client, "k", "1").await.unwrap();
    for node in 0..3 {
        sut.kill(node).await;
    }
    assert!(publish(&client, "k", "2").await.is_err());
    for node in 0..3 {
        sut.start(node).await;
    }
    publish(&client, "k", "3").await.unwrap();
    assert_eq!(values(&*sut).await, ["1", "3"]);
}

/// A client may wait for room instead of refusing; what it may not do is lose one.
pub async fn b13_a_full_queue_refuses_or_waits(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning { queue_records: 3, ..Tuning::default() });
    let records = (0..5).map(|i| record(&i.to_string(), &i.to_string())).collect();
    let results = client.publish(records).await;
    assert!(results[..3].iter().all(Result::is_ok));
    let refused = |result: &_| result == &Err(Failure::NotDone(Cause::Busy));
    assert!(results[3..].iter().all(|result| result.is_ok() || refused(result)), "{results:?}");
    assert!(publish(&client, "k", "room again").await.is_ok());
    let accepted = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(values(&*sut).await.len(), accepted + 1);
}

pub async fn b14_a_record_too_large_is_rejected_by_client_and_broker(kind: &dyn Kind) {
    let sut = kind.start(Setup { max_record_bytes: 1_000, ..Setup::default() }).await;
    let (client, _) = sut.client(Tuning::default());
    let large = "x".repeat(2_000);
    let results =
        client.publish(vec![record("a", "1"), record("b", &large), record("b", "2"), record("c", "3")]).await;
    assert!(results[0].is_ok() && results[3].is_ok());
    let rejected = &results[1];
    assert!(
        matches!(rejected, Err(Failure::Rejected(Reason::TooLarge { bytes: 2_001, .. }))),
        "{rejected:?}"
    );
    assert_eq!(results[2], Err(Failure::NotDone(Cause::Predecessor)));
    let huge = "x".repeat(1_000_001);
    assert!(matches!(publish(&client, "k", &huge).await, Err(Failure::Rejected(Reason::TooLarge { .. }))));
    assert_eq!(values(&*sut).await, ["1", "3"]);
}

pub async fn records_behind_a_failed_one_of_their_key_are_not_sent(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    let huge = "x".repeat(1_000_001);
    let records =
        vec![record("k", "1"), record("k", &huge), record("k", "2"), record("other", "3"), record("k", "4")];
    let results = client.publish(records).await;
    let predecessor = Err(Failure::NotDone(Cause::Predecessor));
    assert!(results[0].is_ok() && results[3].is_ok());
    assert!(matches!(results[1], Err(Failure::Rejected(_))));
    assert_eq!((&results[2], &results[4]), (&predecessor, &predecessor));
    assert_eq!(values(&*sut).await, ["1", "3"]);
}

pub async fn a_dropped_publish_does_not_disturb_the_next(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    for i in 0..20u64 {
        let wait = Duration::from_micros(400 * i);
        tokio::time::timeout(wait, publish(&client, "k", &format!("dropped {i}"))).await.ok();
        publish(&client, "k", &i.to_string()).await.unwrap();
    }
    let read = values(&*sut).await;
    let kept: Vec<&String> = read.iter().filter(|value| !value.starts_with("dropped")).collect();
    assert_eq!(kept, (0..20).map(|i| i.to_string()).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    let mut unique = read.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), read.len(), "{read:?}");
}
