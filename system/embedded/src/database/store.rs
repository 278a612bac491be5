//! The committed rows of one node, with the indexes that keep every statement logarithmic.
//!
//! Uncommitted versions live in their transactions ([`super::session`]); a node never sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use bytes::Bytes;
use stormglass_runtime::{
    AfterDeath, ConsumerName, EventId, Offset, OrderingKey, Partition, PendingId, Position, Timestamp,
};

use super::rows::{PendingRow, Row, RowKey};

/// Committed rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    rows: BTreeMap<RowKey, Arc<Row>>,
    /// For each ordering key, what `queue` holds of it.
    heads: BTreeMap<(ConsumerName, OrderingKey), Heads>,
    /// The rows that may be claimed once they are due, in the order of claiming.
    queue: BTreeSet<(ConsumerName, Rank, Head)>,
    dead: BTreeSet<(ConsumerName, Timestamp, i64, OrderingKey)>,
    places: BTreeSet<(ConsumerName, Partition, Offset, EventId)>,
    written: BTreeSet<(Timestamp, i64)>,
}

/// The row of an ordering key that is next, ordered as claims take them: oldest due first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    pub(super) due: Timestamp,
    pub(super) seq: i64,
    pub(super) key: OrderingKey,
}

impl Head {
    fn of(row: &PendingRow) -> Head {
        Head { due: row.seen.due, seq: row.seen.id.seq, key: row.seen.id.key.clone() }
    }

    pub(super) fn id(self) -> PendingId {
        PendingId { key: self.key, seq: self.seq }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The first row of its key, alive.
    First,
    /// The first row alive, behind dead ones.
    BehindDead,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Heads {
    first: Option<Head>,
    behind_dead: Option<Head>,
}

impl Store {
    pub(super) fn get(&self, key: &RowKey) -> Option<&Arc<Row>> {
        self.rows.get(key)
    }

    pub(super) fn range(&self, keys: RangeInclusive<RowKey>) -> impl Iterator<Item = (&RowKey, &Arc<Row>)> {
        self.rows.range(keys)
    }

    pub(super) fn from(&self, key: RowKey) -> impl Iterator<Item = (&RowKey, &Arc<Row>)> {
        self.rows.range(key..)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&RowKey, &Arc<Row>)> {
        self.rows.iter()
    }

    /// Replaces, inserts or deletes a row. Returns what was there.
    pub(super) fn put(&mut self, key: &RowKey, row: Option<Arc<Row>>) -> Option<Arc<Row>> {
        let before = match row.clone() {
            Some(row) => self.rows.insert(key.clone(), row),
            None => self.rows.remove(key),
        };
        self.index(key, before.as_deref(), row.as_deref());
        before
    }

    /// The heads of a consumer's keys, oldest due first, up to and including `now`. A dead row is the head of its key
    /// under `Hold` and is passed over under `Skip`.
    pub(super) fn heads(
        &self,
        consumer: &ConsumerName,
        after_death: AfterDeath,
        now: Timestamp,
    ) -> impl Iterator<Item = &Head> {
        let of = |rank| {
            let at = |due, seq| (consumer.clone(), rank, Head { due, seq, key: OrderingKey(Bytes::new()) });
            let rows = self.queue.range(at(Timestamp(i64::MIN), i64::MIN)..at(now, i64::MAX));
            rows.map(|(_, _, head)| head)
        };
        let passed_over = match after_death {
            AfterDeath::Hold => None,
            AfterDeath::Skip => Some(of(Rank::BehindDead)),
        };
        merged(of(Rank::First), passed_over.into_iter().flatten())
    }

    /// The dead letters of a consumer, oldest first.
    pub(super) fn dead(&self, consumer: &ConsumerName) -> impl Iterator<Item = RowKey> {
        let consumer = consumer.clone();
        let from = (consumer.clone(), Timestamp(i64::MIN), i64::MIN, OrderingKey(Bytes::new()));
        self.dead.range(from..).take_while(move |(of, ..)| *of == consumer).map(|(consumer, _, seq, key)| {
            RowKey::Pending(consumer.clone(), PendingId { key: key.clone(), seq: *seq })
        })
    }

    /// The inbox rows of a consumer whose records lay below `below`, in log order.
    pub(super) fn inbox_below<'a>(
        &'a self,
        consumer: &'a ConsumerName,
        below: &'a Position,
    ) -> impl Iterator<Item = RowKey> + 'a {
        let at = |offset| (consumer.clone(), below.partition.clone(), offset, EventId(uuid::Uuid::nil()));
        let places = self.places.range(at(Offset::MIN)..at(below.offset));
        places.map(|(consumer, _, _, id)| RowKey::Inbox(consumer.clone(), *id))
    }

