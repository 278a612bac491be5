//! What survives: lost answers, crashes, failovers; and how fresh a read is.

use std::time::Duration;

use stormglass_embedded::database::{ClientConfig, Config, Promotion, Replication, SynchronousCommit};
use stormglass_runtime::{Answer, Cause, Failure, Versioned};

use super::{
    domain::{Key, Row, account, at},
    sut::{Kind, Sut, insert, lock, pause, update},
};

const LAG: Duration = Duration::from_millis(200);

async fn started(kind: &dyn Kind, config: Config) -> Sut {
    let sut = kind.start(Config { replication_lag: LAG, ..config }).await;
    sut.run(insert([account(1, 100)])).await;
    pause(300).await;
    sut
}

async fn stored(sut: &Sut) -> Vec<Versioned<Row>> {
    match sut.run(lock([1])).await {
        Answer::Rows(rows) => rows,
        other => panic!("{other:?}"),
    }
}

pub async fn d3_a_commit_that_was_not_heard_may_be_done(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let client =
        sut.operator.client(ClientConfig { application: "deaf".to_owned(), ..ClientConfig::default() });
    let mut session = client.begin().await.unwrap();
    session.execute(update(1, account(1, 1))).await.unwrap();
    sut.operator.drop_after_commit("deaf").await;
    assert_eq!(session.commit().await, Err(Failure::Unknown(Cause::Disconnected)));
    assert_eq!(stored(&sut).await, [at(2, account(1, 1))]);
}

async fn crash_after_commit(sut: &Sut) {
    sut.run(update(1, account(1, 1))).await;
    sut.operator.crash(0).await;
    let other = sut.operator.client(ClientConfig::default());
    assert_eq!(other.begin().await.err(), Some(Failure::NotDone(Cause::Disconnected)));
    sut.operator.restart(0).await;
}

pub async fn d16_an_acknowledged_commit_survives_a_crash(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    crash_after_commit(&sut).await;
    assert_eq!(stored(&sut).await, [at(2, account(1, 1))]);
}

pub async fn d16_without_synchronous_commit_a_crash_loses_the_last_ones(kind: &dyn Kind) {
    let config = Config { synchronous_commit: SynchronousCommit::Off, ..Config::default() };
    let sut = started(kind, config).await;
    crash_after_commit(&sut).await;
    assert_eq!(
        stored(&sut).await,
        [at(1, account(1, 100))],
        "the unflushed commit is lost, the flushed one is not"
    );
    sut.run(update(1, account(1, 2))).await;
    pause(300).await;
    sut.operator.crash(0).await;
    sut.operator.restart(0).await;
    assert_eq!(stored(&sut).await, [at(2, account(1, 2))]);
}

pub async fn d17_a_failover_may_lose_what_was_acknowledged(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    sut.run(update(1, account(1, 1))).await;
    sut.operator.crash(0).await;
    sut.operator.promote(Promotion::LosingSuffix).await;
    assert_eq!(stored(&sut).await, [at(1, account(1, 100))]);
}

pub async fn d17_a_switchover_loses_nothing(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let mut open = sut.begin().await;
    open.execute(lock([1])).await.unwrap();
    open.rollback().await;
    sut.run(update(1, account(1, 1))).await;
    sut.operator.promote(Promotion::Everything).await;
    assert_eq!(stored(&sut).await, [at(2, account(1, 1))]);
}

pub async fn d17_with_synchronous_replication_nothing_acknowledged_is_lost(kind: &dyn Kind) {
    let sut = started(kind, Config { replication: Replication::Synchronous, ..Config::default() }).await;
    let began = tokio::time::Instant::now();
    sut.run(update(1, account(1, 1))).await;
    assert!(began.elapsed() >= LAG, "COMMIT waits for the replica");
    sut.operator.crash(0).await;
    sut.operator.promote(Promotion::LosingSuffix).await;
    assert_eq!(stored(&sut).await, [at(2, account(1, 1))]);
}

