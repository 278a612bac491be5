//! The relay: publishes what transactions wrote to the outbox, at least once and in key order (DESIGN G6).
//!
//! One relay is active under a lease, others stand by. There is no cursor: each round reads the oldest rows, since
//! sequence values become visible out of order (SEMANTICS D9), and deletes the acknowledged ones that it *reads
//! again unchanged*. A database that failed over may have lost a row that was published and given its number to
//! another; deleting by number alone would lose that one.
//!
//! Two relays that overlap (a lease that ended during a publish) only publish copies, which every inbox drops: each
//! begins with the oldest rows of a key, so the first copies are still in order.
//!
//! A record that the broker will never take as it is stays in the outbox and holds its key, and only that, until it is
//! tried again; a metric and an error say so. Dropping it would break G6, and a dead letter would let its successors
//! overtake it, while whoever reads the alarm can create the topic or raise the limit. Emit checks sizes, so this is
//! rare.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    ConfigError, Database, Failure, OutboxRow, Producer, Record, RelayConfig, RowSet, Session, Statement,
    backoff::Backoff, config::ms, telemetry::RelayMeters,
};

/// Rows of held keys at most before rounds stop growing to read past them.
const HELD_ROWS_MAX: usize = 100_000;

/// Publishes the outbox.
pub struct Relay<R: RowSet> {
    database: Arc<dyn Database<R>>,
    producer: Arc<dyn Producer>,
    config: RelayConfig,
    holder: Uuid,
    meters: RelayMeters,
    /// Until when nobody else can hold the lease: counted from before it was asked for.
    leased_until: Option<Instant>,
    /// Acknowledged rows that may still be in the outbox.
    acked: BTreeMap<i64, Record>,
    /// Keys behind a rejected record, and when to try them again.
    held: BTreeMap<Bytes, Instant>,
    /// Rows of held keys that the last round read.
    held_rows: usize,
    failures: u32,
    idle: Duration,
}

impl<R: RowSet> Relay<R> {
    /// A relay between `database` and `producer`. `holder` names this incarnation of the process.
    ///
    /// # Errors
    /// A setting that is out of its range.
    pub fn new(
        database: Arc<dyn Database<R>>,
        producer: Arc<dyn Producer>,
        config: RelayConfig,
        holder: Uuid,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let (meters, idle) = (RelayMeters::new(&config.lease), ms(config.poll_min_ms));
        let (acked, held) = (BTreeMap::new(), BTreeMap::new());
        let (leased_until, held_rows, failures) = (None, 0, 0);
        Ok(Self {
            database,
            producer,
            config,
            holder,
            meters,
            leased_until,
            acked,
            held,
            held_rows,
            failures,
            idle,
        })
    }

