//! What goes wrong between a worker and its database: lost answers, lost suffixes, killed members, ended backends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stormglass_embedded::database::{Client, Config, Promotion};
use stormglass_runtime::{ActError, Answer, Cause, Database, Failure, Partition, Session, Statement, Topic};

use crate::{
    cluster::{Cluster, Running},
    ledger::{Account, Ledger, Script},
};

/// A way to the database that can be cut, that can be slow, and that can lose the answers to claims.
struct Link {
    inner: Arc<Client>,
    trouble: Arc<Trouble>,
}

/// What is wrong with a link.
#[derive(Default)]
struct Trouble {
    cut: AtomicBool,
    /// How long a commit is on its way.
    commit_takes_ms: AtomicU64,
    /// How many more commits of claims take place unheard.
    claims_unheard: AtomicU64,
}

impl Trouble {
    fn loses(&self) -> bool {
        let left = self.claims_unheard.load(Ordering::Relaxed);
        self.claims_unheard.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }
}

/// A transaction over a link.
struct Line {
    inner: Box<dyn Session<Account>>,
    trouble: Arc<Trouble>,
    claims: bool,
}

#[async_trait]
impl Session<Account> for Line {
    async fn execute(&mut self, statement: Statement<Account>) -> Result<Answer<Account>, Failure> {
        self.claims |= matches!(statement, Statement::Claim { .. });
        self.inner.execute(statement).await
    }

    async fn commit(self: Box<Self>) -> Result<(), Failure> {
        let takes = self.trouble.commit_takes_ms.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(takes)).await;
        self.inner.commit().await?;
        if self.claims && self.trouble.loses() { Err(Failure::Unknown(Cause::Disconnected)) } else { Ok(()) }
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}

#[async_trait]
impl Database<Account> for Link {
    async fn begin(&self) -> Result<Box<dyn Session<Account>>, Failure> {
        if self.trouble.cut.load(Ordering::Relaxed) {
            return Err(Failure::NotDone(Cause::Disconnected));
        }
        let inner = self.inner.begin().await?;
        Ok(Box::new(Line { inner, trouble: Arc::clone(&self.trouble), claims: false }))
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

/// One partition, on which the position moves twice and the database then loses the second move.
async fn back_by_one(second: u64) -> (Cluster, Running) {
    let cluster = Cluster::with(1, Config { replication_lag: Duration::from_secs(2), ..Config::default() });
    let worker = cluster.worker(&Ledger::default(), |config| config.prune_interval_ms = 500);
    cluster.publish(Script::Entry, "a", 1).await;
    cluster.settled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.publish(Script::Entry, "a", second).await;
    cluster.settled().await;
    let before = cluster.tables().positions;
    // A round that sees the second move.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    cluster.database.affect(|database| database.promote(Promotion::LosingSuffix));
    assert_ne!(cluster.tables().positions, before, "nothing was lost: the test shows nothing");
    (cluster, worker)
}

#[tokio::test(start_paused = true)]
async fn what_a_database_lost_is_read_again_though_nothing_more_comes() {
    let (cluster, worker) = back_by_one(2).await;
    cluster.until("the second", |cluster| cluster.entries("a") == [1, 2]).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn no_mark_goes_by_a_position_that_the_database_has_lost() {
    // The second is a copy of the first, whose record retention then removes.
    let (cluster, worker) = back_by_one(1).await;
    let (now, events) = (cluster.clock.now(), Partition::new(&Topic::from("events"), 0));
    cluster.broker.server.affect(|broker| broker.trim(now, &events, 1));
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.publish(Script::Entry, "a", 3).await;
    cluster.until("the third", |cluster| cluster.entries("a").contains(&3)).await;
    assert_eq!(cluster.entries("a"), [1, 3], "the copy took effect");
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
async fn claims_whose_commit_is_not_heard_cost_no_attempts() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    let trouble = Arc::new(Trouble::default());
    let link = Link { inner: cluster.database_client("ledger"), trouble: Arc::clone(&trouble) };
    trouble.claims_unheard.store(5, Ordering::Relaxed);
    let worker = cluster.worker_over(Arc::new(link), &ledger, |config| config.attempts_max = 2);
    cluster.publish(Script::Refused, "a", 1).await;
    cluster.until("the queue", |cluster| !cluster.tables().pending.is_empty()).await;
    ledger.provider().gate = true;
    cluster.settled().await;
    assert_eq!(trouble.claims_unheard.load(Ordering::Relaxed), 0, "nothing was lost: the test shows nothing");
    assert_eq!(cluster.entries("a"), [1]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn heads_that_were_claimed_while_the_circuit_opened_are_given_back_untried() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(3, [ActError::NotSent("no route".to_owned())].into());
    ledger.provider().pauses = [Duration::from_millis(5), Duration::from_millis(60)].into();
    let trouble = Arc::new(Trouble::default());
    let link = Link { inner: cluster.database_client("ledger"), trouble: Arc::clone(&trouble) };
    for (account, number) in [("a", 1), ("b", 3), ("a", 2)] {
        cluster.publish(Script::Charge, account, number).await;
    }
    let worker = cluster.worker_over(Arc::new(link), &ledger, |config| {
        config.circuit_failures = 1;
        config.circuit_open_ms = 10_000;
    });
    cluster.until("two calls", |_| ledger.calls().0 == 2).await;
    // The commits of 2, which follows 1, and of 4, which is born claimed, are on their way when 3 fails.
    trouble.commit_takes_ms.store(200, Ordering::Relaxed);
    cluster.publish(Script::Charge, "c", 4).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(ledger.calls().0, 2, "called though the circuit is open");
    let attempts: Vec<u32> = cluster.tables().pending.values().map(|row| row.attempts).collect();
    assert_eq!(attempts.iter().sum::<u32>(), 1, "{attempts:?}");
    assert_eq!(attempts.len(), 3);
    cluster.settled().await;
    let mut charged = ledger.charged();
    charged.sort_unstable();
    assert_eq!(charged, [1, 2, 3, 4]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_lease_ended_cannot_settle_while_another_is_at_work() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().plan.insert(1, [ActError::Failed("the first key has failed".to_owned())].into());
    ledger.provider().pauses = [Duration::from_millis(5), Duration::from_millis(900)].into();
    let trouble = Arc::new(Trouble::default());
    let link = Link { inner: cluster.database_client("late"), trouble: Arc::clone(&trouble) };
    let late = cluster.worker_over(Arc::new(link), &ledger, |config| config.retry_max_ms = 50);
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.until("the first call", |_| ledger.calls().0 == 1).await;
    trouble.cut.store(true, Ordering::Relaxed);
    let other = cluster.worker(&ledger, |_| {});
    // The first member cannot settle until the second is in the middle of its call. Its outcome, a definite failure,
    // would then give the event a new idempotency key and a second charge.
    cluster.until("the second call", |_| ledger.calls().0 == 2).await;
    trouble.cut.store(false, Ordering::Relaxed);
    cluster.settled().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((cluster.entries("a"), ledger.charged(), ledger.calls()), (vec![1], vec![1], (2, 1)));
    late.drain().await;
    other.drain().await;
}
