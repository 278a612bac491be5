//! A Kafka and a PostgreSQL in this process, and what tests do to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use stormglass_embedded::{
    broker::{self, ClientConfig, ClusterConfig, Embedded, TopicConfig},
    database::{self, Config, NODES, Schema, Snapshot},
    machine::Server,
    transport::{Local, TokioClock, keep_time},
};
use stormglass_runtime::{
    Broker, Clock, ConsumerName, Database, DeadLetters, Entropy, Headers, Partition, Ports, Producer, Record,
    Relay, RelayConfig, Timestamp, Topic, Versioned, Worker, WorkerConfig, derive_id,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::ledger::{Account, Ledger, Script, emission};

/// How long a test waits for what must come to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Jitter without surprise: half of every ceiling.
struct Half;

impl Entropy for Half {
    fn draw(&self, _: &'static str, _: u128, _: u32) -> f64 {
        0.5
    }
}

/// The cluster.
pub struct Cluster {
    pub clock: Arc<dyn Clock>,
    pub broker: Embedded,
    pub database: Server<database::Cluster>,
    producer: Arc<broker::Client>,
    partitions: u32,
    members: AtomicU64,
}

/// A worker or relay at work.
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Asks it to stop, and waits until it has drained.
    pub async fn drain(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    /// Ends it at whatever await it is.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
    }
}

impl Cluster {
    /// A cluster whose topic `events` has `partitions`.
    pub fn new(partitions: u32) -> Self {
        Self::with(partitions, Config::default())
    }