    /// Publishes until `shutdown` is cancelled, then finishes the round and frees the lease.
    ///
    /// Dropping the future is as safe as a crash: what was published and not deleted is published again.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let pause = match self.round().await {
                Ok(pause) => pause,
                Err(failure) => {
                    // What the database still has is not known any more: publish again rather than delete wrongly.
                    self.acked.clear();
                    self.leased_until = None;
                    self.failures = self.failures.saturating_add(1);
                    warn!(%failure, failures = self.failures, "a round of the relay failed");
                    self.retry_delay()
                }
            };
            if !pause.is_zero() {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
        self.step_down().await;
    }

    /// Reads, deletes what was acknowledged, publishes. Returns how long to pause.
    async fn round(&mut self) -> Result<Duration, Failure> {
        let asked = Instant::now();
        let mut session = self.database.begin().await?;
        let read = match self.read(&mut session, asked).await {
            Ok(Some(read)) => read,
            Ok(None) => {
                session.commit().await?;
                self.leased_until = None;
                self.meters.active.set(0.0);
                return Ok(ms(self.config.standby_poll_ms));
            }
            Err(failure) => {
                session.rollback().await;
                return Err(failure);
            }
        };
        if read.wrote {
            session.commit().await?
        } else {
            session.rollback().await
        }
        self.leased_until = Some(read.leased_until);
        self.meters.active.set(1.0);
        // Rows that are no longer there were deleted, by us or by another; their numbers may name other rows one day.
        self.acked.clear();
        if Instant::now() + ms(self.config.lease_margin_ms) >= read.leased_until {
            self.leased_until = None;
            return Ok(Duration::ZERO);
        }
        self.publish(read.rows).await
    }

    /// The statements of a round: the lease if half of it is gone, the oldest rows, and the deletion of those among
    /// them that were acknowledged. `None` if another relay holds the lease.
    async fn read(&self, session: &mut Box<dyn Session<R>>, asked: Instant) -> Result<Option<Read>, Failure> {
        let ttl = ms(self.config.lease_ttl_ms);
        let mut wrote = false;
        let leased_until = match self.leased_until.filter(|until| asked + ttl / 2 < *until) {
            Some(until) => until,
            None => {
                let name = self.config.lease.clone();
                let lease = session.lease(Statement::AcquireLease { name, holder: self.holder, ttl }).await?;
                if lease.holder != self.holder {
                    return Ok(None);
                }
                wrote = true;
                asked + ttl
            }
        };
        let limit = self.config.batch_records as usize + self.held_rows + self.acked.len();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let (gone, rows): (Vec<OutboxRow>, Vec<OutboxRow>) = session
            .outbox(Statement::ReadOutbox { limit })
            .await?
            .into_iter()
            .partition(|row| self.acked.get(&row.seq) == Some(&row.record));
        if !gone.is_empty() {
            let seqs = gone.into_iter().map(|row| row.seq).collect();
            session.count(Statement::DeleteOutbox { seqs }).await?;
            wrote = true;
        }
        Ok(Some(Read { rows, leased_until, wrote }))
    }

    /// Publishes rows in order, leaving out keys that are held.
    async fn publish(&mut self, rows: Vec<OutboxRow>) -> Result<Duration, Failure> {
        let now = Instant::now();
        self.held.retain(|_, until| *until > now);
        let is_held = |row: &&OutboxRow| self.held.contains_key(&order_of(row));
        self.held_rows = rows.iter().filter(is_held).count().min(HELD_ROWS_MAX);
        let (seqs, records): (Vec<i64>, Vec<Record>) = rows
            .into_iter()
            .filter(|row| !self.held.contains_key(&order_of(row)))
            .take(self.config.batch_records as usize)
            .map(|row| (row.seq, row.record))
            .unzip();
        if records.is_empty() {
            self.failures = 0;
            self.idle = (self.idle * 2).min(ms(self.config.poll_max_ms));
            return Ok(self.idle);
        }
        self.idle = ms(self.config.poll_min_ms);
        let results = self.producer.publish(records.clone()).await;
        let mut failed = BTreeSet::new();
        for ((seq, record), result) in seqs.into_iter().zip(records).zip(results) {
            match result {
                Ok(_) => {
                    self.acked.insert(seq, record);
                }
                Err(Failure::Rejected(reason)) => {
                    error!(seq, topic = %record.topic, %reason, "an outbox record is rejected: its key is held");
                    let until = now + ms(self.config.rejected_retry_ms);
                    self.held.insert(order_of(&OutboxRow { seq, record }), until);
                    self.meters.rejected.increment(1);
                }
                Err(Failure::NotDone(_) | Failure::Unknown(_)) => {
                    failed.insert(seq);
                }
            }
        }
        self.meters.published.increment(self.acked.len() as u64);
        self.meters.failed.increment(failed.len() as u64);
        self.meters.held_keys.set(self.held.len() as f64);
        Ok(self.pause_after(failed.len()))
    }

    /// No pause after a round that went well. Others back off, though what did go through is deleted first: at once.
    fn pause_after(&mut self, failed: usize) -> Duration {
        if failed == 0 {
            self.failures = 0;
            return Duration::ZERO;
        }
        self.failures = self.failures.saturating_add(1);
        warn!(failed, "records were not published; they will be, in order");
        self.retry_delay()
    }

    /// Without jitter: one relay is active, so there is nobody to collide with.
    fn retry_delay(&self) -> Duration {
        let backoff = Backoff { base: ms(self.config.retry_base_ms), max: ms(self.config.retry_max_ms) };
        backoff.ceiling(self.failures)
    }

    /// Deletes what was acknowledged, and frees the lease, so that a standby takes over at once.
    async fn step_down(&mut self) {
        if self.leased_until.is_none() {
            return;
        }
        let ttl = Duration::ZERO;
        let release = Statement::AcquireLease { name: self.config.lease.clone(), holder: self.holder, ttl };
        let stepping_down = async {
            let mut session = self.database.begin().await?;
            let done = match self.read(&mut session, Instant::now()).await {
                Ok(_) => session.lease(release).await,
                Err(failure) => Err(failure),
            };
            match done {
                Ok(_) => session.commit().await,
                Err(failure) => {
                    session.rollback().await;
                    Err(failure)
                }
            }
        };
        match stepping_down.await {
            Ok(()) => info!("the relay's lease is free"),
            Err(failure) => info!(%failure, "the relay's lease ends by itself"),
        }
    }
}

/// What a round read.
struct Read {
    rows: Vec<OutboxRow>,
    leased_until: Instant,
    wrote: bool,
}

/// What orders a record: topic and key; a record without a key is ordered with nothing.
fn order_of(row: &OutboxRow) -> Bytes {
    match &row.record.key {
        Some(key) => Bytes::from([row.record.topic.as_str().as_bytes(), b"/", key].concat()),
        None => Bytes::copy_from_slice(&row.seq.to_be_bytes()),
    }
}
