//! Settling: what was attempted takes effect, in one transaction with what becomes of its queue row.
//!
//! K locks the first rows of the claimed keys first. If the head of a key is not the row that was claimed, or carries
//! another claim, somebody else has taken over (or our own COMMIT, whose answer was lost, has done it all): nothing of
//! this attempt may take effect. Then the head is concluded and its followers are decided in order, until one asks or
//! fails, so a key that waited drains in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{error, warn};

use crate::{
    Claim, Failure, OrderingKey, Pending, PendingChange, PendingId, RowSet, Service, Statement,
    act::{Finished, Outcome},
    logic::Decoded,
    plan::{Planner, ROUNDS, Tally},
    settle_plan::{Care, KeyPlan, Next, ROWS_MAX, plan_key},
    shared::{Job, Shared},
    transact::{Transaction, lock_rows, write},
};

/// What a settlement leaves behind.
pub(crate) struct Settled<S: Service> {
    /// Heads that were claimed anew in the same transaction.
    pub jobs: Vec<Job>,
    /// When the first head that is not claimed will be due.
    pub soonest: Option<Duration>,
    /// Attempts that could not be settled now, and why.
    pub unsettled: Option<(Vec<Finished<S>>, Failure)>,
}

/// One settlement, to be tried.
pub(crate) struct Settlement<S: Service> {
    pub shared: Arc<Shared<S>>,
    /// Whether calls may be made: else an event that asks waits in the queue, unclaimed.
    pub may_claim: bool,
}

type Keys<S> = BTreeSet<<<S as Service>::Row as RowSet>::Key>;

/// A committed transaction.
struct Done {
    next: Vec<Next>,
    claim: Claim,
    lease_ends: Instant,
    soonest: Option<Duration>,
    tally: Tally,
    deleted: u64,
    fenced: u64,
}

impl Done {
    fn nothing(claim: Claim) -> Self {
        let lease_ends = Instant::now() + claim.lease;
        let tally = Tally::default();
        Self { next: Vec::new(), claim, lease_ends, soonest: None, tally, deleted: 0, fenced: 0 }
    }
}

enum Attempt<S: Service> {
    Ready(Done),
    Needs(Keys<S>),
}

impl<S: Service> Settlement<S> {
    /// Settles `finished`. A batch that the store rejects is settled in halves, and a head that is rejected alone
    /// first without its followers, then as a dead letter, then as one without `give_up`.
    pub async fn run(self, finished: Vec<Finished<S>>) -> Settled<S> {
        let mut settled = Settled { jobs: Vec::new(), soonest: None, unsettled: None };
        let mut left: Vec<(Vec<Finished<S>>, Care)> = vec![(finished, Care::Full)];
        while let Some((mut batch, care)) = left.pop() {
            match self.settle(&batch, &care).await {
                Ok(done) => self.take_over(&mut settled, batch, done),
                Err(Failure::Rejected(reason)) if batch.len() > 1 => {
                    let rest = batch.split_off(batch.len() / 2);
                    warn!(%reason, heads = batch.len() + rest.len(), "a settlement was rejected: trying halves");
                    left.extend([(rest, care.clone()), (batch, care)]);
                }
                Err(Failure::Rejected(reason)) if !care.is_last() => {
                    error!(event = %batch[0].job.event_id, %reason, "the store rejects this settlement");
                    left.push((batch, care.lower(reason.to_string())));
                }
                Err(failure) => {
                    // A head that cannot even die is no reason for the others to wait with it.
                    if !matches!(failure, Failure::Rejected(_)) {
                        batch.extend(left.drain(..).rev().flat_map(|(batch, _)| batch));
                    }
                    let before = settled.unsettled.take().map(|(before, _)| before);
                    settled.unsettled = Some((before.into_iter().flatten().chain(batch).collect(), failure));
                }
            }
        }
        settled
    }

