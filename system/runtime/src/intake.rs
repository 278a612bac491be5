//! Intake: the worker's membership in its consumer group. It opens partitions, hands records to lanes, and keeps
//! memory bounded; it never waits for a lane or for the database, so the group never takes it for dead.
//!
//! A partition begins at its stored position, whatever Kafka's committed offset says: those are reported for lag alone
//! (DESIGN G3). A lane that finds its position behind has the partition opened anew, in the same way.
//!
//! A log that ends before the stored position has lost records, and what it takes from then on would be passed over as
//! done. Such a partition stays closed, loudly, until an operator decides; the others go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    Assignment, Consumer, Delivered, Delivery, Failure, Offset, Partition, Position, Revocation, Service,
    Watermarks,
    config::ms,
    lane::{LaneEvent, LaneMessage, until},
    opening::{Opened, open},
    owned::{Owned, State},
    prune::{Known, Pruned, prune},
    shared::Shared,
    track::{Amount, Amounts},
    watch::{Finding, Look, Step, tell_of_closed},
};

/// Intake's side of a lane.
pub(crate) struct LaneHandle {
    pub messages: mpsc::UnboundedSender<LaneMessage>,
    /// What it was given and has not freed yet.
    pub held: Amounts,
}

/// The intake of one worker.
pub(crate) struct Intake<S: Service> {
    shared: Arc<Shared<S>>,
    consumer: Box<dyn Consumer>,
    lanes: Vec<LaneHandle>,
    events: mpsc::UnboundedReceiver<LaneEvent>,
    owned: BTreeMap<Partition, Owned>,
    opening: FuturesUnordered<BoxFuture<'static, Vec<Opened>>>,
    looking: FuturesUnordered<BoxFuture<'static, Look>>,
    /// Partitions that were given up and taken again must not be started by an opening from before.
    openings: u64,
    pruning: Option<BoxFuture<'static, Vec<Pruned>>>,
    next_prune: Instant,
    next_report: Instant,
    next_poll: Instant,
    failures: u32,
    paused: BTreeSet<Partition>,
}

/// What happened next.
enum Turn {
    Stop,
    Lane(LaneEvent),
    Opened(Vec<Opened>),
    Looked(Look),
    Pruned(Vec<Pruned>),
    Report,
    Prune,
    Delivery(Result<Delivery, Failure>),
}

