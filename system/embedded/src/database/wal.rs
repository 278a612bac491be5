//! The write-ahead log: one record per transaction, from COMMIT until it is on disk, visible and replayed.
//!
//! A record knows the rows before and after, so that a crash can take back what was not on disk. Real logs hold
//! physical changes and survive in files; what a client can tell of that is the same. An LSN here counts
//! transactions, not bytes, and a crash that loses records lets their numbers be used again, as in PostgreSQL.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use stormglass_runtime::Timestamp;

use super::{
    observed::Change,
    rows::{Row, RowKey},
    store::Store,
};
use crate::machine::Call;

/// How far ahead of its use a sequence is logged (`SEQ_LOG_VALS`): after a crash that many values may be skipped.
const SEQUENCE_LOG_AHEAD: i64 = 32;

/// The log of a primary.
#[derive(Debug, Default)]
pub(super) struct Wal {
    records: VecDeque<Record>,
    /// The number of the last record, whether it is still here or not.
    pub(super) last: u64,
    /// Everything up to here is on disk.
    pub(super) flushed: u64,
}

/// A committed transaction.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) lsn: u64,
    pub(super) committed_at: Timestamp,
    pub(super) application: String,
    /// The COMMIT to answer when it becomes visible.
    pub(super) waiting: Option<Call>,
    pub(super) writes: Vec<Write>,
    pub(super) changes: Vec<Change>,
    pub(super) sequences: Logged,
    pub(super) visible: bool,
}

/// One row before and after. `before` is known once the record is visible.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) key: RowKey,
    pub(super) before: Option<Arc<Row>>,
    pub(super) after: Option<Arc<Row>>,
}

impl Wal {
    /// A log that goes on after `lsn`.
    pub(super) fn after(lsn: u64) -> Self {
        Self { records: VecDeque::new(), last: lsn, flushed: lsn }
    }

    pub(super) fn append(&mut self, record: Record) {
        debug_assert_eq!(record.lsn, self.last + 1, "log records are numbered without gaps");
        self.last = record.lsn;
        self.records.push_back(record);
    }

    pub(super) fn get_mut(&mut self, lsn: u64) -> Option<&mut Record> {
        let first = self.records.front()?.lsn;
        self.records.get_mut(usize::try_from(lsn.checked_sub(first)?).ok()?)
    }

    /// The record with this number, if it is still here.
    pub(super) fn get(&self, lsn: u64) -> Option<&Record> {
        let first = self.records.front()?.lsn;
        self.records.get(usize::try_from(lsn.checked_sub(first)?).ok()?)
    }

    /// Forgets what nobody needs any more: on disk, visible and up to `replayed`.
    pub(super) fn trim(&mut self, replayed: u64) {
        let done = |record: &Record| record.visible && record.lsn <= replayed.min(self.flushed);
        while self.records.front().is_some_and(done) {
            self.records.pop_front();
        }
    }

    /// Drops what is not on disk from the end of the log, taking it back out of `store`. Returns whether there was any.
    pub(super) fn lose_unflushed(&mut self, store: &mut Store) -> bool {
        let mut lost = false;
        while let Some(record) = self.records.pop_back_if(|record| record.lsn > self.flushed) {
            lost = true;
            if record.visible {
                for write in record.writes.into_iter().rev() {
                    store.put(&write.key, write.before);
                }
            }
        }
        self.last = self.flushed;
        lost
    }
}

impl Write {
    pub(super) fn all(writes: BTreeMap<RowKey, Option<Arc<Row>>>) -> Vec<Write> {
        writes.into_iter().map(|(key, after)| Write { key, before: None, after }).collect()
    }
}

/// The identity columns' sequences (CACHE 1): values are taken when a statement runs, and never given back (D9).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequences {
    pub(super) pending: Sequence,
    pub(super) outbox: Sequence,
}

/// One sequence.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    last: i64,
    logged: i64,
}

/// How far the sequences are in the log: where they go on after a crash or a promotion.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Logged {
    pending: i64,
    outbox: i64,
}

impl Sequence {
    pub(super) fn allocate(&mut self) -> i64 {
        self.last += 1;
        if self.last > self.logged {
            self.logged = self.last + SEQUENCE_LOG_AHEAD;
        }
        self.last
    }
}

impl Sequences {
    pub(super) fn logged(&self) -> Logged {
        Logged { pending: self.pending.logged, outbox: self.outbox.logged }
    }

    /// Sequences after recovery up to `logged`.
    pub(super) fn recovered(logged: Logged) -> Self {
        let at = |value| Sequence { last: value, logged: value };
        Self { pending: at(logged.pending), outbox: at(logged.outbox) }
    }
}
