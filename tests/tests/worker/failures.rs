//! What goes wrong between a worker and its database: lost answers, lost suffixes, killed members, ended backends.

use std::time::Duration;

use stormglass_embedded::database::{Config, Promotion};

use crate::{
    cluster::Cluster,
    ledger::{Ledger, Script},
};

/// Publishes `count` events of all kinds that succeed, over seven accounts.
async fn publish(cluster: &Cluster, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let script = match number % 4 {
            0 => Script::Charge,
            1 => Script::Published,
            _ => Script::Entry,
        };
        cluster.publish(script, &format!("a{}", number % 7), number).await;
    }
}

#[track_caller]
fn check_entries(cluster: &Cluster, numbers: std::ops::Range<u64>) {
    for account in 0..7 {
        let expected: Vec<u64> = numbers.clone().filter(|number| number % 7 == account).collect();
        assert_eq!(cluster.entries(&format!("a{account}")), expected, "a{account}");
    }
}

#[track_caller]
fn check_charges(ledger: &Ledger, numbers: std::ops::Range<u64>) {
    let mut charged = ledger.charged();
    charged.sort_unstable();
    assert_eq!(charged, numbers.filter(|number| number % 4 == 0).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_is_neither_lost_nor_repeated() {
    let cluster = Cluster::new(2);
    let ledger = Ledger::default();
    let worker = cluster.worker(&ledger, |_| {});
    for round in 0..20 {
        cluster.database.with(|database| database.drop_after_commit("ledger"));
        publish(&cluster, round * 10..round * 10 + 10).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    cluster.settled().await;
    check_entries(&cluster, 0..200);
    check_charges(&ledger, 0..200);
    // Each published once: what a replay emits has the same id, and the lost answer's batch is not replayed.
    assert_eq!(cluster.tables().outbox.len(), 50);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_database_that_lost_its_suffix_makes_the_worker_read_again() {
    let config = Config { replication_lag: Duration::from_secs(2), ..Config::default() };
    let cluster = Cluster::with(2, config);
    let ledger = Ledger::default();
    let worker = cluster.worker(&ledger, |_| {});
    publish(&cluster, 0..50).await;
    cluster.settled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    publish(&cluster, 50..100).await;
    cluster.settled().await;
    let before = cluster.tables().positions;
    cluster.database.affect(|database| database.promote(Promotion::LosingSuffix));
    assert_ne!(cluster.tables().positions, before, "nothing was lost: the test shows nothing");
    publish(&cluster, 100..150).await;
    cluster.settled().await;
    check_entries(&cluster, 0..150);
    check_charges(&ledger, 0..150);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn members_killed_at_any_await_leave_everything_to_the_next() {
    let cluster = Cluster::new(3);
    let ledger = Ledger::default();
    for round in 0..30 {
        let worker = cluster.worker(&ledger, |config| config.attempts_max = 100);
        publish(&cluster, round * 10..round * 10 + 10).await;
        tokio::time::sleep(Duration::from_millis(600 + 7 * round)).await;
        worker.kill().await;
    }
    let worker = cluster.worker(&ledger, |config| config.attempts_max = 100);
    cluster.settled().await;
    check_entries(&cluster, 0..300);
    check_charges(&ledger, 0..300);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn ended_backends_cost_time_and_nothing_else() {
    let cluster = Cluster::new(3);
    let ledger = Ledger::default();
    let worker = cluster.worker(&ledger, |_| {});
    for round in 0..40 {
        publish(&cluster, round * 5..round * 5 + 5).await;
        for session in cluster.database.with(|database| database.sessions_of("ledger")) {
            cluster.database.affect(|database| database.terminate(session));
        }
        tokio::time::sleep(Duration::from_millis(3 * round)).await;
    }
    cluster.settled().await;
    check_entries(&cluster, 0..200);
    check_charges(&ledger, 0..200);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_outlived_its_lease_is_fenced() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    // The first member's settlement cannot commit until another has claimed, called and settled.
    let stuck = cluster.worker(&ledger, |config| config.claim_poll_max_ms = 60_000);
    ledger.provider().plan.insert(1, [stormglass_runtime::ActError::Unknown("lost".to_owned())].into());
    ledger.provider().happens.insert(1);
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.until("the call", |_| ledger.calls().0 > 0).await;
    stuck.kill().await;
    let worker = cluster.worker(&ledger, |_| {});
    cluster.publish(Script::Entry, "a", 2).await;
    cluster.settled().await;
    assert_eq!((cluster.entries("a"), ledger.charged()), (vec![1, 2], vec![1]));
    worker.drain().await;
}
