//! The store's ports under storm.
//!
//! Before COMMIT nothing is done, so a statement that fails, before or after its effect, leaves a transaction that
//! can only be rolled back: either the server has aborted it and the session stands, or the connection is lost and with
//! it the session. The server really aborts, so whatever is said afterwards is answered by it and understood by the
//! adapter: a COMMIT among them is answered ROLLBACK, without an error (D2). A COMMIT whose answer is lost is `Unknown`,
//! done or not (D3).

use std::sync::Arc;

use async_trait::async_trait;
use stormglass_runtime::{
    Answer, Cause, Database, EventId, Failure, Freshness, Reader, RowSet, Scan, Session, Statement, Versioned,
};

use super::{PortCall, digest, ids};
use crate::{Told, hash::Fingerprint, storm::Fate};

pub(super) struct StormyDatabase<R: RowSet> {
    inner: Arc<dyn Database<R>>,
    fate: Fate,
}

impl<R: RowSet> StormyDatabase<R> {
    pub(super) fn new(inner: Arc<dyn Database<R>>, fate: Fate) -> Self {
        Self { inner, fate }
    }
}

#[async_trait]
impl<R: RowSet> Database<R> for StormyDatabase<R> {
    async fn begin(&self) -> Result<Box<dyn Session<R>>, Failure> {
        let call = PortCall::polling(&self.fate, "begin", 0);
        call.linger().await;
        if call.fails_before() {
            let cause = call.pick("cause", &[Cause::Disconnected, Cause::TimedOut, Cause::Busy]);
            return Err(Failure::NotDone(cause));
        }
        let inner = self.inner.begin().await?;
        if call.fails_after() {
            return Err(Failure::NotDone(Cause::Disconnected));
        }
        let (fate, said) = (self.fate.clone(), Fingerprint::default());
        Ok(Box::new(StormySession { state: State::Open(inner), fate, said }))
    }
}

struct StormySession<R: RowSet> {
    state: State<R>,
    fate: Fate,
    /// All that was said in this transaction: what its COMMIT is about.
    said: Fingerprint,
}

enum State<R: RowSet> {
    Open(Box<dyn Session<R>>),
    /// The connection is lost.
    Lost,
}

/// How a statement fails.
#[derive(Clone, Copy)]
enum How {
    /// The server says so, and aborts the transaction.
    Refused(Cause),
    /// The connection breaks.
    Lost(Cause),
}

impl<R: RowSet> StormySession<R> {
    async fn fail(&mut self, how: How) -> Failure {
        match how {
            How::Refused(cause) => {
                if let State::Open(inner) = &mut self.state {
                    abort(inner.as_mut()).await;
                }
                Failure::NotDone(cause)
            }
            How::Lost(cause) => {
                self.state = State::Lost;
                Failure::NotDone(cause)
            }
        }
    }
}

/// Has the server abort the transaction, by a statement that no server can run. Its answer tells nothing new.
async fn abort<R: RowSet>(session: &mut dyn Session<R>) {
    let table = "no such table".to_owned();
    drop(session.execute(Statement::LockRows { table, keys: Vec::new() }).await);
}

/// What can go wrong with a COMMIT before its effect.
#[derive(Clone, Copy)]
enum Unmade {
    /// It was never sent: the session is dropped, and the server rolls back.
    Unsent,
    /// As before, but it may have been sent.
    Doubtful,
    /// The server has aborted the transaction, and answers ROLLBACK.
    Aborted,
}

/// What can go wrong with a statement that has not run.
const BEFORE: [How; 6] = [
    How::Lost(Cause::Disconnected),
    How::Lost(Cause::TimedOut),
    How::Refused(Cause::Deadlock),
    How::Refused(Cause::LockTimeout),
    How::Refused(Cause::StatementTimeout),
    How::Refused(Cause::DiskFull),
];

/// What can go wrong with one that has.
const AFTER: [How; 2] = [How::Lost(Cause::Disconnected), How::Lost(Cause::TimedOut)];

