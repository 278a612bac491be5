//! What all witnesses together have told so far: the state that several checkers read.
//!
//! [`Tables`] is the database as its committed transactions make it. It is rebuilt from the survivors when the
//! database loses a suffix, so it never needs to be undone.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use stormglass_runtime::{
    AfterDeath, ConsumerName, EventId, Offset, OrderingKey, OutboxRow, Partition, Pending, PendingId,
    Position, Timestamp,
};
use stormglass_sim::FaultClass;
use uuid::Uuid;

use super::{
    Commit, Fact, RowChange, Setup, Strike,
    facts::{MessageState, Order, Payment, Reservation},
    log::{Identity, Log, LogRecord, order_of},
};

/// The consumer that only tells.
const NOTIFICATIONS: &str = "notifications";

/// All that is known.
#[derive(Debug)]
pub struct World {
    /// What the run is like.
    pub setup: Setup,
    /// The present, in simulated wall time.
    pub now: Timestamp,
    /// The brokers' logs.
    pub log: Log,
    /// The database.
    pub tables: Tables,
    /// What struck, when and whom.
    pub strikes: Vec<(Timestamp, FaultClass, String)>,
    /// When the last fault ends that was seen so far.
    pub disturbed_until: Timestamp,
    /// When every fault was healed.
    pub healed: Option<Timestamp>,
    /// Whether the database ever lost committed transactions.
    pub lost_suffix: bool,
}

impl World {
    /// The world before anything has happened.
    pub fn new(setup: Setup) -> Self {
        World {
            setup,
            now: Timestamp::default(),
            log: Log::default(),
            tables: Tables::default(),
            strikes: Vec::new(),
            disturbed_until: Timestamp::default(),
            healed: None,
            lost_suffix: false,
        }
    }

    /// Takes in what was done to the world.
    pub fn strike(&mut self, strike: &Strike) {
        match strike {
            Strike::Struck { class, host, until } => {
                self.strikes.push((self.now, *class, host.clone()));
                self.disturbed_until = self.disturbed_until.max(*until);
            }
            Strike::Healed => {
                self.healed = Some(self.now);
                self.disturbed_until = self.now;
            }
        }
    }

    /// Whether `consumer` must take `record`: it is of the domain's topic and of a type that it takes, or of none, so
    /// that passing over it would lose it silently.
    pub fn takes(&self, consumer: &ConsumerName, record: &LogRecord) -> bool {
        record.at.partition.topic == self.setup.topic
            && record.kind().is_none_or(|kind| self.setup.takes(consumer, kind))
    }

    /// Whether `consumer` has taken the event of `record`, from whichever copy.
    pub fn has_taken(&self, consumer: &ConsumerName, record: &LogRecord) -> bool {
        self.tables.has_taken_copy(&(consumer.clone(), record.identity.clone()))
    }

    /// The partitions of the domain's topic.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.log.partitions().filter(|partition| partition.topic == self.setup.topic)
    }

    /// The first record at or after `from` that `consumer` must still read, if it has any lag that counts: a position
    /// may rest below records that the consumer does not take.
    pub fn lag(&self, consumer: &ConsumerName, partition: &Partition) -> Option<&Rc<LogRecord>> {
        let from = self.tables.position(consumer, partition).unwrap_or(0);
        self.log.between(partition, from..Offset::MAX).find(|record| self.takes(consumer, record))
    }

    /// The order's row.
    pub fn order(&self, order: Uuid) -> Option<&Order> {
        self.tables.story(order)?.order.as_ref()
    }

    /// Whether a dead letter, also of a timer, excuses what did not become of the order, be it there or discarded. Those
    /// of notifications do not: they follow the order, and nothing waits for them.
    pub fn is_stuck(&self, order: Uuid) -> bool {
        self.has_dead(order, |consumer| consumer.as_str() != NOTIFICATIONS)
    }

    /// Whether a dead letter excuses that nobody was told what became of the order.
    pub fn is_silenced(&self, order: Uuid) -> bool {
        self.has_dead(order, |_| true)
    }

    fn has_dead(&self, order: Uuid, of: impl Fn(&ConsumerName) -> bool) -> bool {
        let mut rows = self.tables.queue.iter().filter(|((consumer, _), _)| of(consumer));
        rows.any(|(_, row)| row.pending.dead_at.is_some() && row.order() == Some(order))
            || self.tables.discarded.iter().any(|(consumer, discarded)| *discarded == order && of(consumer))
    }

    /// Whether `consumer` has ever committed that it is about to make a call for the order. The row may be gone by the
    /// time a request arrives: a late one, after another attempt was answered.
    pub fn has_intended_call(&self, consumer: &str, order: Uuid) -> bool {
        self.tables.intended.contains(&(ConsumerName::from(consumer), order))
    }
}

/// A row of the queue.
#[derive(Clone, Debug)]
pub struct QueueRow {
    /// The row.
    pub pending: Rc<Pending>,
    /// Whether it is an event to oneself.
    pub timer: bool,
}

impl QueueRow {
    /// The order that it is about: a timer has a key of its own, but its record is keyed by the order.
    pub fn order(&self) -> Option<Uuid> {
        let key = self.pending.record.key.clone().map_or_else(|| self.pending.id.key.clone(), OrderingKey);
        order_of(&key)
    }
}

