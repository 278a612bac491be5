//! Sessions: timeouts, ends of all kinds, limits.

use stormglass_embedded::database::{ClientConfig, Config, Disk, Target};
use stormglass_runtime::{Answer, Cause, Failure};
use tokio::time::Instant;

use super::{
    domain::{account, at},
    sut::{Kind, Pace, Sut, insert, lock, update, waits},
};

async fn started(kind: &dyn Kind, config: Config) -> Sut {
    let sut = kind.start(config).await;
    sut.run(insert([account(1, 100), account(2, 100)])).await;
    sut
}

fn disconnected<T>() -> Result<T, Failure> {
    Err(Failure::NotDone(Cause::Disconnected))
}

fn named(application: &str, pool_size: usize) -> ClientConfig {
    ClientConfig { application: application.to_owned(), pool_size, ..ClientConfig::default() }
}

/// Lets so many fifths of the limit pass.
async fn rest(sut: &Sut, fifths: u32) {
    tokio::time::sleep(sut.pace.limit * fifths / 5).await;
}

async fn ends_after_the_limit(sut: &Sut, cause: Cause) {
    let mut holder = sut.begin().await;
    holder.execute(lock([1])).await.unwrap();
    let began = Instant::now();
    let waiting = sut.start(sut.begin().await, lock([1])).await;
    waits(&waiting);
    let (waiting, answer) = waiting.await.unwrap();
    assert_eq!(answer, Err(Failure::NotDone(cause)));
    let Pace { limit, lateness, .. } = sut.pace;
    assert!((limit..limit + lateness).contains(&began.elapsed()), "{:?}", began.elapsed());
    waiting.rollback().await;
    holder.commit().await.unwrap();
    assert_eq!(sut.operator.leftovers().await, (0, 0));
}

pub async fn d13_lock_timeout_ends_the_wait(kind: &dyn Kind) {
    let sut = started(kind, Config { lock_timeout: Some(kind.pace().limit), ..Config::default() }).await;
    ends_after_the_limit(&sut, Cause::LockTimeout).await;
}

pub async fn d13_statement_timeout_ends_the_statement(kind: &dyn Kind) {
    let sut = started(kind, Config { statement_timeout: Some(kind.pace().limit), ..Config::default() }).await;
    ends_after_the_limit(&sut, Cause::StatementTimeout).await;
}

pub async fn d13_idle_in_transaction_ends_the_session(kind: &dyn Kind) {
    let config = Config { idle_in_transaction_session_timeout: Some(kind.pace().limit), ..Config::default() };
    let sut = started(kind, config).await;
    let mut idle = sut.begin().await;
    idle.execute(lock([1])).await.unwrap();
    rest(&sut, 4).await;
    idle.execute(lock([2])).await.unwrap();
    rest(&sut, 4).await;
    assert_eq!(sut.operator.leftovers().await, (1, 2));
    rest(&sut, 2).await;
    assert_eq!(sut.operator.leftovers().await, (0, 0));
    assert_eq!(idle.execute(lock([1])).await, disconnected());
    assert_eq!(idle.commit().await, disconnected());
    sut.run(lock([1])).await;
}

pub async fn d14_terminate_ends_one_session(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let victim = sut.operator.client(named("victim", 1));
    let mut survivor = sut.begin().await;
    survivor.execute(lock([1])).await.unwrap();
    let mut session = victim.begin().await.unwrap();
    session.execute(update(1, account(2, 1))).await.unwrap();
    let waiting = sut.start(session, lock([1])).await;
    sut.operator.terminate("victim").await;
    let (session, answer) = sut.done(waiting).await;
    assert_eq!(answer, disconnected());
    // COMMIT was never sent, so it is known not to have happened.
    assert!(session.commit().await.unwrap_err().is_certainly_not_done());
    assert_eq!(survivor.rows(lock([2])).await.unwrap(), [at(1, account(2, 100))]);
    survivor.commit().await.unwrap();
}

pub async fn d14_a_killed_backend_ends_every_session(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let (mut first, mut second) = (sut.begin().await, sut.begin().await);
    first.execute(update(1, account(1, 1))).await.unwrap();
    second.execute(lock([2])).await.unwrap();
    sut.operator.kill_backend().await;
    assert_eq!(first.commit().await, Err(Failure::Unknown(Cause::Disconnected)));
    assert_eq!(second.execute(lock([1])).await, disconnected());
    assert_eq!(sut.operator.leftovers().await, (0, 0));
    assert_eq!(sut.run(lock([1])).await, Answer::Rows(vec![at(1, account(1, 100))]));
}

