//! The queue of what waits, what is being asked and what is dead.

use std::collections::BTreeMap;

use sqlx::{PgConnection, query_file, query_file_as};
use stormglass_runtime::{
    AfterDeath, Claim, ConsumerName, Failure, NewPending, OrderingKey, Pending, PendingChange, PendingId,
    Verdict,
};
use uuid::Uuid;

use super::values::{Moment, PendingRow, Places, headers_to_bytes, int, micros};
use crate::postgres::failure::of_statement;

pub(super) async fn blocked_keys(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    mut keys: Vec<OrderingKey>,
    after_death: AfterDeath,
) -> Result<Vec<OrderingKey>, Failure> {
    let rows = query_file!(
        "src/postgres/sql/blocked_keys.sql",
        consumer.as_str(),
        &sorted(&mut keys) as _,
        is_held(after_death)
    )
    .fetch_all(on)
    .await
    .map_err(|error| of_statement(&error))?;
    Ok(rows.into_iter().map(|row| OrderingKey(row.key.into())).collect())
}

pub(super) async fn enqueue(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    rows: &[NewPending],
) -> Result<Vec<i64>, Failure> {
    let mut origin = Places::default();
    let (mut headers, mut attempts, mut states) = (Vec::new(), Vec::new(), States::default());
    for row in rows {
        origin.push(&row.origin.partition, row.origin.offset)?;
        headers.push(headers_to_bytes(&row.record.headers)?);
        attempts.push(int(row.attempts, "attempt")?);
        states.push(&row.verdict);
    }
    let seqs = query_file!(
        "src/postgres/sql/enqueue.sql",
        consumer.as_str(),
        &each(rows, |row| &row.key.0[..]) as _,
        &each(rows, |row| row.event_id.0),
        &origin.topics as _,
        &origin.partitions,
        &origin.offsets,
        &each(rows, |row| row.record.topic.as_str()) as _,
        &each(rows, |row| row.record.key.as_deref()) as _,
        &headers,
        &each(rows, |row| &row.record.value[..]) as _,
        &each(rows, |row| row.call.as_deref()) as _,
        &attempts,
        &each(rows, |row| micros(row.due_in)),
        &each(rows, |row| row.error.as_deref()) as _,
        &states.claims as _,
        &states.leases_us as _,
        &states.dead
    )
    .fetch_all(on)
    .await
    .map_err(|error| of_statement(&error))?;
    Ok(seqs.into_iter().map(|row| row.seq).collect())
}

/// The parameters of a claim.
pub(super) struct Claiming {
    pub(super) consumer: ConsumerName,
    pub(super) claim: Claim,
    pub(super) limit: u32,
    pub(super) after_death: AfterDeath,
}

pub(super) async fn claim(on: &mut PgConnection, asked: &Claiming) -> Result<Vec<Pending>, Failure> {
    let rows = query_file_as!(
        PendingRow,
        "src/postgres/sql/claim.sql",
        asked.consumer.as_str(),
        i64::from(asked.limit),
        asked.claim.id,
        micros(asked.claim.lease),
        is_held(asked.after_death)
    )
    .fetch_all(on)
    .await
    .map_err(|error| of_statement(&error))?;
    let mut claimed = pending(rows)?;
    // UPDATE … RETURNING promises no order.
    claimed.sort_unstable_by_key(|row| (row.due, row.id.seq));
    Ok(claimed)
}

/// The parameters of a lock on the first rows of keys.
pub(super) struct Locking {
    pub(super) consumer: ConsumerName,
    pub(super) keys: Vec<OrderingKey>,
    pub(super) limit: u32,
    pub(super) after_death: AfterDeath,
}

pub(super) async fn lock(on: &mut PgConnection, mut asked: Locking) -> Result<Vec<Pending>, Failure> {
    let rows = query_file_as!(
        PendingRow,
        "src/postgres/sql/lock_pending.sql",
        asked.consumer.as_str(),
        &sorted(&mut asked.keys) as _,
        i64::from(asked.limit),
        is_held(asked.after_death)
    );
    pending(rows.fetch_all(on).await.map_err(|error| of_statement(&error))?)
}

pub(super) async fn lock_dead(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    mut ids: Vec<PendingId>,
) -> Result<Vec<Pending>, Failure> {
    ids.sort_unstable();
    ids.dedup();
    let rows = query_file_as!(
        PendingRow,
        "src/postgres/sql/lock_dead.sql",
        consumer.as_str(),
        &each(&ids, |id| &id.key.0[..]) as _,
        &each(&ids, |id| id.seq)
    );
    pending(rows.fetch_all(on).await.map_err(|error| of_statement(&error))?)
}

