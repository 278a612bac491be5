//! Intake: the worker's membership in its consumer group. It opens partitions, hands records to lanes, and keeps
//! memory bounded; it never waits for a lane or for the database, so the group never takes it for dead.
//!
//! A partition begins at its stored position, whatever Kafka's committed offset says: those are reported for lag alone
//! (DESIGN G3). A lane that finds its position behind has the partition opened anew, in the same way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    Assignment, Consumer, Delivered, Delivery, Failure, Offset, Partition, Position, Revocation, Service,
    Statement, Watermarks,
    config::ms,
    lane::{LaneEvent, LaneMessage, Load, until},
    prune::{Pruned, prune},
    shared::Shared,
};

/// Intake's side of a lane.
pub(crate) struct LaneHandle {
    pub messages: mpsc::UnboundedSender<LaneMessage>,
    pub load: Arc<Load>,
}

/// The intake of one worker.
pub(crate) struct Intake<S: Service> {
    shared: Arc<Shared<S>>,
    consumer: Box<dyn Consumer>,
    lanes: Vec<LaneHandle>,
    events: mpsc::UnboundedReceiver<LaneEvent>,
    owned: BTreeMap<Partition, Owned>,
    opening: FuturesUnordered<BoxFuture<'static, Vec<Opened>>>,
    /// Partitions that were given up and taken again must not be started by an opening from before.
    openings: u64,
    pruning: Option<BoxFuture<'static, Vec<Pruned>>>,
    next_prune: Instant,
    next_report: Instant,
    next_poll: Instant,
    failures: u32,
    paused: BTreeSet<Partition>,
}

/// A partition of ours.
struct Owned {
    lane: usize,
    /// The opening that is under way, or was the last.
    opening: u64,
    /// What is stored, once it is open.
    stored: Option<Offset>,
    reported: Option<Offset>,
    /// What pruning saw the last time: where the log ended.
    log_end: Option<Offset>,
}

/// A partition whose stored position is known.
struct Opened {
    opening: u64,
    position: Position,
    log: Watermarks,
}

/// What happened next.
enum Turn {
    Stop,
    Lane(LaneEvent),
    Opened(Vec<Opened>),
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
                Turn::Pruned(pruned) => self.pruned(pruned),
                Turn::Report => self.report().await,
                Turn::Prune => self.begin_pruning(),
                Turn::Delivery(Ok(delivery)) => self.deliver(delivery),
                Turn::Delivery(Err(failure)) => {
                    self.failures = self.failures.saturating_add(1);
                    let delay = self.shared.retry_delay("retry-poll", self.failures);
                    info!(%failure, ?delay, "the cluster does not answer");
                    self.next_poll = Instant::now() + delay;
                }
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

    /// Each record to the lane of its partition. The lane drops what it cannot use; a partition that is not ours, or
    /// not yet open, has no lane to drop it.
    fn route(&mut self, records: Vec<Delivered>) {
        self.shared.logic.meters.received.increment(records.len() as u64);
        let mut shares: BTreeMap<usize, Vec<Delivered>> = BTreeMap::new();
        for delivered in records {
            match self.owned.get(&delivered.at.partition) {
                Some(owned) if owned.stored.is_some() => {
                    shares.entry(owned.lane).or_default().push(delivered)
                }
                Some(_) | None => debug!(at = %delivered.at, "a record of a partition that is not open"),
            }
        }
        for (lane, records) in shares {
            let lane = &self.lanes[lane];
            let bytes = records.iter().map(|delivered| delivered.record.size()).sum();
            lane.load.records.fetch_add(records.len(), Ordering::AcqRel);
            lane.load.bytes.fetch_add(bytes, Ordering::AcqRel);
            tell(lane, LaneMessage::Records(records));
        }
    }

    fn assigned(&mut self, assigned: Vec<Assignment>) {
        info!(consumer = %self.shared.logic.consumer, partitions = ?assigned, "assigned");
        self.openings += 1;
        for assignment in &assigned {
            let lane = self.least_loaded_lane();
            let owned = Owned { lane, opening: self.openings, stored: None, reported: None, log_end: None };
            self.owned.insert(assignment.partition.clone(), owned);
        }
        self.shared.logic.meters.partitions.set(self.owned.len() as f64);
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
        self.shared.logic.meters.partitions.set(self.owned.len() as f64);
    }

