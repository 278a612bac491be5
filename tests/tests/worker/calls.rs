//! External calls: intent first, one idempotency key until a definite failure, and never a guess about an outcome.

use std::time::Duration;

use stormglass_runtime::ActError;

use crate::{
    cluster::Cluster,
    ledger::{Ledger, Script, given_up},
};

fn unknown() -> ActError {
    ActError::Unknown("no answer".to_owned())
}

fn failed() -> ActError {
    ActError::Failed("card network down".to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_repeated_under_the_same_key() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(1, [unknown(), unknown()].into());
    ledger.provider().happens.insert(1);
    let worker = cluster.worker(&ledger, |_| {});
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.publish(Script::Entry, "a", 2).await;
    cluster.settled().await;
    assert_eq!(cluster.entries("a"), [1, 2]);
    assert_eq!(ledger.calls(), (3, 1));
    assert_eq!(ledger.charged(), [1]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_definite_failure_is_repeated_under_a_new_key() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(1, [failed(), failed()].into());
    let worker = cluster.worker(&ledger, |_| {});
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.settled().await;
    assert_eq!(ledger.calls(), (3, 3));
    assert_eq!((cluster.entries("a"), ledger.charged()), (vec![1], vec![1]));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn past_the_budget_the_provider_is_asked_and_what_it_did_counts() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(1, vec![unknown(); 3].into());
    ledger.provider().happens.insert(1);
    let worker = cluster.worker(&ledger, |_| {});
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.settled().await;
    assert_eq!((ledger.calls().0, ledger.questions()), (3, 1));
    assert_eq!((cluster.entries("a"), ledger.charged()), (vec![1], vec![1]));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn past_the_budget_only_the_providers_word_lets_the_service_give_up() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().down = true;
    let worker = cluster.worker(&ledger, |config| config.circuit_failures = 1_000);
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.until("five questions", |_| ledger.questions() >= 5).await;
    assert!(cluster.entries("a").is_empty(), "given up though nobody knows");
    assert_eq!(ledger.calls().0, 3, "the budget is 3");
    ledger.provider().down = false;
    cluster.until("giving up", |cluster| cluster.entries("a") == [given_up(1)]).await;
    assert!(ledger.charged().is_empty());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_is_a_dead_letter_at_once() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(1, [ActError::Rejected("stolen card".to_owned())].into());
    let worker = cluster.worker(&ledger, |_| {});
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.until("giving up", |cluster| cluster.entries("a") == [given_up(1)]).await;
    assert_eq!(ledger.calls().0, 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_an_unknown_outcome_does_not_deny_what_was_done() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(1, [unknown(), ActError::Rejected("a proxy in between".to_owned())].into());
    ledger.provider().happens.insert(1);
    let worker = cluster.worker(&ledger, |_| {});
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.settled().await;
    assert_eq!((ledger.calls().0, ledger.questions()), (2, 1));
    assert_eq!((cluster.entries("a"), ledger.charged()), (vec![1], vec![1]));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_circuit_is_open_nothing_is_claimed_and_no_attempt_counts() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().down = true;
    let worker = cluster.worker(&ledger, |config| {
        config.circuit_failures = 5;
        config.circuit_open_ms = 60_000;
        config.act_concurrency = 4;
    });
    for number in 0..40 {
        cluster.publish(Script::Charge, &format!("a{number}"), number).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let calls = ledger.calls().0;
    assert!((5..=8).contains(&calls), "{calls} calls though the circuit opens after 5, 4 at a time");
    let attempts: u32 = cluster.tables().pending.values().map(|row| row.attempts).sum();
    assert_eq!(attempts as usize, calls);
    ledger.provider().down = false;
    cluster.settled().await;
    assert_eq!(ledger.charged().len(), 40);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_asks_is_called_for_without_waiting_for_a_poll() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    let worker = cluster.worker(&ledger, |config| {
        config.claim_poll_max_ms = 60_000;
        config.claim_poll_min_ms = 60_000;
    });
    for number in 0..10 {
        cluster.publish(Script::Charge, "a", number).await;
    }
    let began = tokio::time::Instant::now();
    cluster.settled().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(cluster.entries("a"), (0..10).collect::<Vec<_>>());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_on_which_many_wait_drains_part_by_part_without_waiting_for_a_poll() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().down = true;
    let worker = cluster.worker(&ledger, |config| {
        config.claim_poll_max_ms = 60_000;
        config.claim_poll_min_ms = 60_000;
        config.circuit_failures = 1_000;
        config.attempts_max = 1_000;
    });
    cluster.publish(Script::Charge, "a", 0).await;
    for number in 1..350 {
        cluster.publish(Script::Entry, "a", number).await;
    }
    cluster.until("all wait", |cluster| cluster.tables().pending.len() == 350).await;
    ledger.provider().down = false;
    cluster.until("the first effect", |cluster| !cluster.entries("a").is_empty()).await;
    let began = tokio::time::Instant::now();
    cluster.settled().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(cluster.entries("a"), (0..350).collect::<Vec<_>>());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_cannot_read_the_event_neither_calls_nor_gives_up() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(1, [unknown()].into());
    ledger.provider().happens.insert(1);
    let worker = cluster.worker(&ledger, |_| {});
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.until("the first call", |_| ledger.calls().0 == 1).await;
    ledger.provider().foreign = true;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((ledger.calls().0, ledger.questions()), (1, 0));
    assert!(cluster.tables().pending.values().all(|row| row.dead_at.is_none()), "dead though it was charged");
    ledger.provider().foreign = false;
    cluster.settled().await;
    assert_eq!((cluster.entries("a"), ledger.charged()), (vec![1], vec![1]));
    worker.drain().await;
}