/// The database as its committed transactions make it.
#[derive(Debug, Default)]
pub struct Tables {
    positions: BTreeMap<(ConsumerName, Partition), Offset>,
    taken: BTreeMap<(ConsumerName, EventId), Position>,
    taken_copies: BTreeMap<(ConsumerName, Identity), EventId>,
    queue: BTreeMap<(ConsumerName, PendingId), QueueRow>,
    outbox: BTreeMap<i64, Rc<OutboxRow>>,
    rows: BTreeMap<String, Rc<Fact>>,
    orders: BTreeMap<Uuid, OrderRows>,
    intended: BTreeSet<(ConsumerName, Uuid)>,
    /// Of which orders dead letters were discarded, and whose.
    discarded: BTreeSet<(ConsumerName, Uuid)>,
}

impl Tables {
    /// Takes in a transaction.
    pub fn apply(&mut self, commit: &Commit) {
        for taken in &commit.taken {
            self.taken.insert((taken.consumer.clone(), taken.entry.event_id), taken.entry.at.clone());
            if let Some(record) = &taken.record {
                self.taken_copies
                    .insert((taken.consumer.clone(), record.identity.clone()), taken.entry.event_id);
            }
        }
        for moved in &commit.moved {
            self.positions.insert((moved.consumer.clone(), moved.to.partition.clone()), moved.to.offset);
        }
        for queued in &commit.queued {
            if let (true, Some(order)) = (queued.discarded(), queued.order()) {
                self.discarded.insert((queued.consumer.clone(), order));
            }
            match (&queued.before, &queued.after) {
                (_, Some(after)) => {
                    let row = QueueRow { pending: Rc::clone(after), timer: queued.timer };
                    if let (Some(order), Some(_)) = (row.order(), &after.call) {
                        self.intended.insert((queued.consumer.clone(), order));
                    }
                    self.queue.insert((queued.consumer.clone(), after.id.clone()), row);
                }
                (Some(before), None) => {
                    drop(self.queue.remove(&(queued.consumer.clone(), before.id.clone())))
                }
                (None, None) => {}
            }
        }
        self.outbox.extend(commit.emitted.iter().map(|row| (row.seq, Rc::clone(row))));
        for seq in &commit.published {
            self.outbox.remove(seq);
        }
        commit.rows.iter().for_each(|change| self.write(change));
    }

    /// Where `consumer` reads on in `partition`.
    pub fn position(&self, consumer: &ConsumerName, partition: &Partition) -> Option<Offset> {
        self.positions.get(&(consumer.clone(), partition.clone())).copied()
    }

    /// Whether `consumer` has ever taken the event; pruning its mark does not undo that.
    pub fn has_taken(&self, consumer: &ConsumerName, event: EventId) -> bool {
        self.taken.contains_key(&(consumer.clone(), event))
    }

    /// Whether a consumer has ever taken any copy of an event.
    pub fn has_taken_copy(&self, name: &(ConsumerName, Identity)) -> bool {
        self.taken_copies.contains_key(name)
    }

    /// Under which id a consumer took the event.
    pub fn taken_as(&self, consumer: &ConsumerName, record: &LogRecord) -> Option<EventId> {
        self.taken_copies.get(&(consumer.clone(), record.identity.clone())).copied()
    }

    /// A row of the queue.
    pub fn queue(&self, consumer: &ConsumerName, id: &PendingId) -> Option<&QueueRow> {
        self.queue.get(&(consumer.clone(), id.clone()))
    }

    /// The rows of the queue.
    pub fn queued(&self) -> impl Iterator<Item = (&ConsumerName, &QueueRow)> {
        self.queue.iter().map(|((consumer, _), row)| (consumer, row))
    }

    /// The queue rows of one key in order, without those that block nothing after their death.
    pub fn waiting(
        &self,
        consumer: &ConsumerName,
        key: &OrderingKey,
        after_death: AfterDeath,
    ) -> impl Iterator<Item = &QueueRow> {
        let name = |seq| (consumer.clone(), PendingId { key: key.clone(), seq });
        let blocks = move |row: &&QueueRow| match after_death {
            AfterDeath::Hold => true,
            AfterDeath::Skip => row.pending.dead_at.is_none(),
        };
        self.queue.range(name(i64::MIN)..=name(i64::MAX)).map(|(_, row)| row).filter(blocks)
    }

    /// The outbox, in the order of `seq`.
    pub fn outbox(&self) -> &BTreeMap<i64, Rc<OutboxRow>> {
        &self.outbox
    }

    /// A domain row by `table/key`.
    pub fn row(&self, name: &str) -> Option<&Rc<Fact>> {
        self.rows.get(name)
    }

    /// What the database says of an order, if it says anything.
    pub fn story(&self, order: Uuid) -> Option<&OrderRows> {
        self.orders.get(&order)
    }

    /// What the database says of each order.
    pub fn stories(&self) -> impl Iterator<Item = (Uuid, &OrderRows)> {
        self.orders.iter().map(|(order, rows)| (*order, rows))
    }

    fn write(&mut self, change: &RowChange) {
        self.rows.insert(change.name.clone(), Rc::clone(&change.after));
        let Some(order) = change.after.order() else { return };
        let rows = self.orders.entry(order).or_default();
        match &*change.after {
            Fact::Order(row) => rows.order = Some(row.clone()),
            Fact::Payment(row) => rows.payment = Some(row.clone()),
            Fact::Reservation(row) => rows.reservation = Some(row.clone()),
            Fact::Message(row) => rows.messages += u32::from(matches!(row.state, MessageState::Sent(_))),
            Fact::Stock(_) | Fact::Unreadable(_) => {}
        }
    }
}

/// The rows of one order.
#[derive(Debug, Default)]
pub struct OrderRows {
    /// Of `orders`.
    pub order: Option<Order>,
    /// Of `payments`.
    pub payment: Option<Payment>,
    /// Of `reservations`.
    pub reservation: Option<Reservation>,
    /// How many messages of `messages` went out.
    pub messages: u32,
}
