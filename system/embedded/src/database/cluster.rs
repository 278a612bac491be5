//! The cluster as a [`Machine`]: requests come in at a node, statements run, wait and go on, transactions end.
//!
//! Every request is handled at once and completely; what it lets others do (a lock passed on) is done before it
//! returns, in the order of waiting. What time does is in [`super::replication`] and [`Cluster::pass_time`]; what an
//! administrator or a fault does is in [`super::operator`].

use std::collections::{BTreeMap, BTreeSet};

use stormglass_runtime::{Freshness, Image, Statement, Timestamp};

use super::{
    config::{Config, Schema},
    execution::{Execution, Planned},
    locks::Locks,
    node::{Node, Standing},
    observed::Observed,
    request::{Request, Response, Role, SqlError, Transaction as Begin},
    session::{Due, Running, Session, State, Transaction, Waiting},
    statements,
    wal::{Sequences, Wal},
};
use crate::machine::{Call, Connection, Effect, Machine};

/// How many nodes a cluster has: a primary and its replica.
pub const NODES: usize = 2;

/// A PostgreSQL primary and its streaming replica.
///
/// Node 0 is the first primary.
pub struct Cluster {
    pub(super) config: Config,
    pub(super) schema: Schema,
    pub(super) now: Timestamp,
    pub(super) nodes: [Node; NODES],
    pub(super) timeline: u32,
    pub(super) wal: Wal,
    pub(super) sequences: Sequences,
    pub(super) locks: Locks,
    pub(super) sessions: BTreeMap<Connection, Session>,
    pub(super) timers: BTreeSet<(Timestamp, Connection)>,
    /// Sessions whose wait is over, in order.
    pub(super) woken: Vec<Connection>,
    pub(super) disk: Disk,
    /// Applications whose next COMMIT is done but not answered.
    pub(super) unheard: BTreeSet<String>,
    pub(super) observed: Vec<Observed>,
    pub(super) effects: Vec<Effect<Response>>,
}

/// Whether the primary has room for new rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// It has.
    Free,
    /// Inserts and updates fail with 53100; reads, deletes and commits go on.
    Full,
}

impl Cluster {
    /// An empty cluster, its replica attached.
    pub fn new(schema: Schema, config: Config) -> Self {
        Self {
            config,
            schema,
            now: Timestamp(i64::MIN),
            nodes: [Node::new(Standing::Primary), Node::new(Standing::Standby)],
            timeline: 1,
            wal: Wal::default(),
            sequences: Sequences::default(),
            locks: Locks::default(),
            sessions: BTreeMap::new(),
            timers: BTreeSet::new(),
            woken: Vec::new(),
            disk: Disk::Free,
            unheard: BTreeSet::new(),
            observed: Vec::new(),
            effects: Vec::new(),
        }
    }

    fn dispatch(&mut self, call: Call, request: Request) {
        let connection = call.connection;
        if !self.nodes[connection.node].up {
            return self.hang_up(connection);
        }
        if let Request::Connect { application } = request {
            return self.connect(call, application);
        }
        let Some(session) = self.sessions.get(&connection) else { return self.hang_up(connection) };
        if session.running.is_some() || matches!(session.state, State::Committing) {
            return self.end_session(connection);
        }
        match request {
            Request::Connect { .. } => {}
            Request::Execute { transaction, statement } => self.execute(call, transaction, statement),
            Request::Commit => self.commit(call),
            Request::Rollback => {
                self.end_transaction(connection, State::Idle);
                self.reply(call, Response::RolledBack);
            }
            Request::Read { keys, at_least } => {
                let response = self.read(connection.node, at_least, |node, schema| node.read(schema, &keys));
                self.reply(call, response);
            }
            Request::Scan { scan, at_least } => {
                let response = self.read(connection.node, at_least, |node, schema| node.scan(schema, &scan));
                self.reply(call, response);
            }
        }
        self.resume_woken();
    }

    fn connect(&mut self, call: Call, application: String) {
        let node = call.connection.node;
        let Some(role) = self.nodes[node].role() else { return self.hang_up(call.connection) };
        if self.sessions.contains_key(&call.connection) {
            return self.end_session(call.connection);
        }
        let open = self.sessions.keys().filter(|connection| connection.node == node).count();
        if open >= self.config.max_connections {
            self.reply(call, Response::Error(SqlError::TooManyConnections));
            return self.hang_up(call.connection);
        }
        self.sessions.insert(call.connection, Session::new(self.now, application));
        self.reply(call, Response::Connected(role));
    }

