//! Reads outside transactions: a replica where one is fresh enough, else the primary.
//!
//! Which node is what is learnt from its answers. A replica that is silent costs one read its time limit, then it is
//! passed over for a while; one that lags costs a question, and the primary answers.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use sqlx::PgConnection;
use stormglass_runtime::{Cause, Failure, Freshness, RowSet, Scan, Versioned};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, Instant, timeout},
};

use super::{
    config::Config,
    failure::of_statement,
    place::Place,
    pool::{Pool, Pooled},
    primary::Newest,
    tables::Tables,
};

/// How long a node is passed over after it failed to answer.
const PASSED_OVER: Duration = Duration::from_secs(5);
/// How often all nodes are asked for their timelines while something is written, and how long they may take: as long
/// an old primary may be written to after a promotion.
const SURVEY: Duration = Duration::from_secs(1);

/// The nodes of a cluster, for reading.
pub(super) struct Replicas {
    nodes: Vec<Arc<Node>>,
    /// When they were last asked for their timelines.
    surveyed: Mutex<Option<Instant>>,
    /// Whose turn it is.
    turn: AtomicUsize,
    replica_timeout: Duration,
    answer_timeout: Duration,
}

struct Node {
    pool: Arc<Pool>,
    known: Mutex<Known>,
    /// Of all nodes together.
    newest: Arc<Newest>,
}

/// What the last answer of a node taught.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    role: Role,
    passed_over_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Unknown,
    Primary,
    Standby,
}

/// Who is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Standby,
    Any,
}

/// What is to be read, and how fresh.
pub(super) struct Question<'a, R: RowSet> {
    pub(super) tables: &'a Tables<R>,
    pub(super) wanted: Wanted<R>,
    pub(super) at_least: Option<Freshness>,
}

/// What is to be read.
pub(super) enum Wanted<R: RowSet> {
    /// The rows that exist among these keys, table by table.
    Rows(Vec<(String, Vec<R::Key>)>),
    /// A page of one table.
    Page(Scan),
}

type Answer<R> = (Vec<Versioned<R>>, Freshness);

/// Why a node did not answer.
enum Elsewhere {
    /// It is the primary, which is asked last.
    IsPrimary,
    /// It could not, or is behind: another may.
    Failed(Cause),
    /// It will not, and no other will.
    Rejected(Failure),
}

impl From<Failure> for Elsewhere {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotDone(cause) | Failure::Unknown(cause) => Elsewhere::Failed(cause),
            Failure::Rejected(_) => Elsewhere::Rejected(failure),
        }
    }
}

impl Replicas {
    /// `newest` is told of every timeline that a node shows.
    pub(super) fn new(config: &Config, newest: &Arc<Newest>) -> Self {
        let node = |options| {
            let (pool, newest) = (Pool::of_node(config, options), Arc::clone(newest));
            Arc::new(Node { pool, known: Mutex::default(), newest })
        };
        Self {
            nodes: config.sessions().into_iter().map(node).collect(),
            surveyed: Mutex::default(),
            turn: AtomicUsize::new(0),
            replica_timeout: config.replica_timeout,
            answer_timeout: config.answer_timeout,
        }
    }

    /// Has all nodes asked for their timelines, once in a while, beside whatever the caller goes on to do. Who writes
    /// never hears otherwise that another node was promoted while its own goes on answering.
    pub(super) fn survey(&self) {
        if self.nodes.len() < 2 {
            return;
        }
        let mut surveyed = self.surveyed.lock().unwrap_or_else(PoisonError::into_inner);
        if surveyed.is_some_and(|surveyed| surveyed.elapsed() < SURVEY) {
            return;
        }
        *surveyed = Some(Instant::now());
        for node in &self.nodes {
            let node = Arc::clone(node);
            // Whoever does not answer in time shows nothing, and that is all: readers find out for themselves.
            tokio::spawn(async move { drop(timeout(SURVEY, node.show()).await) });
        }
    }

    /// Reads from the first node that answers and is fresh enough: replicas in turn, then whatever is left.
    pub(super) async fn read<R: RowSet>(&self, question: &Question<'_, R>) -> Result<Answer<R>, Failure> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn =
            (0..self.nodes.len()).map(|step| &self.nodes[(first.wrapping_add(step)) % self.nodes.len()]);
        let (passed_over, replicas): (Vec<_>, Vec<_>) =
            in_turn.partition(|node| node.known().is_passed_over());
        let mut left = Vec::new();
        let mut worst = Cause::Disconnected;
        for node in replicas {
            match node.answer(self.replica_timeout, question, Asked::Standby).await {
                Ok(answer) => return Ok(answer),
                Err(Elsewhere::IsPrimary) => left.push(node),
                Err(Elsewhere::Failed(cause)) => worst = cause,
                Err(Elsewhere::Rejected(failure)) => return Err(failure),
            }
        }
        for node in left.into_iter().chain(passed_over) {
            match node.answer(self.answer_timeout, question, Asked::Any).await {
                Ok(answer) => return Ok(answer),
                Err(Elsewhere::IsPrimary) => {}
                Err(Elsewhere::Failed(cause)) => worst = cause,
                Err(Elsewhere::Rejected(failure)) => return Err(failure),
            }
        }
        Err(Failure::NotDone(worst))
    }
}

