//! G6: what was written is published, in key order, through failing records, takeovers and failovers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stormglass_embedded::{
    broker::{Client, ClientConfig},
    database::{self, Config, Promotion},
};
use stormglass_runtime::{
    Answer, Cause, Database, Failure, Position, Producer, Reason, Record, Relay, RelayConfig, Session,
    Statement,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    cluster::Cluster,
    ledger::{Account, Ledger, Script},
};

/// A producer that fails some records: unknown every third time, rejected while the key says so.
struct Flaky {
    inner: Arc<Client>,
    calls: AtomicU64,
    rejected_calls: u64,
    /// How long it keeps its results to itself.
    pause: Duration,
}

impl Flaky {
    fn over(cluster: &Cluster, rejected_calls: u64) -> Arc<Self> {
        let inner = cluster.broker.client(ClientConfig::new("flaky"));
        Arc::new(Self { inner, calls: AtomicU64::new(0), rejected_calls, pause: Duration::ZERO })
    }

    fn slow(cluster: &Cluster, pause: Duration) -> Arc<Self> {
        let inner = cluster.broker.client(ClientConfig::new("slow"));
        Arc::new(Self { inner, calls: AtomicU64::new(100), rejected_calls: 0, pause })
    }
}

#[async_trait]
impl Producer for Flaky {
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut broken: BTreeMap<_, Failure> = BTreeMap::new();
        let mut results = Vec::new();
        for (place, record) in records.into_iter().enumerate() {
            if broken.contains_key(&record.key) {
                results.push(Err(Failure::NotDone(Cause::Predecessor)));
                continue;
            }
            if record.key.as_deref() == Some(b"a0-copy") && call < self.rejected_calls {
                let failure = Failure::Rejected(Reason::UnknownTopic("refused".to_owned()));
                broken.insert(record.key.clone(), failure.clone());
                results.push(Err(failure));
                continue;
            }
            let key = record.key.clone();
            let result = self.inner.publish(vec![record]).await.remove(0);
            // It is published, and nobody is told.
            let lost = (call + place as u64).is_multiple_of(3) && call < 10;
            let result = if lost { Err(Failure::Unknown(Cause::TimedOut)) } else { result };
            if let Err(failure) = &result {
                broken.insert(key, failure.clone());
            }
            results.push(result);
        }
        tokio::time::sleep(self.pause).await;
        results
    }
}

async fn publish(cluster: &Cluster, numbers: std::ops::Range<u64>) {
    for number in numbers {
        cluster.publish(Script::Published, &format!("a{}", number % 4), number).await;
    }
}

/// What became of the copies: entered once each, in order.
#[track_caller]
fn check(cluster: &Cluster, numbers: std::ops::Range<u64>) {
    for account in 0..4 {
        let expected: Vec<u64> = numbers.clone().filter(|number| number % 4 == account).collect();
        assert_eq!(cluster.entries(&format!("a{account}-copy")), expected);
    }
}

fn is_published(cluster: &Cluster) -> bool {
    cluster.tables().outbox.is_empty() && cluster.is_settled()
}

#[tokio::test(start_paused = true)]
async fn records_that_fail_are_published_later_in_the_order_of_their_key() {
    let cluster = Cluster::new(2);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    let relay = cluster.relay_over(Flaky::over(&cluster, 0));
    publish(&cluster, 0..60).await;
    cluster.until("publishing", is_published).await;
    check(&cluster, 0..60);
    worker.drain().await;
    relay.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_record_holds_its_key_and_no_other() {
    let cluster = Cluster::new(2);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    publish(&cluster, 0..40).await;
    cluster.until("forty", |cluster| cluster.tables().outbox.len() == 40).await;
    let relay = cluster.relay_over(Flaky::over(&cluster, 3));
    cluster.until("the others", |cluster| cluster.entries("a1-copy").len() == 10).await;
    cluster.until("publishing", is_published).await;
    check(&cluster, 0..40);
    worker.drain().await;
    relay.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_from_a_relay_that_was_killed_and_at_once_from_one_that_drained() {
    let cluster = Cluster::new(2);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    let mut relays = vec![cluster.relay(), cluster.relay(), cluster.relay()];
    publish(&cluster, 0..20).await;
    cluster.until("publishing", is_published).await;
    relays.remove(0).kill().await;
    publish(&cluster, 20..40).await;
    cluster.until("publishing", is_published).await;
    relays.remove(0).drain().await;
    publish(&cluster, 40..60).await;
    cluster.until("publishing", is_published).await;
    check(&cluster, 0..60);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_failover_that_gives_a_number_to_another_row_loses_no_record() {
    for pause in 0..6 {
        let config = Config { replication_lag: Duration::from_millis(400), ..Config::default() };
        let cluster = Cluster::with(2, config);
        let worker = cluster.worker(&Ledger::default(), |_| {});
        let relay = cluster.relay_over(Flaky::slow(&cluster, Duration::from_millis(500)));
        cluster.until("positions", |cluster| cluster.tables().positions.len() == 2).await;
        // Enough to use up what PostgreSQL logs of a sequence ahead (32), so that numbers are given out again.
        publish(&cluster, 0..100).await;
        tokio::time::sleep(Duration::from_millis(50 * pause)).await;
        cluster.database.affect(|database| database.promote(Promotion::LosingSuffix));
        publish(&cluster, 100..200).await;
        cluster.until("publishing", is_published).await;
        for account in 0..4 {
            let mut entries = cluster.entries(&format!("a{account}-copy"));
            entries.sort_unstable();
            entries.dedup();
            let expected: Vec<u64> = (0..200).filter(|number| number % 4 == account).collect();
            assert_eq!(entries, expected, "pause {pause}");
        }
        worker.drain().await;
        relay.drain().await;
    }
}

/// Notes how many rows a round reads at most.
struct Counting {
    inner: Arc<database::Client>,
    most: Arc<AtomicUsize>,
}

struct CountingSession {
    inner: Box<dyn Session<Account>>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl Database<Account> for Counting {
    async fn begin(&self) -> Result<Box<dyn Session<Account>>, Failure> {
        let inner = self.inner.begin().await?;
        Ok(Box::new(CountingSession { inner, most: Arc::clone(&self.most) }))
    }
}

#[async_trait]
impl Session<Account> for CountingSession {
    async fn execute(&mut self, statement: Statement<Account>) -> Result<Answer<Account>, Failure> {
        let answer = self.inner.execute(statement).await;
        if let Ok(Answer::Outbox(rows)) = &answer {
            self.most.fetch_max(rows.len(), Ordering::Relaxed);
        }
        answer
    }

    async fn commit(self: Box<Self>) -> Result<(), Failure> {
        self.inner.commit().await
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rounds_that_fail_read_no_more_than_others() {
    let cluster = Cluster::new(2);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    publish(&cluster, 0..400).await;
    cluster.until("all are written", |cluster| cluster.tables().outbox.len() == 400).await;
    let most = Arc::new(AtomicUsize::new(0));
    let database = Counting { inner: cluster.database_client("relay"), most: Arc::clone(&most) };
    let config = RelayConfig { batch_records: 20, retry_max_ms: 100, ..RelayConfig::default() };
    let producer = Flaky::over(&cluster, 0);
    let relay = Relay::<Account>::new(Arc::new(database), producer, config, Uuid::from_u128(7)).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run(stop.clone()));
    cluster.until("publishing", is_published).await;
    stop.cancel();
    running.await.unwrap();
    let most = most.load(Ordering::Relaxed);
    assert!(most <= 40, "a round read {most} rows, though 20 are to be published and 20 to be deleted");
    worker.drain().await;
}
