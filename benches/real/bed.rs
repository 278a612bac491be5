//! What every measurement stands on: the servers, production's clients of them, and logs to read.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode as Code,
};
use sqlx::{AssertSqlSafe, Connection};
use stormglass_orders::Row;
use stormglass_runtime::{
    Broker as _, Database as _, Partition, Producer as _, Record, RowSet, Session, Statement, Topic,
};
use stormglass_server::{
    kafka::Kafka,
    migrations,
    postgres::{self, Client},
    settings::{DatabaseUrl, Settings},
};

use tokio::time::sleep;

use crate::{Fallible, Options, meters::Meters, servers::Servers};

/// Records published at once while a log is filled.
const CHUNK: u32 = 5_000;
/// How often the cluster is asked whether a topic is as it was asked for.
const SOON: Duration = Duration::from_millis(100);

/// Servers and clients.
pub struct Bed {
    pub options: Options,
    pub servers: Servers,
    pub meters: Meters,
    /// Defaults, and what these servers need.
    pub settings: Settings,
    pub kafka: Arc<Kafka>,
    pub database: Arc<Client<Row>>,
}

impl Bed {
    /// Starts the servers and migrates the database.
    pub async fn start(options: Options) -> Fallible<Self> {
        let meters = Meters::install()?;
        let servers = Servers::start().await?;
        let mut settings = Settings::default();
        settings.kafka.brokers = servers.brokers();
        settings.postgres.urls = vec![DatabaseUrl::try_from(servers.url())?];
        settings.worker.accepted_orders_may_be_lost = true;
        settings.worker.lanes = options.lanes;
        settings.worker.batch_records = options.batch;
        migrations::apply(&settings).await?;
        let kafka = Arc::new(Kafka::start(settings.kafka.clone())?);
        let database = Arc::new(Client::new(&settings.database(), postgres::orders::tables()));
        sqlx::raw_sql("CREATE EXTENSION pg_stat_statements").execute(&mut servers.connect().await?).await?;
        Ok(Self { options, servers, meters, settings, kafka, database })
    }

    /// Empties every table.
    pub async fn reset(&self) -> Fallible<()> {
        let mut connection = self.servers.connect().await?;
        let tables =
            "positions, inbox, pending, outbox, leases, orders, payments, reservations, stock, messages";
        sqlx::raw_sql(AssertSqlSafe(format!(
            "TRUNCATE {tables}; CHECKPOINT; SELECT pg_stat_statements_reset()"
        )))
        .execute(&mut connection)
        .await?;
        connection.close().await?;
        Ok(())
    }

    /// Creates a topic, in place of the one of this name if there is one.
    pub async fn topic(&self, name: &str, partitions: u32) -> Fallible<()> {
        let (admin, options) = (self.admin()?, AdminOptions::new());
        let topic = NewTopic::new(name, i32::try_from(partitions)?, TopicReplication::Fixed(1));
        loop {
            match admin.create_topics([&topic], &options).await?.first() {
                Some(Err((_, Code::TopicAlreadyExists))) => {
                    // It is gone some time after this answers, and may be asked for again until then.
                    admin.delete_topics(&[name], &options).await?;
                }
                Some(Err((name, code))) => return Err(format!("topic {name}: {code}").into()),
                Some(Ok(_)) | None => break,
            }
            sleep(SOON).await;
        }
        while self.kafka.partitions(&Topic::from(name)).await != Ok(partitions) {
            sleep(SOON).await;
        }
        Ok(())
    }

    fn admin(&self) -> Fallible<AdminClient<DefaultClientContext>> {
        Ok(ClientConfig::new().set("bootstrap.servers", self.servers.brokers()).create()?)
    }

    /// Creates a topic and fills it with what `records` makes of the numbers below `count`.
    pub async fn log(
        &self,
        log: &Log,
        records: impl Fn(std::ops::Range<u32>) -> Vec<Record>,
    ) -> Fallible<u64> {
        self.topic(log.topic, log.partitions).await?;
        for from in (0..log.count).step_by(CHUNK as usize) {
            let mut chunk = records(from..log.count.min(from + CHUNK));
            chunk.iter_mut().for_each(|record| record.topic = Topic::from(log.topic));
            for report in self.kafka.publish(chunk).await {
                report.map_err(|failure| failure.to_string())?;
            }
        }
        let mut length = 0;
        for index in 0..log.partitions {
            let marks = self.kafka.watermarks(&Partition::new(&Topic::from(log.topic), index)).await;
            let marks = marks.map_err(|failure| failure.to_string())?;
            length += u64::try_from(marks.end - marks.start)?;
        }
        Ok(length)
    }

    /// Puts rows of one table into the database.
    pub async fn insert(&self, rows: Vec<Row>) -> Fallible<()> {
        let table = rows.first().map_or_else(String::new, |row| Row::table(&row.key()).to_owned());
        self.transact(Statement::InsertRows { table, rows }).await
    }

    /// One statement in a transaction of its own.
    pub async fn transact(&self, statement: Statement<Row>) -> Fallible<()> {
        let failed = |failure: stormglass_runtime::Failure| failure.to_string();
        let mut session: Box<dyn Session<Row>> = self.database.begin().await.map_err(failed)?;
        session.execute(statement).await.map_err(failed)?;
        Ok(session.commit().await.map_err(failed)?)
    }

    /// The statements that took most of the database's time since the last reset, if that was asked for.
    pub async fn print_statements(&self) -> Fallible<()> {
        if !self.options.statements {
            return Ok(());
        }
        let mut connection = self.servers.connect().await?;
        let rows: Vec<(i64, f64, i64, String)> = sqlx::query_as(
            "SELECT calls, total_exec_time, rows, left(regexp_replace(query, '\\s+', ' ', 'g'), 90) \
             FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 14",
        )
        .fetch_all(&mut connection)
        .await?;
        for (calls, total_ms, rows, query) in rows {
            println!("    {total_ms:>9.0} ms {calls:>7} × {rows:>8} rows  {query}");
        }
        Ok(())
    }
}

/// A log to fill.
pub struct Log {
    pub topic: &'static str,
    pub partitions: u32,
    pub count: u32,
}
