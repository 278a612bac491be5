//! A primary and its streaming replica: who answers a read, what a token asks for, what a promotion changes, and that
//! nothing is written to an old primary which goes on as if nothing had happened.
//!
//! One client lives through all of it: nothing is restarted.

use std::time::Duration;

use sqlx::{ConnectOptions, PgConnection};
use stormglass_runtime::{Cause, Database, Failure, Freshness, Reader, Statement, Versioned};
use stormglass_server::{
    commands::doctor,
    postgres::{Client, Config, SilentNodes, Tables},
    settings::{Settings, Sources},
};
use tokio::time::Instant;

use crate::{
    domain::{Key, Row},
    engine::{self, Postgres},
    migrations::migrate,
};

fn stock(left: i64) -> Row {
    Row::Stock { sku: 1, left, note: String::new() }
}

/// The one row that is read and written here; `left` tells its versions apart.
async fn write(client: &Client<Row>, version: i64, left: i64) -> Result<(), Failure> {
    let mut session = client.begin().await?;
    let row = stock(left);
    let table = "stock".to_owned();
    let statement = match version {
        0 => Statement::InsertRows { table, rows: vec![row] },
        _ => Statement::UpdateRows { table, rows: vec![Versioned { row, version }] },
    };
    assert_eq!(session.count(statement).await?, 1);
    session.commit().await
}

async fn read(client: &Client<Row>, at_least: Option<Freshness>) -> (i64, Freshness) {
    let (rows, token) = client.read(vec![Key::Stock(1)], at_least).await.expect("a server is fresh enough");
    match &rows[..] {
        [Versioned { row: Row::Stock { left, .. }, .. }] => (*left, token),
        other => panic!("{other:?}"),
    }
}

struct Cluster {
    postgres: Postgres,
    /// Of both nodes.
    client: Client<Row>,
    /// Of the first node alone.
    primary: Client<Row>,
    /// Of the second node alone.
    replica: Client<Row>,
}

impl Cluster {
    async fn start(test: &str) -> Option<Self> {
        let postgres = engine::postgres(test).await?;
        migrate(&mut postgres.connect().await).await;
        postgres.start_replica().await;
        let (first, second) = (postgres.options().await, postgres.replica_options().await);
        let client = |nodes| Client::new(&Config::new(nodes), Tables::default());
        let primary = client(vec![first.clone()]);
        write(&primary, 0, 10).await.expect("the primary takes writes");
        let cluster = Self {
            client: client(vec![second.clone(), first]),
            primary,
            replica: client(vec![second]),
            postgres,
        };
        cluster.replica_catches_up().await;
        Some(cluster)
    }

