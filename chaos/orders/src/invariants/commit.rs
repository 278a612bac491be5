//! A committed transaction, sorted by what its changes mean.
//!
//! The important word is *effect*: an event takes effect in the transaction where it stops waiting. That is the one
//! in which it is taken without being queued, or the one in which its queue row is deleted while it was alive.

use std::{collections::BTreeMap, rc::Rc};

use stormglass_embedded::database::Change;
use stormglass_runtime::{
    ConsumerName, EventId, Freshness, Image, InboxEntry, Offset, OrderingKey, OutboxRow, Pending, PendingId,
    Position, Timestamp,
};
use uuid::Uuid;

use super::{
    facts::Fact,
    log::{Identity, Log, LogRecord, order_of},
    world::Tables,
};

/// A transaction that became visible.
#[derive(Debug)]
pub struct Commit {
    /// When.
    pub at: Timestamp,
    /// Where in the database's log.
    pub lsn: Freshness,
    /// `application_name` of its session.
    pub session: String,
    /// Events that were marked as taken.
    pub taken: Vec<Taken>,
    /// Marks that were pruned.
    pub pruned: Vec<(ConsumerName, InboxEntry)>,
    /// Positions that were created or moved.
    pub moved: Vec<Moved>,
    /// Domain rows that were written.
    pub rows: Vec<RowChange>,
    /// Queue rows, each with what the transaction as a whole did to it.
    pub queued: Vec<Queued>,
    /// Outbox rows that were written.
    pub emitted: Vec<Rc<OutboxRow>>,
    /// Outbox rows that were deleted.
    pub published: Vec<i64>,
    /// Events that took effect.
    pub effects: Vec<Effect>,
}

/// An event that was marked as taken.
#[derive(Debug)]
pub struct Taken {
    /// By whom.
    pub consumer: ConsumerName,
    /// The mark.
    pub entry: InboxEntry,
    /// The record it was taken from, if there is one at that place.
    pub record: Option<Rc<LogRecord>>,
    /// Whether the consumer had taken the same event before, by its own id or by that of its record.
    pub again: bool,
}

/// A position that was created or moved.
#[derive(Debug)]
pub struct Moved {
    /// Whose.
    pub consumer: ConsumerName,
    /// Where it was.
    pub from: Option<Offset>,
    /// Where it is.
    pub to: Position,
}

/// A domain row that was inserted or updated.
#[derive(Debug)]
pub struct RowChange {
    /// `table/key`, for messages.
    pub name: String,
    /// As it was.
    pub before: Option<Rc<Fact>>,
    /// As it is.
    pub after: Rc<Fact>,
}

/// A queue row that was inserted, changed or deleted.
#[derive(Debug)]
pub struct Queued {
    /// Whose.
    pub consumer: ConsumerName,
    /// As it was before the transaction.
    pub before: Option<Rc<Pending>>,
    /// As the transaction left it.
    pub after: Option<Rc<Pending>>,
    /// Whether it is an event to oneself: it was queued without having been taken.
    pub timer: bool,
}

impl Queued {
    /// Whether the row died here.
    pub fn died(&self) -> bool {
        let dead = |row: &Option<Rc<Pending>>| row.as_ref().is_some_and(|row| row.dead_at.is_some());
        dead(&self.after) && !dead(&self.before)
    }

    /// Whether a dead letter was put back into the queue.
    pub fn redriven(&self) -> bool {
        let dead = |row: &Option<Rc<Pending>>| row.as_ref().map(|row| row.dead_at.is_some());
        dead(&self.before) == Some(true) && dead(&self.after) == Some(false)
    }

    /// Whether a dead letter was deleted.
    pub fn discarded(&self) -> bool {
        self.after.is_none() && self.before.as_ref().is_some_and(|row| row.dead_at.is_some())
    }

    /// The order that the row is about: a timer has a key of its own, but its record is keyed by the order.
    pub fn order(&self) -> Option<Uuid> {
        let row = self.after.as_ref().or(self.before.as_ref())?;
        order_of(&row.record.key.clone().map_or_else(|| row.id.key.clone(), OrderingKey))
    }

    /// Whether the intent to call commits here.
    pub fn asked(&self) -> bool {
        let calls = |row: &Option<Rc<Pending>>| row.as_ref().is_some_and(|row| row.call.is_some());
        calls(&self.after) && !calls(&self.before)
    }
}

/// An event that took effect.
#[derive(Debug)]
pub struct Effect {
    /// For whom.
    pub consumer: ConsumerName,
    /// Which event.
    pub event_id: EventId,
    /// Where its record lay; a timer has the place of its cause.
    pub origin: Position,
    /// What orders it.
    pub key: OrderingKey,
    /// Whether it is an event to oneself.
    pub timer: bool,
}

