//! A lane: a task that applies the events of its share of the partitions, one transaction after the other.
//!
//! It does no I/O but the database, so a slow provider never slows it. After a failure it builds its span anew from
//! what it holds, so messages that came in the meantime (a revocation, a lost partition) take effect before the next
//! try. A batch that was begun is finished or fails; what was not begun is abandoned when a partition leaves.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, error, warn};

use crate::{
    Delivered, EventId, Failure, Offset, Partition, Position, Revocation, Service,
    batch::{Batch, BatchEnd, Condemned, Handover, lock_positions, move_positions},
    config::ms,
    shared::{Desk, Notice, Shared},
    track::{Amounts, Limit, Move, Span, Tracks},
};

/// What intake tells a lane.
#[derive(Debug)]
pub(crate) enum LaneMessage {
    /// Take this partition from its stored position on; forget what was held of it.
    Start(Position),
    /// Records, in offset order per partition.
    Records(Vec<Delivered>),
    /// The log no longer continues what is held of this partition: drop it, and have it opened again.
    Reopen(Partition),
    /// Give up these partitions; the rebalance waits for the token.
    Revoke(Vec<Partition>, Option<Arc<Revocation>>),
    /// Finish what was begun, and stop.
    Drain,
}

/// What a lane tells intake.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    /// Positions are stored here.
    Stored(Vec<Position>),
    /// Memory was freed, in the lane of this number.
    Freed(usize, Amounts),
    /// The stored position lies behind what was read, or is gone: open the partition again.
    Behind(Partition),
}

/// A lane, to be run as a task.
pub(crate) struct Lane<S: Service> {
    pub number: usize,
    pub shared: Arc<Shared<S>>,
    pub desk: Desk,
    pub inbox: mpsc::UnboundedReceiver<LaneMessage>,
    pub events: mpsc::UnboundedSender<LaneEvent>,
    pub state: LaneState<S::Event>,
}

/// What a lane remembers between two transactions.
pub(crate) struct LaneState<E> {
    tracks: Tracks<E>,
    condemned: BTreeMap<EventId, Condemned>,
    /// Events in the next span: halved when the store rejects one, doubled with each that commits.
    limit: usize,
    failures: u32,
    not_before: Instant,
}

impl<E> LaneState<E> {
    /// A lane that holds nothing.
    pub fn new(batch_records: usize) -> Self {
        let tracks = Tracks::default();
        Self {
            tracks,
            condemned: BTreeMap::new(),
            limit: batch_records,
            failures: 0,
            not_before: Instant::now(),
        }
    }
}