#[async_trait]
impl<R: RowSet> Session<R> for StormySession<R> {
    async fn execute(&mut self, statement: Statement<R>) -> Result<Answer<R>, Failure> {
        let call = statement_call(&self.fate, &statement);
        self.said.word(call.question.entity);
        call.linger().await;
        let inner = match &mut self.state {
            State::Open(inner) => inner,
            State::Lost => return Err(Failure::NotDone(Cause::Disconnected)),
        };
        if call.fails_before() {
            let how = call.pick("how", &BEFORE);
            return Err(self.fail(how).await);
        }
        let asked = call
            .fate
            .storm
            .history
            .is_kept()
            .then(|| Told { causes: asked_about(&statement), detail: format!("{statement:?}") });
        let answer = inner.execute(statement).await;
        let outcome = if answer.is_ok() { "ok" } else { "failed" };
        call.note(outcome, || {
            let Told { mut causes, detail } = asked.unwrap_or_default();
            causes.extend(answer.iter().flat_map(|answer| told_of(answer)));
            causes.sort_unstable();
            causes.dedup();
            Told { causes, detail: format!("{detail} -> {answer:?}") }
        });
        let answer = answer?;
        if call.fails_after() {
            let how = call.pick("how", &AFTER);
            return Err(self.fail(how).await);
        }
        Ok(answer)
    }

    async fn commit(self: Box<Self>) -> Result<(), Failure> {
        let call = PortCall::new(&self.fate, "commit", self.said.finish());
        call.linger().await;
        let State::Open(mut inner) = self.state else {
            return Err(Failure::NotDone(Cause::Disconnected));
        };
        if call.fails_before() {
            match call.pick("unmade", &[Unmade::Unsent, Unmade::Doubtful, Unmade::Aborted]) {
                Unmade::Unsent => return Err(Failure::NotDone(call.lost())),
                Unmade::Doubtful => return Err(Failure::Unknown(call.lost())),
                Unmade::Aborted => abort(inner.as_mut()).await,
            }
        }
        let outcome = inner.commit().await;
        call.note(if outcome.is_ok() { "ok" } else { "failed" }, || format!("{outcome:?}").into());
        outcome?;
        if call.fails_after() || call.loses_answer() {
            return Err(Failure::Unknown(call.lost()));
        }
        Ok(())
    }

    async fn rollback(self: Box<Self>) {
        let call = PortCall::new(&self.fate, "rollback", self.said.finish());
        call.linger().await;
        match self.state {
            State::Open(inner) if call.fails_before() => drop(inner),
            State::Open(inner) => inner.rollback().await,
            State::Lost => {}
        }
    }
}

/// The events that a statement names.
fn asked_about<R: RowSet>(statement: &Statement<R>) -> Vec<u128> {
    match statement {
        Statement::TakeInbox { entries, .. } => ids(entries.iter().map(|entry| entry.event_id)),
        Statement::Enqueue { rows, .. } => ids(rows.iter().map(|row| row.event_id)),
        Statement::Emit { records } => ids(records.iter().filter_map(EventId::named)),
        Statement::OpenPositions { .. }
        | Statement::LockPositions { .. }
        | Statement::MovePositions { .. }
        | Statement::PruneInbox { .. }
        | Statement::BlockedKeys { .. }
        | Statement::LockRows { .. }
        | Statement::InsertRows { .. }
        | Statement::UpdateRows { .. }
        | Statement::Claim { .. }
        | Statement::LockPending { .. }
        | Statement::LockDead { .. }
        | Statement::ChangePending { .. }
        | Statement::ReadDead { .. }
        | Statement::AcquireLease { .. }
        | Statement::ReadOutbox { .. }
        | Statement::DeleteOutbox { .. } => Vec::new(),
    }
}

