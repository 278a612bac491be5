//! What every task of one worker shares.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    Broker, Claim, Clock, Database, Entropy, EventId, PendingId, RowSet, Service, WorkerConfig, config::ms,
    derive_id, logic::Logic,
};

/// The ports that a worker stands on.
pub struct Ports<R: RowSet> {
    /// Kafka.
    pub broker: Arc<dyn Broker>,
    /// PostgreSQL.
    pub database: Arc<dyn Database<R>>,
    /// Wall time, for `ce_time` and for what decisions are told.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
}

impl<R: RowSet> Clone for Ports<R> {
    fn clone(&self) -> Self {
        Self {
            broker: Arc::clone(&self.broker),
            database: Arc::clone(&self.database),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
        }
    }
}

/// One incarnation of a worker.
pub(crate) struct Shared<S: Service> {
    pub logic: Logic<S>,
    pub ports: Ports<S::Row>,
    pub config: WorkerConfig,
    pub member: Uuid,
    claims: AtomicU64,
}

impl<S: Service> Shared<S> {
    pub fn new(service: Arc<S>, ports: Ports<S::Row>, config: WorkerConfig, member: Uuid) -> Self {
        let logic = Logic::new(service, &config, Arc::clone(&ports.entropy));
        Self { logic, ports, config, member, claims: AtomicU64::new(0) }
    }

    /// A claim that nobody has made before: its id follows from this incarnation and a counter.
    pub fn new_claim(&self) -> Claim {
        let number = self.claims.fetch_add(1, Ordering::Relaxed);
        let id = derive_id("claim/v1", &[self.member.as_bytes(), &number.to_be_bytes()]);
        Claim { id, lease: ms(self.config.claim_lease_ms) }
    }

    /// How long to wait before the transaction at `site` is tried again after `failures` in a row.
    pub fn retry_delay(&self, site: &'static str, failures: u32) -> Duration {
        self.config.retry().delay(self.ports.entropy.as_ref(), site, self.member.as_u128(), failures)
    }
}

/// A claimed head of the queue, in hand. It holds its place in the executor until it is settled.
#[derive(Debug)]
pub(crate) struct Job {
    pub id: PendingId,
    pub event_id: EventId,
    pub call: Option<bytes::Bytes>,
    /// Why this version cannot read the event; the lane that queued it may have been of another.
    pub unread: Option<String>,
    pub epoch: u32,
    pub attempts: u32,
    pub claim: Uuid,
    /// Until when nobody else may have claimed it: counted from before the claim was asked for.
    pub lease_ends: Instant,
    pub place: OwnedSemaphorePermit,
}

/// What lanes tell the executor.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Heads that were born claimed, committed.
    Claimed(Vec<Job>),
    /// A head will be due so much later.
    Due(Duration),
}

/// The lanes' side of the executor.
#[derive(Clone)]
pub(crate) struct Desk {
    /// Free places.
    pub room: Arc<Semaphore>,
    /// Whether calls may be made at all: the circuit is closed and nothing is being drained.
    pub open: Arc<AtomicBool>,
    pub notices: mpsc::UnboundedSender<Notice>,
}

impl Desk {
    /// Takes up to `wanted` places, but leaves half of those that are free to others; none while the circuit is open.
    pub fn reserve(&self, wanted: usize) -> Vec<OwnedSemaphorePermit> {
        if !self.open.load(Ordering::Acquire) {
            return Vec::new();
        }
        let wanted = wanted.min(self.room.available_permits().div_ceil(2));
        (0..wanted).map_while(|_| Arc::clone(&self.room).try_acquire_owned().ok()).collect()
    }

    /// Tells the executor; one that has stopped no longer listens, and its rows wait for another's claim.
    pub fn tell(&self, notice: Notice) {
        if self.notices.send(notice).is_err() {
            tracing::debug!("the executor has stopped: its rows wait until their lease ends");
        }
    }
}