impl Node {
    /// Learns where this node stands.
    async fn show(&self) -> Result<(), Failure> {
        let mut pooled = self.pool.acquire().await?;
        match Place::ask(&mut pooled.connection).await {
            Ok(place) => {
                self.newest.see(place.timeline());
                pooled.give_back();
                Ok(())
            }
            Err(error) => {
                let failure = of_statement(&error);
                pooled.close(&failure);
                Err(failure)
            }
        }
    }

    /// Asks this node, and passes it over for a while if that fails.
    async fn answer<R: RowSet>(
        &self,
        limit: Duration,
        question: &Question<'_, R>,
        asked: Asked,
    ) -> Result<Answer<R>, Elsewhere> {
        if asked == Asked::Standby && self.known().role == Role::Primary {
            return Err(Elsewhere::IsPrimary);
        }
        // Too many reads at once are no fault of the node's.
        let permit = self.pool.permit(limit).await.map_err(|_| Elsewhere::Failed(Cause::Busy))?;
        let answered = match timeout(limit, self.ask(permit, question, asked)).await {
            Ok(answered) => answered,
            Err(_) => Err(Elsewhere::Failed(Cause::TimedOut)),
        };
        match &answered {
            // Behind, or refusing connections for now: that passes sooner.
            Err(Elsewhere::Failed(Cause::Busy)) => {}
            Err(Elsewhere::Failed(_)) => {
                let until = Some(Instant::now() + PASSED_OVER);
                *self.known() = Known { role: Role::Unknown, passed_over_until: until };
            }
            Ok(_) | Err(Elsewhere::IsPrimary | Elsewhere::Rejected(_)) => {}
        }
        answered
    }

    async fn ask<R: RowSet>(
        &self,
        permit: OwnedSemaphorePermit,
        question: &Question<'_, R>,
        asked: Asked,
    ) -> Result<Answer<R>, Elsewhere> {
        let mut pooled = self.pool.with(permit).await?;
        match self.ask_on(&mut pooled, question, asked).await {
            Ok(answer) => {
                pooled.give_back();
                Ok(answer)
            }
            Err(Elsewhere::IsPrimary) => {
                pooled.give_back();
                Err(Elsewhere::IsPrimary)
            }
            Err(Elsewhere::Rejected(failure)) => {
                pooled.close(&failure);
                Err(Elsewhere::Rejected(failure))
            }
            Err(Elsewhere::Failed(cause)) => {
                pooled.close(&Failure::NotDone(cause));
                Err(Elsewhere::Failed(cause))
            }
        }
    }

    /// Where the server stands is read before the rows, to judge whether they are fresh enough, and after them, for the
    /// token: the log goes on meanwhile.
    async fn ask_on<R: RowSet>(
        &self,
        pooled: &mut Pooled,
        question: &Question<'_, R>,
        asked: Asked,
    ) -> Result<Answer<R>, Elsewhere> {
        let on = &mut pooled.connection;
        if question.at_least.is_some() || self.known().role == Role::Unknown {
            let place = place_of(on).await?;
            self.learn(place);
            if asked == Asked::Standby && !place.is_standby {
                return Err(Elsewhere::IsPrimary);
            }
            if question.at_least.is_some_and(|at_least| !place.has(at_least)) {
                return Err(Elsewhere::Failed(Cause::Busy));
            }
        }
        let (mut rows, mut last) = (Vec::new(), None);
        match &question.wanted {
            Wanted::Page(scan) => {
                let (found, place) = question.tables.scan(on, scan).await?;
                (rows, last) = (found, Some(place));
            }
            Wanted::Rows(tables) => {
                for (table, keys) in tables {
                    let (found, place) = question.tables.read(on, table, keys).await?;
                    rows.extend(found);
                    last = Some(place);
                }
            }
        }
        let place = match last {
            Some(place) => place,
            None => place_of(on).await?,
        };
        self.learn(place);
        Ok((rows, place.token()))
    }

    fn learn(&self, place: Place) {
        let role = if place.is_standby { Role::Standby } else { Role::Primary };
        self.newest.see(place.timeline());
        *self.known() = Known { role, passed_over_until: None };
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn place_of(on: &mut PgConnection) -> Result<Place, Failure> {
    Place::ask(on).await.map_err(|error| of_statement(&error))
}

impl Known {
    fn is_passed_over(&self) -> bool {
        self.passed_over_until.is_some_and(|until| Instant::now() < until)
    }
}
