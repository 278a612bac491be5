//! One transaction of a lane: P I Q R, decide, W O E, COMMIT (DESIGN section 6).
//!
//! The position is locked first and moves last, in the same transaction as the effects, so a zombie, a repeat after a
//! lost COMMIT answer and a database that lost its suffix all show in the same place: the position is not where this
//! span begins.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    AfterDeath, Claim, EventId, Failure, InboxEntry, Offset, OrderingKey, Partition, PendingId, Position,
    Refusal, RowSet, Service, Statement, Verdict,
    logic::{Decoded, Logic, storable},
    plan::{Death, Kept, Planner, ROUNDS, Step, Subject, Tally, Writes, encode_call},
    shared::{Desk, Job, Shared},
    track::{Move, Span, Taken},
    transact::{Transaction, lock_rows, write},
};

/// What the store rejected, and what to do about it: an event that was rejected alone becomes a dead letter, and if
/// even that is rejected with what the service does on giving up, a dead letter without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condemned {
    pub reason: String,
    pub gives_up: bool,
}

/// How a transaction of a lane ended.
#[derive(Debug)]
pub(crate) enum BatchEnd {
    /// Committed, and this is for the executor.
    Committed(Handover),
    /// Rolled back: these positions are elsewhere, or gone.
    Moved(Vec<(Partition, Option<Offset>)>),
}

/// What a lane leaves to the executor.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// Heads that were born claimed.
    pub jobs: Vec<Job>,
    /// When the first of the others will be due.
    pub soonest: Option<Duration>,
    /// How many rows were appended to the queue.
    pub queued: u64,
    /// What to count.
    pub tally: Tally,
}

/// A lane's transaction, to be tried.
pub(crate) struct Batch<'a, S: Service> {
    pub shared: &'a Shared<S>,
    pub desk: &'a Desk,
    pub span: &'a Span<'a, S::Event>,
    pub condemned: &'a BTreeMap<EventId, Condemned>,
}

type Keys<S> = BTreeSet<<<S as Service>::Row as RowSet>::Key>;

enum Attempt<S: Service> {
    Ready(Handover),
    Moved(Vec<(Partition, Option<Offset>)>),
    Needs(Keys<S>),
}

/// What a plan of a lane is made from, beside the rows.
pub(crate) struct Intake<'a, E> {
    /// Events taken for the first time, in log order, one per id.
    pub fresh: Vec<&'a Taken<E>>,
    /// Keys with something in the queue before them.
    pub blocked: BTreeSet<OrderingKey>,
    /// How many rows may be born claimed.
    pub places: usize,
    /// The claim that these will carry.
    pub claim: Claim,
}

/// A plan of a lane.
pub(crate) struct LanePlan<R: RowSet> {
    pub writes: Writes<R>,
    /// Which of the appended rows are born claimed.
    pub claimed: Vec<usize>,
}