pub(super) async fn change(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    changes: &[PendingChange],
) -> Result<u64, Failure> {
    let columns = Changes::of(changes)?;
    let count = query_file!(
        "src/postgres/sql/change_pending.sql",
        consumer.as_str(),
        &columns.keys as _,
        &columns.seqs,
        &columns.gone,
        &columns.calls as _,
        &columns.epochs,
        &columns.attempts,
        &columns.due_in_us,
        &columns.errors as _,
        &columns.states.claims as _,
        &columns.states.leases_us as _,
        &columns.states.dead
    )
    .fetch_one(on)
    .await
    .map_err(|error| of_statement(&error))?
    .count;
    Ok(u64::try_from(count).unwrap_or(0))
}

pub(super) async fn read_dead(
    on: &mut PgConnection,
    consumer: &ConsumerName,
    limit: u32,
) -> Result<Vec<Pending>, Failure> {
    let rows =
        query_file_as!(PendingRow, "src/postgres/sql/read_dead.sql", consumer.as_str(), i64::from(limit));
    pending(rows.fetch_all(on).await.map_err(|error| of_statement(&error))?)
}

fn pending(rows: Vec<PendingRow>) -> Result<Vec<Pending>, Failure> {
    rows.into_iter().map(PendingRow::into_pending).collect()
}

/// Each key once, in the order of locking.
fn sorted(keys: &mut Vec<OrderingKey>) -> Vec<&[u8]> {
    keys.sort_unstable();
    keys.dedup();
    keys.iter().map(|key| &key.0[..]).collect()
}

/// Whether dead rows count.
fn is_held(after_death: AfterDeath) -> bool {
    match after_death {
        AfterDeath::Hold => true,
        AfterDeath::Skip => false,
    }
}

fn each<'a, T, C>(rows: &'a [T], column: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(column).collect()
}

/// The states that rows are put into, as arrays.
#[derive(Default)]
struct States {
    claims: Vec<Option<Uuid>>,
    leases_us: Vec<Option<i64>>,
    dead: Vec<bool>,
}

impl States {
    fn push(&mut self, verdict: &Verdict) {
        let claim = match verdict {
            Verdict::Claimed(claim) => Some(claim),
            Verdict::Waiting | Verdict::Dead => None,
        };
        self.claims.push(claim.map(|claim| claim.id));
        self.leases_us.push(claim.map(|claim| micros(claim.lease)));
        self.dead.push(*verdict == Verdict::Dead);
    }
}

/// Changes of the queue as arrays, in the order of locking.
#[derive(Default)]
struct Changes<'a> {
    keys: Vec<&'a [u8]>,
    seqs: Vec<i64>,
    gone: Vec<bool>,
    calls: Vec<Option<&'a [u8]>>,
    epochs: Vec<i32>,
    attempts: Vec<i32>,
    due_in_us: Vec<i64>,
    errors: Vec<Option<&'a str>>,
    states: States,
}

impl<'a> Changes<'a> {
    fn of(changes: &'a [PendingChange]) -> Result<Self, Failure> {
        // Of two changes to one row the first counts.
        let by_id: BTreeMap<&PendingId, &PendingChange> =
            changes.iter().rev().map(|change| (id(change), change)).collect();
        let mut columns = Self::default();
        for (id, change) in by_id {
            columns.keys.push(&id.key.0);
            columns.seqs.push(id.seq);
            columns.push(change)?;
        }
        Ok(columns)
    }

    fn push(&mut self, change: &'a PendingChange) -> Result<(), Failure> {
        self.gone.push(matches!(change, PendingChange::Delete(_)));
        let (call, epoch, attempts, due_in, error, verdict) = match change {
            PendingChange::Delete(_) => (None, 0, 0, std::time::Duration::ZERO, None, &Verdict::Waiting),
            PendingChange::Update { id: _, call, epoch, attempts, due_in, error, verdict } => {
                (call.as_deref(), *epoch, *attempts, *due_in, error.as_deref(), verdict)
            }
        };
        self.calls.push(call);
        self.epochs.push(int(epoch, "epoch")?);
        self.attempts.push(int(attempts, "attempt")?);
        self.due_in_us.push(micros(due_in));
        self.errors.push(error);
        self.states.push(verdict);
        Ok(())
    }
}

fn id(change: &PendingChange) -> &PendingId {
    match change {
        PendingChange::Delete(id) | PendingChange::Update { id, .. } => id,
    }
}
