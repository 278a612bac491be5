//! Connections, each owned by whoever uses it.
//!
//! A permit per connection in use bounds them (D19). A connection goes back only from a place where nothing is open on
//! it; whatever ends otherwise (a dropped future, an error, a deadline) drops the connection, which closes it, so no
//! transaction is ever inherited. A connection to a primary that has been superseded is closed as well, wherever it turns up
//! (`primary.rs`). sqlx's own pool is not used, because a cancelled use puts the connection back there.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use stormglass_runtime::{Cause, Failure};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, timeout},
};
use tracing::warn;

use super::{
    config::Config,
    failure,
    place::Place,
    primary::{self, Newest, NoAnswer, NoPrimary, SilentNodes},
};

/// Connections to whichever of its nodes has the role that is wanted.
pub(super) struct Pool {
    nodes: Vec<PgConnectOptions>,
    wanted: Wanted,
    acquire_timeout: Duration,
    connect_timeout: Duration,
    answer_timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Line>>,
    /// Where the right node was last: only where to look first.
    hint: AtomicUsize,
    /// Why there was no primary, when that was last said.
    told: Mutex<Option<NoPrimary>>,
    /// Whether the right node was ever found.
    found: AtomicBool,
}

/// What a pool's connections lead to.
enum Wanted {
    /// The node that takes writes on this timeline, or a higher one.
    Primary {
        newest: Arc<Newest>,
        silent: SilentNodes,
    },
    Any,
}

/// A connection, and the timeline that its node was on: a primary leaves its own only by restarting, which ends it.
struct Line {
    connection: PgConnection,
    timeline: u32,
}

/// A connection out of the pool. Dropping it closes it.
pub(super) struct Pooled {
    pool: Arc<Pool>,
    pub(super) connection: PgConnection,
    timeline: u32,
    permit: OwnedSemaphorePermit,
}

impl Pool {
    /// Connections to the primary, for transactions: to none on a lower timeline than `newest`.
    pub(super) fn of_primary(config: &Config, newest: &Arc<Newest>) -> Arc<Pool> {
        Arc::new(Pool {
            nodes: config.sessions(),
            wanted: Wanted::Primary { newest: Arc::clone(newest), silent: config.silent_nodes },
            acquire_timeout: config.acquire_timeout,
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout,
            permits: Arc::new(Semaphore::new(config.transactions_max)),
            idle: Mutex::default(),
            hint: AtomicUsize::new(0),
            told: Mutex::default(),
            found: AtomicBool::new(false),
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
            told: Mutex::default(),
            found: AtomicBool::new(false),
        })
    }

