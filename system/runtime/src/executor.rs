//! The executor: claims the heads of the queue that are due, makes their calls, and settles them.
//!
//! One task, in which calls, a claim and a settlement are under way at once. Everything claimed holds a *place* from
//! its claim until its settlement; when all places are taken nothing more is claimed, so a database that does not
//! answer stops the flow instead of filling memory. What finishes during a settlement is settled together in the next.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Failure, Service, Statement,
    act::{Finished, Health, Outcome, attempt},
    circuit::{Allowance, CallNumber, Circuit},
    config::ms,
    lane::until,
    logic::Decoded,
    settle::{Settled, Settlement},
    shared::{Desk, Job, Notice, Shared},
};

/// The executor, to be run as a task.
pub(crate) struct Executor<S: Service> {
    shared: Arc<Shared<S>>,
    desk: Desk,
    notices: mpsc::UnboundedReceiver<Notice>,
    circuit: Circuit,
    calling: FuturesUnordered<BoxFuture<'static, (CallNumber, Finished<S>)>>,
    /// Attempts that wait for a settlement.
    finished: Vec<Finished<S>>,
    settling: Option<BoxFuture<'static, Settled<S>>>,
    settle_failures: u32,
    settle_not_before: Instant,
    claiming: Option<BoxFuture<'static, Result<Vec<Job>, Unclaimed>>>,
    claim_failures: u32,
    claim_asked: usize,
    next_claim: Instant,
    /// How long the queue is left alone after the next claim that finds nothing.
    idle: Duration,
    draining: bool,
}

/// What happened next.
enum Turn<S: Service> {
    Drain,
    Notice(Notice),
    Finished(CallNumber, Finished<S>),
    Settled(Settled<S>),
    Claimed(Result<Vec<Job>, Unclaimed>),
    Woken,
}

/// A claim that is not known to have committed.
struct Unclaimed {
    failure: Failure,
    /// The heads that may be claimed all the same: the answer to COMMIT was lost.
    perhaps: Vec<Job>,
}

impl From<Failure> for Unclaimed {
    fn from(failure: Failure) -> Self {
        Self { failure, perhaps: Vec::new() }
    }
}

impl<S: Service> Executor<S> {
    /// An executor that listens to `notices` of the lanes at `desk`.
    pub fn new(shared: Arc<Shared<S>>, desk: Desk, notices: mpsc::UnboundedReceiver<Notice>) -> Self {
        let config = &shared.config;
        let now = Instant::now();
        Self {
            circuit: Circuit::new(config.circuit_failures, ms(config.circuit_open_ms)),
            idle: ms(config.claim_poll_min_ms),
            shared,
            desk,
            notices,
            calling: FuturesUnordered::new(),
            finished: Vec::new(),
            settling: None,
            settle_failures: 0,
            settle_not_before: now,
            claiming: None,
            claim_failures: 0,
            claim_asked: 0,
            next_claim: now,
            draining: false,
        }
    }

    /// Runs until `drain` is cancelled and everything in hand is settled. Dropping it leaves claims to their leases.
    pub async fn run(mut self, drain: CancellationToken) {
        loop {
            self.begin_settling();
            self.begin_claiming();
            if self.draining && self.is_idle() {
                return;
            }
            match self.turn(&drain).await {
                Turn::Drain => {
                    self.draining = true;
                    self.desk.open.store(false, Ordering::Release);
                }
                Turn::Notice(Notice::Claimed(jobs)) => self.call(jobs),
                Turn::Notice(Notice::Due(due_in)) => self.claim_within(due_in),
                Turn::Finished(call, finished) => self.attempted(call, finished),
                Turn::Settled(settled) => self.settled(settled),
                Turn::Claimed(result) => self.claimed(result),
                Turn::Woken => {}
            }
        }
    }

    async fn turn(&mut self, drain: &CancellationToken) -> Turn<S> {
        let wake = self.wake();
        let starved = self.is_starved();
        let wanted = match self.allowance() {
            Allowance::Probe => self.shared.config.act_concurrency,
            Allowance::All | Allowance::Nothing => 1,
        };
        let room = Arc::clone(&self.desk.room);
        tokio::select! {
            biased;
            () = drain.cancelled(), if !self.draining => Turn::Drain,
            Some(notice) = self.notices.recv() => Turn::Notice(notice),
            settled = pending(&mut self.settling) => Turn::Settled(settled),
            claimed = pending(&mut self.claiming) => Turn::Claimed(claimed),
            Some((call, finished)) = self.calling.next() => Turn::Finished(call, finished),
            _ = room.acquire_many(wanted), if starved => Turn::Woken,
            () = until(wake) => Turn::Woken,
        }
    }