impl<S: Service> Intake<S> {
    /// The intake of a member that has just subscribed.
    pub fn new(
        shared: Arc<Shared<S>>,
        consumer: Box<dyn Consumer>,
        lanes: Vec<LaneHandle>,
        events: mpsc::UnboundedReceiver<LaneEvent>,
    ) -> Self {
        let now = Instant::now();
        Self {
            next_prune: now + ms(shared.config.prune_interval_ms),
            next_report: now + ms(shared.config.report_interval_ms),
            shared,
            consumer,
            lanes,
            events,
            owned: BTreeMap::new(),
            opening: FuturesUnordered::new(),
            looking: FuturesUnordered::new(),
            openings: 0,
            pruning: None,
            next_poll: now,
            failures: 0,
            paused: BTreeSet::new(),
        }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(&mut self, stop: &CancellationToken) {
        loop {
            match self.turn(stop).await {
                Turn::Stop => return,
                Turn::Lane(event) => self.lane_says(event),
                Turn::Opened(opened) => opened.into_iter().for_each(|opened| self.start(opened)),
                Turn::Looked(look) => self.looked(look),
                Turn::Pruned(pruned) => self.pruned(pruned),
                Turn::Report => self.report().await,
                Turn::Prune => self.begin_pruning(),
                Turn::Delivery(Ok(delivery)) => self.deliver(delivery),
                Turn::Delivery(Err(failure)) => self.failed(failure),
            }
            self.balance();
        }
    }

    /// Lets the lanes finish what they began, reports what they stored, and leaves the group. Lanes that are still at
    /// work when `deadline` passes are left behind; what they hold repeats elsewhere.
    pub async fn leave(mut self, lanes_done: impl Future<Output = ()>, deadline: Instant) {
        for lane in &self.lanes {
            tell(lane, LaneMessage::Drain);
        }
        if tokio::time::timeout_at(deadline, lanes_done).await.is_err() {
            warn!("lanes did not finish within the grace period");
        }
        while let Ok(event) = self.events.try_recv() {
            if let LaneEvent::Stored(positions) = event {
                self.stored(positions);
            }
        }
        let last_words = async {
            self.report().await;
            self.consumer.close().await;
        };
        if tokio::time::timeout_at(deadline.max(Instant::now() + ms(100)), last_words).await.is_err() {
            warn!("the group was not left in time; it will notice by itself");
        }
    }

    async fn turn(&mut self, stop: &CancellationToken) -> Turn {
        let report_at = self.has_news().then_some(self.next_report);
        let prune_at = self.pruning.is_none().then_some(self.next_prune);
        let next_poll = self.next_poll;
        let consumer = &mut self.consumer;
        tokio::select! {
            biased;
            () = stop.cancelled() => Turn::Stop,
            Some(event) = self.events.recv() => Turn::Lane(event),
            Some(opened) = self.opening.next() => Turn::Opened(opened),
            Some(look) = self.looking.next() => Turn::Looked(look),
            pruned = pruning(&mut self.pruning) => Turn::Pruned(pruned),
            () = until(report_at) => Turn::Report,
            () = until(prune_at) => Turn::Prune,
            delivery = async { tokio::time::sleep_until(next_poll).await; consumer.next().await } => {
                Turn::Delivery(delivery)
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.failures = 0;
        match delivery {
            Delivery::Records(records) => self.route(records),
            Delivery::Assigned(assigned) => self.assigned(assigned),
            Delivery::Revoking(partitions, token) => self.give_up(partitions, Some(token)),
            Delivery::Lost(partitions) => self.give_up(partitions, None),
        }
    }

    /// The cluster does not answer, or refuses to. It does the latter for a position outside the log, if it is not to
    /// reset it, without saying of which partition.
    fn failed(&mut self, failure: Failure) {
        self.failures = self.failures.saturating_add(1);
        let delay = self.shared.retry_delay("retry-poll", self.failures);
        self.next_poll = Instant::now() + delay;
        if !matches!(failure, Failure::Rejected(_)) {
            return info!(%failure, ?delay, "the cluster does not answer");
        }
        error!(%failure, ?delay, "the cluster refuses to go on");
        for (partition, owned) in self.owned.iter_mut().filter(|(_, owned)| owned.is_open()) {
            if let Some(look) = owned.look(partition, owned.reach.refused()) {
                self.looking.push(Box::pin(look.done(Arc::clone(&self.shared))));
            }
        }
    }

    /// Each record to the lane of its partition. The lane drops what it cannot use; a partition that is not ours, or
    /// not open, has no lane to drop it.
    fn route(&mut self, records: Vec<Delivered>) {
        self.shared.logic.meters.received.increment(records.len() as u64);
        let mut shares: BTreeMap<usize, Vec<Delivered>> = BTreeMap::new();
        for delivered in records {
            let Position { partition, offset } = &delivered.at;
            let Some(owned) = self.owned.get_mut(partition).filter(|owned| owned.is_open()) else {
                debug!(at = %delivered.at, "a record of a partition that is not open");
                continue;
            };
            if let Some(look) = owned.reach.take(*offset).and_then(|step| owned.look(partition, step)) {
                self.looking.push(Box::pin(look.done(Arc::clone(&self.shared))));
            }
            self.lanes[owned.lane].held.add(partition, &delivered.record);
            shares.entry(owned.lane).or_default().push(delivered);
        }
        for (lane, records) in shares {
            tell(&self.lanes[lane], LaneMessage::Records(records));
        }
    }

    fn assigned(&mut self, assigned: Vec<Assignment>) {
        info!(consumer = %self.shared.logic.consumer, partitions = ?assigned, "assigned");
        self.openings += 1;
        for assignment in &assigned {
            let lane = self.least_loaded_lane();
            self.owned.insert(assignment.partition.clone(), Owned::new(lane, self.openings));
        }
        self.measure();
        let shared = Arc::clone(&self.shared);
        let known =
            assigned.into_iter().map(|Assignment { partition, watermarks }| (partition, Some(watermarks)));
        self.opening.push(Box::pin(open(shared, known.collect(), self.openings)));
    }

    /// The lane with the fewest partitions of ours.
    fn least_loaded_lane(&self) -> usize {
        let load = |lane: &usize| self.owned.values().filter(|owned| owned.lane == *lane).count();
        (0..self.lanes.len()).min_by_key(load).unwrap_or(0)
    }

    /// Revoked or lost. The token goes to the lanes concerned and is dropped by the last of them.
    fn give_up(&mut self, partitions: Vec<Partition>, token: Option<Revocation>) {
        info!(consumer = %self.shared.logic.consumer, ?partitions, lost = token.is_none(), "partitions leave");
        let token = token.map(Arc::new);
        let mut shares: BTreeMap<usize, Vec<Partition>> = BTreeMap::new();
        for partition in partitions {
            self.paused.remove(&partition);
            if let Some(owned) = self.owned.remove(&partition) {
                shares.entry(owned.lane).or_default().push(partition);
            }
        }
        for (lane, partitions) in shares {
            tell(&self.lanes[lane], LaneMessage::Revoke(partitions, token.clone()));
        }
        self.measure();
    }

    fn measure(&self) {
        let closed = self.owned.values().filter(|owned| matches!(owned.state, State::Closed(_))).count();
        self.shared.logic.meters.partitions.set(self.owned.len() as f64);
        self.shared.logic.meters.closed.set(closed as f64);
    }

    /// A partition's stored position is known: read on from there. If its log ends before, or was found to have lost
    /// what follows that very position, it stays closed: the log may have grown past it since.
    fn start(&mut self, Opened { opening, position, log }: Opened) {
        let Some(owned) = self.owned.get_mut(&position.partition).filter(|owned| owned.opening == opening)
        else {
            return;
        };
        owned.stored = Some(position.offset);
        if position.offset > log.end || owned.state == State::Closed(position.offset) {
            return self.close(&position, log);
        }
        owned.state = State::Open;
        owned.reach.restart(position.offset, log);
        let step = Step::new(position.offset, Offset::MAX);
        if let Finding::Overtaken(lost) = owned.reach.judge(step, log) {
            self.overtaken(&position.partition, lost, log);
        }
        if let Some(owned) = self.owned.get(&position.partition) {
            tell(&self.lanes[owned.lane], LaneMessage::Start(position.clone()));
        }
        self.paused.remove(&position.partition);
        // What was removed cannot be read; whether to go on without is for the consumer's `auto.offset.reset` to say.
        self.consumer.seek(position);
        self.measure();
    }

    /// The log does not continue what was read. Whoever reads on would pass records over and not know.
    fn close(&mut self, position: &Position, log: Watermarks) {
        let Position { partition, offset } = position;
        let Some(owned) = self.owned.get_mut(partition) else { return };
        owned.state = State::Closed(*offset);
        self.consumer.pause(std::slice::from_ref(partition));
        tell_of_closed(&self.shared.logic.consumer, position, log);
        self.measure();
    }

    fn overtaken(&self, partition: &Partition, lost: Offset, log: Watermarks) {
        let meters = &self.shared.logic.meters;
        meters.overtaken.increment(1);
        meters.lost.increment(lost.unsigned_abs());
        let consumer = &self.shared.logic.consumer;
        error!(%consumer, %partition, lost, log_start = log.start, "retention has removed records before they were read");
    }

    fn looked(&mut self, Look { partition, opening, step, log }: Look) {
        let owned =
            self.owned.get_mut(&partition).filter(|owned| owned.opening == opening && owned.is_open());
        let Some(owned) = owned else { return };
        owned.is_looking = false;
        if let Some(look) = owned.unseen.take().and_then(|step| owned.look(&partition, step)) {
            self.looking.push(Box::pin(look.done(Arc::clone(&self.shared))));
        }
        let Some(log) = log else { return };
        let is_stuck = step.refused && owned.reach.is_at(step) && log.start > step.expected;
        self.judge(&partition, step, log);
        if is_stuck {
            self.close(&partition.at(step.expected), log);
        }
    }

    /// Holds a step against the log. What is held of one that was cut continues nothing any more; where it is stored
    /// to begin may still lie in the log, and if it does not, it is closed on opening.
    fn judge(&mut self, partition: &Partition, step: Step, log: Watermarks) {
        let Some(owned) = self.owned.get_mut(partition).filter(|owned| owned.is_open()) else { return };
        match owned.reach.judge(step, log) {
            Finding::Whole => {}
            Finding::Overtaken(lost) => self.overtaken(partition, lost, log),
            Finding::Cut => {
                owned.state = State::Opening;
                warn!(%partition, read = step.expected, log_end = log.end, "the log ends before what was read");
                tell(&self.lanes[owned.lane], LaneMessage::Reopen(partition.clone()));
            }
        }
    }

    fn lane_says(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Freed(lane, freed) => self.lanes[lane].held.release(&freed),
            LaneEvent::Stored(positions) => self.stored(positions),
            LaneEvent::Behind(partition) => self.reopen(partition),
        }
    }

    fn reopen(&mut self, partition: Partition) {
        let Some(owned) = self.owned.get_mut(&partition) else { return };
        self.openings += 1;
        owned.opening = self.openings;
        (owned.is_looking, owned.unseen) = (false, None);
        let shared = Arc::clone(&self.shared);
        self.opening.push(Box::pin(open(shared, vec![(partition, None)], self.openings)));
    }

    fn stored(&mut self, positions: Vec<Position>) {
        for Position { partition, offset } in positions {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.stored = Some(offset);
            }
        }
    }

    /// Pauses the partitions of lanes that hold their share of memory. They are resumed at half of it; one that has
    /// only little of what is held need not wait for those that have more. A lane that cannot go on thus never takes
    /// the memory of those that can, nor a partition the turn of its neighbours.
    fn balance(&mut self) {
        let config = &self.shared.config;
        let bytes = usize::try_from(config.buffer_bytes).unwrap_or(usize::MAX);
        let limit = Amount { records: config.buffer_records as usize, bytes }.part(self.lanes.len());
        let totals: Vec<Amount> = self.lanes.iter().map(|lane| lane.held.total()).collect();
        let mut sharers = vec![0; self.lanes.len()];
        let open = || self.owned.iter().filter(|(_, owned)| owned.is_open());
        open().for_each(|(_, owned)| sharers[owned.lane] += 1);
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (partition, owned) in open() {
            let (total, half) = (totals[owned.lane], limit.part(2));
            let has_room = || {
                let own = self.lanes[owned.lane].held.of(partition);
                total.fits(half) || own.fits(half.part(sharers[owned.lane]))
            };
            match (total.reaches(limit), self.paused.contains(partition)) {
                (true, false) => pause.push(partition.clone()),
                (false, true) if has_room() => resume.push(partition.clone()),
                (true, true) | (false, _) => {}
            }
        }
        if !pause.is_empty() {
            self.consumer.pause(&pause);
            self.paused.extend(pause);
        }
        if !resume.is_empty() {
            self.consumer.resume(&resume);
            self.paused.retain(|partition| !resume.contains(partition));
        }
        let held: Amount = totals.into_iter().sum();
        self.shared.logic.meters.buffered_records.set(held.records as f64);
        self.shared.logic.meters.buffered_bytes.set(held.bytes as f64);
    }

    fn has_news(&self) -> bool {
        self.owned.values().any(|owned| owned.stored != owned.reported)
    }

    /// Commits stored positions to the group. They are never ahead of what the database has, and nothing reads them
    /// back, so a failure is only logged.
    async fn report(&mut self) {
        self.next_report = Instant::now() + ms(self.shared.config.report_interval_ms);
        let news = self.owned.iter_mut().filter(|(_, owned)| owned.stored != owned.reported);
        let positions: Vec<Position> = news
            .filter_map(|(partition, owned)| {
                owned.reported = owned.stored;
                Some(partition.at(owned.stored?))
            })
            .collect();
        if positions.is_empty() {
            return;
        }
        // No longer than this: partitions whose brokers do answer must not wait for a coordinator that does not.
        let patience = ms(self.shared.config.report_interval_ms);
        match tokio::time::timeout(patience, self.consumer.report(positions)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => debug!(%failure, "offsets were not reported"),
            Err(_) => debug!("offsets were not reported in time"),
        }
    }

    /// Looks at the logs and the stored positions of all partitions, of those that are closed once nothing of them is
    /// left to be applied.
    fn begin_pruning(&mut self) {
        self.next_prune = Instant::now() + ms(self.shared.config.prune_interval_ms);
        let (mut known, mut closed) = (Vec::new(), Vec::new());
        for (partition, owned) in &mut self.owned {
            match (owned.state, owned.stored) {
                (State::Open, Some(stored)) => {
                    owned.reach.begin_round();
                    known.push(Known { stored: partition.at(stored), log_end: owned.log_end });
                }
                (State::Closed(_), _) if self.lanes[owned.lane].held.of(partition).records == 0 => {
                    closed.push(partition.clone());
                }
                (State::Open | State::Closed(_) | State::Opening, _) => {}
            }
        }
        closed.into_iter().for_each(|partition| self.reopen(partition));
        self.pruning = Some(Box::pin(prune(Arc::clone(&self.shared), known)));
    }

    fn pruned(&mut self, pruned: Vec<Pruned>) {
        self.pruning = None;
        for Pruned { partition, log, is_behind } in pruned {
            let Some(owned) = self.owned.get_mut(&partition) else { continue };
            if is_behind {
                warn!(%partition, known = owned.stored, "the database has lost a position: reading again from it");
                tell(&self.lanes[owned.lane], LaneMessage::Reopen(partition));
                continue;
            }
            owned.log_end = Some(log.end);
            if let Some(step) = owned.reach.end_round().filter(|_| !self.paused.contains(&partition)) {
                self.judge(&partition, step, log);
            }
        }
    }
}

fn tell(lane: &LaneHandle, message: LaneMessage) {
    if lane.messages.send(message).is_err() {
        debug!("the lane has stopped");
    }
}

async fn pruning(future: &mut Option<BoxFuture<'static, Vec<Pruned>>>) -> Vec<Pruned> {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
