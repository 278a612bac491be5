//! The queue of what waits, what is being asked and what is dead.

use std::collections::{BTreeMap, BTreeSet};

use stormglass_runtime::{
    AfterDeath, Answer, Claim, ConsumerName, NewPending, OrderingKey, Pending, PendingChange, PendingId,
};

use super::count;
use crate::database::{
    execution::{Edit, Execution, Finish, Plan, Planned, Step, Wanted, pending_key},
    request::SqlError,
    rows::{PendingRow, Row, RowKey},
    store::{Head, claimable, merged},
};

pub(super) fn blocked_keys(
    on: &Execution<'_>,
    consumer: &ConsumerName,
    mut keys: Vec<OrderingKey>,
    after_death: AfterDeath,
) -> Planned {
    keys.sort_unstable();
    keys.dedup();
    let blocks = |row: &Row| match after_death {
        AfterDeath::Hold => true,
        AfterDeath::Skip => row.pending().is_some_and(|row| row.seen.dead_at.is_none()),
    };
    keys.retain(|key| on.range(RowKey::pending_of(consumer, key)).any(|(_, row)| blocks(row)));
    Planned::Answer(Answer::Keys(keys))
}

pub(super) fn enqueue(
    on: &mut Execution<'_>,
    consumer: &ConsumerName,
    rows: Vec<NewPending>,
) -> Result<Planned, SqlError> {
    let now = on.clock;
    let mut seqs = Vec::with_capacity(rows.len());
    for new in rows {
        let id = PendingId { key: new.key, seq: on.sequences.pending.allocate() };
        seqs.push(id.seq);
        let seen = Pending {
            id: id.clone(),
            event_id: new.event_id,
            origin: new.origin,
            record: new.record,
            call: new.call,
            epoch: 0,
            attempts: new.attempts,
            due: now.after(new.due_in),
            claim: None,
            error: new.error,
            dead_at: None,
        };
        let mut row = PendingRow { seen, leased_until: None };
        row.put_into(&new.verdict, now);
        on.insert_new(&pending_key(consumer, id), Row::Pending(Box::new(row)))?;
    }
    Ok(Planned::Answer(Answer::Sequence(seqs)))
}

/// The parameters of a claim.
pub(super) struct Claiming {
    pub(super) consumer: ConsumerName,
    pub(super) claim: Claim,
    pub(super) limit: u32,
    pub(super) after_death: AfterDeath,
}

/// Takes heads in order of `due`, passing over leased ones and (SKIP LOCKED) those that another transaction holds.
///
/// It waits for nobody, so nothing can change between its snapshot and its locks: the recheck is implied.
pub(super) fn claim(on: &mut Execution<'_>, asked: &Claiming) -> Result<Planned, SqlError> {
    let (now, store) = (on.clock, on.store);
    let (own, written) = own_heads(on, asked);
    let committed = store.heads(&asked.consumer, asked.after_death, now);
    let committed = committed.filter(|head| !written.contains(&head.key)).cloned();
    let mut claimed = Vec::new();
    for head in merged(committed, own.into_iter().filter(|head| head.due <= now)) {
        if claimed.len() >= count(asked.limit) {
            break;
        }
        let key = pending_key(&asked.consumer, head.id());
        let Some(mut row) = on.row(&key).and_then(|row| row.pending()).cloned() else { continue };
        if row.is_leased(now) || on.locks.acquire(on.me, &key).is_err() {
            continue;
        }
        row.seen.attempts = row.seen.attempts.saturating_add(1);
        row.seen.claim = Some(asked.claim.id);
        row.leased_until = Some(now.after(asked.claim.lease));
        claimed.push(row.seen.clone());
        on.write(&key, Some(Row::Pending(Box::new(row))))?;
    }
    Ok(Planned::Answer(Answer::Pending(claimed)))
}