impl<S: Service> Batch<'_, S> {
    /// Runs the transaction, at most three times over if events need more rows.
    ///
    /// # Errors
    /// `Rejected` if the store cannot hold what it was given; after anything else the same span may be tried again.
    pub async fn run(&self) -> Result<BatchEnd, Failure> {
        let mut extra = BTreeSet::new();
        for round in 1..=ROUNDS {
            let mut session = self.shared.ports.database.begin().await?;
            match self.attempt(&mut session, &extra, round).await {
                Ok(Attempt::Ready(handover)) => {
                    session.commit().await?;
                    return Ok(BatchEnd::Committed(handover));
                }
                Ok(Attempt::Moved(positions)) => {
                    session.rollback().await;
                    return Ok(BatchEnd::Moved(positions));
                }
                Ok(Attempt::Needs(keys)) => {
                    session.rollback().await;
                    extra.extend(keys);
                }
                Err(failure) => {
                    session.rollback().await;
                    return Err(failure);
                }
            }
        }
        // The planner refuses further needs in the last round, so this is not reached; repeating is always right.
        Err(Failure::NotDone(crate::Cause::Conflict))
    }

    async fn attempt(
        &self,
        session: &mut Transaction<S::Row>,
        extra: &Keys<S>,
        round: u32,
    ) -> Result<Attempt<S>, Failure> {
        let moved = lock_positions(session, self.shared, &self.span.moves).await?;
        if !moved.is_empty() {
            return Ok(Attempt::Moved(moved));
        }
        let fresh = self.take_inbox(session).await?;
        let mut handover = Handover::default();
        if !fresh.is_empty() {
            let blocked = self.blocked_keys(session, &fresh).await?;
            let mut locked = extra.clone();
            for taken in fresh.iter().filter(|taken| !blocked.contains(&taken.key) && !self.is_bare(taken)) {
                if let Decoded::Event(event) = &taken.event {
                    locked.extend(self.shared.logic.keys(event));
                }
            }
            let rows = lock_rows(session, &locked).await?;
            let places = self.desk.reserve(fresh.len());
            let intake = Intake { fresh, blocked, places: places.len(), claim: self.shared.new_claim() };
            let now = self.shared.ports.clock.now();
            let planner = Planner::new(&self.shared.logic, now, (rows, &locked), round);
            let plan = match plan_lane(planner, &self.shared.logic, &intake, self.condemned) {
                Ok(plan) => plan,
                Err(keys) => return Ok(Attempt::Needs(keys)),
            };
            handover = self.write(session, plan, (intake.claim, places)).await?;
        }
        move_positions(session, self.shared, &self.span.moves).await?;
        Ok(Attempt::Ready(handover))
    }

    /// Whether the event dies without a word of the service's: then its rows are not touched either, for it may be
    /// they that the store rejects.
    fn is_bare(&self, taken: &Taken<S::Event>) -> bool {
        self.condemned.get(&taken.event_id).is_some_and(|condemned| !condemned.gives_up)
    }

    /// I: which events are new. Of two copies in one batch the first is taken.
    async fn take_inbox(&self, session: &mut Transaction<S::Row>) -> Result<Vec<&Taken<S::Event>>, Failure> {
        if self.span.taken.is_empty() {
            return Ok(Vec::new());
        }
        let mut first: BTreeMap<EventId, InboxEntry> = BTreeMap::new();
        for taken in &self.span.taken {
            let entry = || InboxEntry { event_id: taken.event_id, at: taken.at.clone() };
            first.entry(taken.event_id).or_insert_with(entry);
        }
        let consumer = self.shared.logic.consumer.clone();
        let entries = first.into_values().collect();
        let fresh = session.fresh(Statement::TakeInbox { consumer, entries }).await?;
        let mut fresh: BTreeSet<EventId> = fresh.into_iter().collect();
        let taken: Vec<_> =
            self.span.taken.iter().copied().filter(|taken| fresh.remove(&taken.event_id)).collect();
        self.shared.logic.meters.duplicates.increment((self.span.taken.len() - taken.len()) as u64);
        Ok(taken)
    }

    /// Q: which keys of the fresh events have something before them in the queue.
    async fn blocked_keys(
        &self,
        session: &mut Transaction<S::Row>,
        fresh: &[&Taken<S::Event>],
    ) -> Result<BTreeSet<OrderingKey>, Failure> {
        let keys: BTreeSet<OrderingKey> = fresh.iter().map(|taken| taken.key.clone()).collect();
        let statement = Statement::BlockedKeys {
            consumer: self.shared.logic.consumer.clone(),
            keys: keys.into_iter().collect(),
            after_death: self.shared.config.after_death,
        };
        Ok(session.keys(statement).await?.into_iter().collect())
    }

    /// W and O. Returns the heads that are born claimed, for the executor once this has committed.
    async fn write(
        &self,
        session: &mut Transaction<S::Row>,
        plan: LanePlan<S::Row>,
        (claim, places): (Claim, Vec<OwnedSemaphorePermit>),
    ) -> Result<Handover, Failure> {
        let lease_ends = Instant::now() + claim.lease;
        let heads: Vec<_> =
            plan.claimed.iter().map(|&index| (index, plan.writes.enqueue[index].clone())).collect();
        let queued = plan.writes.enqueue.len() as u64;
        let Writes { soonest, tally, .. } = plan.writes;
        let sequence = write(session, &self.shared.logic.consumer, plan.writes).await?;
        let jobs = heads.into_iter().zip(places).filter_map(|((index, head), place)| {
            Some(Job {
                id: PendingId { key: head.key, seq: *sequence.get(index)? },
                event_id: head.event_id,
                call: head.call,
                unread: None,
                epoch: 0,
                attempts: head.attempts,
                claim: claim.id,
                lease_ends,
                place,
            })
        });
        Ok(Handover { jobs: jobs.collect(), soonest, queued, tally })
    }
}

/// P: locks the positions of a span. Returns those that are not where it begins; `None` for one that is gone.
pub(crate) async fn lock_positions<S: Service>(
    session: &mut Transaction<S::Row>,
    shared: &Shared<S>,
    moves: &[Move],
) -> Result<Vec<(Partition, Option<Offset>)>, Failure> {
    let consumer = shared.logic.consumer.clone();
    let partitions = moves.iter().map(|m| m.partition.clone()).collect();
    let stored = session.positions(Statement::LockPositions { consumer, partitions }).await?;
    let stored: BTreeMap<Partition, Offset> =
        stored.into_iter().map(|Position { partition, offset }| (partition, offset)).collect();
    let elsewhere = moves.iter().filter_map(|m| {
        let next = stored.get(&m.partition).copied();
        (next != Some(m.from)).then(|| (m.partition.clone(), next))
    });
    Ok(elsewhere.collect())
}