    /// When the rows of the outbox were written, and their numbers, oldest first.
    pub(super) fn written(&self) -> impl Iterator<Item = &(Timestamp, i64)> {
        self.written.iter()
    }

    fn index(&mut self, key: &RowKey, before: Option<&Row>, after: Option<&Row>) {
        match key {
            RowKey::Pending(consumer, id) => {
                let died = |row: &Row| {
                    let dead_at = row.pending()?.seen.dead_at?;
                    Some((consumer.clone(), dead_at, id.seq, id.key.clone()))
                };
                replace(&mut self.dead, before.and_then(died), after.and_then(died));
                self.index_heads(consumer, &id.key);
            }
            RowKey::Inbox(consumer, id) => {
                let place = |row: &Row| match row {
                    Row::Inbox { at, .. } => Some((consumer.clone(), at.partition.clone(), at.offset, *id)),
                    _ => None,
                };
                replace(&mut self.places, before.and_then(place), after.and_then(place));
            }
            RowKey::Outbox(seq) => {
                let written = |row: &Row| match row {
                    Row::Outbox { written_at, .. } => Some((*written_at, *seq)),
                    _ => None,
                };
                replace(&mut self.written, before.and_then(written), after.and_then(written));
            }
            RowKey::Position(..) | RowKey::Lease(_) | RowKey::Domain(..) => {}
        }
    }

    fn index_heads(&mut self, consumer: &ConsumerName, key: &OrderingKey) {
        let rows = self.rows.range(RowKey::pending_of(consumer, key)).filter_map(|(_, row)| row.pending());
        let heads = heads(rows);
        let place = (consumer.clone(), key.clone());
        let before = self.heads.get(&place).cloned().unwrap_or_default();
        let entry = |rank, head: Option<Head>| head.map(|head| (consumer.clone(), rank, head));
        replace(&mut self.queue, entry(Rank::First, before.first), entry(Rank::First, heads.first.clone()));
        let rank = Rank::BehindDead;
        replace(&mut self.queue, entry(rank, before.behind_dead), entry(rank, heads.behind_dead.clone()));
        if heads == Heads::default() {
            self.heads.remove(&place);
        } else {
            self.heads.insert(place, heads);
        }
    }
}

/// The heads among the rows of one key, given in order of `seq`.
fn heads<'a>(rows: impl Iterator<Item = &'a PendingRow>) -> Heads {
    let mut behind_dead = false;
    for row in rows {
        match (row.seen.dead_at, behind_dead) {
            (Some(_), _) => behind_dead = true,
            (None, true) => return Heads { first: None, behind_dead: Some(Head::of(row)) },
            (None, false) => return Heads { first: Some(Head::of(row)), behind_dead: None },
        }
    }
    Heads::default()
}

/// The one row among those of a key, given in order of `seq`, that a claim may take.
pub(super) fn claimable<'a>(
    rows: impl Iterator<Item = &'a PendingRow>,
    after_death: AfterDeath,
) -> Option<Head> {
    let heads = heads(rows);
    match after_death {
        AfterDeath::Hold => heads.first,
        AfterDeath::Skip => heads.first.or(heads.behind_dead),
    }
}

fn replace<T: Ord>(set: &mut BTreeSet<T>, before: Option<T>, after: Option<T>) {
    if before == after {
        return;
    }
    if let Some(before) = before {
        set.remove(&before);
    }
    if let Some(after) = after {
        set.insert(after);
    }
}

/// Two ordered sequences as one.
pub(super) fn merged<T: Ord>(
    left: impl Iterator<Item = T>,
    right: impl Iterator<Item = T>,
) -> impl Iterator<Item = T> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(first), Some(second)) if second < first => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}