/// The heads of the keys that this transaction itself has written to, and those keys: the index does not know them.
fn own_heads(on: &Execution<'_>, asked: &Claiming) -> (Vec<Head>, BTreeSet<OrderingKey>) {
    let written: BTreeSet<_> = own_pending(on, &asked.consumer).map(|id| id.key.clone()).collect();
    let head = |key: &OrderingKey| {
        let rows = on.range(RowKey::pending_of(&asked.consumer, key)).filter_map(|(_, row)| row.pending());
        claimable(rows, asked.after_death)
    };
    let mut heads: Vec<_> = written.iter().filter_map(head).collect();
    heads.sort_unstable();
    (heads, written)
}

fn own_pending<'a>(on: &'a Execution<'_>, consumer: &'a ConsumerName) -> impl Iterator<Item = &'a PendingId> {
    let first = pending_key(consumer, PendingId { key: OrderingKey(bytes::Bytes::new()), seq: i64::MIN });
    on.txn.writes.range(first..).map_while(move |(key, _)| match key {
        RowKey::Pending(of, id) if of == consumer => Some(id),
        _ => None,
    })
}

/// The parameters of a lock on the first rows of keys.
pub(super) struct Locking {
    pub(super) keys: Vec<OrderingKey>,
    pub(super) limit: u32,
    pub(super) after_death: AfterDeath,
}

pub(super) fn lock(on: &Execution<'_>, consumer: &ConsumerName, asked: Locking) -> Planned {
    let Locking { mut keys, limit, after_death } = asked;
    keys.sort_unstable();
    keys.dedup();
    let wanted = Wanted { alive: true, dead: after_death == AfterDeath::Hold, limit: count(limit) };
    let rows = keys.iter().flat_map(|key| on.range(RowKey::pending_of(consumer, key)));
    let steps =
        rows.filter(|(_, row)| wanted.takes(row)).map(|(key, _)| Step::LockPending(key.clone(), wanted));
    Planned::Steps(Plan::new(steps, Finish::Pending))
}

pub(super) fn lock_dead(on: &Execution<'_>, consumer: &ConsumerName, mut ids: Vec<PendingId>) -> Planned {
    ids.sort_unstable();
    ids.dedup();
    let wanted = Wanted { alive: false, dead: true, limit: ids.len() };
    let keys = ids.into_iter().map(|id| pending_key(consumer, id));
    let steps = keys.filter(|key| on.row(key).is_some_and(|row| wanted.takes(row)));
    Planned::Steps(Plan::new(steps.map(|key| Step::LockPending(key, wanted)), Finish::Pending))
}

/// Goes by key and `seq`; of two changes to one row the first counts.
pub(super) fn change(on: &Execution<'_>, consumer: &ConsumerName, changes: Vec<PendingChange>) -> Planned {
    let mut wanted = BTreeMap::new();
    for change in changes {
        let (PendingChange::Delete(id) | PendingChange::Update { id, .. }) = &change;
        let key = pending_key(consumer, id.clone());
        if let Some(seen) = on.row(&key).cloned() {
            wanted.entry(key).or_insert(Edit::Pending(change, seen));
        }
    }
    let steps = wanted.into_iter().map(|(key, edit)| Step::Edit(key, edit));
    Planned::Steps(Plan::new(steps, Finish::Count))
}

pub(super) fn read_dead(on: &Execution<'_>, consumer: &ConsumerName, limit: u32) -> Planned {
    let dead = |key: &RowKey| {
        let row = on.row(key)?.pending()?;
        Some(((row.seen.dead_at?, row.seen.id.seq), row.seen.clone()))
    };
    let own = own_pending(on, consumer).map(|id| pending_key(consumer, id.clone()));
    let mut found: BTreeMap<_, _> = own.filter_map(|key| dead(&key)).collect();
    let committed = on.store.dead(consumer).filter(|key| !on.txn.writes.contains_key(key));
    found.extend(committed.take(count(limit)).filter_map(|key| dead(&key)));
    Planned::Answer(Answer::Pending(found.into_values().take(count(limit)).collect()))
}
