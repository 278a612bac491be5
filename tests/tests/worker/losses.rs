//! Logs that lose records, at either end, and lanes that are full: what is not read is never passed over in silence.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use stormglass_embedded::{
    broker::{ClientConfig, OffsetReset, partition_of},
    database::Client,
};
use stormglass_runtime::{
    Answer, ConsumerName, Database, Failure, Offset, Partition, Session, Statement, Topic, WorkerConfig,
};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, Running},
    ledger::{Account, Ledger, Script},
};

/// A database whose transactions take so many milliseconds to begin.
struct Slow {
    inner: Arc<Client>,
    delay_ms: Arc<AtomicU64>,
}

#[async_trait]
impl Database<Account> for Slow {
    async fn begin(&self) -> Result<Box<dyn Session<Account>>, Failure> {
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))).await;
        self.inner.begin().await
    }
}

/// What a test of this file has: two partitions, an account in each, and the worker's metrics.
struct Setup {
    cluster: Cluster,
    ledger: Ledger,
    delay_ms: Arc<AtomicU64>,
    metrics: PrometheusHandle,
    _recording: metrics::LocalRecorderGuard<'static>,
}

impl Setup {
    fn new() -> Self {
        // The recorder must outlive its guard; a test makes one.
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let (metrics, recording) = (recorder.handle(), metrics::set_default_local_recorder(recorder));
        let (cluster, ledger) = (Cluster::new(2), Ledger::default());
        Self { cluster, ledger, delay_ms: Arc::default(), metrics, _recording: recording }
    }

    fn worker(&self, reset: OffsetReset, tune: impl FnOnce(&mut WorkerConfig)) -> Running {
        let mut config = ClientConfig::new("ledger").scaled_down(10);
        config.offset_reset = reset;
        config.fetch_max_bytes = 1;
        let inner = self.cluster.database_client("ledger");
        let database = Slow { inner, delay_ms: Arc::clone(&self.delay_ms) };
        self.cluster.worker_on(
            (self.cluster.broker.client(config), Arc::new(database)),
            &self.ledger,
            |config| {
                config.prune_interval_ms = 1_000;
                config.lanes = 1;
                tune(config);
            },
        )
    }

    /// Publishes entries to the account that lies in a partition.
    async fn publish(&self, index: u32, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.cluster.publish(Script::Entry, &account(index), number).await;
        }
    }

    fn entries(&self, index: u32) -> Vec<u64> {
        self.cluster.entries(&account(index))
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    }

    fn lose(&self, index: u32, end: Offset) {
        let now = self.cluster.clock.now();
        self.cluster.broker.server.affect(|broker| broker.lose(now, &partition(index), end));
    }

    fn trim(&self, index: u32, start: Offset) {
        let now = self.cluster.clock.now();
        self.cluster.broker.server.affect(|broker| broker.trim(now, &partition(index), start));
    }

    /// What the message of a closed partition tells the operator to do.
    async fn set_position(&self, index: u32, next: Offset) {
        let consumer = ConsumerName::from("ledger");
        let positions = vec![partition(index).at(next)];
        let client = self.cluster.database_client("operator");
        let mut session: Box<dyn Session<Account>> = client.begin().await.unwrap();
        let moved = session.execute(Statement::MovePositions { consumer, positions }).await;
        assert!(matches!(moved, Ok(Answer::Count(1))));
        session.commit().await.unwrap();
    }

    async fn is_closed(&self) {
        self.cluster.until("closing", |_| self.metric("stormglass_partitions_closed") == 1).await;
    }
}

fn partition(index: u32) -> Partition {
    Partition::new(&Topic::from("events"), index)
}

