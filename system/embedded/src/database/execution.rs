//! How a statement runs: a list of steps over rows, each of which may have to wait for a lock and then looks again.
//!
//! This is read committed by mechanism. The *list* is made from what was committed when the statement began (its
//! snapshot) and from the transaction's own writes. A step whose row another transaction holds waits and is then
//! repeated on the newest committed version (PostgreSQL's EvalPlanQual): a row that is gone is passed over, a row
//! that no longer satisfies the condition stays locked and unchanged. Rows that appeared meanwhile are not on the
//! list. Statements that never wait ([`Planned::Answer`]) have no list.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc, time::Duration};

use stormglass_runtime::{Answer, ConsumerName, Image, Lease, Offset, PendingChange, Timestamp, Verdict};
use uuid::Uuid;

use super::{
    cluster::Disk,
    config::{Config, Schema},
    locks::{Locks, Wait},
    request::SqlError,
    rows::{self, PendingRow, Row, RowKey},
    session::Transaction,
    store::{Store, merged},
    wal::Sequences,
};
use crate::machine::Connection;

/// What fits an entry of a B-tree: three to a page of 8 KiB. The real one compresses first, and so holds some keys that
/// are refused here.
const INDEX_ENTRY_BYTES_MAX: usize = 2_704;

/// What a statement works on, while it works.
pub(super) struct Execution<'a> {
    pub(super) me: Connection,
    /// `clock_timestamp()`.
    pub(super) clock: Timestamp,
    pub(super) store: &'a Store,
    pub(super) txn: &'a mut Transaction,
    pub(super) locks: &'a mut Locks,
    pub(super) sequences: &'a mut Sequences,
    pub(super) schema: &'a Schema,
    pub(super) config: &'a Config,
    pub(super) disk: Disk,
    /// Who was given a lock that this statement had no use for.
    pub(super) woken: &'a mut Vec<Connection>,
}

/// A statement that was looked at.
pub(super) enum Planned {
    /// It is done.
    Answer(Answer<Image>),
    /// It goes step by step.
    Steps(Plan),
}

/// What is left of a statement.
#[derive(Debug)]
pub(super) struct Plan {
    steps: VecDeque<Step>,
    /// The rows that steps took effect on.
    touched: Vec<RowKey>,
    finish: Finish,
}

/// One row's part of a statement.
#[derive(Debug)]
pub(super) enum Step {
    /// INSERT … ON CONFLICT DO NOTHING.
    Insert(RowKey, Row),
    /// SELECT … FOR NO KEY UPDATE.
    Lock(RowKey),
    /// The same with a condition on a queue row, and LIMIT for each ordering key.
    LockPending(RowKey, Wanted),
    /// UPDATE or DELETE.
    Edit(RowKey, Edit),
}

/// Which rows of a key a statement is after, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) alive: bool,
    pub(super) dead: bool,
    pub(super) limit: usize,
}

impl Wanted {
    pub(super) fn takes(self, row: &Row) -> bool {
        row.pending().is_some_and(|row| if row.seen.dead_at.is_some() { self.dead } else { self.alive })
    }
}

/// What becomes of a row, given its newest version.
#[derive(Debug)]
pub(super) enum Edit {
    Delete,
    Move(Offset),
    /// WHERE version = read.
    Replace {
        read: i64,
        body: String,
    },
    /// Of the row as the statement saw it when it began.
    Pending(PendingChange, Arc<Row>),
    /// WHERE holder = asker OR expires_at <= clock_timestamp().
    Lease(Uuid, Duration),
}

/// How a statement's answer is made from the rows it touched.
#[derive(Debug)]
pub(super) enum Finish {
    Count,
    Fresh,
    Positions,
    /// Reads these instead, unlocked.
    PositionsOf(Vec<RowKey>),
    Rows,
    Pending,
    Lease(RowKey),
}