/// E: moves the positions of a span.
pub(crate) async fn move_positions<S: Service>(
    session: &mut Transaction<S::Row>,
    shared: &Shared<S>,
    moves: &[Move],
) -> Result<(), Failure> {
    let consumer = shared.logic.consumer.clone();
    let positions: Vec<Position> = moves.iter().map(|m| m.partition.at(m.to)).collect();
    let expected = positions.len() as u64;
    match session.count(Statement::MovePositions { consumer, positions }).await? {
        count if count == expected => Ok(()),
        _ => Err(Failure::NotDone(crate::Cause::Conflict)),
    }
}

/// Decides the fresh events of a span in log order.
///
/// # Errors
/// The keys without which the plan is void.
pub(crate) fn plan_lane<S: Service>(
    mut planner: Planner<'_, S>,
    logic: &Logic<S>,
    intake: &Intake<'_, S::Event>,
    condemned: &BTreeMap<EventId, Condemned>,
) -> Result<LanePlan<S::Row>, Keys<S>> {
    let mut lane = LanePlanner { logic, intake, blocked: intake.blocked.clone(), claimed: Vec::new() };
    for taken in &intake.fresh {
        lane.take(&mut planner, taken, condemned.get(&taken.event_id));
    }
    Ok(LanePlan { claimed: lane.claimed, writes: planner.finish()? })
}

struct LanePlanner<'a, S: Service> {
    logic: &'a Logic<S>,
    intake: &'a Intake<'a, S::Event>,
    blocked: BTreeSet<OrderingKey>,
    claimed: Vec<usize>,
}

impl<S: Service> LanePlanner<'_, S> {
    fn take(&mut self, planner: &mut Planner<'_, S>, taken: &Taken<S::Event>, condemned: Option<&Condemned>) {
        let Taken { at, event_id, key, record, event } = taken;
        let subject = Subject { event_id: *event_id, key, origin: at, record };
        if self.blocked.contains(key) {
            // Whatever it is, it waits its turn: even a record that cannot be read dies in its place. If the key was
            // freed since Q looked, this row is a head that nobody was told of.
            planner.due(self.logic.orphan_after);
            planner.enqueue(subject.pending());
            return;
        }
        let event = match event {
            Decoded::Event(event) => event,
            Decoded::Ignored => return,
            Decoded::Unreadable(refusal) => return self.refuse(planner, subject, (refusal.clone(), None)),
        };
        if let Some(Condemned { reason, gives_up }) = condemned {
            return self.bury(planner, subject, (reason, gives_up.then_some(event)));
        }
        match planner.decide(subject, event) {
            Step::Done | Step::Needs => {}
            Step::Ask(call) => self.ask(planner, subject, (event, &call)),
            Step::Refused(refusal) => self.refuse(planner, subject, (refusal, Some(event))),
        }
    }

    /// The intent to call commits before the call is made. A key that is not blocked and a free place in our own
    /// executor let the row be born claimed, which saves the claim's transaction.
    fn ask(
        &mut self,
        planner: &mut Planner<'_, S>,
        subject: Subject<'_>,
        (event, call): (&S::Event, &S::Call),
    ) {
        let call = match encode_call(&Kept::Asked(call)) {
            Ok(call) => call,
            Err(refusal) => return self.refuse(planner, subject, (refusal, Some(event))),
        };
        let mut row = subject.pending();
        row.call = Some(call);
        let has_place = self.claimed.len() < self.intake.places;
        if has_place {
            row.verdict = Verdict::Claimed(self.intake.claim.clone());
            row.attempts = 1;
        } else {
            planner.due(row.due_in);
        }
        let index = planner.enqueue(row);
        if has_place {
            self.claimed.push(index);
        }
        self.blocked.insert(subject.key.clone());
    }

    fn refuse(
        &mut self,
        planner: &mut Planner<'_, S>,
        subject: Subject<'_>,
        (refusal, event): (Refusal, Option<&S::Event>),
    ) {
        match refusal {
            Refusal::Later(error) => {
                let mut row = subject.pending();
                row.attempts = 1;
                row.due_in = self.logic.delay(subject.event_id.0, 1);
                row.error = Some(storable(&error));
                // What this version cannot read is left to whoever can: it does not come back for it first.
                if event.is_some() {
                    planner.due(row.due_in);
                }
                planner.count_retry();
                planner.enqueue(row);
                self.blocked.insert(subject.key.clone());
            }
            Refusal::Never(error) => self.bury(planner, subject, (&error, event)),
        }
    }

    fn bury(
        &mut self,
        planner: &mut Planner<'_, S>,
        subject: Subject<'_>,
        (error, give_up): (&str, Option<&S::Event>),
    ) {
        planner.bury(subject, Death { error, attempts: 1, give_up });
        let mut row = subject.pending();
        row.attempts = 1;
        row.error = Some(storable(error));
        row.verdict = Verdict::Dead;
        planner.enqueue(row);
        if self.logic.after_death == AfterDeath::Hold {
            self.blocked.insert(subject.key.clone());
        }
    }
}