    /// A partition's stored position is known: read on from there.
    fn start(&mut self, Opened { opening, position, log }: Opened) {
        let partition = position.partition.clone();
        let Some(owned) = self.owned.get_mut(&partition).filter(|owned| owned.opening == opening) else {
            return;
        };
        if position.offset < log.start {
            self.shared.logic.meters.overtaken.increment(1);
            error!(%position, log_start = log.start, "retention has removed records before they were read");
        }
        if position.offset > log.end {
            error!(%position, log_end = log.end, "the log ends before what was read: it has lost records");
        }
        owned.stored = Some(position.offset);
        let lane = &self.lanes[owned.lane];
        tell(lane, LaneMessage::Start(position.clone()));
        // What was removed cannot be read; the span still begins at the stored position.
        self.consumer.seek(partition.at(position.offset.max(log.start)));
        self.paused.remove(&partition);
    }

    fn lane_says(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Freed => {}
            LaneEvent::Stored(positions) => self.stored(positions),
            LaneEvent::Behind(partition) => {
                let Some(owned) = self.owned.get_mut(&partition) else { return };
                self.openings += 1;
                owned.opening = self.openings;
                let shared = Arc::clone(&self.shared);
                self.opening.push(Box::pin(open(shared, vec![(partition, None)], self.openings)));
            }
        }
    }

    fn stored(&mut self, positions: Vec<Position>) {
        for Position { partition, offset } in positions {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.stored = Some(offset);
            }
        }
    }

    /// Pauses the partitions of lanes that hold their share of memory, and resumes them at half of it. A lane that
    /// cannot go on thus never takes the memory of those that can.
    fn balance(&mut self) {
        let config = &self.shared.config;
        let records = config.buffer_records as usize / self.lanes.len();
        let bytes = usize::try_from(config.buffer_bytes).unwrap_or(usize::MAX) / self.lanes.len();
        let (mut held, mut held_bytes) = (0, 0);
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        let mut fill = Vec::new();
        for lane in &self.lanes {
            let (in_lane, in_bytes) =
                (lane.load.records.load(Ordering::Acquire), lane.load.bytes.load(Ordering::Acquire));
            held += in_lane;
            held_bytes += in_bytes;
            fill.push((
                in_lane >= records || in_bytes >= bytes,
                in_lane <= records / 2 && in_bytes <= bytes / 2,
            ));
        }
        for (partition, owned) in self.owned.iter().filter(|(_, owned)| owned.stored.is_some()) {
            let (is_full, has_room) = fill[owned.lane];
            let is_paused = self.paused.contains(partition);
            if is_full && !is_paused {
                pause.push(partition.clone());
            } else if has_room && is_paused {
                resume.push(partition.clone());
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
        self.shared.logic.meters.buffered_records.set(held as f64);
        self.shared.logic.meters.buffered_bytes.set(held_bytes as f64);
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

    fn begin_pruning(&mut self) {
        self.next_prune = Instant::now() + ms(self.shared.config.prune_interval_ms);
        let known = self
            .owned
            .iter()
            .filter_map(|(partition, owned)| Some((partition.at(owned.stored?), owned.log_end)));
        self.pruning = Some(Box::pin(prune(Arc::clone(&self.shared), known.collect())));
    }

    fn pruned(&mut self, pruned: Vec<Pruned>) {
        self.pruning = None;
        for Pruned { partition, log_end } in pruned {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.log_end = Some(log_end);
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

/// Reads the stored positions of partitions, creating those that are missing at the log's start. Tries until it
/// succeeds: without its position a partition cannot be read.
async fn open<S: Service>(
    shared: Arc<Shared<S>>,
    partitions: Vec<(Partition, Option<Watermarks>)>,
    opening: u64,
) -> Vec<Opened> {
    let mut failures = 0;
    loop {
        match try_open(&shared, &partitions, opening).await {
            Ok(opened) => return opened,
            Err(failure) => {
                failures += 1;
                let delay = shared.retry_delay("retry-open", failures);
                info!(%failure, ?delay, "positions could not be read");
                tokio::time::sleep(delay).await;
            }
        }
    }
}

async fn try_open<S: Service>(
    shared: &Shared<S>,
    partitions: &[(Partition, Option<Watermarks>)],
    opening: u64,
) -> Result<Vec<Opened>, Failure> {
    let mut logs = BTreeMap::new();
    for (partition, known) in partitions {
        let log = match known {
            Some(known) => *known,
            None => shared.ports.broker.watermarks(partition).await?,
        };
        logs.insert(partition.clone(), log);
    }
    let consumer = shared.logic.consumer.clone();
    let positions = logs.iter().map(|(partition, log)| partition.at(log.start)).collect();
    let mut session = shared.ports.database.begin().await?;
    let stored = match session.positions(Statement::OpenPositions { consumer, positions }).await {
        Ok(stored) => stored,
        Err(failure) => {
            session.rollback().await;
            return Err(failure);
        }
    };
    session.commit().await?;
    let opened = stored.into_iter().filter_map(|position| {
        let log = *logs.get(&position.partition)?;
        Some(Opened { opening, position, log })
    });
    Ok(opened.collect())
}