impl Execution<'_> {
    /// The row as this transaction sees it: its own version, else the newest committed one.
    pub(super) fn row(&self, key: &RowKey) -> Option<&Arc<Row>> {
        match self.txn.writes.get(key) {
            Some(own) => own.as_ref(),
            None => self.store.get(key),
        }
    }

    /// A range as this transaction sees it, in order.
    pub(super) fn range(&self, keys: RangeInclusive<RowKey>) -> impl Iterator<Item = (&RowKey, &Row)> {
        let writes = &self.txn.writes;
        let committed = self.store.range(keys.clone()).filter(|(key, _)| !writes.contains_key(*key));
        let own = writes.range(keys).filter_map(|(key, row)| row.as_ref().map(|row| (key, row)));
        let rows = merged(committed.map(Keyed::from), own.map(Keyed::from));
        rows.map(|Keyed(key, row)| (key, &**row))
    }

    /// The transaction's `now()`: what columns have by default. Everything else goes by the clock.
    pub(super) fn now(&self) -> Timestamp {
        self.txn.started
    }

    /// Gives the row, which is locked or new, an uncommitted version.
    pub(super) fn write(&mut self, key: &RowKey, row: Option<Row>) -> Result<(), SqlError> {
        let bytes = key.index_entry_bytes();
        if row.is_some() && bytes > INDEX_ENTRY_BYTES_MAX {
            return Err(SqlError::IndexEntryTooLarge { bytes, limit: INDEX_ENTRY_BYTES_MAX });
        }
        if row.is_some() && self.disk == Disk::Full {
            return Err(SqlError::DiskFull);
        }
        let before = self.row(key).cloned();
        let change = rows::change(self.schema, key, before.as_deref(), row.as_ref());
        self.txn.changes.extend(change);
        self.locks.mark_written(key);
        self.txn.writes.insert(key.clone(), row.map(Arc::new));
        Ok(())
    }

    /// Inserts a row whose key a sequence has just made: nobody else can have it.
    pub(super) fn insert_new(&mut self, key: &RowKey, row: Row) -> Result<(), SqlError> {
        let free = self.locks.acquire(self.me, key);
        debug_assert!(free.is_ok(), "a sequence gave a value twice");
        self.write(key, Some(row))
    }
}

/// Rows of two sources compare by key alone.
struct Keyed<'k>(&'k RowKey, &'k Arc<Row>);

impl<'k> From<(&'k RowKey, &'k Arc<Row>)> for Keyed<'k> {
    fn from((key, row): (&'k RowKey, &'k Arc<Row>)) -> Self {
        Self(key, row)
    }
}

impl PartialEq for Keyed<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Keyed<'_> {}

impl PartialOrd for Keyed<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyed<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(other.0)
    }
}

/// What came of a step that did not have to wait.
enum Outcome {
    Touched,
    PassedOver,
}