pub async fn d15_a_client_that_vanished_keeps_its_locks_until_the_idle_timeout(kind: &dyn Kind) {
    let config = Config { idle_in_transaction_session_timeout: Some(kind.pace().limit), ..Config::default() };
    let sut = started(kind, config).await;
    let mut ghost = sut.begin().await;
    ghost.execute(update(1, account(1, 1))).await.unwrap();
    sut.operator.vanish(ghost).await;
    let waiting = sut.start(sut.begin().await, lock([1])).await;
    rest(&sut, 3).await;
    waits(&waiting);
    rest(&sut, 2).await;
    let (session, answer) = sut.done(waiting).await;
    assert_eq!(answer, Ok(Answer::Rows(vec![at(1, account(1, 100))])));
    session.rollback().await;
}

pub async fn d18_a_standby_takes_no_writes(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let standby = sut.operator.client(ClientConfig { target: Target::Node(1), ..named("standby", 1) });
    let mut session = standby.begin().await.unwrap();
    assert_eq!(session.execute(lock([1])).await, Err(Failure::NotDone(Cause::ReadOnly)));
    session.rollback().await;
}

pub async fn d19_a_nested_begin_on_a_pool_of_one_times_out(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let client = sut.operator.client(ClientConfig { acquire_timeout: sut.pace.limit, ..named("one", 1) });
    let outer = client.begin().await.unwrap();
    let began = Instant::now();
    let nested = client.begin().await.err();
    assert_eq!(nested, Some(Failure::NotDone(Cause::TimedOut)));
    assert!(began.elapsed() >= sut.pace.limit);
    outer.rollback().await;
    client.begin().await.unwrap().rollback().await;
}

pub async fn d19_the_server_refuses_one_connection_too_many(kind: &dyn Kind) {
    let sut = started(kind, Config { max_connections: 2, ..Config::default() }).await;
    // The first client's idle connection is one, this one makes two.
    let second = sut.operator.client(named("second", 1)).begin().await.unwrap();
    let third = sut.operator.client(named("third", 1));
    assert_eq!(third.begin().await.err(), Some(Failure::NotDone(Cause::Busy)));
    drop(second);
    third.begin().await.unwrap().rollback().await;
}

pub async fn a_dropped_session_lets_go_at_once(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let mut session = sut.begin().await;
    session.execute(update(1, account(1, 1))).await.unwrap();
    drop(session);
    let (next, answer) = sut.done(sut.start(sut.begin().await, lock([1])).await).await;
    assert_eq!(answer, Ok(Answer::Rows(vec![at(1, account(1, 100))])));
    next.rollback().await;
}

pub async fn a_dropped_statement_poisons_nobody(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let client = sut.operator.client(named("one", 1));
    let mut holder = sut.begin().await;
    holder.execute(lock([1])).await.unwrap();
    let mut session = client.begin().await.unwrap();
    session.execute(update(1, account(2, 1))).await.unwrap();
    assert!(tokio::time::timeout(sut.pace.limit, session.execute(lock([1]))).await.is_err());
    assert_eq!(session.execute(lock([2])).await, disconnected(), "its last statement is in the unknown");
    assert!(session.commit().await.unwrap_err().is_certainly_not_done());
    // The pool of one hands out a clean connection, and the lock on 2 is gone.
    let mut fresh = client.begin().await.unwrap();
    assert_eq!(fresh.rows(lock([2])).await.unwrap(), [at(1, account(2, 100))]);
    fresh.commit().await.unwrap();
    holder.commit().await.unwrap();
    assert_eq!(sut.operator.leftovers().await, (0, 0));
}

pub async fn a_full_disk_refuses_new_rows_and_commits_the_old(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let mut early = sut.begin().await;
    early.execute(update(1, account(1, 1))).await.unwrap();
    sut.operator.set_disk(Disk::Full).await;
    let mut late = sut.begin().await;
    assert_eq!(late.execute(update(1, account(2, 1))).await, Err(Failure::NotDone(Cause::DiskFull)));
    late.rollback().await;
    early.commit().await.unwrap();
    sut.operator.set_disk(Disk::Free).await;
    assert_eq!(sut.run(update(1, account(2, 1))).await, Answer::Count(1));
}
