//! A session: one connection to one node, with at most one transaction and one running statement.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use stormglass_runtime::Timestamp;

use super::{
    config::Config,
    execution::Plan,
    locks::Wait,
    observed::Change,
    request::SqlError,
    rows::{Row, RowKey},
};
use crate::machine::Call;

/// A session as its node sees it.
#[derive(Debug)]
pub(super) struct Session {
    /// `application_name`.
    pub(super) application: String,
    pub(super) state: State,
    pub(super) running: Option<Running>,
    /// When it last had nothing to do.
    pub(super) idle_since: Timestamp,
    /// When it has to be looked at, if nothing happens before.
    pub(super) timer: Option<Timestamp>,
}

/// Where its transaction is.
#[derive(Debug)]
pub(super) enum State {
    /// There is none.
    Idle,
    /// It is open.
    Open(Transaction),
    /// It failed: its changes and locks are gone, and it waits for the rollback (D2).
    Aborted,
    /// COMMIT was received and its log record, with this number, waits for the replica.
    Committing,
}

/// An open transaction: its own versions of rows, seen by nobody else.
#[derive(Debug)]
pub(super) struct Transaction {
    /// PostgreSQL's `now()`: the transaction's start, whatever time has passed since.
    pub(super) started: Timestamp,
    pub(super) writes: BTreeMap<RowKey, Option<Arc<Row>>>,
    pub(super) changes: Vec<Change>,
}

/// A statement that has not been answered yet.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) call: Call,
    pub(super) started: Timestamp,
    pub(super) plan: Plan,
    pub(super) waiting: Option<Waiting>,
}

/// What a statement waits for, and since when.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) on: Wait,
    pub(super) since: Timestamp,
    /// Whether it has looked for a deadlock: each wait does so once (D10).
    pub(super) deadlock_checked: bool,
}

/// What has to happen to a session because time has passed.
#[derive(Debug, PartialEq)]
pub(super) enum Due {
    CheckDeadlock,
    Fail(SqlError),
    End,
}

impl Session {
    pub(super) fn new(now: Timestamp, application: String) -> Self {
        Self { application, state: State::Idle, running: None, idle_since: now, timer: None }
    }

    /// What is due next, and when.
    pub(super) fn due(&self, config: &Config) -> Option<(Timestamp, Due)> {
        let at =
            |since: Timestamp, limit: Option<Duration>, due| limit.map(|limit| (since.after(limit), due));
        let Some(running) = &self.running else {
            return match self.state {
                State::Open(_) | State::Aborted => {
                    at(self.idle_since, config.idle_in_transaction_session_timeout, Due::End)
                }
                State::Idle | State::Committing => None,
            };
        };
        let statement = at(running.started, config.statement_timeout, Due::Fail(SqlError::QueryCanceled));
        let waiting = running.waiting.as_ref();
        let lock =
            waiting.and_then(|on| at(on.since, config.lock_timeout, Due::Fail(SqlError::LockNotAvailable)));
        let deadlock = waiting
            .filter(|on| !on.deadlock_checked)
            .map(|on| (on.since.after(config.deadlock_timeout), Due::CheckDeadlock));
        [deadlock, lock, statement].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl Transaction {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { started: now, writes: BTreeMap::new(), changes: Vec::new() }
    }
}