impl<S: Service> Lane<S> {
    /// Runs until told to drain, or until intake is gone.
    pub async fn run(mut self) {
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                if !self.accept(message).await {
                    return;
                }
            }
            let wake = self.wake();
            if wake.is_some_and(|wake| wake <= Instant::now()) {
                self.work().await;
                continue;
            }
            let message = tokio::select! {
                biased;
                message = self.inbox.recv() => message,
                () = until(wake) => continue,
            };
            let Some(message) = message else { return };
            if !self.accept(message).await {
                return;
            }
        }
    }

    /// When there is something to do without a message: at once for events, lazily for positions.
    fn wake(&self) -> Option<Instant> {
        let state = &self.state;
        let lazy = ms(self.shared.config.position_lazy_ms);
        let due = if state.tracks.has_events() {
            Some(state.not_before)
        } else {
            state.tracks.idle_since().map(|since| since + lazy)
        };
        due.map(|due| due.max(state.not_before))
    }

    /// Takes a message; false if the lane is to stop.
    async fn accept(&mut self, message: LaneMessage) -> bool {
        match message {
            LaneMessage::Start(position) => {
                let freed = self.state.tracks.start(position);
                self.freed(freed);
            }
            LaneMessage::Records(records) => {
                let logic = &self.shared.logic;
                let now = Instant::now();
                let (freed, ignored) = self.state.tracks.arrive(records, now, |record| logic.decode(record));
                logic.meters.ignored.increment(ignored);
                self.freed(freed);
            }
            LaneMessage::Reopen(partition) => self.reopen(partition),
            LaneMessage::Revoke(partitions, token) => {
                let grace = token.as_ref().map_or(Duration::ZERO, |token| token.grace());
                self.leave(&partitions, grace).await;
                drop(token);
            }
            LaneMessage::Drain => {
                let partitions = self.state.tracks.partitions();
                self.leave(&partitions, ms(self.shared.config.grace_ms)).await;
                return false;
            }
        }
        true
    }

    /// One transaction, and what follows from it.
    async fn work(&mut self) {
        let config = &self.shared.config;
        let limit = Limit {
            records: self.state.limit.min(config.batch_records as usize),
            bytes: config.batch_bytes as usize,
        };
        let span = self.state.tracks.span(limit);
        let size = span.taken.len();
        let began = Instant::now();
        let condemned = &self.state.condemned;
        let batch = Batch { shared: &self.shared, desk: &self.desk, span: &span, condemned };
        let end = batch.run().await;
        let Span { moves, taken } = span;
        let only = (size == 1).then(|| taken[0].event_id);
        match end {
            Ok(BatchEnd::Committed(handover)) => {
                self.shared.logic.meters.batch_seconds.record(began.elapsed().as_secs_f64());
                self.shared.logic.meters.taken.increment(size as u64);
                self.hand_over(handover);
                taken.iter().for_each(|taken| drop(self.state.condemned.remove(&taken.event_id)));
                self.committed(&moves);
            }
            Ok(BatchEnd::Moved(positions)) => self.moved(positions),
            Err(failure) => self.failed(failure, size, only),
        }
        self.state.tracks.next_turn();
    }

    fn hand_over(&self, handover: Handover) {
        let meters = &self.shared.logic.meters;
        meters.enqueued.increment(handover.queued);
        meters.claimed.increment(handover.jobs.len() as u64);
        meters.count(handover.tally);
        if !handover.jobs.is_empty() {
            self.desk.tell(Notice::Claimed(handover.jobs));
        }
        if let Some(due_in) = handover.soonest {
            self.desk.tell(Notice::Due(due_in));
        }
    }

    fn committed(&mut self, moves: &[Move]) {
        self.shared.logic.meters.batches.increment(1);
        let state = &mut self.state;
        state.failures = 0;
        state.limit = (state.limit * 2).clamp(1, self.shared.config.batch_records as usize);
        if state.limit == self.shared.config.batch_records as usize {
            state.condemned.clear();
        }
        self.stored(moves.iter().map(|m| m.partition.at(m.to)).collect());
    }

    /// Positions are stored there, by this lane or by somebody else.
    fn stored(&mut self, positions: Vec<Position>) {
        let now = Instant::now();
        let mut freed = Amounts::default();
        for position in &positions {
            freed.extend(self.state.tracks.advance(&position.partition, position.offset, now));
        }
        self.tell(LaneEvent::Stored(positions));
        self.freed(freed);
    }

    /// A position ahead of ours was moved by another member, or by our own COMMIT whose answer was lost: what lies
    /// before it is accounted for. One behind ours means that the database lost what it had: read it again.
    fn moved(&mut self, positions: Vec<(Partition, Option<Offset>)>) {
        self.shared.logic.meters.moved.increment(1);
        let mut ahead = Vec::new();
        for (partition, next) in positions {
            match (next, self.state.tracks.stored(&partition)) {
                (Some(next), Some(ours)) if next > ours => ahead.push(partition.at(next)),
                (next, ours) => {
                    warn!(%partition, ?next, ?ours, "the stored position is behind: reading again from there");
                    self.reopen(partition);
                }
            }
        }
        if !ahead.is_empty() {
            debug!(positions = ?ahead, "the stored position is ahead: skipping to it");
            self.stored(ahead);
        }
    }

    /// Takes nothing of a partition any more until it is started again.
    fn reopen(&mut self, partition: Partition) {
        let freed = self.state.tracks.seek(&partition);
        self.freed(freed);
        self.tell(LaneEvent::Behind(partition));
    }

    fn failed(&mut self, failure: Failure, size: usize, only: Option<EventId>) {
        self.shared.logic.meters.batch_failures.increment(1);
        let state = &mut self.state;
        if let Failure::Rejected(reason) = &failure {
            if size > 1 {
                state.limit = size / 2;
                return;
            }
            if let Some(event_id) = only {
                let first = !state.condemned.contains_key(&event_id);
                if first || state.condemned.get(&event_id).is_some_and(|condemned| condemned.gives_up) {
                    error!(%event_id, %reason, gives_up = first, "the store rejects this event: dead letter");
                    let condemned = Condemned { reason: reason.to_string(), gives_up: first };
                    state.condemned.insert(event_id, condemned);
                    return;
                }
            }
        }
        state.failures = state.failures.saturating_add(1);
        let delay = self.shared.retry_delay("retry-batch", state.failures);
        state.not_before = Instant::now() + delay;
        // After `Unknown` the next try sees first whether this one took place: its positions have moved then.
        warn!(%failure, failures = state.failures, ?delay, "a batch is not known to have committed; trying again");
    }

    /// Abandons what was not begun, and moves positions over what needs no transaction of its own, if that succeeds
    /// at once: whoever comes next would only read it again.
    async fn leave(&mut self, partitions: &[Partition], within: Duration) {
        let (freed, moves) = self.state.tracks.leave(partitions);
        self.freed(freed);
        if moves.is_empty() || within.is_zero() {
            return;
        }
        let farewell = self.farewell(&moves);
        match tokio::time::timeout(within, farewell).await {
            Ok(Ok(true)) => {
                self.tell(LaneEvent::Stored(moves.iter().map(|m| m.partition.at(m.to)).collect()));
            }
            Ok(Ok(false)) => {}
            Ok(Err(failure)) => debug!(%failure, "positions stay behind records of no interest"),
            Err(_) => debug!("positions stay behind records of no interest: no time left"),
        }
    }

    async fn farewell(&self, moves: &[Move]) -> Result<bool, Failure> {
        let mut session = self.shared.ports.database.begin().await?;
        let locked = match lock_positions(&mut session, &self.shared, moves).await {
            Ok(moved) if moved.is_empty() => move_positions(&mut session, &self.shared, moves).await,
            Ok(_) => {
                session.rollback().await;
                return Ok(false);
            }
            Err(failure) => Err(failure),
        };
        match locked {
            Ok(()) => session.commit().await.map(|()| true),
            Err(failure) => {
                session.rollback().await;
                Err(failure)
            }
        }
    }

    fn freed(&self, freed: Amounts) {
        if !freed.is_empty() {
            self.tell(LaneEvent::Freed(self.number, freed));
        }
    }

    /// Intake that is gone needs to know nothing any more.
    fn tell(&self, event: LaneEvent) {
        if self.events.send(event).is_err() {
            debug!("intake has stopped");
        }
    }
}

/// Sleeps until `wake`; for ever without one.
pub(crate) async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