pub async fn a_commit_waits_for_a_synchronous_replica_that_is_down(kind: &dyn Kind) {
    let sut = started(kind, Config { replication: Replication::Synchronous, ..Config::default() }).await;
    sut.operator.crash(1).await;
    let mut session = sut.begin().await;
    session.execute(update(1, account(1, 1))).await.unwrap();
    let commit = tokio::spawn(session.commit());
    pause(1_000).await;
    assert!(!commit.is_finished());
    let (rows, _) = sut.client.read(vec![Key::Account(1)], None).await.unwrap();
    assert_eq!(rows, [at(1, account(1, 100))], "and nobody sees it yet");
    assert_eq!(sut.operator.leftovers().await, (1, 1));
    sut.operator.restart(1).await;
    pause(300).await;
    assert_eq!(commit.await.unwrap(), Ok(()));
    sut.operator.set_replication(Replication::Asynchronous).await;
    assert_eq!(stored(&sut).await, [at(2, account(1, 1))]);
}

pub async fn d3_a_commit_that_waits_for_the_replica_survives_a_crash_unacknowledged(kind: &dyn Kind) {
    let sut = started(kind, Config { replication: Replication::Synchronous, ..Config::default() }).await;
    sut.operator.crash(1).await;
    let mut session = sut.begin().await;
    session.execute(update(1, account(1, 1))).await.unwrap();
    let commit = tokio::spawn(session.commit());
    pause(100).await;
    sut.operator.crash(0).await;
    assert_eq!(commit.await.unwrap(), Err(Failure::Unknown(Cause::Disconnected)));
    sut.operator.restart(0).await;
    let (rows, _) = sut.client.read(vec![Key::Account(1)], None).await.unwrap();
    assert_eq!(rows, [at(2, account(1, 1))], "it is in the log");
    assert_eq!(sut.operator.leftovers().await, (0, 0));
}

pub async fn a_replica_lags_and_a_token_makes_reads_fresh(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    let read = |at_least| sut.client.read(vec![Key::Account(1)], at_least);
    let (_, old) = read(None).await.unwrap();
    sut.run(update(1, account(1, 1))).await;
    let newer = stormglass_runtime::Freshness { lsn: old.lsn + 1, ..old };
    assert_eq!(read(Some(old)).await.unwrap().0, [at(1, account(1, 100))], "the replica is behind");
    let (rows, token) = read(Some(newer)).await.unwrap();
    assert_eq!((rows, token), (vec![at(2, account(1, 1))], newer));
    pause(300).await;
    assert_eq!(read(None).await.unwrap(), (vec![at(2, account(1, 1))], newer), "the replica has caught up");
    sut.operator.crash(1).await;
    assert_eq!(read(None).await.unwrap().1, newer, "the primary answers alone");
}

pub async fn a_token_of_a_lost_suffix_is_answered_on_the_new_timeline(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    sut.run(update(1, account(1, 1))).await;
    let (_, known) = sut.client.read(vec![Key::Account(1)], None).await.unwrap();
    let ahead = stormglass_runtime::Freshness { lsn: known.lsn + 1, ..known };
    let (rows, lost) = sut.client.read(vec![Key::Account(1)], Some(ahead)).await.unwrap();
    assert_eq!(rows, [at(2, account(1, 1))]);
    sut.operator.promote(Promotion::LosingSuffix).await;
    let (rows, token) = sut.client.read(vec![Key::Account(1)], Some(lost)).await.unwrap();
    assert_eq!(rows, [at(1, account(1, 100))]);
    assert!(token > lost && token.timeline == lost.timeline + 1, "the loss shows in the token");
}

pub async fn a_fenced_primary_rejoins_as_a_replica(kind: &dyn Kind) {
    let sut = started(kind, Config::default()).await;
    sut.operator.promote(Promotion::Everything).await;
    sut.operator.restart(0).await;
    sut.operator.rejoin(0).await;
    sut.run(update(1, account(1, 1))).await;
    pause(300).await;
    sut.operator.promote(Promotion::LosingSuffix).await;
    assert_eq!(stored(&sut).await, [at(2, account(1, 1))]);
}
