//! What a case sees of the system under test: sessions through the store port, and an operator behind it.
//!
//! The systems are elsewhere: the state machines in `machines.rs` beside the cases, a real server in `tests/`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use stormglass_embedded::database::{ClientConfig, Config, Disk, Promotion, Replication, Snapshot};
use stormglass_runtime::{
    Answer, Cause, Claim, ConsumerName, Database, EventId, Failure, Headers, InboxEntry, NewPending,
    OrderingKey, Partition, Reader, Record, Session, Statement, Topic, Verdict,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::domain::Row;

/// A kind of PostgreSQL that the cases run on.
#[async_trait]
pub trait Kind: Send + Sync {
    /// How fast it is.
    fn pace(&self) -> Pace;
    /// A fresh cluster with these settings.
    async fn start(&self, config: Config) -> Sut;
}

/// What counts as waiting, and what as late.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a statement that need not wait may take.
    pub patience: Duration,
    /// The timeout of cases about timeouts.
    pub limit: Duration,
    /// How late a timeout may be.
    pub lateness: Duration,
}

/// A running cluster.
pub struct Sut {
    /// Of its kind.
    pub pace: Pace,
    /// Reaches behind the port.
    pub operator: Box<dyn Operator>,
    /// The client most cases use.
    pub client: Arc<dyn Both>,
}

/// A client in both its roles.
pub trait Both: Database<Row> + Reader<Row> {}
impl<T: Database<Row> + Reader<Row>> Both for T {}

/// What a person with a shell on the servers could do.
#[async_trait]
pub trait Operator: Send + Sync {
    /// Another client.
    fn client(&self, config: ClientConfig) -> Arc<dyn Both>;
    async fn crash(&self, node: usize);
    async fn restart(&self, node: usize);
    async fn kill_backend(&self);
    /// Ends every session of an application.
    async fn terminate(&self, application: &str);
    async fn promote(&self, promotion: Promotion);
    async fn rejoin(&self, node: usize);
    async fn set_disk(&self, disk: Disk);
    async fn set_replication(&self, replication: Replication);
    /// The next COMMIT of an application goes through unheard.
    async fn drop_after_commit(&self, application: &str);
    /// The client of this session is gone without a FIN.
    async fn vanish(&self, session: Box<dyn Session<Row>>);
    async fn tables(&self) -> Snapshot;
    /// Open transactions and locked rows.
    async fn leftovers(&self) -> (usize, usize);
}

/// A statement that is on its way, with the session it runs in.
pub type Running = JoinHandle<(Box<dyn Session<Row>>, Result<Answer<Row>, Failure>)>;

impl Sut {
    pub async fn begin(&self) -> Box<dyn Session<Row>> {
        self.client.begin().await.expect("a connection is free")
    }

    /// Executes one statement in a transaction of its own. A pool may find out only by using it that a connection
    /// has ended; that is certainly not done, and repeated here.
    pub async fn run(&self, statement: Statement<Row>) -> Answer<Row> {
        loop {
            let mut session = self.begin().await;
            match session.execute(statement.clone()).await {
                Ok(answer) => {
                    session.commit().await.expect("nothing stands in the way");
                    return answer;
                }
                Err(failure) => assert_eq!(failure, Failure::NotDone(Cause::Disconnected)),
            }
        }
    }

    /// Starts a statement and gives it time to finish or to get stuck.
    pub async fn start(&self, mut session: Box<dyn Session<Row>>, statement: Statement<Row>) -> Running {
        let running = tokio::spawn(async move {
            let answer = session.execute(statement).await;
            (session, answer)
        });
        pause(50).await;
        running
    }

    /// Asserts that the statement no longer waits, and gives back its session and answer.
    pub async fn done(&self, running: Running) -> (Box<dyn Session<Row>>, Result<Answer<Row>, Failure>) {
        let finished = tokio::time::timeout(self.pace.patience, running).await;
        finished.expect("the statement should not wait any more").expect("the task does not panic")
    }
}

/// Asserts that the statement waits.
#[track_caller]
pub fn waits(running: &Running) {
    assert!(!running.is_finished(), "the statement should wait for a lock");
}

/// Lets `millis` milliseconds pass.
pub async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

pub fn consumer() -> ConsumerName {
    "payments".into()
}

pub fn partition(index: u32) -> Partition {
    Partition::new(&Topic::from("orders"), index)
}

pub fn event(number: u128) -> EventId {
    EventId(Uuid::from_u128(number))
}

pub fn key(name: &str) -> OrderingKey {
    OrderingKey(Bytes::copy_from_slice(name.as_bytes()))
}

pub fn record(value: &str) -> Record {
    Record {
        topic: "orders".into(),
        key: Some(Bytes::from_static(b"k")),
        headers: Headers::default(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

pub fn pending(of: &str, number: u128) -> NewPending {
    NewPending {
        key: key(of),
        event_id: event(number),
        origin: partition(0).at(i64::try_from(number).expect("a small number")),
        record: record("pending"),
        call: None,
        attempts: 0,
        due_in: Duration::ZERO,
        error: None,
        verdict: Verdict::Waiting,
    }
}

pub fn claim(number: u128) -> Claim {
    Claim { id: Uuid::from_u128(number), lease: Duration::from_secs(10) }
}

pub fn take(ids: impl IntoIterator<Item = u128>) -> Statement<Row> {
    let entry =
        |id| InboxEntry { event_id: event(id), at: partition(0).at(i64::try_from(id).expect("small")) };
    Statement::TakeInbox { consumer: consumer(), entries: ids.into_iter().map(entry).collect() }
}

pub fn enqueue(rows: Vec<NewPending>) -> Statement<Row> {
    Statement::Enqueue { consumer: consumer(), rows }
}

pub fn emit(values: &[&str]) -> Statement<Row> {
    Statement::Emit { records: values.iter().map(|value| record(value)).collect() }
}

pub fn lock(ids: impl IntoIterator<Item = u32>) -> Statement<Row> {
    let keys = ids.into_iter().map(super::domain::Key::Account).collect();
    Statement::LockRows { table: "accounts".to_owned(), keys }
}

pub fn insert(rows: impl IntoIterator<Item = Row>) -> Statement<Row> {
    Statement::InsertRows { table: "accounts".to_owned(), rows: rows.into_iter().collect() }
}

pub fn update(version: i64, row: Row) -> Statement<Row> {
    Statement::UpdateRows { table: "accounts".to_owned(), rows: vec![super::domain::at(version, row)] }
}