    /// When there is something to begin that nothing else announces.
    fn wake(&mut self) -> Option<Instant> {
        let settle = (self.settling.is_none() && !self.finished.is_empty()).then_some(self.settle_not_before);
        let claim = match self.allowance() {
            _ if self.draining || self.claiming.is_some() => None,
            Allowance::Nothing => self.circuit.reopens(),
            Allowance::All | Allowance::Probe => Some(self.next_claim).filter(|_| !self.is_starved()),
        };
        settle.into_iter().chain(claim).min()
    }

    /// Whether a claim is due that has no place. Lanes free places without a word, so these are waited for.
    fn is_starved(&mut self) -> bool {
        let wants = !self.draining && self.claiming.is_none() && self.next_claim <= Instant::now();
        wants && self.allowance() != Allowance::Nothing && self.places() == 0
    }

    fn is_idle(&self) -> bool {
        self.calling.is_empty()
            && self.finished.is_empty()
            && self.settling.is_none()
            && self.claiming.is_none()
            && self.notices.is_empty()
    }

    fn allowance(&mut self) -> Allowance {
        let allowance = self.circuit.allowance(Instant::now());
        let open = allowance == Allowance::All && !self.draining;
        self.desk.open.store(open, Ordering::Release);
        allowance
    }

    /// How many heads may be claimed now.
    fn places(&mut self) -> u32 {
        let free = self.desk.room.available_permits();
        match self.allowance() {
            Allowance::All => u32::try_from(free).unwrap_or(u32::MAX).min(self.shared.config.claim_limit),
            Allowance::Probe => u32::from(free == self.shared.config.act_concurrency as usize),
            Allowance::Nothing => 0,
        }
    }

    fn begin_claiming(&mut self) {
        if self.draining || self.claiming.is_some() || Instant::now() < self.next_claim {
            return;
        }
        let places = self.places();
        if places == 0 {
            return;
        }
        // The next poll is the idle one unless this claim, or a notice in the meantime, says otherwise.
        self.next_claim = Instant::now() + self.idle;
        self.claim_asked = places as usize;
        self.claiming = Some(Box::pin(claim(Arc::clone(&self.shared), self.desk.clone(), places)));
    }

    fn begin_settling(&mut self) {
        let wait = self.settling.is_some() || self.finished.is_empty();
        if wait || Instant::now() < self.settle_not_before {
            return;
        }
        let size = self.finished.len().min(self.shared.config.claim_limit as usize);
        let batch = self.finished.drain(..size).collect();
        let may_claim = self.allowance() == Allowance::All && !self.draining;
        let settlement = Settlement { shared: Arc::clone(&self.shared), may_claim };
        self.settling = Some(Box::pin(settlement.run(batch)));
    }

