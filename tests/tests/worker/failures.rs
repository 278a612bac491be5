//! What goes wrong between a worker and its database: lost answers, lost suffixes, killed members, ended backends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stormglass_embedded::database::{Client, Config, Promotion};
use stormglass_runtime::{ActError, Cause, Database, Failure, Session};

use crate::{
    cluster::Cluster,
    ledger::{Account, Ledger, Script},
};

/// A way to the database that can be cut.
struct Link {
    inner: Arc<Client>,
    cut: Arc<AtomicBool>,
}

#[async_trait]
impl Database<Account> for Link {
    async fn begin(&self) -> Result<Box<dyn Session<Account>>, Failure> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(Failure::NotDone(Cause::Disconnected));
        }
        self.inner.begin().await
    }
}

/// Publishes of all kinds that succeed, over seven accounts.
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
async fn an_attempt_whose_lease_ended_cannot_settle_while_another_is_at_work() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(1, [ActError::Failed("the first key has failed".to_owned())].into());
    ledger.provider().pauses = [Duration::from_millis(5), Duration::from_millis(900)].into();
    let cut = Arc::new(AtomicBool::new(false));
    let link = Link { inner: cluster.database_client("late"), cut: Arc::clone(&cut) };
    let late = cluster.worker_over(Arc::new(link), &ledger, |config| config.retry_max_ms = 50);
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.until("the first call", |_| ledger.calls().0 == 1).await;
    cut.store(true, Ordering::Relaxed);
    let other = cluster.worker(&ledger, |_| {});
    // The first member cannot settle until the second is in the middle of its call. Its outcome, a definite failure,
    // would then give the event a new idempotency key and a second charge.
    cluster.until("the second call", |_| ledger.calls().0 == 2).await;
    cut.store(false, Ordering::Relaxed);
    cluster.settled().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((cluster.entries("a"), ledger.charged(), ledger.calls()), (vec![1], vec![1], (2, 1)));
    late.drain().await;
    other.drain().await;
}
