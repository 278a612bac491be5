//! What the server's errors mean to a caller: SEMANTICS section 2, each raised by a real server.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection};
use stormglass_runtime::{Cause, Database, Failure, Reason, Session, Statement, Versioned};
use stormglass_server::postgres::{Client, Config, Tables};

use crate::{
    domain::{Key, Row},
    engine::{self, Postgres},
    migrations::migrate,
};

/// Raises the SQLSTATE that a row's note asks for: when it is inserted, or when its transaction commits.
const PLANTS: &str = "
    CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE asked text[] := string_to_array(NEW.body -> 'Stock' ->> 'note', ' ');
    BEGIN
        IF asked[1] = TG_ARGV[0] THEN RAISE EXCEPTION 'planted' USING ERRCODE = asked[2]; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER at_once BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION raise('insert');
    CREATE CONSTRAINT TRIGGER in_the_end AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION raise('commit')";

async fn start(test: &str) -> Option<(Postgres, PgConnection, Arc<Client<Row>>)> {
    let postgres = engine::postgres(test).await?;
    let mut owner = postgres.connect().await;
    migrate(&mut owner).await;
    let client = Client::new(&Config::new(vec![postgres.options().await]), Tables::default());
    Some((postgres, owner, Arc::new(client)))
}

fn insert(sku: u32, note: &str) -> Statement<Row> {
    let rows = vec![Row::Stock { sku, left: 1, note: note.to_owned() }];
    Statement::InsertRows { table: "stock".to_owned(), rows }
}

fn lock(sku: u32) -> Statement<Row> {
    Statement::LockRows { table: "stock".to_owned(), keys: vec![Key::Stock(sku)] }
}

fn invalid(code: &str) -> Failure {
    Failure::Rejected(Reason::Invalid(format!("{code} planted")))
}

/// What a statement that fails so means.
fn statement_failures() -> Vec<(&'static str, Failure)> {
    let value = || Failure::Rejected(Reason::InvalidValue("planted".to_owned()));
    vec![
        ("40001", Failure::NotDone(Cause::Conflict)),
        ("40P01", Failure::NotDone(Cause::Deadlock)),
        ("55P03", Failure::NotDone(Cause::LockTimeout)),
        ("57014", Failure::NotDone(Cause::StatementTimeout)),
        ("53300", Failure::NotDone(Cause::Busy)),
        ("53200", Failure::NotDone(Cause::Busy)),
        ("57P03", Failure::NotDone(Cause::Busy)),
        ("57P01", Failure::NotDone(Cause::Disconnected)),
        ("57P02", Failure::NotDone(Cause::Disconnected)),
        ("25P03", Failure::NotDone(Cause::Disconnected)),
        ("08006", Failure::NotDone(Cause::Disconnected)),
        ("08007", Failure::NotDone(Cause::Disconnected)),
        ("25006", Failure::NotDone(Cause::ReadOnly)),
        ("53100", Failure::NotDone(Cause::DiskFull)),
        ("XX000", Failure::NotDone(Cause::Protocol)),
        ("22003", value()),
        ("22021", value()),
        ("54000", value()),
        ("23514", Failure::Rejected(Reason::Constraint("planted".to_owned()))),
        ("23505", Failure::Rejected(Reason::Duplicate("planted".to_owned()))),
        ("42804", invalid("42804")),
        ("42501", Failure::NotDone(Cause::Protocol)),
        ("42P01", Failure::NotDone(Cause::Protocol)),
        ("42703", Failure::NotDone(Cause::Protocol)),
        ("42883", Failure::NotDone(Cause::Protocol)),
    ]
}

/// What a COMMIT that fails so means.
fn commit_failures() -> Vec<(&'static str, Failure)> {
    vec![
        ("40001", Failure::NotDone(Cause::Conflict)),
        ("53100", Failure::NotDone(Cause::DiskFull)),
        ("23514", Failure::Rejected(Reason::Constraint("planted".to_owned()))),
        ("40003", Failure::Unknown(Cause::Disconnected)),
        ("08007", Failure::Unknown(Cause::Disconnected)),
    ]
}

#[tokio::test]
async fn each_sqlstate_means_what_semantics_says() {
    let Some((_postgres, mut owner, client)) = start("SQLSTATEs").await else { return };
    sqlx::raw_sql(PLANTS).execute(&mut owner).await.expect("the owner may create triggers");
    for (code, meaning) in statement_failures() {
        let mut session = client.begin().await.expect("the server is there");
        assert_eq!(session.execute(insert(1, &format!("insert {code}"))).await, Err(meaning), "{code}");
        assert!(session.commit().await.unwrap_err().is_certainly_not_done(), "{code}");
    }
    for (code, meaning) in commit_failures() {
        let mut session = client.begin().await.expect("the server is there");
        session.execute(insert(1, &format!("commit {code}"))).await.expect("it fails at the end only");
        assert_eq!(session.commit().await, Err(meaning), "{code}");
    }
    let mut session = client.begin().await.expect("the server is there");
    assert_eq!(session.rows(lock(1)).await, Ok(Vec::new()), "nothing of it is left");
    session.commit().await.expect("the server is there");
}