/// The events that an answer names.
fn told_of<R: RowSet>(answer: &Answer<R>) -> Vec<u128> {
    match answer {
        Answer::Pending(rows) => ids(rows.iter().map(|row| row.event_id)),
        Answer::Outbox(rows) => ids(rows.iter().filter_map(|row| EventId::named(&row.record))),
        Answer::Fresh(events) => ids(events.iter().copied()),
        Answer::Done
        | Answer::Count(_)
        | Answer::Positions(_)
        | Answer::Keys(_)
        | Answer::Rows(_)
        | Answer::Sequence(_)
        | Answer::Lease(_) => Vec::new(),
    }
}

/// The call that a statement is. What is asked again and again has no content of its own.
fn statement_call<R: RowSet>(fate: &Fate, statement: &Statement<R>) -> PortCall {
    match statement {
        Statement::Claim { consumer, .. } => PortCall::polling(fate, "claim", digest(consumer)),
        Statement::ReadOutbox { .. } => PortCall::polling(fate, "read-outbox", 0),
        Statement::AcquireLease { name, holder, .. } => {
            PortCall::polling(fate, "acquire-lease", digest(&(name, holder)))
        }
        Statement::OpenPositions { .. } => PortCall::new(fate, "open-positions", digest(statement)),
        Statement::LockPositions { .. } => PortCall::new(fate, "lock-positions", digest(statement)),
        Statement::MovePositions { .. } => PortCall::new(fate, "move-positions", digest(statement)),
        Statement::TakeInbox { .. } => PortCall::new(fate, "take-inbox", digest(statement)),
        Statement::BlockedKeys { .. } => PortCall::new(fate, "blocked-keys", digest(statement)),
        Statement::LockRows { .. } => PortCall::new(fate, "lock-rows", digest(statement)),
        Statement::InsertRows { .. } => PortCall::new(fate, "insert-rows", digest(statement)),
        Statement::UpdateRows { .. } => PortCall::new(fate, "update-rows", digest(statement)),
        Statement::Enqueue { .. } => PortCall::new(fate, "enqueue", digest(statement)),
        Statement::Emit { .. } => PortCall::new(fate, "emit", digest(statement)),
        Statement::LockPending { .. } => PortCall::new(fate, "lock-pending", digest(statement)),
        Statement::LockDead { .. } => PortCall::new(fate, "lock-dead", digest(statement)),
        Statement::ChangePending { .. } => PortCall::new(fate, "change-pending", digest(statement)),
        Statement::ReadDead { .. } => PortCall::polling(fate, "read-dead", digest(statement)),
        Statement::DeleteOutbox { .. } => PortCall::new(fate, "delete-outbox", digest(statement)),
        Statement::PruneInbox { .. } => PortCall::polling(fate, "prune-inbox", digest(statement)),
    }
}

pub(super) struct StormyReader<R: RowSet> {
    inner: Arc<dyn Reader<R>>,
    fate: Fate,
}

impl<R: RowSet> StormyReader<R> {
    pub(super) fn new(inner: Arc<dyn Reader<R>>, fate: Fate) -> Self {
        Self { inner, fate }
    }
}

type Page<R> = Result<(Vec<Versioned<R>>, Freshness), Failure>;

#[async_trait]
impl<R: RowSet> Reader<R> for StormyReader<R> {
    async fn read(&self, keys: Vec<R::Key>, at_least: Option<Freshness>) -> Page<R> {
        let call = PortCall::new(&self.fate, "read", digest(&keys));
        call.linger().await;
        if call.fails_before() {
            return Err(Failure::NotDone(call.lost()));
        }
        let page = self.inner.read(keys, at_least).await?;
        if call.fails_after() { Err(Failure::NotDone(call.lost())) } else { Ok(page) }
    }

    async fn scan(&self, scan: Scan, at_least: Option<Freshness>) -> Page<R> {
        let call = PortCall::new(&self.fate, "scan", digest(&scan));
        call.linger().await;
        if call.fails_before() {
            return Err(Failure::NotDone(call.lost()));
        }
        let page = self.inner.scan(scan, at_least).await?;
        if call.fails_after() { Err(Failure::NotDone(call.lost())) } else { Ok(page) }
    }
}