    /// A connection with an open transaction. One that died while it was idle is found out here, where it can be
    /// replaced without anybody noticing.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<Pooled, Failure> {
        let mut pooled = self.acquire().await?;
        // BEGIN waits for nothing on the server, so it need not be waited for as long as a statement.
        if pooled.run("BEGIN", self.connect_timeout).await.is_err() {
            self.forget();
            Line { connection: pooled.connection, timeline: pooled.timeline } = self.connect().await?;
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
        let idle = self.take_idle();
        let Line { connection, timeline } = match idle {
            Some(line) => line,
            None => self.connect().await?,
        };
        Ok(Pooled { pool: Arc::clone(self), connection, timeline, permit })
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

    async fn connect(&self) -> Result<Line, Failure> {
        match &self.wanted {
            Wanted::Any => self.connect_anywhere().await,
            Wanted::Primary { newest, .. } if self.found.load(Ordering::Acquire) => {
                self.find_again(newest).await
            }
            Wanted::Primary { newest, silent } => self.find(newest, *silent).await,
        }
    }

    /// A connection to a node that nothing is asked of: it may answer while it cannot say where it stands.
    async fn connect_anywhere(&self) -> Result<Line, Failure> {
        let mut worst = Cause::Disconnected;
        for node in &self.nodes {
            match timeout(self.connect_timeout, node.connect()).await {
                Ok(Ok(connection)) => return Ok(Line { connection, timeline: 0 }),
                Ok(Err(error)) => worst = worst.max(cause_of(&NoAnswer::Refused(error))),
                Err(_) => worst = worst.max(Cause::TimedOut),
            }
        }
        Err(Failure::NotDone(worst))
    }

    /// Finds the primary for the first time: all nodes are asked.
    async fn find(&self, newest: &Newest, silent: SilentNodes) -> Result<Line, Failure> {
        let mut answers = primary::ask_all(&self.nodes, self.connect_timeout).await;
        let place = |told: &primary::Told| told.as_ref().ok().map(|(_, place)| *place);
        let places: Vec<Option<Place>> = answers.iter().map(place).collect();
        let none = match primary::choose(&places, newest, silent) {
            Ok(node) => match answers.swap_remove(node) {
                Ok((connection, place)) => return Ok(self.lead(node, connection, place)),
                // Only who answered is chosen.
                Err(_) => NoPrimary::Absent,
            },
            Err(none) => none,
        };
        self.tell(Some(none));
        let worst = answers.iter().filter_map(|told| told.as_ref().err()).map(cause_of).max();
        Err(Failure::NotDone(worst.unwrap_or(Cause::ReadOnly)))
    }

    /// Finds the primary: the first node that takes writes on no lower timeline than was seen.
    async fn find_again(&self, newest: &Newest) -> Result<Line, Failure> {
        let first = self.hint.load(Ordering::Relaxed);
        let mut worst = None;
        for step in 0..self.nodes.len() {
            let node = (first + step) % self.nodes.len();
            match primary::ask(&self.nodes[node], self.connect_timeout).await {
                Ok((_, place)) if place.is_standby => newest.see(place.timeline()),
                Ok((_, place)) if place.timeline() < newest.get() => {
                    self.tell(Some(NoPrimary::Outdated(node)));
                }
                Ok((connection, place)) => {
                    newest.see(place.timeline());
                    return Ok(self.lead(node, connection, place));
                }
                Err(none) => worst = worst.max(Some(cause_of(&none))),
            }
        }
        // Every node was reached and none is the primary.
        Err(Failure::NotDone(worst.unwrap_or(Cause::ReadOnly)))
    }

    /// Remembers that this node is the primary.
    fn lead(&self, node: usize, connection: PgConnection, place: Place) -> Line {
        self.hint.store(node, Ordering::Relaxed);
        self.found.store(true, Ordering::Release);
        self.tell(None);
        Line { connection, timeline: place.timeline() }
    }

    /// Logs why there is no primary to write to, unless that was the last thing said.
    fn tell(&self, none: Option<NoPrimary>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *told, none) == none {
            return;
        }
        let named = |node: usize| self.nodes.get(node).map(primary::name).unwrap_or_default();
        match none {
            Some(NoPrimary::Outdated(node)) => warn!(
                node = named(node),
                "PostgreSQL: this node takes writes on a timeline that has been left; nothing is written there, stop it"
            ),
            Some(NoPrimary::Silent(node)) => warn!(
                node = named(node),
                "PostgreSQL: this node does not answer and may be a newer primary; nothing is written until it does"
            ),
            Some(NoPrimary::Two(first, second)) => warn!(
                first = named(first),
                second = named(second),
                "PostgreSQL: both nodes take writes on one timeline; nothing is written until one is stopped"
            ),
            Some(NoPrimary::Absent) => warn!("PostgreSQL: no node takes writes"),
            None => {}
        }
    }

    /// An idle connection that still leads to the right place.
    fn take_idle(&self) -> Option<Line> {
        let mut idle = self.idle();
        idle.retain(|line| self.is_current(line.timeline));
        idle.pop()
    }

    /// Whether who is on `timeline` may be written to, as far as is known.
    fn is_current(&self, timeline: u32) -> bool {
        match &self.wanted {
            Wanted::Any => true,
            Wanted::Primary { newest, .. } => timeline >= newest.get(),
        }
    }

    /// Closes what is idle: it leads to where a connection has just failed.
    fn forget(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cause_of(none: &NoAnswer) -> Cause {
    match none {
        NoAnswer::Silent => Cause::TimedOut,
        NoAnswer::Refused(error) => match failure::of_connect(error) {
            Failure::NotDone(cause) | Failure::Unknown(cause) => cause,
            Failure::Rejected(_) => Cause::Protocol,
        },
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

    /// Whether no node has been promoted since, as far as is known.
    pub(super) fn is_current(&self) -> bool {
        self.pool.is_current(self.timeline)
    }

    /// Puts the connection back: no transaction is open on it and no answer outstanding.
    pub(super) fn give_back(self) {
        let Pooled { pool, connection, timeline, permit } = self;
        pool.idle().push(Line { connection, timeline });
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