impl Plan {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>, finish: Finish) -> Self {
        Self { steps: steps.into_iter().collect(), touched: Vec::new(), finish }
    }

    /// Goes on until the statement is done (`Ok(Ok(_))`) or has to wait (`Ok(Err(_))`).
    pub(super) fn advance(
        &mut self,
        on: &mut Execution<'_>,
    ) -> Result<Result<Answer<Image>, Wait>, SqlError> {
        while let Some(step) = self.steps.front() {
            let outcome = match step {
                Step::Insert(key, row) => insert(on, key, row)?,
                Step::Lock(key) => lock(on, key),
                Step::LockPending(key, wanted) if self.has_enough(key, wanted.limit) => {
                    Ok(Outcome::PassedOver)
                }
                Step::LockPending(key, wanted) => lock_pending(on, key, *wanted),
                Step::Edit(key, edit) => lock_and_edit(on, key, edit)?,
            };
            match outcome {
                Err(wait) => return Ok(Err(wait)),
                Ok(outcome) => {
                    if let (Some(step), Outcome::Touched) = (self.steps.pop_front(), outcome) {
                        self.touched.push(step.into_key());
                    }
                }
            }
        }
        Ok(Ok(self.answer(on)))
    }

    /// Whether so many rows of the ordering key of `key` were touched. Steps go by key.
    fn has_enough(&self, key: &RowKey, limit: usize) -> bool {
        let of_key = |touched: &&RowKey| {
            matches!((touched, key),
            (RowKey::Pending(_, one), RowKey::Pending(_, other)) if one.key == other.key)
        };
        self.touched.iter().rev().take_while(of_key).take(limit).count() == limit
    }

    fn answer(&self, on: &Execution<'_>) -> Answer<Image> {
        let found = |keys: &[RowKey]| -> Vec<_> {
            keys.iter().filter_map(|key| Some((key.clone(), Arc::clone(on.row(key)?)))).collect()
        };
        let positions = |keys| found(keys).iter().filter_map(|(key, row)| rows::position(key, row)).collect();
        let touched = self.touched.as_slice();
        match &self.finish {
            Finish::Count => Answer::Count(touched.len() as u64),
            Finish::Fresh => Answer::Fresh(
                touched
                    .iter()
                    .filter_map(|key| match key {
                        RowKey::Inbox(_, id) => Some(*id),
                        _ => None,
                    })
                    .collect(),
            ),
            Finish::Positions => Answer::Positions(positions(touched)),
            Finish::PositionsOf(keys) => Answer::Positions(positions(keys)),
            Finish::Rows => {
                let image = |(key, row): &(RowKey, Arc<Row>)| rows::image(on.schema, key, row);
                Answer::Rows(found(touched).iter().filter_map(image).collect())
            }
            Finish::Pending => {
                let seen = |(_, row): &(RowKey, Arc<Row>)| row.pending().map(|row| row.seen.clone());
                Answer::Pending(found(touched).iter().filter_map(seen).collect())
            }
            Finish::Lease(key) => match on.row(key).and_then(|row| row.lease()) {
                Some(lease) => Answer::Lease(lease.clone()),
                None => Answer::Done,
            },
        }
    }
}

impl Step {
    fn into_key(self) -> RowKey {
        match self {
            Step::Insert(key, _) | Step::Lock(key) | Step::LockPending(key, _) | Step::Edit(key, _) => key,
        }
    }
}

fn insert(on: &mut Execution<'_>, key: &RowKey, row: &Row) -> Result<Result<Outcome, Wait>, SqlError> {
    if let Row::Domain { body, .. } = row {
        on.schema.check(body)?;
    }
    if let Some(writer) = on.locks.writer(key).filter(|writer| *writer != on.me) {
        return Ok(Err(Wait::End(writer)));
    }
    if on.row(key).is_some() {
        return Ok(Ok(Outcome::PassedOver));
    }
    if let Err(wait) = on.locks.acquire(on.me, key) {
        return Ok(Err(wait));
    }
    on.write(key, Some(row.clone()))?;
    Ok(Ok(Outcome::Touched))
}

/// Locks the row, unless it is gone when its turn comes.
fn lock(on: &mut Execution<'_>, key: &RowKey) -> Result<Outcome, Wait> {
    on.locks.acquire(on.me, key)?;
    if on.row(key).is_some() {
        return Ok(Outcome::Touched);
    }
    // A row that this transaction has itself deleted stays its own.
    if !on.txn.writes.contains_key(key) {
        let next = on.locks.release(on.me, key);
        on.woken.extend(next);
    }
    Ok(Outcome::PassedOver)
}

/// A row that does not meet the condition any more when its turn comes stays locked.
fn lock_pending(on: &mut Execution<'_>, key: &RowKey, wanted: Wanted) -> Result<Outcome, Wait> {
    let outcome = lock(on, key)?;
    Ok(if on.row(key).is_some_and(|row| wanted.takes(row)) { outcome } else { Outcome::PassedOver })
}

