//! Everything in one process: the embedded Kafka and PostgreSQL, kept by the machine's clock, and stand-ins outside.
//!
//! For trying out and for end-to-end tests without containers. Nothing survives the process, and memory grows with
//! every order: the log is never trimmed.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use stormglass_embedded::{
    broker::{self, ClusterConfig, Embedded, TopicConfig},
    database::{self, NODES, Schema},
    machine::Server,
    transport::{Local, keep_time},
};
use stormglass_orders::{
    Row, Stock, TOPIC,
    gateway::{Keyring, Secret},
    types::{Sku, Tenant},
};
use stormglass_runtime::{Clock, Database, Entropy, RowSet, Session, Statement};
use tokio::task::JoinSet;

use crate::{
    host::SystemClock,
    outside::{Manners, StandIn},
    settings::{Settings, topics},
    stack::Stack,
    stop::Stop,
};

/// Whose shelves are filled.
pub const TENANT: &str = "demo";
/// With what.
pub const SKUS: [&str; 3] = ["barometer", "lantern", "umbrella"];
/// How many of each.
const UNITS: i64 = 1_000_000;

/// Few partitions: all members are in this process.
const PARTITIONS: u32 = 4;
/// How often what the machines tell of themselves is thrown away: nobody judges them here.
const DRAIN: Duration = Duration::from_secs(1);

/// The clusters. Time stops for them when this is dropped.
pub struct Clusters {
    kafka: Embedded,
    postgres: Server<database::Cluster>,
    clock: Arc<dyn Clock>,
    tasks: JoinSet<()>,
}

impl Clusters {
    /// Starts both, with the stock of [`TENANT`] on the shelves. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the stock is not taken.
    pub async fn start(settings: &Settings) -> Result<Self, Stop> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let partitions = |name: &str| if name == TOPIC { PARTITIONS } else { 1 };
        let topics = topics();
        let created = topics.iter().map(|topic| TopicConfig::new(topic.as_str(), partitions(topic.as_str())));
        let kafka = ClusterConfig {
            initial_rebalance_delay: Duration::ZERO,
            observe: false,
            ..ClusterConfig::new(created.collect())
        };
        let postgres = database::Config {
            lock_timeout: Some(Duration::from_millis(settings.worker.lock_timeout_ms)),
            topics: Some(topics.into_iter().collect()),
            ..database::Config::default()
        };
        let kafka = Embedded::start(kafka, Arc::clone(&clock));
        let postgres = Server::new(database::Cluster::new(Schema::of::<Row>(), postgres));
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_time(postgres.clone(), Arc::clone(&clock)));
        tasks.spawn(forget(postgres.clone()));
        let clusters = Self { kafka, postgres, clock, tasks };
        fill_shelves(&*clusters.database("shelves")).await?;
        Ok(clusters)
    }

    /// Ports on the clusters; the parties outside say yes at once.
    pub fn stack(&self, entropy: &Arc<dyn Entropy>) -> Stack {
        let kafka = self.kafka.client(broker::ClientConfig::new("stormglass"));
        let database = self.database("stormglass");
        let outside = Arc::new(StandIn::new(Manners::default(), Arc::clone(entropy)));
        Stack {
            broker: Arc::clone(&kafka) as _,
            producer: Arc::clone(&kafka) as _,
            intake: kafka,
            database: Arc::clone(&database) as _,
            reader: database,
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(entropy),
            provider: Arc::clone(&outside) as _,
            notifier: outside,
        }
    }

    fn database(&self, application: &str) -> Arc<database::Client> {
        let transport = Local::new(self.postgres.clone(), NODES, Arc::clone(&self.clock));
        let config = database::ClientConfig {
            application: application.to_owned(),
            pool_size: 40,
            ..database::ClientConfig::default()
        };
        Arc::new(database::Client::new(Arc::new(transport), config))
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// A key ring of its own: receipts end with the process that gave them out.
///
/// # Errors
/// If the machine has no randomness to give.
pub fn keyring() -> Result<Keyring, Stop> {
    let failed =
        |error: &dyn std::fmt::Display| Stop::Internal(format!("no key to sign receipts with: {error}"));
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| failed(&error))?;
    let key = Secret::new(&bytes).map_err(|error| failed(&error))?;
    Keyring::new(BTreeMap::from([("embedded".to_owned(), key)]), "embedded").map_err(|error| failed(&error))
}

/// What a newcomer can type.
pub fn greeting(address: SocketAddr) -> String {
    let skus = SKUS.join(", ");
    format!(
        "Stormglass is at http://{address}; tenant {TENANT}, on the shelves: {skus}. Place an order:

  curl -i http://{address}/v1/orders -H 'Stormglass-Tenant: {TENANT}' -H 'Idempotency-Key: first' \\
       -H 'Content-Type: application/json' \\
       -d '{{\"customer\":\"ada\",\"currency\":\"EUR\",\"lines\":[{{\"sku\":\"umbrella\",\"quantity\":1,\"unit_price_minor\":1999}}]}}'

and follow it until it is confirmed:

  curl http://{address}/v1/orders -H 'Stormglass-Tenant: {TENANT}'

"
    )
}

async fn forget(postgres: Server<database::Cluster>) {
    loop {
        tokio::time::sleep(DRAIN).await;
        drop(postgres.with(|cluster| cluster.drain_observed()));
    }
}

async fn fill_shelves(database: &dyn Database<Row>) -> Result<(), Stop> {
    let rows: Result<Vec<Row>, _> =
        SKUS.iter().map(|sku| Stock::seed(&Tenant::new(TENANT)?, &Sku::new(sku)?, UNITS)).collect();
    let rows = rows.map_err(|invalid| Stop::Internal(invalid.to_string()))?;
    insert_stock(database, rows).await.map_err(|failure| Stop::of("filling the shelves", &failure))
}

async fn insert_stock(
    database: &dyn Database<Row>,
    rows: Vec<Row>,
) -> Result<(), stormglass_runtime::Failure> {
    let table = rows.first().map(|row| Row::table(&row.key()).to_owned()).unwrap_or_default();
    let mut session: Box<dyn Session<Row>> = database.begin().await?;
    session.execute(Statement::InsertRows { table, rows }).await?;
    session.commit().await
}