/// The first account of a partition.
fn account(index: u32) -> String {
    let mut names = (0..).map(|number| format!("a{number}"));
    names.find(|name| partition_of(name.as_bytes(), 2) == index).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_log_that_ends_before_the_stored_position_stays_closed_until_the_operator_moves_it() {
    let setup = Setup::new();
    let worker = setup.worker(OffsetReset::Earliest, |_| {});
    setup.publish(0, 0..10).await;
    setup.cluster.settled().await;
    worker.drain().await;
    setup.lose(0, 6);
    setup.publish(0, 100..102).await;
    let worker = setup.worker(OffsetReset::Earliest, |_| {});
    setup.is_closed().await;
    // The log grows past the stored position, and another partition goes on.
    setup.publish(0, 102..110).await;
    setup.publish(1, 1_000..1_003).await;
    setup.cluster.until("the other partition", |_| setup.entries(1) == [1_000, 1_001, 1_002]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(setup.entries(0), (0..10).collect::<Vec<_>>());
    assert_eq!(setup.metric("stormglass_partitions_closed"), 1);
    // As told: what was done before is not done again, what was passed over is not.
    setup.set_position(0, 4).await;
    setup.cluster.until("catching up", |_| setup.entries(0).len() == 20).await;
    assert_eq!(setup.entries(0), (0..10).chain(100..110).collect::<Vec<_>>());
    assert_eq!(setup.metric("stormglass_partitions_closed"), 0);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_cut_under_a_running_worker_is_closed_too() {
    for publishes in [true, false] {
        let setup = Setup::new();
        let worker = setup.worker(OffsetReset::Earliest, |_| {});
        setup.publish(0, 0..10).await;
        setup.cluster.settled().await;
        setup.lose(0, 6);
        if publishes {
            setup.publish(0, 100..101).await;
        }
        setup.is_closed().await;
        setup.publish(0, 101..120).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(setup.entries(0), (0..10).collect::<Vec<_>>());
        worker.drain().await;
    }
}

/// Fills a lane with the records of one partition while the database stands still, and removes the first 20 of 30 from
/// the log. Returns how many of them the worker has.
async fn overtaken(setup: &Setup) -> u64 {
    setup.publish(1, 1_000..1_001).await;
    setup.cluster.settled().await;
    setup.delay_ms.store(3_000, Ordering::Relaxed);
    setup.publish(0, 0..30).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    setup.trim(0, 20);
    setup.delay_ms.store(0, Ordering::Relaxed);
    let held = setup.metric("stormglass_buffered_records");
    assert!((1..20).contains(&held), "{held} records are held: nothing is overtaken");
    held
}

fn tiny(config: &mut WorkerConfig) {
    (config.batch_records, config.buffer_records) = (2, 4);
}

#[tokio::test(start_paused = true)]
async fn records_that_retention_removed_before_a_running_worker_read_them_are_counted() {
    let setup = Setup::new();
    let worker = setup.worker(OffsetReset::Earliest, tiny);
    let held = overtaken(&setup).await;
    setup.cluster.settled().await;
    assert_eq!(setup.entries(0), (0..held).chain(20..30).collect::<Vec<_>>());
    setup.cluster.until("telling", |_| setup.metric("stormglass_offsets_lost_total") == 20 - held).await;
    assert_eq!(setup.metric("stormglass_positions_overtaken_total"), 1);
    // Records that are gone are told once, and gaps that are none never.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(setup.metric("stormglass_offsets_lost_total"), 20 - held);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_not_to_skip_closes_a_partition_that_retention_overtook() {
    let setup = Setup::new();
    let worker = setup.worker(OffsetReset::Fail, tiny);
    let held = overtaken(&setup).await;
    setup.is_closed().await;
    setup.publish(1, 1_001..1_004).await;
    setup.cluster.until("the other partition", |_| setup.entries(1) == [1_000, 1_001, 1_002, 1_003]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(setup.entries(0), (0..held).collect::<Vec<_>>());
    assert_eq!(setup.metric("stormglass_offsets_lost_total"), 20 - held);
    assert_eq!(setup.metric("stormglass_partitions_closed"), 1);
    setup.set_position(0, 20).await;
    setup.cluster.settled().await;
    assert_eq!(setup.entries(0), (0..held).chain(20..30).collect::<Vec<_>>());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_fills_its_lane_does_not_keep_the_others_waiting() {
    let setup = Setup::new();
    let worker = setup.worker(OffsetReset::Earliest, |config| {
        (config.batch_records, config.buffer_records) = (2, 200);
    });
    setup.publish(1, 1_000..1_001).await;
    setup.cluster.settled().await;
    setup.delay_ms.store(100, Ordering::Relaxed);
    setup.publish(0, 0..400).await;
    setup.cluster.until("a full lane", |_| setup.metric("stormglass_buffered_records") >= 200).await;
    setup.publish(1, 1_001..1_002).await;
    let since = Instant::now();
    setup.cluster.until("the other partition", |_| setup.entries(1) == [1_000, 1_001]).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    worker.drain().await;
}
