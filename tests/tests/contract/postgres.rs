//! A real PostgreSQL as a system under test: one server for all cases, a database for each.
//!
//! What an operator does to a whole server (a crash, a full disk, a failover) is not done here, where other cases run.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, migrate::Migrator, postgres::PgConnectOptions};
use stormglass_embedded::database::{ClientConfig, Config, Disk, Promotion, Replication, Snapshot};
use stormglass_runtime::{
    AfterDeath, EventId, Image, Lease, OrderingKey, OutboxRow, Partition, Pending, Session, Statement,
    Timestamp, Versioned,
};
use stormglass_server::postgres::{self, Client, Tables};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    database::cases::{
        domain::Row,
        sut::{Both, Kind, Operator, Pace, Sut},
    },
    engine::Postgres,
    typed::accounts,
};

/// On a machine that does other things too.
const PACE: Pace = Pace {
    patience: Duration::from_secs(2),
    limit: Duration::from_secs(3),
    lateness: Duration::from_secs(1),
};

/// A server for many cases.
#[derive(Clone)]
pub struct Real {
    server: Arc<Server>,
}

struct Server {
    /// Dropped last: it removes the container.
    postgres: Postgres,
    databases: Mutex<u32>,
}

/// Not the owner of anything, so that limits of connections hold for it.
const ROLE: &str = "service";
const TEMPLATE: &str = "contract";

impl Real {
    /// Prepares a server: a template with the project's migrations and the cases' one typed table.
    pub async fn prepare(postgres: Postgres) -> Self {
        let mut owner = postgres.connect().await;
        run(&mut owner, &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE}'")).await;
        run(&mut owner, &format!("CREATE DATABASE {TEMPLATE}")).await;
        let mut template = connect(postgres.options().await.database(TEMPLATE)).await;
        let migrations = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
        let migrator = Migrator::new(migrations).await.expect("the migrations are readable");
        migrator.run(&mut template).await.expect("the migrations apply");
        run(
            &mut template,
            "CREATE TABLE accounts (
                 key     text COLLATE \"C\" PRIMARY KEY,
                 version bigint NOT NULL,
                 id      bigint NOT NULL,
                 balance bigint NOT NULL CONSTRAINT balance_not_negative CHECK (balance >= 0)
             )",
        )
        .await;
        run(
            &mut template,
            &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}"),
        )
        .await;
        Self { server: Arc::new(Server { postgres, databases: Mutex::new(0) }) }
    }

    /// A fresh database of its own with these settings.
    pub async fn database(&self, config: Config) -> PostgresOperator {
        let mut databases = self.server.databases.lock().await;
        *databases += 1;
        let name = format!("case_{}", *databases);
        let owner = self.server.postgres.options().await;
        let mut connection = connect(owner.clone()).await;
        let limit = config.max_connections;
        run(&mut connection, &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} CONNECTION LIMIT {limit}"))
            .await;
        let deadlock_ms = config.deadlock_timeout.as_millis();
        run(&mut connection, &format!("ALTER DATABASE {name} SET deadlock_timeout = {deadlock_ms}")).await;
        drop(databases);
        PostgresOperator { owner: owner.database(&name), config, _server: Arc::clone(&self.server) }
    }
}

#[async_trait]
impl Kind for Real {
    fn pace(&self) -> Pace {
        PACE
    }

    async fn start(&self, config: Config) -> Sut {
        let operator = self.database(config).await;
        let client = operator.client(ClientConfig::default());
        Sut { pace: PACE, client, operator: Box::new(operator) }
    }
}

async fn connect(options: PgConnectOptions) -> PgConnection {
    options.connect().await.expect("PostgreSQL accepts connections")
}

/// Runs a command as the owner.
pub async fn run(on: &mut PgConnection, command: &str) {
    sqlx::raw_sql(AssertSqlSafe(command)).execute(on).await.expect("the owner may do everything");
}

/// The hands on one database of the server.
pub struct PostgresOperator {
    owner: PgConnectOptions,
    config: Config,
    _server: Arc<Server>,
}

impl PostgresOperator {
    /// A connection as the owner.
    pub async fn connect(&self) -> PgConnection {
        connect(self.owner.clone()).await
    }

    fn adapter_config(&self, config: ClientConfig) -> postgres::Config {
        /// For timeouts that a case does not set: longer than any case.
        const UNSET: Duration = Duration::from_secs(60);
        let node = self.owner.clone().username(ROLE).password(ROLE);
        postgres::Config {
            application: config.application,
            transactions_max: config.pool_size,
            acquire_timeout: config.acquire_timeout,
            connect_timeout: config.connect_timeout,
            lock_timeout: self.config.lock_timeout.unwrap_or(UNSET),
            statement_timeout: self.config.statement_timeout.unwrap_or(UNSET),
            idle_in_transaction_timeout: self.config.idle_in_transaction_session_timeout.unwrap_or(UNSET),
            record_bytes_max: self.config.max_record_bytes,
            topics: self.config.topics.clone(),
            ..postgres::Config::new(vec![node])
        }
    }

    async fn sessions(&self, on: &mut PgConnection) -> i64 {
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND usename = $1 AND state <> 'idle'",
        )
        .bind(ROLE)
        .fetch_one(on)
        .await
        .expect("the owner sees all sessions")
    }

    /// Rows that are there and that nobody else could lock now.
    async fn locked_rows(&self, on: &mut PgConnection) -> i64 {
        let mut locked = 0;
        for table in ["positions", "inbox", "pending", "outbox", "leases", "rows", "accounts"] {
            let count = format!(
                "SELECT (SELECT count(*) FROM {table})
                      - (SELECT count(*) FROM (SELECT FROM {table} FOR UPDATE SKIP LOCKED) AS free)"
            );
            let of_table: i64 = sqlx::query_scalar(AssertSqlSafe(count))
                .fetch_one(&mut *on)
                .await
                .expect("the tables are there");
            locked += of_table;
        }
        locked
    }
}

