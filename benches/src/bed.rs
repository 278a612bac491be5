//! Both clusters in one process, their clients, and the production worker and relay on them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stormglass_embedded::{
    broker::{self, ClusterConfig, Embedded, TopicConfig},
    database::{self, Config, Schema},
    machine::Server,
    transport::TokioClock,
};
use stormglass_orders::{
    Payments, Row, TOPIC,
    ports::{Charge, Notice, Notifier, PaymentProvider, PaymentReply, Refund},
    types::Reference,
};
use stormglass_runtime::{
    ActError, Clock, ConsumerName, Database, IdempotencyKey, Partition, Ports, Producer, Record, Relay,
    RelayConfig, RowSet, Service, Statement, Timestamp, Topic, Worker, WorkerConfig,
};
use stormglass_sim::Dice;
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PARTITIONS: u32 = 4;

/// How often a bench looks whether the work is done, in simulated time.
const LOOK: Duration = Duration::from_millis(5);

/// Clusters with their clients, on simulated time.
pub struct Bed {
    runtime: Runtime,
    kafka: Embedded,
    postgres: Server<database::Cluster>,
    broker: Arc<broker::Client>,
    database: Arc<database::Client>,
    clock: Arc<dyn Clock>,
}

impl Default for Bed {
    /// # Panics
    /// If no runtime can be built.
    #[expect(clippy::expect_used, reason = "a bench without a runtime has nothing to measure")]
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let entered = runtime.enter();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp(0)));
        let topics = vec![TopicConfig::new(TOPIC, PARTITIONS)];
        let config = ClusterConfig { initial_rebalance_delay: Duration::ZERO, ..ClusterConfig::new(topics) };
        let kafka = Embedded::start(config, Arc::clone(&clock));
        let broker = kafka.client(broker::ClientConfig::new("bench"));
        let (postgres, database) =
            database::embedded(Schema::of::<Row>(), Config::default(), Arc::clone(&clock));
        drop(entered);
        Self { runtime, kafka, postgres, broker, database, clock }
    }
}

impl Bed {
    /// Puts records on the log.
    ///
    /// # Panics
    /// If one is not taken.
    pub fn publish(&self, records: Vec<Record>) {
        for report in self.runtime.block_on(self.broker.publish(records)) {
            assert!(report.is_ok(), "{report:?}");
        }
    }

    /// Puts rows into their tables.
    pub fn insert(&self, rows: Vec<Row>) {
        let table = rows.first().map_or_else(String::new, |row| Row::table(&row.key()).to_owned());
        self.runtime.block_on(self.transact(Statement::InsertRows { table, rows }));
    }

    /// Puts records into the outbox.
    pub fn emit(&self, records: Vec<Record>) {
        self.runtime.block_on(self.transact(Statement::Emit { records }));
    }

    #[expect(clippy::expect_used, reason = "nothing fails in these clusters")]
    async fn transact(&self, statement: Statement<Row>) {
        let mut session = self.database.begin().await.expect("begins");
        session.execute(statement).await.expect("executes");
        session.commit().await.expect("commits");
    }

    /// Runs one worker of `service` until it has taken everything that is on the log.
    pub fn run_lanes<S: Service<Row = Row>>(&self, service: S) {
        let group = service.name();
        self.runtime.block_on(async {
            let (worker, shutdown) = self.worker(service);
            while !self.is_taken(&group) {
                tokio::time::sleep(LOOK).await;
            }
            stop(worker, shutdown).await;
        });
    }

    /// Runs payments until every order on the log is charged and its queue is empty: each goes through the queue.
    pub fn run_queue(&self) {
        let provider = Arc::new(Agreeable::default());
        let payments = Payments::new(Arc::clone(&provider) as Arc<dyn PaymentProvider>);
        let (group, events) = (payments.name(), self.end());
        self.runtime.block_on(async {
            let (worker, shutdown) = self.worker(payments);
            while provider.charges.load(Ordering::Relaxed) < events || !self.is_taken(&group) {
                tokio::time::sleep(LOOK).await;
            }
            while !self.postgres.with(|cluster| cluster.tables().pending.is_empty()) {
                tokio::time::sleep(LOOK).await;
            }
            stop(worker, shutdown).await;
        });
    }