/// D3: a server that ends the session while COMMIT waits for a replica has committed, and has said nothing.
#[tokio::test]
async fn d3_a_session_that_is_terminated_during_commit_leaves_the_outcome_open() {
    let Some((_postgres, mut owner, client)) = start("terminated during COMMIT").await else { return };
    run(&mut owner, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    run(&mut owner, "SELECT pg_reload_conf()").await;
    let mut session = client.begin().await.expect("the server is there");
    session.execute(insert(1, "kept")).await.expect("the server is there");
    let commit = tokio::spawn(session.commit());
    let waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while sqlx::raw_sql(waiting).fetch_all(&mut owner).await.expect("the owner may").is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(commit.await.expect("no panic"), Err(Failure::Unknown(Cause::Disconnected)));
    let mut session = client.begin().await.expect("the server is there");
    let kept = Row::Stock { sku: 1, left: 1, note: "kept".to_owned() };
    assert_eq!(session.rows(lock(1)).await, Ok(vec![Versioned { row: kept, version: 1 }]), "it was done");
    session.rollback().await;
}

/// D14, second half.
#[tokio::test]
async fn d14_a_killed_backend_ends_every_session_and_the_client_recovers() {
    let Some((postgres, mut owner, client)) = start("killed backend").await else { return };
    let mut first = client.begin().await.expect("the server is there");
    let mut second: Box<dyn Session<Row>> = client.begin().await.expect("the server is there");
    first.execute(insert(1, "lost")).await.expect("the server is there");
    second.execute(lock(1)).await.expect("the server is there");
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut owner).await.expect("it answers");
    postgres.shell(&format!("kill -9 {pid}")).await;
    assert_eq!(first.commit().await, Err(Failure::Unknown(Cause::Disconnected)));
    assert_eq!(second.execute(lock(1)).await, Err(Failure::NotDone(Cause::Disconnected)));
    second.rollback().await;
    let mut session = loop {
        match client.begin().await {
            Ok(session) => break session,
            Err(failure) => assert!(failure.is_certainly_not_done(), "{failure}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(session.rows(lock(1)).await, Ok(Vec::new()));
    session.rollback().await;
}

/// Writes one row in a transaction of its own.
async fn write(client: &Client<Row>, sku: u32) -> Result<(), Failure> {
    let mut session = client.begin().await?;
    match session.execute(insert(sku, &"x".repeat(200))).await {
        Ok(_) => session.commit().await,
        Err(failure) => {
            session.rollback().await;
            Err(failure)
        }
    }
}

async fn kept(client: &Client<Row>, skus: std::ops::Range<u32>) -> usize {
    let keys = skus.map(Key::Stock).collect();
    let mut session = client.begin().await.expect("who cannot write can still read");
    let lock = Statement::LockRows { table: "stock".to_owned(), keys };
    let found = session.rows(lock).await.expect("locks need no new room");
    session.rollback().await;
    found.len()
}

/// F14. The rows lie on a small file system of their own, the log does not: without room for it the server stops.
#[tokio::test]
async fn f14_a_full_disk_refuses_and_what_was_acknowledged_stays() {
    let Some((postgres, mut owner, client)) = start("full disk").await else { return };
    postgres.shell("install -d -o postgres -m 700 /dev/shm/small").await;
    run(&mut owner, "CREATE TABLESPACE small LOCATION '/dev/shm/small'").await;
    run(&mut owner, "ALTER TABLE rows SET TABLESPACE small").await;
    run(&mut owner, "ALTER INDEX rows_pkey SET TABLESPACE small").await;
    write(&client, 0).await.expect("there is room");
    postgres.shell("dd if=/dev/zero of=/dev/shm/ballast bs=4k 2> /dev/null || true").await;
    let mut written = 1;
    let refused = loop {
        match write(&client, written).await {
            Ok(()) => written += 1,
            Err(failure) => break failure,
        }
        assert!(written < 1_000, "the disk does not fill up");
    };
    assert_eq!(refused, Failure::NotDone(Cause::DiskFull));
    assert_eq!(refused.to_string(), "not done: server's disk is full", "what the log says at each attempt");
    assert_eq!(write(&client, written).await, Err(Failure::NotDone(Cause::DiskFull)), "and again");
    assert_eq!(kept(&client, 0..1_000).await, written as usize, "what was acknowledged, and no more");
    postgres.shell("rm /dev/shm/ballast").await;
    write(&client, written).await.expect("there is room again, and nobody was restarted");
    assert_eq!(kept(&client, 0..1_000).await, written as usize + 1);
}

/// What an operator, or a cloud that sees a disk fill up, does to a primary.
#[tokio::test]
async fn a_primary_that_was_made_read_only_is_waited_for() {
    let Some((_postgres, mut owner, client)) = start("read-only primary").await else { return };
    write(&client, 0).await.expect("it takes writes");
    run(&mut owner, "ALTER SYSTEM SET default_transaction_read_only = on").await;
    run(&mut owner, "SELECT pg_reload_conf()").await;
    let mut written = 1;
    // The server's processes learn of the change one by one.
    while write(&client, written)
        .await
        .map_err(|failure| assert_eq!(failure, Failure::NotDone(Cause::ReadOnly)))
        .is_ok()
    {
        written += 1;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    run(&mut owner, "ALTER SYSTEM RESET default_transaction_read_only").await;
    run(&mut owner, "SELECT pg_reload_conf()").await;
    while let Err(failure) = write(&client, written).await {
        assert_eq!(failure, Failure::NotDone(Cause::ReadOnly));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(kept(&client, 0..1_000).await, written as usize + 1);
}

async fn run(on: &mut PgConnection, command: &'static str) {
    sqlx::raw_sql(AssertSqlSafe(command)).execute(on).await.expect(command);
}
