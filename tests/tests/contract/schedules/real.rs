//! A program on a real server, in a database that many programs use one after the other.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::PgConnection;
use stormglass_embedded::database::{ClientConfig, Config, Snapshot};
use stormglass_runtime::Timestamp;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use super::{
    model::name,
    program::{Program, SESSIONS},
    run::{Side, Statements, Transcript, run},
};
use crate::{
    database::cases::sut::{Both, Operator},
    postgres::{self, PostgresOperator, Real},
};

/// Longer than all steps of a program between two pauses take, so that a deadlock ends only in a pause.
const DEADLOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one that waits on the server, and should not, is given to go on.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the clients wait for a connection.
const UNHURRIED: Duration = Duration::from_secs(60);

/// Deleted rows are cleared away after so many programs.
const PROGRAMS_PER_VACUUM: u32 = 40;

/// A database of its own on the server.
pub struct Lane {
    operator: PostgresOperator,
    clients: Vec<Arc<dyn Both>>,
    owner: Mutex<PgConnection>,
    noon: Timestamp,
    programs: u32,
}

impl Lane {
    pub async fn open(real: &Real) -> Self {
        let config = Config { deadlock_timeout: DEADLOCK_TIMEOUT, ..Config::default() };
        let operator = real.database(config).await;
        let mut owner = operator.connect().await;
        // Nothing here crashes.
        let unsafe_but_fast = "DO $$ BEGIN EXECUTE
            'ALTER DATABASE ' || current_database() || ' SET synchronous_commit = off'; END $$";
        postgres::run(&mut owner, unsafe_but_fast).await;
        let noon = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 43200000000";
        let noon: i64 = sqlx::query_scalar(noon).fetch_one(&mut owner).await.expect("a time");
        // A busy machine is no difference.
        let config = |session| ClientConfig {
            application: name(session),
            pool_size: 1,
            acquire_timeout: UNHURRIED,
            connect_timeout: UNHURRIED,
            ..ClientConfig::default()
        };
        let clients = (0..SESSIONS).map(|session| operator.client(config(session))).collect();
        Self { operator, clients, owner: Mutex::new(owner), noon: Timestamp(noon), programs: 0 }
    }

    /// What the server does with a program, up to the first step that is not as `expected`.
    pub async fn observed(&mut self, program: &Program, expected: &Transcript) -> Transcript {
        self.empty().await;
        let observed = run(self, program, Some(expected)).await;
        if observed.steps.len() < expected.steps.len() || observed.tables != expected.tables {
            // Whatever is open would be in the way of the next.
            for session in 0..SESSIONS {
                self.terminate(session).await;
            }
        }
        observed
    }

    async fn empty(&mut self) {
        let owner = self.owner.get_mut();
        self.programs += 1;
        if self.programs.is_multiple_of(PROGRAMS_PER_VACUUM) {
            postgres::run(owner, "VACUUM positions, inbox, pending, outbox, leases, rows, accounts").await;
        }
        postgres::run(
            owner,
            "DELETE FROM positions; DELETE FROM inbox; DELETE FROM pending; DELETE FROM outbox;
             DELETE FROM leases; DELETE FROM rows; DELETE FROM accounts;
             SELECT setval(pg_get_serial_sequence('pending', 'seq'), 1, false),
                    setval(pg_get_serial_sequence('outbox', 'seq'), 1, false)",
        )
        .await;
    }

    /// Sessions whose statement waits for another transaction.
    async fn waiting(&self) -> BTreeSet<usize> {
        let waiting = "SELECT application_name FROM pg_stat_activity
             WHERE datname = current_database() AND state = 'active' AND wait_event_type = 'Lock'
               AND wait_event IN ('transactionid', 'tuple', 'spectoken')";
        let mut owner = self.owner.lock().await;
        let names: Vec<String> =
            sqlx::query_scalar(waiting).fetch_all(&mut *owner).await.expect("the owner sees all sessions");
        (0..SESSIONS).filter(|session| names.contains(&name(*session))).collect()
    }
}

#[async_trait]
impl Side for Lane {
    fn client(&self, session: usize) -> Arc<dyn Both> {
        Arc::clone(&self.clients[session])
    }

    async fn settle(&self, running: &Statements, waiting: Option<&BTreeSet<usize>>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open = running.open();
            let is_late = Instant::now() >= deadline;
            // Who should go on need not be looked for; nobody is taken for waiting who is not.
            let may_all_wait = is_late || waiting.is_none_or(|waiting| open.is_subset(waiting));
            if open.is_empty() || may_all_wait && open.is_subset(&self.waiting().await) {
                return;
            }
            timeout(Duration::from_millis(2), running.answered.notified()).await.ok();
        }
    }

    async fn terminate(&self, session: usize) {
        self.operator.terminate(&name(session)).await;
    }

    /// While a statement waits the server looks for its client once a second; here it is told at once.
    async fn is_gone(&self, session: usize) {
        self.terminate(session).await;
        let sessions = "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = $1";
        let mut owner = self.owner.lock().await;
        loop {
            let count = sqlx::query_scalar::<_, i64>(sessions).bind(name(session));
            if count.fetch_one(&mut *owner).await.expect("the owner sees all sessions") == 0 {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn pause(&self) {
        sleep(DEADLOCK_TIMEOUT * 6 / 5).await;
    }

    fn noon(&self) -> Timestamp {
        self.noon
    }

    async fn tables(&self) -> Snapshot {
        postgres::snapshot(&mut *self.owner.lock().await, &*self.clients[0]).await
    }
}