    /// Runs a relay until the outbox holds nothing.
    #[expect(clippy::expect_used, reason = "the default settings are valid")]
    pub fn run_relay(&self) {
        let (database, producer) = (Arc::clone(&self.database), Arc::clone(&self.broker));
        self.runtime.block_on(async {
            let relay = Relay::<Row>::new(database, producer, RelayConfig::default(), Uuid::from_u128(1));
            let shutdown = CancellationToken::new();
            let running = tokio::spawn(relay.expect("valid").run(shutdown.clone()));
            while !self.postgres.with(|cluster| cluster.tables().outbox.is_empty()) {
                tokio::time::sleep(LOOK).await;
            }
            stop(running, shutdown).await;
        });
    }

    #[expect(clippy::expect_used, reason = "the settings are valid")]
    fn worker<S: Service<Row = Row>>(&self, service: S) -> (JoinHandle<()>, CancellationToken) {
        let ports = Ports::<Row> {
            broker: Arc::clone(&self.broker) as _,
            database: Arc::clone(&self.database) as _,
            clock: Arc::clone(&self.clock),
            entropy: Arc::new(Dice::new(1)),
        };
        let config = WorkerConfig {
            topics: vec![TOPIC.to_owned()],
            report_interval_ms: 10,
            ..WorkerConfig::default()
        };
        let worker = Worker::new(service, ports, config, Uuid::from_u128(2)).expect("valid");
        let shutdown = CancellationToken::new();
        (tokio::spawn(worker.run(shutdown.clone())), shutdown)
    }

    fn partitions() -> impl Iterator<Item = Partition> {
        (0..PARTITIONS).map(|index| Partition::new(&Topic::from(TOPIC), index))
    }

    /// How many records the log holds.
    fn end(&self) -> u64 {
        let ends = Self::partitions().filter_map(|partition| {
            self.kafka.server.with(|cluster| cluster.watermarks(&partition)).map(|marks| marks.end)
        });
        ends.filter_map(|end| u64::try_from(end).ok()).sum()
    }

    /// Whether the group has reported the end of every partition.
    fn is_taken(&self, group: &ConsumerName) -> bool {
        Self::partitions().all(|partition| {
            self.kafka.server.with(|cluster| {
                let end = cluster.watermarks(&partition).map_or(0, |marks| marks.end);
                end == 0 || cluster.committed(group, &partition) == Some(end)
            })
        })
    }
}

#[expect(clippy::expect_used, reason = "a task that panicked measured nothing")]
async fn stop(running: JoinHandle<()>, shutdown: CancellationToken) {
    shutdown.cancel();
    running.await.expect("it drains");
}

/// A provider and a notifier in one, that say yes at once.
#[derive(Default)]
pub struct Agreeable {
    charges: AtomicU64,
}

#[async_trait]
impl PaymentProvider for Agreeable {
    async fn charge(&self, _: Charge, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        self.charges.fetch_add(1, Ordering::Relaxed);
        reference(key).map(PaymentReply::Captured)
    }

    async fn refund(&self, _: Refund, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        reference(key).map(PaymentReply::Refunded)
    }

    async fn close(&self, _: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        Ok(None)
    }
}

#[async_trait]
impl Notifier for Agreeable {
    async fn send(&self, _: Notice, key: IdempotencyKey) -> Result<Reference, ActError> {
        reference(key)
    }

    async fn close(&self, _: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        Ok(None)
    }
}

fn reference(key: IdempotencyKey) -> Result<Reference, ActError> {
    Reference::new(&key.to_string()).map_err(|invalid| ActError::Rejected(invalid.to_string()))
}