    /// One transaction, at most three times over if events need more rows.
    async fn settle(&self, finished: &[Finished<S>], care: &Care) -> Result<Done, Failure> {
        let mut extra = BTreeSet::new();
        for round in 1..=ROUNDS {
            let mut session = self.shared.ports.database.begin().await?;
            match self.attempt(&mut session, (finished, care), (&extra, round)).await {
                Ok(Attempt::Ready(done)) => {
                    session.commit().await?;
                    return Ok(done);
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
        (finished, care): (&[Finished<S>], &Care),
        (extra, round): (&Keys<S>, u32),
    ) -> Result<Attempt<S>, Failure> {
        let logic = &self.shared.logic;
        let queue = self.lock_keys(session, finished).await?;
        let claim = self.shared.new_claim();
        let mut done = Done::nothing(claim);
        let mut plans: Vec<(KeyPlan<'_, S::Event>, &Outcome<S::Reply>)> = Vec::new();
        for Finished { job, outcome } in finished {
            let rows = queue.get(&job.id.key).map_or(&[][..], Vec::as_slice);
            match KeyPlan::of(job, rows, (logic, care)) {
                Some(plan) => plans.push((plan, outcome)),
                None => done.fenced += 1,
            }
        }
        if plans.is_empty() {
            return Ok(Attempt::Ready(done));
        }
        let mut locked = extra.clone();
        for (_, event) in plans.iter().flat_map(|(plan, _)| &plan.rows) {
            if let Decoded::Event(event) = event
                && !care.is_last()
            {
                locked.extend(logic.keys(event));
            }
        }
        let rows = lock_rows(session, &locked).await?;
        let mut planner = Planner::new(logic, self.shared.ports.clock.now(), (rows, &locked), round);
        for (plan, outcome) in &plans {
            let claim = self.may_claim.then_some(&done.claim);
            done.next.extend(plan_key(&mut planner, logic, (plan, outcome), (care, claim)));
        }
        let writes = match planner.finish() {
            Ok(writes) => writes,
            Err(keys) => return Ok(Attempt::Needs(keys)),
        };
        done.soonest = writes.soonest;
        done.tally = writes.tally;
        let deletes = |change: &&PendingChange| matches!(change, PendingChange::Delete(_));
        done.deleted = writes.change.iter().filter(deletes).count() as u64;
        write(session, &logic.consumer, writes).await?;
        Ok(Attempt::Ready(done))
    }

    /// K: the first queue rows of the claimed keys, by key, in `seq` order.
    async fn lock_keys(
        &self,
        session: &mut Transaction<S::Row>,
        finished: &[Finished<S>],
    ) -> Result<BTreeMap<OrderingKey, Vec<Pending>>, Failure> {
        let keys: BTreeSet<OrderingKey> =
            finished.iter().map(|finished| finished.job.id.key.clone()).collect();
        let consumer = self.shared.logic.consumer.clone();
        let statement = Statement::LockPending {
            consumer,
            keys: keys.into_iter().collect(),
            limit: ROWS_MAX,
            after_death: self.shared.logic.after_death,
        };
        let mut queue: BTreeMap<OrderingKey, Vec<Pending>> = BTreeMap::new();
        for row in session.pending(statement).await? {
            queue.entry(row.id.key.clone()).or_default().push(row);
        }
        Ok(queue)
    }

    /// After COMMIT: heads claimed anew take over the places of those that were settled.
    fn take_over(&self, settled: &mut Settled<S>, batch: Vec<Finished<S>>, done: Done) {
        let meters = &self.shared.logic.meters;
        meters.settled.increment(done.deleted);
        meters.fenced.increment(done.fenced);
        meters.count(done.tally);
        let mut places: BTreeMap<PendingId, Job> =
            batch.into_iter().map(|finished| (finished.job.id.clone(), finished.job)).collect();
        for next in done.next {
            let Some(before) = places.remove(&next.after) else { continue };
            meters.claimed.increment(1);
            settled.jobs.push(Job {
                id: next.id,
                event_id: next.event_id,
                call: Some(next.call),
                unread: None,
                epoch: next.epoch,
                attempts: next.attempts,
                claim: done.claim.id,
                lease_ends: done.lease_ends,
                place: before.place,
            });
        }
        settled.soonest = [settled.soonest, done.soonest].into_iter().flatten().min();
    }
}
