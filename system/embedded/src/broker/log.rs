//! A partition's log: records at sparse, growing offsets, and what idempotence needs to know about their producers.
//!
//! There is one log per partition, not one per replica: a replica is a prefix of it (`replication.rs`). Segments are
//! left out, so retention is exact, and so is compaction.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use stormglass_runtime::{Offset, Record};

use super::request::Stamp;

/// How many batches per producer a broker remembers (KIP-98; B11).
const WINDOW: usize = 5;

/// A log.
#[derive(Debug, Default)]
pub(super) struct Log {
    start: Offset,
    end: Offset,
    entries: VecDeque<(Offset, Arc<Record>)>,
    batches: VecDeque<Batch>,
    producers: BTreeMap<u64, VecDeque<Batch>>,
    appends: u64,
}

/// Where one stamped batch lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Batch {
    stamp: Stamp,
    count: u32,
    base: Offset,
}

/// What a stamp means to this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    /// Append it.
    Next,
    /// It is in the log already, from this offset on.
    Duplicate(Offset),
    /// Its epoch is over.
    Fenced,
    /// Neither next nor remembered.
    OutOfOrder,
}

impl Batch {
    fn end(&self) -> Offset {
        self.base + Offset::from(self.count)
    }
}

/// The sequence number `count` after `sequence`; wraps at 2³¹ as Kafka's does.
pub(super) fn advance_sequence(sequence: u32, count: u32) -> u32 {
    sequence.wrapping_add(count) & 0x7fff_ffff
}

impl Log {
    /// The oldest offset that retention has left.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// The next offset to be given.
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// Judges a batch of `count` records under `stamp`, as Kafka's ProducerAppendInfo does.
    pub(super) fn sequence(&self, stamp: Stamp, count: u32) -> Sequence {
        let Some(remembered) = self.producers.get(&stamp.producer) else {
            // Also after retention took all its batches: any sequence is accepted then (KIP-360).
            return Sequence::Next;
        };
        let Some(last) = remembered.back() else { return Sequence::Next };
        if stamp.epoch < last.stamp.epoch {
            return Sequence::Fenced;
        }
        if stamp.epoch > last.stamp.epoch {
            return if stamp.sequence == 0 { Sequence::Next } else { Sequence::OutOfOrder };
        }
        let same = |batch: &&Batch| batch.stamp == stamp && batch.count == count;
        if let Some(original) = remembered.iter().find(same) {
            return Sequence::Duplicate(original.base);
        }
        if stamp.sequence == advance_sequence(last.stamp.sequence, last.count) {
            Sequence::Next
        } else {
            Sequence::OutOfOrder
        }
    }

    /// Appends a batch that was judged [`Sequence::Next`]; the offset of its first record.
    pub(super) fn append(&mut self, stamp: Option<Stamp>, records: &[Arc<Record>], gap_every: u64) -> Offset {
        let base = self.end;
        for record in records {
            self.entries.push_back((self.end, Arc::clone(record)));
            self.end += 1;
        }
        if let Some(stamp) = stamp {
            let batch = Batch { stamp, count: u32::try_from(records.len()).unwrap_or(u32::MAX), base };
            self.batches.push_back(batch);
            let remembered = self.producers.entry(stamp.producer).or_default();
            remembered.retain(|old| old.stamp.epoch == stamp.epoch);
            remembered.push_back(batch);
            if remembered.len() > WINDOW {
                remembered.pop_front();
            }
        }
        self.appends += 1;
        if gap_every > 0 && self.appends.is_multiple_of(gap_every) {
            self.end += 1;
        }
        base
    }

    /// The records from `offset` on that lie below `limit`, in order.
    pub(super) fn read(
        &self,
        offset: Offset,
        limit: Offset,
    ) -> impl Iterator<Item = &(Offset, Arc<Record>)> + use<'_> {
        let from = self.entries.partition_point(|(at, _)| *at < offset);
        self.entries.range(from..).take_while(move |(at, _)| *at < limit)
    }

    /// Where a read begins that goes `back` records further back than `offset`.
    pub(super) fn rewound(&self, offset: Offset, back: usize) -> Offset {
        let from = self.entries.partition_point(|(at, _)| *at < offset);
        self.entries.get(from.saturating_sub(back)).map_or(offset, |(at, _)| (*at).min(offset))
    }

    /// Forgets everything below `start`.
    pub(super) fn trim(&mut self, start: Offset) {
        self.start = start.clamp(self.start, self.end);
        let gone = self.entries.partition_point(|(at, _)| *at < self.start);
        self.entries.drain(..gone);
        while self.batches.front().is_some_and(|batch| batch.end() <= self.start) {
            self.batches.pop_front();
        }
    }

    /// Drops everything at and above `end`, and what its producers did there.
    pub(super) fn truncate(&mut self, end: Offset) {
        let kept = self.entries.partition_point(|(at, _)| *at < end);
        self.entries.truncate(kept);
        self.end = self.end.min(end);
        self.start = self.start.min(self.end);
        while self.batches.back().is_some_and(|batch| batch.base >= end) {
            self.batches.pop_back();
        }
        let batches = &self.batches;
        self.producers.retain(|producer, remembered| {
            let before = remembered.len();
            remembered.retain(|batch| batch.base < end);
            if remembered.len() < before {
                let older = batches.iter().rev().filter(|batch| batch.stamp.producer == *producer);
                let mut older: VecDeque<Batch> = older.take(WINDOW).copied().collect();
                older.make_contiguous().reverse();
                if let Some(epoch) = older.back().map(|batch| batch.stamp.epoch) {
                    older.retain(|batch| batch.stamp.epoch == epoch);
                    *remembered = older;
                }
            }
            !remembered.is_empty()
        });
    }
}