    async fn replica_catches_up(&self) {
        let (_, token) = read(&self.primary, None).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.replica.read(vec![Key::Stock(1)], Some(token)).await.is_err() {
            assert!(Instant::now() < deadline, "the replica does not catch up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn on_replica(&self, command: &'static str) {
        let mut replica: PgConnection =
            self.postgres.replica_options().await.connect().await.expect("the replica answers");
        sqlx::raw_sql(command).execute(&mut replica).await.expect(command);
    }
}

#[tokio::test]
async fn a_replica_answers_where_it_is_fresh_enough_and_the_primary_elsewhere() {
    let Some(cluster) = Cluster::start("fresh reads").await else { return };
    let Cluster { client, primary, replica, .. } = &cluster;
    cluster.on_replica("SELECT pg_wal_replay_pause()").await;
    let (_, old) = read(client, None).await;
    write(client, 1, 9).await.expect("the primary is found");
    assert_eq!(read(client, None).await.0, 10, "a replica answers, and it is behind");
    assert_eq!(read(client, Some(old)).await.0, 10, "it is as fresh as its own token");
    let (left, token) = read(primary, None).await;
    assert_eq!(left, 9);
    let (left, again) = read(client, Some(token)).await;
    assert_eq!(left, 9, "the primary answers what the replica cannot");
    assert!(again >= token);
    let behind = replica.read(vec![Key::Stock(1)], Some(token)).await.err();
    assert_eq!(behind, Some(Failure::NotDone(Cause::Busy)));
    let writing = replica.begin().await.err();
    assert_eq!(writing, Some(Failure::NotDone(Cause::ReadOnly)), "a standby takes no writes (D18)");
    cluster.on_replica("SELECT pg_wal_replay_resume()").await;
    cluster.replica_catches_up().await;
    assert_eq!(read(replica, Some(token)).await.0, 9);
}

#[tokio::test]
async fn a_silent_replica_delays_one_read_and_not_the_next() {
    let Some(cluster) = Cluster::start("silent replica").await else { return };
    assert_eq!(read(&cluster.client, None).await.0, 10);
    // Only at its first write a client waits for all nodes.
    cluster.client.begin().await.expect("the primary is there").rollback().await;
    cluster.postgres.signal_replica("STOP").await;
    write(&cluster.client, 1, 9).await.expect("the primary does not need its replica");
    let limit = Config::new(Vec::new()).replica_timeout;
    let began = Instant::now();
    assert_eq!(read(&cluster.client, None).await.0, 9);
    let first = began.elapsed();
    assert!(first >= limit && first < limit * 4, "{first:?}");
    let began = Instant::now();
    assert_eq!(read(&cluster.client, None).await.0, 9);
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
    cluster.postgres.signal_replica("CONT").await;
}

#[tokio::test]
async fn a_promoted_replica_is_found_and_old_tokens_are_answered_on_its_timeline() {
    let Some(cluster) = Cluster::start("promotion").await else { return };
    let client = &cluster.client;
    cluster.on_replica("SELECT pg_wal_replay_pause()").await;
    write(client, 1, 9).await.expect("the primary is there");
    let (left, lost) = read(&cluster.primary, None).await;
    assert_eq!(left, 9);
    let mut open = client.begin().await.expect("the primary is there");
    cluster.postgres.signal_primary("STOP").await;
    cluster.on_replica("SELECT pg_wal_replay_resume()").await;
    // What was received is replayed before the end of recovery, so nothing is lost here; the timeline changes.
    cluster.postgres.promote_replica().await;
    let began = Instant::now();
    while let Err(failure) = write(client, 2, 8).await {
        assert!(failure.is_certainly_not_done(), "{failure}");
        assert!(began.elapsed() < Duration::from_secs(60), "the new primary is not found: {failure}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (left, token) = read(client, Some(lost)).await;
    assert_eq!(left, 8);
    assert!(token.timeline > lost.timeline && token > lost, "{token:?} after {lost:?}");
    // The old primary comes back, unaware: it is not what a token of the new timeline asks for.
    cluster.postgres.signal_primary("CONT").await;
    let refused = cluster.primary.read(vec![Key::Stock(1)], Some(token)).await.err();
    assert_eq!(refused, Some(Failure::NotDone(Cause::Busy)));
    assert_eq!(read(client, Some(token)).await.0, 8);
    drop(open.execute(Statement::ReadOutbox { limit: 1 }).await);
    open.rollback().await;
}

/// `left` on the node that this client is of alone.
async fn left_on(alone: &Client<Row>) -> i64 {
    read(alone, None).await.0
}

#[tokio::test]
async fn an_old_primary_that_was_not_fenced_is_not_written_to() {
    let Some(cluster) = Cluster::start("old primary").await else { return };
    let (first, second) = (cluster.postgres.options().await, cluster.postgres.replica_options().await);
    // As they are configured everywhere: the old primary is asked first.
    let of = |silent_nodes| {
        let config = Config { silent_nodes, ..Config::new(vec![first.clone(), second.clone()]) };
        Client::<Row>::new(&config, Tables::default())
    };
    let running = of(SilentNodes::Refuse);
    write(&running, 1, 9).await.expect("the primary takes writes");
    let mut open = running.begin().await.expect("the primary is there");
    cluster.replica_catches_up().await;
    cluster.postgres.promote_replica().await;
    // Nobody told the old primary, and its connections are as good as ever. The first survey tells the client.
    let began = Instant::now();
    while left_on(&cluster.replica).await != 8 {
        assert!(began.elapsed() < Duration::from_secs(10), "the new primary is not found");
        let update = Versioned { row: stock(8), version: 2 };
        let mut session = running.begin().await.expect("a primary is there");
        let statement = Statement::UpdateRows { table: "stock".to_owned(), rows: vec![update] };
        let lock = Statement::LockRows { table: "stock".to_owned(), keys: vec![Key::Stock(1)] };
        let here = session.rows(lock).await.expect("a primary is there");
        if here.iter().any(|found| found.version == 2) {
            session.count(statement).await.expect("a primary is there");
            drop(session.commit().await);
        } else {
            session.rollback().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lost = left_on(&cluster.primary).await;
    // What was open on the old primary is not committed there.
    let moved = vec![Versioned { row: stock(1), version: if lost == 8 { 3 } else { 2 } }];
    let moved = Statement::UpdateRows { table: "stock".to_owned(), rows: moved };
    assert_eq!(open.count(moved).await, Ok(1), "the old primary would take it");
    assert_eq!(open.commit().await, Err(Failure::NotDone(Cause::ReadOnly)));
    write(&running, 3, 7).await.expect("the new primary takes writes");
    write(&of(SilentNodes::Refuse), 4, 6).await.expect("a process that starts finds the new primary");
    assert_eq!(left_on(&cluster.replica).await, 6);
    assert_eq!(left_on(&cluster.primary).await, lost, "the old primary was written to");
    // With the new one silent, neither who knows of it nor who has just started writes to the old one.
    cluster.postgres.signal_replica("STOP").await;
    for client in [running, of(SilentNodes::Refuse)] {
        let refused = client.begin().await.err();
        assert_eq!(refused, Some(Failure::NotDone(Cause::TimedOut)));
    }
    let told = of(SilentNodes::Ignore).begin().await;
    told.expect("whoever says that silent nodes are no primary is believed").rollback().await;
    cluster.postgres.signal_replica("CONT").await;
    assert_eq!(left_on(&cluster.primary).await, lost, "the old primary was written to");
}

/// What the doctor says of PostgreSQL. Of Kafka and the parties outside there is nobody here.
async fn diagnosis(cluster: &Cluster) -> Vec<String> {
    let mut urls = Vec::new();
    for node in [cluster.postgres.options().await, cluster.postgres.replica_options().await] {
        urls.push(format!(
            "postgres://shop:shop@{}:{}/postgres?sslmode=disable",
            node.get_host(),
            node.get_port()
        ));
    }
    let flags = vec![
        ("postgres.urls".to_owned(), urls.join(",")),
        ("kafka.brokers".to_owned(), "127.0.0.1:1".to_owned()),
        // This machine may be busy.
        ("postgres.connect_timeout_ms".to_owned(), "10000".to_owned()),
    ];
    let settings = Settings::load(&Sources { flags, ..Sources::default() }).expect("valid settings");
    let report = doctor::examine(&settings).await;
    report.lines().into_iter().filter(|line| line.contains("PostgreSQL")).collect()
}

#[track_caller]
fn says(lines: &[String], grade: &str, what: &str) {
    let said = lines.iter().any(|line| line.starts_with(grade) && line.contains(what));
    assert!(said, "no {grade} of {what:?} in\n{}", lines.join("\n"));
}

#[tokio::test]
async fn a_doctor_says_what_a_cluster_is_and_what_it_lacks() {
    let Some(cluster) = Cluster::start("doctor").await else { return };
    let mut owner = cluster.postgres.connect().await;
    sqlx::raw_sql(
        "CREATE ROLE shop LOGIN PASSWORD 'shop';
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO shop",
    )
    .execute(&mut owner)
    .await
    .expect("the owner may");
    cluster.replica_catches_up().await;
    let lines = loop {
        let lines = diagnosis(&cluster).await;
        // The role reaches the replica last of all.
        if !lines.iter().any(|line| line.contains("\"shop\"")) {
            break lines;
        }
    };
    says(&lines, "ok", "primary on timeline 1, version 15");
    says(&lines, "ok", "replica on timeline 1, version 15");
    says(&lines, "ok", "its clock and this host's agree");
    says(&lines, "ok", "bytes behind the primary");
    says(&lines, "ok", "migrations are this release's");
    says(&lines, "ok", "the role may read and write its tables");
    says(&lines, "warning", "commits do not wait for a replica");
    assert!(!lines.iter().any(|line| line.starts_with("error")), "{}", lines.join("\n"));

    sqlx::raw_sql(
        "REVOKE DELETE ON outbox FROM shop;
         DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations);
         ALTER ROLE shop SET synchronous_commit = off",
    )
    .execute(&mut owner)
    .await
    .expect("the owner may");
    let lines = diagnosis(&cluster).await;
    says(&lines, "error", "the role lacks DELETE on outbox");
    says(&lines, "error", "lacks migration");
    says(&lines, "error", "synchronous_commit is off");
    cluster.postgres.promote_replica().await;
    let lines = diagnosis(&cluster).await;
    says(&lines, "ok", "primary on timeline 2");
    cluster.postgres.signal_replica("STOP").await;
    let lines = diagnosis(&cluster).await;
    says(&lines, "error", "does not answer within");
    says(&lines, "error", "it may have been promoted");
    says(&lines, "error", "migrations: nobody to ask");
    cluster.postgres.signal_replica("CONT").await;
}