impl Commit {
    /// Sorts `changes`, as seen by someone who knows the logs and the tables as they were before.
    pub fn sort(
        (at, lsn, session): (Timestamp, Freshness, String),
        changes: Vec<Change>,
        log: &Log,
        tables: &Tables,
    ) -> Commit {
        let mut sorting =
            Sorting { log, tables, queue: BTreeMap::new(), rows: BTreeMap::new(), ids: Vec::new() };
        let mut commit = Commit {
            at,
            lsn,
            session,
            taken: Vec::new(),
            pruned: Vec::new(),
            moved: Vec::new(),
            rows: Vec::new(),
            queued: Vec::new(),
            emitted: Vec::new(),
            published: Vec::new(),
            effects: Vec::new(),
        };
        for change in changes {
            sorting.sort(&mut commit, change);
        }
        sorting.finish(&mut commit);
        commit
    }
}

type QueueName = (ConsumerName, PendingId);

struct Sorting<'a> {
    log: &'a Log,
    tables: &'a Tables,
    queue: BTreeMap<QueueName, (Option<Rc<Pending>>, Option<Rc<Pending>>)>,
    rows: BTreeMap<String, Rc<Fact>>,
    ids: Vec<(ConsumerName, Identity)>,
}

impl Sorting<'_> {
    fn sort(&mut self, commit: &mut Commit, change: Change) {
        match change {
            Change::Taken { consumer, entry } => self.take(commit, consumer, entry),
            Change::Pruned { consumer, entry } => commit.pruned.push((consumer, entry)),
            Change::Moved { consumer, position } => self.move_position(commit, consumer, position),
            Change::Row { after, .. } => self.write(commit, &after),
            Change::Pending { consumer, before, after } => {
                let (before, after) = (before.map(|row| Rc::new(*row)), after.map(|row| Rc::new(*row)));
                let Some(row) = before.as_ref().or(after.as_ref()) else { return };
                match self.queue.entry((consumer, row.id.clone())) {
                    std::collections::btree_map::Entry::Vacant(net) => drop(net.insert((before, after))),
                    std::collections::btree_map::Entry::Occupied(mut net) => net.get_mut().1 = after,
                }
            }
            Change::Emitted { row } => commit.emitted.push(Rc::new(row)),
            Change::Published { seq } => commit.published.push(seq),
            Change::Leased { .. } => {}
        }
    }

    fn take(&mut self, commit: &mut Commit, consumer: ConsumerName, entry: InboxEntry) {
        let record = self.log.at(&entry.at).cloned();
        let mut again = self.tables.has_taken(&consumer, entry.event_id)
            || commit
                .taken
                .iter()
                .any(|taken| taken.consumer == consumer && taken.entry.event_id == entry.event_id);
        if let Some(record) = &record {
            let name = (consumer.clone(), record.identity.clone());
            again |= self.tables.has_taken_copy(&name) || self.ids.contains(&name);
            self.ids.push(name);
        }
        commit.taken.push(Taken { consumer, entry, record, again });
    }

    fn move_position(&mut self, commit: &mut Commit, consumer: ConsumerName, to: Position) {
        let earlier = commit
            .moved
            .iter()
            .rev()
            .find(|moved| moved.consumer == consumer && moved.to.partition == to.partition);
        let from = match earlier {
            Some(moved) => Some(moved.to.offset),
            None => self.tables.position(&consumer, &to.partition),
        };
        commit.moved.push(Moved { consumer, from, to });
    }

    fn write(&mut self, commit: &mut Commit, after: &Image) {
        let name = format!("{}/{}", after.table, after.key);
        let after = Rc::new(Fact::read(after));
        let before =
            self.rows.insert(name.clone(), Rc::clone(&after)).or_else(|| self.tables.row(&name).cloned());
        commit.rows.push(RowChange { name, before, after });
    }

    fn finish(self, commit: &mut Commit) {
        for ((consumer, id), (before, after)) in self.queue {
            let Some(row) = before.as_ref().or(after.as_ref()) else { continue };
            let takes = |taken: &&Taken| taken.consumer == consumer && taken.entry.event_id == row.event_id;
            let known = self.tables.queue(&consumer, &id);
            let timer = match known {
                Some(known) => known.timer,
                None => {
                    !commit.taken.iter().any(|taken| takes(&taken))
                        && !self.tables.has_taken(&consumer, row.event_id)
                }
            };
            let alive = before.as_ref().is_some_and(|before| before.dead_at.is_none());
            if alive && after.is_none() {
                commit.effects.push(Effect {
                    consumer: consumer.clone(),
                    event_id: row.event_id,
                    origin: row.origin.clone(),
                    key: id.key.clone(),
                    timer,
                });
            }
            if before.is_some() || after.is_some() {
                commit.queued.push(Queued { consumer, before, after, timer });
            }
        }
        for taken in &commit.taken {
            let queued = commit.queued.iter().any(|queued| {
                queued.consumer == taken.consumer
                    && queued.after.as_ref().is_some_and(|row| row.event_id == taken.entry.event_id)
            });
            if queued {
                continue;
            }
            commit.effects.push(Effect {
                consumer: taken.consumer.clone(),
                event_id: taken.entry.event_id,
                origin: taken.entry.at.clone(),
                key: taken
                    .record
                    .as_ref()
                    .map_or_else(|| OrderingKey(Default::default()), |record| record.key.clone()),
                timer: false,
            });
        }
    }
}
