//! Connections, each owned by whoever uses it.
//!
//! A permit per connection in use bounds them (D19). A connection goes back only from a place where nothing is open on
//! it; whatever ends otherwise (a dropped future, an error, a deadline) drops the connection, which closes it, so no
//! transaction is ever inherited. sqlx's own pool is not used, because a cancelled use puts the connection back there.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use stormglass_runtime::{Cause, Failure};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, timeout},
};

use super::{config::Config, failure};

/// Connections to whichever of its nodes has the role that is wanted.
pub(super) struct Pool {
    nodes: Vec<PgConnectOptions>,
    wanted: Wanted,
    acquire_timeout: Duration,
    connect_timeout: Duration,
    answer_timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<PgConnection>>,
    /// Where the right node was last: only where to look first.
    hint: AtomicUsize,
}

/// What a pool's connections lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Primary,
    Any,
}

/// A connection out of the pool. Dropping it closes it.
pub(super) struct Pooled {
    pool: Arc<Pool>,
    pub(super) connection: PgConnection,
    permit: OwnedSemaphorePermit,
}

impl Pool {
    /// Connections to the primary, for transactions.
    pub(super) fn of_primary(config: &Config) -> Arc<Pool> {
        Arc::new(Pool {
            nodes: config.sessions(),
            wanted: Wanted::Primary,
            acquire_timeout: config.acquire_timeout,
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout,
            permits: Arc::new(Semaphore::new(config.transactions_max)),
            idle: Mutex::default(),
            hint: AtomicUsize::new(0),
        })
    }

    /// Connections to one node, whatever it is, for reads that are to be quick.
    pub(super) fn of_node(config: &Config, node: PgConnectOptions) -> Arc<Pool> {
        Arc::new(Pool {
            nodes: vec![node],
            wanted: Wanted::Any,
            acquire_timeout: config.acquire_timeout,
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout,
            permits: Arc::new(Semaphore::new(config.reads_per_node_max)),
            idle: Mutex::default(),
            hint: AtomicUsize::new(0),
        })
    }

    /// A connection with an open transaction. One that died while it was idle is found out here, where it can be
    /// replaced without anybody noticing.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<Pooled, Failure> {
        let mut pooled = self.acquire().await?;
        // BEGIN waits for nothing on the server, so it need not be waited for as long as a statement.
        if pooled.run("BEGIN", self.connect_timeout).await.is_err() {
            self.forget();
            pooled.connection = self.connect().await?;
            let begun = pooled.run("BEGIN", self.connect_timeout).await;
            begun.map_err(|stopped| stopped.before_commit())?;
        }
        Ok(pooled)
    }

    /// A connection without a transaction.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Pooled, Failure> {
        self.with(self.permit(self.acquire_timeout).await?).await
    }

    /// A connection for who has a permit.
    pub(super) async fn with(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<Pooled, Failure> {
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Pooled { pool: Arc::clone(self), connection, permit })
    }

    /// Leave to use one connection.
    pub(super) async fn permit(&self, limit: Duration) -> Result<OwnedSemaphorePermit, Failure> {
        match timeout(limit, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(Failure::NotDone(Cause::Busy)),
            Err(_) => Err(Failure::NotDone(Cause::TimedOut)),
        }
    }

    async fn connect(&self) -> Result<PgConnection, Failure> {
        let first = self.hint.load(Ordering::Relaxed);
        let mut worst = None;
        for step in 0..self.nodes.len() {
            let node = (first + step) % self.nodes.len();
            match timeout(self.connect_timeout, self.open(&self.nodes[node])).await {
                Ok(Ok(Some(connection))) => {
                    self.hint.store(node, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => match failure::of_connect(&error) {
                    Failure::NotDone(cause) | Failure::Unknown(cause) => worst = worst.max(Some(cause)),
                    Failure::Rejected(_) => worst = worst.max(Some(Cause::Protocol)),
                },
                Err(_) => worst = worst.max(Some(Cause::TimedOut)),
            }
        }
        // Every node was reached and none is a primary.
        Err(Failure::NotDone(worst.unwrap_or(Cause::ReadOnly)))
    }

    /// A connection to this node, unless it has another role than the wanted one.
    async fn open(&self, node: &PgConnectOptions) -> Result<Option<PgConnection>, sqlx::Error> {
        let mut connection = node.connect().await?;
        let standby = match self.wanted {
            Wanted::Any => false,
            Wanted::Primary => {
                sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await?
            }
        };
        Ok((!standby).then_some(connection))
    }

    /// Closes what is idle: it leads to where a connection has just failed.
    fn forget(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no answer.
pub(super) enum Stopped {
    /// The server, or the way to it, said so.
    Refused(sqlx::Error),
    /// There was none in time.
    Silent,
}

impl Stopped {
    /// What it means while COMMIT has not been sent.
    pub(super) fn before_commit(&self) -> Failure {
        match self {
            Stopped::Refused(error) => failure::of_statement(error),
            Stopped::Silent => Failure::NotDone(Cause::TimedOut),
        }
    }

    /// What it means of a COMMIT.
    pub(super) fn of_commit(&self) -> Failure {
        match self {
            Stopped::Refused(error) => failure::of_commit(error),
            Stopped::Silent => Failure::Unknown(Cause::TimedOut),
        }
    }
}

impl Pooled {
    /// Executes BEGIN, COMMIT or ROLLBACK.
    pub(super) async fn run(&mut self, command: &'static str, limit: Duration) -> Result<(), Stopped> {
        match timeout(limit, sqlx::raw_sql(command).execute(&mut self.connection)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Stopped::Refused(error)),
            Err(_) => Err(Stopped::Silent),
        }
    }

    /// How long to wait for an answer.
    pub(super) fn answer_timeout(&self) -> Duration {
        self.pool.answer_timeout
    }

    /// Puts the connection back: no transaction is open on it and no answer outstanding.
    pub(super) fn give_back(self) {
        let Pooled { pool, connection, permit } = self;
        pool.idle().push(connection);
        drop(permit);
    }

    /// Whether the connection is of no more use after `failure`.
    pub(super) fn leads_nowhere_after(&self, failure: &Failure) -> bool {
        failure::ends_connection(failure)
    }

    /// Closes the connection after `failure`, and those that lead to the same place if it is to blame.
    pub(super) fn close(self, failure: &Failure) {
        if failure::ends_connection(failure) {
            self.pool.forget();
        }
    }
}