    /// The same with a database of your choice.
    pub fn with(partitions: u32, config: Config) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000_000)));
        let topics = vec![TopicConfig::new("events", partitions), TopicConfig::new("ledger.dlq", 1)];
        let broker = Embedded::start(ClusterConfig::new(topics).scaled_down(10), Arc::clone(&clock));
        let database = Server::new(database::Cluster::new(Schema::of::<Account>(), config));
        tokio::spawn(keep_time(database.clone(), Arc::clone(&clock)));
        let producer = broker.client(ClientConfig::new("test"));
        Self { clock, broker, database, producer, partitions, members: AtomicU64::new(0) }
    }

    /// A client of the database.
    pub fn database_client(&self, application: &str) -> Arc<database::Client> {
        let local = Local::new(self.database.clone(), NODES, Arc::clone(&self.clock));
        let config = database::ClientConfig { application: application.to_owned(), ..Default::default() };
        Arc::new(database::Client::new(Arc::new(local), config))
    }

    /// A worker of `ledger`, with quick timeouts unless `tune` says otherwise.
    pub fn worker(&self, ledger: &Ledger, tune: impl FnOnce(&mut WorkerConfig)) -> Running {
        self.worker_over(self.database_client("ledger"), ledger, tune)
    }

    /// The same over a database of your choice.
    pub fn worker_over(
        &self,
        database: Arc<dyn Database<Account>>,
        ledger: &Ledger,
        tune: impl FnOnce(&mut WorkerConfig),
    ) -> Running {
        let broker = self.broker.client(ClientConfig::new("ledger").scaled_down(10));
        self.worker_on((broker, database), ledger, tune)
    }

    /// The same over a broker of your choice, too.
    pub fn worker_on(
        &self,
        (broker, database): (Arc<dyn Broker>, Arc<dyn Database<Account>>),
        ledger: &Ledger,
        tune: impl FnOnce(&mut WorkerConfig),
    ) -> Running {
        let number = self.members.fetch_add(1, Ordering::Relaxed);
        let member = derive_id("member", &[&number.to_be_bytes()]);
        let mut config = WorkerConfig {
            topics: vec!["events".to_owned()],
            attempts_max: 3,
            backoff_base_ms: 20,
            backoff_max_ms: 200,
            position_lazy_ms: 100,
            claim_poll_max_ms: 200,
            claim_lease_ms: 3_000,
            act_timeout_ms: 1_000,
            ..WorkerConfig::default()
        };
        tune(&mut config);
        let ports = Ports { broker, database, clock: Arc::clone(&self.clock), entropy: Arc::new(Half) };
        let worker = Worker::new(ledger.clone(), ports, config, member).unwrap();
        let shutdown = CancellationToken::new();
        Running { task: tokio::spawn(worker.run(shutdown.clone())), shutdown }
    }

    /// A relay over `producer`.
    pub fn relay_over(&self, producer: Arc<dyn Producer>) -> Running {
        let number = self.members.fetch_add(1, Ordering::Relaxed);
        let holder = derive_id("relay", &[&number.to_be_bytes()]);
        let config = RelayConfig { rejected_retry_ms: 500, ..RelayConfig::default() };
        let relay = Relay::<Account>::new(self.database_client("relay"), producer, config, holder).unwrap();
        let shutdown = CancellationToken::new();
        Running { task: tokio::spawn(relay.run(shutdown.clone())), shutdown }
    }

    /// A relay.
    pub fn relay(&self) -> Running {
        self.relay_over(self.broker.client(ClientConfig::new("relay")))
    }

    /// What an operator has.
    pub fn dead_letters(&self) -> DeadLetters<Account> {
        DeadLetters::new(self.database_client("operator"), ConsumerName::from("ledger"))
    }

    /// Publishes an event; its id follows from its number.
    pub async fn publish(&self, script: Script, account: &str, number: u64) {
        let id = derive_id("test", &[&number.to_be_bytes()]);
        let source = ConsumerName::from("test");
        self.publish_record(emission(script, account, number).into_record(
            &source,
            id,
            self.clock.now(),
            None,
        ))
        .await;
    }

    /// Publishes whatever it is.
    pub async fn publish_record(&self, record: Record) {
        for result in self.producer.publish(vec![record]).await {
            result.unwrap();
        }
    }

    /// What the database holds.
    pub fn tables(&self) -> Snapshot {
        self.database.with(|database| database.tables())
    }

    /// What was written down in an account.
    pub fn entries(&self, account: &str) -> Vec<u64> {
        let tables = self.tables();
        let row = tables.rows.get("accounts").and_then(|accounts| accounts.get(account));
        row.map_or_else(Vec::new, |Versioned { row, .. }| {
            serde_json::from_str::<Account>(&row.body).unwrap().entries
        })
    }

    /// The records that a topic has been given so far, since the last time of asking.
    pub fn appended(&self, topic: &str) -> Vec<Record> {
        let observed = self.broker.server.with(|broker| broker.drain_observed());
        let records = observed.into_iter().filter_map(|observed| match observed {
            broker::Observed::Appended { record, .. } => Some(record),
            _ => None,
        });
        records.filter(|record| record.topic == Topic::from(topic)).map(Arc::unwrap_or_clone).collect()
    }

    /// Whether every record of `events` lies before its stored position.
    pub fn is_caught_up(&self) -> bool {
        let tables = self.tables();
        (0..self.partitions).map(|index| Partition::new(&Topic::from("events"), index)).all(|partition| {
            let stored = tables.positions.get(&(ConsumerName::from("ledger"), partition.clone()));
            let log = self.broker.server.with(|broker| broker.watermarks(&partition));
            log.zip(stored).is_some_and(|(log, stored)| log.end <= *stored)
        })
    }

    /// Whether everything is taken and nothing waits.
    pub fn is_settled(&self) -> bool {
        let tables = self.tables();
        self.is_caught_up() && tables.pending.is_empty()
    }

    /// Lets time pass until `condition` holds.
    #[track_caller]
    pub fn until<'a>(
        &'a self,
        what: &'a str,
        condition: impl Fn(&Self) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + PATIENCE;
            while !condition(self) {
                assert!(
                    Instant::now() < deadline,
                    "{caller}: {what} has not come to pass:\n{}",
                    self.summary()
                );
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }

    /// What a failed test shows.
    fn summary(&self) -> String {
        let tables = self.tables();
        let pending: Vec<_> = (tables.pending.values())
            .map(|row| (&row.id, row.attempts, row.due, row.claim, &row.error, row.dead_at))
            .collect();
        let (positions, inbox, outbox) = (&tables.positions, tables.inbox.len(), tables.outbox.len());
        format!("{positions:?}\ninbox {inbox} outbox {outbox}\npending {pending:#?}\n{:?}", tables.rows)
    }

    /// Lets time pass until everything is taken and nothing waits.
    #[track_caller]
    pub fn settled(&self) -> impl Future<Output = ()> + '_ {
        self.until("settling", Self::is_settled)
    }

    /// Delivers the last `records` of every partition once more.
    pub fn redeliver(&self, records: usize) {
        for ((_, partition), _) in self.tables().positions {
            let now = self.clock.now();
            self.broker.server.affect(|broker| broker.redeliver(now, &partition, records));
        }
    }
}

/// A record that no version can read.
pub fn garbage(account: &str, bytes: usize) -> Record {
    let mut headers = Headers::default();
    headers.push("ce_type", "garbage");
    Record {
        topic: Topic::from("events"),
        key: Some(Bytes::copy_from_slice(account.as_bytes())),
        headers,
        value: vec![b'x'; bytes].into(),
    }
}