fn lock_and_edit(
    on: &mut Execution<'_>,
    key: &RowKey,
    edit: &Edit,
) -> Result<Result<Outcome, Wait>, SqlError> {
    match lock(on, key) {
        Ok(Outcome::Touched) => {}
        other => return Ok(other),
    }
    let Some(current) = on.row(key).cloned() else { return Ok(Ok(Outcome::PassedOver)) };
    match edited(on, &current, edit)? {
        Some(row) => {
            on.write(key, row)?;
            Ok(Ok(Outcome::Touched))
        }
        None => Ok(Ok(Outcome::PassedOver)),
    }
}

/// The row after the edit (inner `None`: deleted), or `None` if its condition does not hold on the newest version.
fn edited(on: &Execution<'_>, current: &Arc<Row>, edit: &Edit) -> Result<Option<Option<Row>>, SqlError> {
    Ok(match edit {
        Edit::Delete => Some(None),
        Edit::Move(offset) => Some(Some(Row::Position(*offset))),
        Edit::Replace { read, body } if current.version() == Some(*read) => {
            on.schema.check(body)?;
            Some(Some(Row::Domain { body: body.clone(), version: read + 1 }))
        }
        Edit::Replace { .. } => None,
        // Found by its place (`ctid`): another version lies elsewhere, where the statement's snapshot does not look.
        Edit::Pending(_, seen) if !Arc::ptr_eq(current, seen) => None,
        Edit::Pending(PendingChange::Delete(_), _) => Some(None),
        Edit::Pending(change, _) => {
            current.pending().map(|row| Some(Row::Pending(Box::new(change_pending(row, change, on.clock)))))
        }
        Edit::Lease(holder, ttl) => {
            let wanted = Lease { holder: *holder, epoch: 1, expires_at: on.clock.after(*ttl) };
            current.lease().and_then(|held| grant(held, wanted, on.clock))
        }
    })
}

fn change_pending(row: &PendingRow, change: &PendingChange, now: Timestamp) -> PendingRow {
    let PendingChange::Update { call, epoch, attempts, due_in, error, verdict, .. } = change else {
        return row.clone();
    };
    let mut row = row.clone();
    row.seen.call.clone_from(call);
    row.seen.epoch = *epoch;
    row.seen.attempts = *attempts;
    row.seen.due = now.after(*due_in);
    row.seen.error.clone_from(error);
    row.put_into(verdict, now);
    row
}

impl PendingRow {
    /// Puts the row into a state; the claim, lease or death it had ends.
    pub(super) fn put_into(&mut self, verdict: &Verdict, now: Timestamp) {
        let (claim, leased_until, dead_at) = match verdict {
            Verdict::Waiting => (None, None, None),
            Verdict::Claimed(claim) => (Some(claim.id), Some(now.after(claim.lease)), None),
            Verdict::Dead => (None, None, Some(now)),
        };
        self.seen.claim = claim;
        self.leased_until = leased_until;
        self.seen.dead_at = dead_at;
    }

    pub(super) fn is_leased(&self, now: Timestamp) -> bool {
        self.leased_until.is_some_and(|until| until > now)
    }
}

/// The lease as `wanted` gets it, unless someone else holds it or it already is so.
fn grant(held: &Lease, wanted: Lease, now: Timestamp) -> Option<Option<Row>> {
    let same_holder = held.holder == wanted.holder;
    if !same_holder && held.expires_at > now {
        return None;
    }
    let epoch = if same_holder { held.epoch } else { held.epoch + 1 };
    let lease = Lease { epoch, ..wanted };
    (lease != *held).then_some(Some(Row::Lease(lease)))
}

/// The key of a queue row.
pub(super) fn pending_key(consumer: &ConsumerName, id: stormglass_runtime::PendingId) -> RowKey {
    RowKey::Pending(consumer.clone(), id)
}