    /// Attempts what is claimed. Heads were claimed while the circuit let them through; what it has stopped since is
    /// given back.
    fn call(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            let may_call = match self.allowance() {
                Allowance::All => true,
                Allowance::Probe => self.calling.is_empty(),
                Allowance::Nothing => false,
            };
            if may_call || job.call.is_none() {
                let call = self.circuit.begin_call();
                let attempt = attempt(Arc::clone(&self.shared), job);
                self.calling.push(attempt.map(move |finished| (call, finished)).boxed());
            } else {
                self.give_back(job);
            }
        }
    }

    /// Leaves a claim without having attempted anything, so that nothing counts. One that is not ours is fenced there.
    fn give_back(&mut self, job: Job) {
        self.finished.push(Finished { job, outcome: Outcome::Abandoned });
    }

    fn attempted(&mut self, call: CallNumber, finished: Finished<S>) {
        match finished.outcome.health() {
            Health::Well => self.circuit.succeeded(call),
            Health::Ill => {
                if self.circuit.failed(call, Instant::now()) {
                    self.shared.logic.meters.circuit_opened.increment(1);
                    warn!(consumer = %self.shared.logic.consumer, "the provider's circuit is open");
                }
            }
            Health::Unasked => {}
        }
        self.finished.push(finished);
    }

    fn settled(&mut self, settled: Settled<S>) {
        self.settling = None;
        self.call(settled.jobs);
        if let Some(due_in) = settled.soonest {
            self.claim_within(due_in);
        }
        let Some((unsettled, failure)) = settled.unsettled else {
            self.settle_failures = 0;
            return;
        };
        self.settle_failures = self.settle_failures.saturating_add(1);
        let delay = self.shared.retry_delay("retry-settle", self.settle_failures);
        warn!(%failure, heads = unsettled.len(), ?delay, "a settlement is not known to have committed; trying again");
        self.settle_not_before = Instant::now() + delay;
        // Behind the others: what the store rejects for ever must not fill every batch.
        self.finished.extend(unsettled);
    }

    fn claimed(&mut self, result: Result<Vec<Job>, Unclaimed>) {
        self.claiming = None;
        let config = &self.shared.config;
        match result {
            Ok(jobs) if jobs.is_empty() => {
                self.claim_failures = 0;
                self.idle = (self.idle * 2).min(ms(config.claim_poll_max_ms));
            }
            Ok(jobs) => {
                self.claim_failures = 0;
                // What this version cannot read is no reason to look more often: whoever can must not come second.
                let takes_part = jobs.iter().any(|job| job.unread.is_none());
                let (min, max) = (ms(config.claim_poll_min_ms), ms(config.claim_poll_max_ms));
                self.idle = if takes_part { min } else { (self.idle * 2).min(max) };
                let more = jobs.len() == self.claim_asked;
                self.next_claim = Instant::now() + if more { Duration::ZERO } else { self.idle };
                self.call(jobs);
            }
            Err(Unclaimed { failure, perhaps }) => {
                perhaps.into_iter().for_each(|job| self.give_back(job));
                self.claim_failures = self.claim_failures.saturating_add(1);
                let delay = self.shared.retry_delay("retry-claim", self.claim_failures);
                info!(%failure, ?delay, "heads could not be claimed");
                self.next_claim = Instant::now() + delay;
            }
        }
    }

    /// Something will be due so much later: look then, if not before.
    fn claim_within(&mut self, due_in: Duration) {
        self.idle = ms(self.shared.config.claim_poll_min_ms);
        self.next_claim = self.next_claim.min(Instant::now() + due_in);
    }
}

/// The result of a future that may be absent; for ever without one.
async fn pending<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Claims up to `places` heads.
async fn claim<S: Service>(shared: Arc<Shared<S>>, desk: Desk, places: u32) -> Result<Vec<Job>, Unclaimed> {
    let places: Vec<_> = (0..places).map_while(|_| Arc::clone(&desk.room).try_acquire_owned().ok()).collect();
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let claim = shared.new_claim();
    let lease_ends = Instant::now() + claim.lease;
    let statement = Statement::Claim {
        consumer: shared.logic.consumer.clone(),
        limit: u32::try_from(places.len()).unwrap_or(u32::MAX),
        after_death: shared.config.after_death,
        claim: claim.clone(),
    };
    let mut session = shared.ports.database.begin().await?;
    let rows = match session.pending(statement).await {
        Ok(rows) if rows.is_empty() => {
            session.rollback().await;
            return Ok(Vec::new());
        }
        Ok(rows) => rows,
        Err(failure) => {
            session.rollback().await;
            return Err(failure.into());
        }
    };
    let committed = session.commit().await;
    let jobs = rows.into_iter().zip(places).map(|(row, place)| Job {
        id: row.id,
        event_id: row.event_id,
        unread: unread(&shared.logic.decode(&row.record)),
        call: row.call,
        epoch: row.epoch,
        attempts: row.attempts,
        claim: claim.id,
        lease_ends,
        place,
    });
    let jobs: Vec<Job> = jobs.collect();
    match committed {
        Ok(()) => {
            shared.logic.meters.claimed.increment(jobs.len() as u64);
            Ok(jobs)
        }
        Err(failure @ Failure::Unknown(_)) => Err(Unclaimed { failure, perhaps: jobs }),
        Err(failure) => Err(failure.into()),
    }
}

/// Why this version cannot take an event that one of its kind has queued.
fn unread<E>(event: &Decoded<E>) -> Option<String> {
    match event {
        Decoded::Event(_) => None,
        Decoded::Ignored => Some("this version does not take what it has called for".to_owned()),
        Decoded::Unreadable(refusal) => Some(refusal.to_string()),
    }
}