    fn execute(&mut self, call: Call, begin: Begin, statement: Statement<Image>) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&call.connection) else { return };
        match (&session.state, begin) {
            (State::Idle, Begin::Begin) => session.state = State::Open(Transaction::new(now)),
            (State::Open(_), Begin::Continue) => {}
            (State::Aborted, Begin::Continue) => {
                session.idle_since = now;
                self.reset_timer(call.connection);
                return self.reply(call, Response::Error(SqlError::InFailedTransaction));
            }
            _ => return self.fail(call, SqlError::ProtocolViolation),
        }
        if self.nodes[call.connection.node].role() != Some(Role::Primary)
            && !statements::only_reads(&statement)
        {
            return self.fail(call, SqlError::ReadOnlyTransaction);
        }
        let Some((mut on, _)) = self.execution(call.connection) else { return };
        match statements::plan(&mut on, statement) {
            Err(error) => self.fail(call, error),
            Ok(Planned::Answer(answer)) => self.statement_done(call, Response::Answer(answer)),
            Ok(Planned::Steps(plan)) => {
                let running = Running { call, started: now, plan, waiting: None };
                self.advance(call.connection, running);
            }
        }
    }

    /// Lets a statement go on until it is done, fails, or has to wait (again).
    fn advance(&mut self, connection: Connection, mut running: Running) {
        let now = self.now;
        let Some((mut on, slot)) = self.execution(connection) else { return };
        match running.plan.advance(&mut on) {
            Err(error) => self.fail(running.call, error),
            Ok(Ok(answer)) => self.statement_done(running.call, Response::Answer(answer)),
            Ok(Err(wait)) => {
                on.locks.enqueue(connection, &wait);
                running.waiting = Some(Waiting { on: wait, since: now, deadlock_checked: false });
                *slot = Some(running);
                self.reset_timer(connection);
            }
        }
    }

    /// What a session's open transaction works on, and where a statement that has to wait is kept.
    fn execution(&mut self, connection: Connection) -> Option<(Execution<'_>, &mut Option<Running>)> {
        let session = self.sessions.get_mut(&connection)?;
        let State::Open(txn) = &mut session.state else { return None };
        let execution = Execution {
            me: connection,
            clock: self.now,
            store: &self.nodes[connection.node].store,
            txn,
            locks: &mut self.locks,
            sequences: &mut self.sequences,
            schema: &self.schema,
            config: &self.config,
            disk: self.disk,
            woken: &mut self.woken,
        };
        Some((execution, &mut session.running))
    }

    fn statement_done(&mut self, call: Call, response: Response) {
        if let Some(session) = self.sessions.get_mut(&call.connection) {
            session.idle_since = self.now;
        }
        self.reset_timer(call.connection);
        self.reply(call, response);
    }

    /// Answers a statement with an error. The transaction's changes and locks are gone at once; the session waits
    /// for its ROLLBACK (D2).
    fn fail(&mut self, call: Call, error: SqlError) {
        self.end_transaction(call.connection, State::Aborted);
        self.reply(call, Response::Error(error));
    }

    /// Ends a session's transaction, if it has one: forgets its changes, passes its locks on.
    pub(super) fn end_transaction(&mut self, connection: Connection, next: State) {
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        if let Some(waiting) = session.running.take().and_then(|running| running.waiting) {
            self.locks.withdraw(connection, &waiting.on);
        }
        session.state = next;
        session.idle_since = self.now;
        self.woken.extend(self.locks.finish(connection));
        self.reset_timer(connection);
    }

    /// Resumes those whose wait is over, and those whose wait that ends, until nobody can go on.
    pub(super) fn resume_woken(&mut self) {
        self.restart_waits();
        while !self.woken.is_empty() {
            for connection in std::mem::take(&mut self.woken) {
                let session = self.sessions.get_mut(&connection);
                if let Some(running) = session.and_then(|session| session.running.take()) {
                    self.advance(connection, running);
                }
            }
            self.restart_waits();
        }
    }

    /// Timeouts count from when a session began to wait for whom it waits now.
    fn restart_waits(&mut self) {
        for connection in std::mem::take(&mut self.locks.moved_up) {
            let running = self.sessions.get_mut(&connection).and_then(|session| session.running.as_mut());
            if let Some(waiting) = running.and_then(|running| running.waiting.as_mut()) {
                waiting.since = self.now;
                waiting.deadlock_checked = false;
                self.reset_timer(connection);
            }
        }
    }

    fn read(
        &mut self,
        node: usize,
        at_least: Option<Freshness>,
        rows: impl FnOnce(&Node, &Schema) -> Result<Vec<stormglass_runtime::Versioned<Image>>, SqlError>,
    ) -> Response {
        let here = &self.nodes[node];
        let lsn = Freshness { timeline: self.timeline, lsn: here.lsn };
        // A token ahead of the primary is of a suffix that is lost: nobody will ever be fresher than the primary.
        let is_standby = here.role() == Some(Role::Standby);
        if is_standby && at_least.is_some_and(|at_least| at_least > lsn) {
            return Response::NotFresh(lsn);
        }
        match rows(here, &self.schema) {
            Err(error) => Response::Error(error),
            Ok(rows) => {
                self.observed.push(Observed::Read { at: self.now, node, at_least, lsn });
                Response::Rows(rows, lsn)
            }
        }
    }

    /// Does what has become due: flushes, replays, timeouts.
    pub(super) fn pass_time(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        self.flush();
        self.replay();
        self.resume_woken();
        while let Some(&(at, connection)) = self.timers.first() {
            if at > self.now {
                break;
            }
            self.timers.pop_first();
            self.expire(connection);
            self.resume_woken();
        }
    }

    fn expire(&mut self, connection: Connection) {
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        session.timer = None;
        let due = session.due(&self.config).filter(|(at, _)| *at <= self.now);
        match (due, &mut session.running) {
            (Some((_, Due::Fail(error))), Some(running)) => {
                let call = running.call;
                self.fail(call, error);
            }
            (Some((_, Due::CheckDeadlock)), Some(running)) => {
                let call = running.call;
                if let Some(waiting) = &mut running.waiting {
                    waiting.deadlock_checked = true;
                }
                if self.is_deadlocked(connection) {
                    self.fail(call, SqlError::DeadlockDetected);
                } else {
                    self.reset_timer(connection);
                }
            }
            (Some((_, Due::End)), _) => self.end_session(connection),
            (Some(_) | None, _) => self.reset_timer(connection),
        }
    }

    /// Whether the session waits, through others, for itself.
    fn is_deadlocked(&self, connection: Connection) -> bool {
        let waits_for = |waiter: Connection| {
            let waiting = self.sessions.get(&waiter)?.running.as_ref()?.waiting.as_ref()?;
            self.locks.blocker(waiter, &waiting.on)
        };
        let mut at = waits_for(connection);
        // A path that enters a cycle which `connection` is not on never comes back: bounded by the sessions.
        for _ in 0..self.sessions.len() {
            match at {
                Some(blocker) if blocker == connection => return true,
                Some(blocker) => at = waits_for(blocker),
                None => return false,
            }
        }
        false
    }

    /// Ends a session: its transaction is rolled back and its connection closed.
    pub(super) fn end_session(&mut self, connection: Connection) {
        self.forget_session(connection);
        self.hang_up(connection);
    }

    pub(super) fn forget_session(&mut self, connection: Connection) {
        let is_committing =
            self.sessions.get(&connection).is_some_and(|session| matches!(session.state, State::Committing));
        // A commit that waits for the replica is in the log: its locks stay until the record is visible.
        if !is_committing {
            self.end_transaction(connection, State::Idle);
        }
        if let Some(at) = self.sessions.remove(&connection).and_then(|session| session.timer) {
            self.timers.remove(&(at, connection));
        }
    }

    pub(super) fn reset_timer(&mut self, connection: Connection) {
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        let due = session.due(&self.config).map(|(at, _)| at);
        if due == session.timer {
            return;
        }
        if let Some(before) = std::mem::replace(&mut session.timer, due) {
            self.timers.remove(&(before, connection));
        }
        self.timers.extend(due.map(|at| (at, connection)));
    }

    pub(super) fn reply(&mut self, call: Call, response: Response) {
        self.effects.push(Effect::Reply(call, response));
    }

    pub(super) fn hang_up(&mut self, connection: Connection) {
        self.effects.push(Effect::Hangup(connection));
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect<Response>> {
        self.resume_woken();
        std::mem::take(&mut self.effects)
    }
}

impl Machine for Cluster {
    type Request = Request;
    type Response = Response;

    fn handle(&mut self, now: Timestamp, call: Call, request: Request) -> Vec<Effect<Response>> {
        self.pass_time(now);
        self.dispatch(call, request);
        self.take_effects()
    }

    fn disconnected(&mut self, now: Timestamp, connection: Connection) -> Vec<Effect<Response>> {
        self.pass_time(now);
        self.forget_session(connection);
        self.take_effects()
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Effect<Response>> {
        self.pass_time(now);
        self.take_effects()
    }

    fn deadline(&self) -> Option<Timestamp> {
        let session = self.timers.first().map(|(at, _)| *at);
        [session, self.next_flush(), self.next_replay()].into_iter().flatten().min()
    }
}
