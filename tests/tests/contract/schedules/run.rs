//! Runs a program on one side, step by step, and writes down what could be seen of it.
//!
//! After each step every statement has either been answered or waits for another transaction; a step whose session waits
//! is passed over. At the end all transactions commit, so that every lock is passed on to the last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use stormglass_embedded::database::Snapshot;
use stormglass_runtime::{
    AfterDeath, Answer, Cause, Claim, Failure, InboxEntry, NewPending, PendingChange, PendingId, Session,
    Statement, Timestamp, Verdict, Versioned,
};
use tokio::{sync::Notify, task::JoinHandle};
use uuid::Uuid;

use super::{
    normal::{normal_answer, normal_failure, normal_tables},
    program::{Action, Ask, Death, Fate, Program, SESSIONS, Table, When, prelude},
};
use crate::database::cases::{
    domain::{Key, Row, account},
    sut::{Both, consumer, event, key, partition, pending, record},
};

/// Where a program runs.
#[async_trait]
pub trait Side: Send + Sync {
    /// The client of a session, which has one connection.
    fn client(&self, session: usize) -> Arc<dyn Both>;
    /// Waits until each of these is answered or waits for another transaction. `waiting`, if it is known, is who waits
    /// then on the other side: those that do not are given more time.
    async fn settle(&self, running: &Statements, waiting: Option<&BTreeSet<usize>>);
    /// The server ends the session.
    async fn terminate(&self, session: usize);
    /// Returns once the server knows that the client of the session is gone.
    async fn is_gone(&self, session: usize);
    /// Lets time pass, enough for deadlocks to be found.
    async fn pause(&self);
    /// Half a day from now: what is later is tomorrow.
    fn noon(&self) -> Timestamp;
    /// Everything that is committed.
    async fn tables(&self) -> Snapshot;
}

/// A statement on its way, with the session that it runs in.
type Asked = JoinHandle<(Box<dyn Session<Row>>, Result<Answer<Row>, Failure>)>;

/// The statements that were not answered when last looked at.
#[derive(Default)]
pub struct Statements {
    of: BTreeMap<usize, Asked>,
    /// Told whenever one is answered.
    pub answered: Arc<Notify>,
}

impl Statements {
    /// Whose statement is not answered now.
    pub fn open(&self) -> BTreeSet<usize> {
        let open = self.of.iter().filter(|(_, asked)| !asked.is_finished());
        open.map(|(session, _)| *session).collect()
    }

    fn take_answered(&mut self) -> BTreeMap<usize, Asked> {
        self.of.extract_if(.., |_, asked| asked.is_finished()).collect()
    }
}

/// What a session was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Answer(Answer<Row>),
    Failed(Failure),
    Committed,
    RolledBack,
}

/// What could be seen after one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub replies: BTreeMap<usize, Reply>,
    /// Whose statement is not answered.
    pub waiting: BTreeSet<usize>,
}

/// A run: its steps with what was seen, and what was committed at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    pub steps: Vec<(usize, Action, Seen)>,
    pub tables: Snapshot,
}

/// Runs a program from empty tables. With `guide`, stops after the first step that is not as there.
pub async fn run(side: &dyn Side, program: &Program, guide: Option<&Transcript>) -> Transcript {
    let mut run = Run {
        side,
        guide,
        sessions: BTreeMap::new(),
        running: Statements::default(),
        enqueued: Vec::new(),
        seen: BTreeMap::new(),
        failed: BTreeSet::new(),
        asked: BTreeMap::new(),
        transcript: Transcript::default(),
    };
    let steps = prelude().into_iter().map(|action| (0, action)).chain(program.0.iter().cloned());
    for (session, action) in steps {
        if !run.step(session, &action).await {
            return run.transcript;
        }
    }
    while let Some((session, action)) = run.ending() {
        if !run.step(session, &action).await {
            return run.transcript;
        }
    }
    run.transcript.tables = normal_tables(side.tables().await, side.noon());
    run.transcript
}