#[async_trait]
impl Operator for PostgresOperator {
    fn client(&self, config: ClientConfig) -> Arc<dyn Both> {
        Arc::new(Client::<Row>::new(&self.adapter_config(config), Tables::new(vec![accounts()])))
    }

    async fn crash(&self, _: usize) {
        unreachable!("the server is shared");
    }

    async fn restart(&self, _: usize) {
        unreachable!("the server is shared");
    }

    async fn kill_backend(&self) {
        unreachable!("the server is shared");
    }

    async fn terminate(&self, application: &str) {
        let mut owner = self.connect().await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = $1",
        )
        .bind(application)
        .execute(&mut owner)
        .await
        .expect("the owner may terminate");
    }

    async fn promote(&self, _: Promotion) {
        unreachable!("the server is shared");
    }

    async fn rejoin(&self, _: usize) {
        unreachable!("the server is shared");
    }

    async fn set_disk(&self, _: Disk) {
        unreachable!("the server is shared");
    }

    async fn set_replication(&self, _: Replication) {
        unreachable!("the server is shared");
    }

    async fn drop_after_commit(&self, _: &str) {
        unreachable!("nothing stands between the client and the server");
    }

    async fn vanish(&self, session: Box<dyn Session<Row>>) {
        std::mem::forget(session);
    }

    async fn tables(&self) -> Snapshot {
        snapshot(&mut self.connect().await, &*self.client(ClientConfig::default())).await
    }

    /// A server learns of a client's end a little later than the client: what is counted twice in a row counts.
    async fn leftovers(&self) -> (usize, usize) {
        let mut owner = self.connect().await;
        let mut before = None;
        loop {
            let now = (self.sessions(&mut owner).await, self.locked_rows(&mut owner).await);
            if before == Some(now) {
                let count = |number| usize::try_from(number).expect("a count");
                return (count(now.0), count(now.1));
            }
            before = Some(now);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Everything that is committed: as SQL tells it where it is simple, as the adapter reads it elsewhere.
pub async fn snapshot(owner: &mut PgConnection, client: &dyn Both) -> Snapshot {
    let mut tables = Snapshot::default();
    let positions: Vec<(String, String, i32, i64)> =
        rows(owner, "SELECT consumer, topic, partition, next FROM positions").await;
    for (consumer, topic, index, next) in positions {
        tables.positions.insert((consumer.as_str().into(), partition(&topic, index)), next);
    }
    let inbox: Vec<(String, Uuid, String, i32, i64)> =
        rows(owner, "SELECT consumer, event_id, topic, partition, \"offset\" FROM inbox").await;
    for (consumer, id, topic, index, offset) in inbox {
        tables.inbox.insert((consumer.as_str().into(), EventId(id)), partition(&topic, index).at(offset));
    }
    for (consumer,) in rows::<(String,)>(owner, "SELECT DISTINCT consumer FROM pending").await {
        for row in pending(owner, client, &consumer).await {
            tables.pending.insert((consumer.as_str().into(), row.id.clone()), row);
        }
    }
    tables.outbox = outbox(client).await;
    let leases: Vec<(String, Uuid, i64)> = rows(owner, "SELECT name, holder, epoch FROM leases").await;
    for (name, holder, epoch) in leases {
        tables.leases.insert(name, Lease { holder, epoch, expires_at: Timestamp(0) });
    }
    let domain = "SELECT kind, key, version, body::text FROM rows
                  UNION ALL SELECT 'accounts', key, version, to_jsonb(accounts)::text FROM accounts";
    for (table, key, version, body) in rows::<(String, String, i64, String)>(owner, domain).await {
        let image = Image { table: table.clone(), key: key.clone(), body };
        tables.rows.entry(table).or_default().insert(key, Versioned { row: image, version });
    }
    tables
}

async fn rows<T>(on: &mut PgConnection, query: &'static str) -> Vec<T>
where
    T: Send + Unpin + for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
{
    sqlx::query_as(query).fetch_all(on).await.expect("the tables are there")
}

fn partition(topic: &str, index: i32) -> Partition {
    Partition::new(&topic.into(), index.cast_unsigned())
}

async fn pending(owner: &mut PgConnection, client: &dyn Both, consumer: &str) -> Vec<Pending> {
    let keys = sqlx::query_scalar("SELECT DISTINCT key FROM pending WHERE consumer = $1");
    let keys: Vec<Vec<u8>> = keys.bind(consumer).fetch_all(owner).await.expect("the table is there");
    let keys = keys.into_iter().map(|key| OrderingKey(key.into())).collect();
    let mut session = client.begin().await.expect("a connection is free");
    let locked = session
        .pending(Statement::LockPending {
            consumer: consumer.into(),
            keys,
            limit: u32::MAX,
            after_death: AfterDeath::Hold,
        })
        .await;
    session.rollback().await;
    locked.expect("nobody holds the queue")
}

async fn outbox(client: &dyn Both) -> Vec<OutboxRow> {
    let mut session = client.begin().await.expect("a connection is free");
    let read = session.outbox(Statement::ReadOutbox { limit: u32::MAX }).await;
    session.rollback().await;
    read.expect("reading waits for nobody")
}
