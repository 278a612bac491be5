//! The brokers' log as checkers see it: which record lies where, which event it is, what is readable.
//!
//! An event is known by (`ce_source`, `ce_id`) as CloudEvents says, not by the runtime's hash of them: a hash that
//! confuses two events would otherwise hide itself.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use bytes::Bytes;
use stormglass_embedded::broker::Observed;
use stormglass_runtime::{EventId, Offset, OrderingKey, Partition, Position, Record, Timestamp};
use uuid::Uuid;

/// Which event a record is a copy of: its `ce_source` and `ce_id`, or its place if it has none.
pub type Identity = (Bytes, Bytes);

/// A record in the log.
#[derive(Debug)]
pub struct LogRecord {
    /// Where.
    pub at: Position,
    /// Which event.
    pub identity: Identity,
    /// What orders it.
    pub key: OrderingKey,
    /// When it was appended.
    pub appended: Timestamp,
    /// What was appended.
    pub record: Arc<Record>,
}

impl LogRecord {
    fn new(appended: Timestamp, at: &Position, record: &Arc<Record>) -> Self {
        let key = record.key.clone().unwrap_or_else(|| {
            // Without a key the event id orders (DESIGN G2); the id itself is a contract, not a decision under test.
            let delivered = stormglass_runtime::Delivered { at: at.clone(), record: Record::clone(record) };
            Bytes::copy_from_slice(EventId::of(&delivered).0.as_bytes())
        });
        let identity = match (record.headers.get("ce_source"), record.headers.get("ce_id")) {
            (Some(source), Some(id)) => (source.clone(), id.clone()),
            _ => (Bytes::new(), Bytes::from(at.to_string())),
        };
        LogRecord { at: at.clone(), identity, key: OrderingKey(key), appended, record: Arc::clone(record) }
    }

    /// `ce_type` without its version; `None` if the record has none, so that no consumer can pass over it.
    pub fn kind(&self) -> Option<&str> {
        let kind = self.record.headers.text("ce_type")?;
        Some(kind.rsplit_once(".v").map_or(kind, |(name, _)| name))
    }

    /// The type and place, for messages: `order.placed at orders@0:41`.
    pub fn name(&self) -> String {
        format!("{} at {}", self.kind().unwrap_or("record without a type"), self.at)
    }

    /// The order whose story it is part of.
    pub fn order(&self) -> Option<Uuid> {
        order_of(&self.key)
    }
}

/// The order that a record key names.
pub fn order_of(key: &OrderingKey) -> Option<Uuid> {
    Uuid::try_parse_ascii(&key.0).ok()
}

#[derive(Debug, Default)]
struct PartitionLog {
    records: BTreeMap<Offset, Rc<LogRecord>>,
    start: Offset,
    end: Offset,
}

/// All logs.
#[derive(Debug, Default)]
pub struct Log {
    partitions: BTreeMap<Partition, PartitionLog>,
    copies: BTreeMap<Identity, Vec<Rc<LogRecord>>>,
    by_order: BTreeMap<Uuid, Vec<Rc<LogRecord>>>,
}

impl Log {
    /// Takes in what the brokers did.
    pub fn apply(&mut self, seen: &Observed) {
        match seen {
            Observed::Appended { at, position, record } => self.append(*at, position, record),
            Observed::Committed { partition, end, .. } => self.partition(partition).end = *end,
            Observed::Truncated { partition, end, .. } => self.truncate(partition, *end),
            Observed::Trimmed { partition, start, .. } => self.partition(partition).start = *start,
            Observed::Reported { .. } | Observed::Assigned { .. } | Observed::Elected { .. } => {}
        }
    }

    fn partition(&mut self, partition: &Partition) -> &mut PartitionLog {
        if !self.partitions.contains_key(partition) {
            self.partitions.insert(partition.clone(), PartitionLog::default());
        }
        self.partitions.entry(partition.clone()).or_default()
    }

    fn append(&mut self, at: Timestamp, position: &Position, record: &Arc<Record>) {
        let entry = Rc::new(LogRecord::new(at, position, record));
        self.copies.entry(entry.identity.clone()).or_default().push(Rc::clone(&entry));
        if let Some(order) = entry.order() {
            self.by_order.entry(order).or_default().push(Rc::clone(&entry));
        }
        self.partition(&position.partition).records.insert(position.offset, entry);
    }

    fn truncate(&mut self, partition: &Partition, end: Offset) {
        let gone = self.partition(partition).records.split_off(&end);
        for entry in gone.into_values() {
            let elsewhere = |copy: &Rc<LogRecord>| !Rc::ptr_eq(copy, &entry);
            if let Some(copies) = self.copies.get_mut(&entry.identity) {
                copies.retain(elsewhere);
            }
            if let Some(story) = entry.order().and_then(|order| self.by_order.get_mut(&order)) {
                story.retain(elsewhere);
            }
        }
    }

    /// The record at `position`.
    pub fn at(&self, position: &Position) -> Option<&Rc<LogRecord>> {
        self.partitions.get(&position.partition)?.records.get(&position.offset)
    }

    /// The copies of an event, in the order of their appending.
    pub fn copies(&self, identity: &Identity) -> &[Rc<LogRecord>] {
        self.copies.get(identity).map_or(&[], Vec::as_slice)
    }

    /// Every event that is on the log, with its copies.
    pub fn events(&self) -> impl Iterator<Item = &[Rc<LogRecord>]> {
        self.copies.values().filter(|copies| !copies.is_empty()).map(Vec::as_slice)
    }

    /// The records of an order, over all topics, in the order of their appending.
    pub fn story(&self, order: Uuid) -> &[Rc<LogRecord>] {
        self.by_order.get(&order).map_or(&[], Vec::as_slice)
    }

    /// The orders that any record is about.
    pub fn orders(&self) -> impl Iterator<Item = Uuid> {
        self.by_order.iter().filter(|(_, story)| !story.is_empty()).map(|(order, _)| *order)
    }

    /// Every partition that has been written to.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.keys()
    }

    /// The high watermark of `partition`.
    pub fn end(&self, partition: &Partition) -> Offset {
        self.partitions.get(partition).map_or(0, |log| log.end)
    }

    /// The oldest offset that retention left in `partition`.
    pub fn start(&self, partition: &Partition) -> Offset {
        self.partitions.get(partition).map_or(0, |log| log.start)
    }

    /// The readable records of `partition` with offsets in `[from, to)`, in order.
    pub fn between(
        &self,
        partition: &Partition,
        offsets: std::ops::Range<Offset>,
    ) -> impl DoubleEndedIterator<Item = &Rc<LogRecord>> {
        let log = self.partitions.get(partition);
        let end = log.map_or(0, |log| log.end).min(offsets.end);
        let start = offsets.start.min(end);
        log.into_iter().flat_map(move |log| log.records.range(start..end).map(|(_, entry)| entry))
    }
}