struct Run<'a> {
    side: &'a dyn Side,
    guide: Option<&'a Transcript>,
    /// Sessions with an open transaction whose statement is answered.
    sessions: BTreeMap<usize, Box<dyn Session<Row>>>,
    running: Statements,
    /// The queue rows so far, by when they were enqueued.
    enqueued: Vec<PendingId>,
    /// The versions each session saw last.
    seen: BTreeMap<(usize, u32), i64>,
    /// Sessions whose transaction has failed.
    failed: BTreeSet<usize>,
    /// The last statement of each session.
    asked: BTreeMap<usize, Ask>,
    transcript: Transcript,
}

impl Run<'_> {
    /// What to do next so that everything ends.
    fn ending(&self) -> Option<(usize, Action)> {
        let idle = self.sessions.keys().next().map(|session| (*session, Action::Commit));
        idle.or_else(|| self.running.of.keys().next().map(|session| (*session, Action::Pause)))
    }

    /// Whether to go on.
    async fn step(&mut self, session: usize, action: &Action) -> bool {
        let Some(mut replies) = self.act(session, action).await else { return true };
        let at = self.transcript.steps.len();
        let expected = self.guide.and_then(|guide| guide.steps.get(at)).map(|(_, _, seen)| seen);
        self.side.settle(&self.running, expected.map(|seen| &seen.waiting)).await;
        for (session, asked) in self.running.take_answered() {
            let (open, answer) = asked.await.expect("a session does not panic");
            self.sessions.insert(session, open);
            replies.insert(session, self.hear(session, answer));
        }
        let seen = Seen { replies, waiting: self.running.open() };
        let is_as_expected = expected.is_none_or(|expected| *expected == seen);
        let goes_on = is_as_expected && (self.guide.is_none() || expected.is_some());
        self.transcript.steps.push((session, action.clone(), seen));
        goes_on
    }

    /// Begins a step; `None` if its session cannot take it now.
    async fn act(&mut self, session: usize, action: &Action) -> Option<BTreeMap<usize, Reply>> {
        let waits = self.running.of.contains_key(&session);
        let replies = match action {
            Action::Pause if self.running.of.is_empty() => return None,
            Action::Pause => {
                self.side.pause().await;
                None
            }
            // What is left of a failed transaction is the client's own affair.
            Action::Terminate if self.failed.contains(&session) => return None,
            Action::Terminate if waits || self.sessions.contains_key(&session) => {
                self.side.terminate(session).await;
                None
            }
            Action::Drop if waits || self.sessions.contains_key(&session) => {
                if let Some(asked) = self.running.of.remove(&session) {
                    asked.abort();
                    drop(asked.await);
                }
                drop(self.sessions.remove(&session));
                self.side.is_gone(session).await;
                None
            }
            _ if waits => return None,
            Action::Ask(ask) => {
                self.ask(session, ask);
                None
            }
            Action::Commit => match self.sessions.remove(&session)?.commit().await {
                Ok(()) => Some(Reply::Committed),
                Err(failure) => Some(Reply::Failed(normal_failure(failure))),
            },
            Action::Rollback => {
                self.sessions.remove(&session)?.rollback().await;
                Some(Reply::RolledBack)
            }
            Action::Drop | Action::Terminate => return None,
        };
        Some(replies.into_iter().map(|reply| (session, reply)).collect())
    }

    fn ask(&mut self, session: usize, ask: &Ask) {
        let statement = self.statement(session, ask);
        self.asked.insert(session, ask.clone());
        let open = self.sessions.remove(&session);
        if open.is_none() {
            self.failed.remove(&session);
        }
        let client = self.side.client(session);
        let answered = Arc::clone(&self.running.answered);
        let asked = tokio::spawn(async move {
            let opened = match open {
                Some(open) => Ok(open),
                None => client.begin().await,
            };
            let (session, answer) = match opened {
                Ok(mut session) => {
                    let answer = session.execute(statement).await;
                    (session, answer)
                }
                Err(failure) => (Box::new(Refused) as Box<dyn Session<Row>>, Err(failure)),
            };
            answered.notify_one();
            (session, answer)
        });
        self.running.of.insert(session, asked);
    }

    /// Notes what an answer tells, as later steps name it.
    fn hear(&mut self, session: usize, answer: Result<Answer<Row>, Failure>) -> Reply {
        match (&answer, self.asked.get(&session)) {
            (Ok(Answer::Rows(rows)), _) => {
                for versioned in rows {
                    self.seen.insert((session, number(&versioned.row)), versioned.version);
                }
            }
            (Ok(Answer::Sequence(seqs)), Some(Ask::Enqueue(rows))) => {
                let id = |((of, _), seq): (&(u8, Fate), &i64)| PendingId { key: key_of(*of), seq: *seq };
                self.enqueued.extend(rows.iter().zip(seqs).map(id));
            }
            _ => {}
        }
        match answer {
            Ok(answer) => Reply::Answer(normal_answer(answer, self.side.noon())),
            Err(failure) => {
                self.failed.insert(session);
                Reply::Failed(normal_failure(failure))
            }
        }
    }

    fn statement(&self, session: usize, ask: &Ask) -> Statement<Row> {
        let consumer = consumer();
        let partitions = |of: &[u32]| of.iter().map(|index| partition(*index)).collect();
        match ask {
            Ask::OpenPositions(of) => {
                let positions = of.iter().map(|index| partition(*index).at(5)).collect();
                Statement::OpenPositions { consumer, positions }
            }
            Ask::LockPositions(of) => Statement::LockPositions { consumer, partitions: partitions(of) },
            Ask::MovePositions(to) => {
                let positions = to.iter().map(|(index, offset)| partition(*index).at(*offset)).collect();
                Statement::MovePositions { consumer, positions }
            }
            Ask::TakeInbox(of) => {
                let entry = |number: &u8| InboxEntry {
                    event_id: event(u128::from(*number)),
                    at: partition(0).at(i64::from(*number)),
                };
                Statement::TakeInbox { consumer, entries: of.iter().map(entry).collect() }
            }
            Ask::PruneInbox(below, limit) => {
                Statement::PruneInbox { consumer, below: vec![partition(0).at(*below)], limit: *limit }
            }
            Ask::LockRows(table, keys) => Statement::LockRows {
                table: table_name(*table),
                keys: keys.iter().map(|number| row_key(*table, *number)).collect(),
            },
            Ask::InsertRows(table, rows) => Statement::InsertRows {
                table: table_name(*table),
                rows: rows.iter().map(|(number, amount)| row(*table, *number, *amount)).collect(),
            },
            Ask::UpdateRows(table, rows) => {
                let versioned = |(number, amount): &(u32, i64)| Versioned {
                    row: row(*table, *number, *amount),
                    version: self.seen.get(&(session, numbered(*table, *number))).copied().unwrap_or(1),
                };
                Statement::UpdateRows {
                    table: table_name(*table),
                    rows: rows.iter().map(versioned).collect(),
                }
            }
            Ask::Emit(count) => {
                let values = 0..*count;
                Statement::Emit { records: values.map(|value| record(&value.to_string())).collect() }
            }
            Ask::AcquireLease(holder, until) => Statement::AcquireLease {
                name: "relay".to_owned(),
                holder: Uuid::from_u128(u128::from(*holder)),
                ttl: until.away(),
            },
            Ask::ReadOutbox(limit) => Statement::ReadOutbox { limit: *limit },
            Ask::DeleteOutbox(seqs) => Statement::DeleteOutbox { seqs: seqs.clone() },
            Ask::BlockedKeys(..)
            | Ask::Enqueue(_)
            | Ask::Claim(..)
            | Ask::LockPending(..)
            | Ask::LockDead(_)
            | Ask::ChangePending(_)
            | Ask::ReadDead(_) => self.queue_statement(ask),
        }
    }

    fn queue_statement(&self, ask: &Ask) -> Statement<Row> {
        let consumer = consumer();
        let keys = |of: &[u8]| of.iter().map(|of| key_of(*of)).collect();
        match ask {
            Ask::BlockedKeys(of, death) => {
                Statement::BlockedKeys { consumer, keys: keys(of), after_death: (*death).into() }
            }
            Ask::Enqueue(rows) => {
                let first = self.enqueued.len();
                let new = |(at, (of, fate)): (usize, &(u8, Fate))| NewPending {
                    key: key_of(*of),
                    due_in: fate.due_in(),
                    verdict: fate.verdict(),
                    ..pending("", (first + at) as u128)
                };
                Statement::Enqueue { consumer, rows: rows.iter().enumerate().map(new).collect() }
            }
            Ask::Claim(limit, until, death) => Statement::Claim {
                consumer,
                claim: claim(*until),
                limit: *limit,
                after_death: (*death).into(),
            },
            Ask::LockPending(of, limit, death) => Statement::LockPending {
                consumer,
                keys: keys(of),
                limit: *limit,
                after_death: (*death).into(),
            },
            Ask::LockDead(of) => {
                let id = |of: &u8| self.enqueued[usize::from(*of) % self.enqueued.len()].clone();
                Statement::LockDead { consumer, ids: of.iter().map(id).collect() }
            }
            Ask::ReadDead(limit) => Statement::ReadDead { consumer, limit: *limit },
            Ask::ChangePending(changes) => {
                let change = |(of, fate): &(u8, Option<Fate>)| {
                    let id = self.enqueued[usize::from(*of) % self.enqueued.len()].clone();
                    match fate {
                        None => PendingChange::Delete(id),
                        Some(fate) => PendingChange::Update {
                            id,
                            call: None,
                            epoch: 0,
                            attempts: 3,
                            due_in: fate.due_in(),
                            error: None,
                            verdict: fate.verdict(),
                        },
                    }
                };
                Statement::ChangePending { consumer, changes: changes.iter().map(change).collect() }
            }
            _ => unreachable!("not of the queue"),
        }
    }
}

/// What stands where a session could not be opened.
struct Refused;

#[async_trait]
impl Session<Row> for Refused {
    async fn execute(&mut self, _: Statement<Row>) -> Result<Answer<Row>, Failure> {
        Err(Failure::NotDone(Cause::Disconnected))
    }

    async fn commit(self: Box<Self>) -> Result<(), Failure> {
        Err(Failure::NotDone(Cause::Disconnected))
    }

    async fn rollback(self: Box<Self>) {}
}

impl When {
    fn away(self) -> Duration {
        match self {
            When::Now => Duration::ZERO,
            When::Tomorrow => Duration::from_secs(86_400),
        }
    }
}

impl Fate {
    fn due_in(self) -> Duration {
        match self {
            Fate::Due(when) => when.away(),
            Fate::Claimed(_) | Fate::Dead => Duration::ZERO,
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Fate::Due(_) => Verdict::Waiting,
            Fate::Claimed(until) => Verdict::Claimed(claim(until)),
            Fate::Dead => Verdict::Dead,
        }
    }
}

impl From<Death> for AfterDeath {
    fn from(death: Death) -> Self {
        match death {
            Death::Hold => AfterDeath::Hold,
            Death::Skip => AfterDeath::Skip,
        }
    }
}

fn claim(until: When) -> Claim {
    Claim { id: Uuid::from_u128(7), lease: until.away() }
}

fn key_of(number: u8) -> stormglass_runtime::OrderingKey {
    key(&number.to_string())
}

fn table_name(table: Table) -> String {
    match table {
        Table::Accounts => "accounts".to_owned(),
        Table::Stock => "stock".to_owned(),
    }
}

fn row_key(table: Table, number: u32) -> Key {
    match table {
        Table::Accounts => Key::Account(number),
        Table::Stock => Key::Stock(number),
    }
}

fn row(table: Table, number: u32, amount: i64) -> Row {
    match table {
        Table::Accounts => account(number, amount),
        Table::Stock => Row::Stock { sku: number, left: amount, note: String::new() },
    }
}

/// One number for the rows of both tables.
fn numbered(table: Table, number: u32) -> u32 {
    match table {
        Table::Accounts => number,
        Table::Stock => 100 + number,
    }
}

fn number(row: &Row) -> u32 {
    match row {
        Row::Account { id, .. } => *id,
        Row::Stock { sku, .. } => numbered(Table::Stock, *sku),
    }
}

const _: () = assert!(SESSIONS <= 9, "sessions are named by one digit");
