//! From COMMIT to the replica: the log record, its flush, its visibility, its replay.
//!
//! With asynchronous replication a transaction is visible when its record is written (and, with
//! `synchronous_commit = on`, flushed), and the replica follows after a lag. With synchronous replication it is
//! neither visible nor acknowledged, and keeps its locks, until the replica has replayed it. The replica gets only
//! what is on the primary's disk. Sending and replaying are one step here.

use stormglass_runtime::{Freshness, Timestamp};

use super::{
    cluster::{Cluster, NODES},
    config::{Replication, SynchronousCommit},
    node::Standing,
    observed::Observed,
    request::Response,
    session::State,
    wal::{Record, Write},
};
use crate::machine::Call;

impl Cluster {
    pub(super) fn commit(&mut self, call: Call) {
        let waits_for_replica = self.waits_for_replica();
        let Some(session) = self.sessions.get_mut(&call.connection) else { return };
        match std::mem::replace(&mut session.state, State::Committing) {
            State::Open(transaction) if !transaction.writes.is_empty() => {
                let record = Record {
                    lsn: self.wal.last + 1,
                    committed_at: self.now,
                    application: session.application.clone(),
                    waiting: Some(call),
                    writes: Write::all(transaction.writes),
                    changes: transaction.changes,
                    sequences: self.sequences.logged(),
                    visible: false,
                };
                let lsn = record.lsn;
                self.wal.append(record);
                self.reset_timer(call.connection);
                if self.config.synchronous_commit == SynchronousCommit::On || waits_for_replica {
                    self.flush_to(lsn);
                }
                if !waits_for_replica {
                    self.publish(lsn);
                    self.trim();
                }
            }
            State::Open(_) | State::Idle => {
                self.end_transaction(call.connection, State::Idle);
                self.reply(call, Response::Committed);
            }
            State::Aborted | State::Committing => {
                self.end_transaction(call.connection, State::Idle);
                self.reply(call, Response::RolledBack);
            }
        }
    }

    /// Makes a record visible on the primary: its rows, its evidence, its answer; then its locks pass on.
    pub(super) fn publish(&mut self, lsn: u64) {
        let at = Freshness { timeline: self.timeline, lsn };
        let node = &mut self.nodes[self.primary()];
        let Some(record) = self.wal.get_mut(lsn).filter(|record| !record.visible) else { return };
        record.visible = true;
        for write in &mut record.writes {
            write.before = node.store.put(&write.key, write.after.clone());
        }
        node.lsn = lsn;
        self.observed.push(Observed::Committed {
            at: self.now,
            lsn: at,
            session: std::mem::take(&mut record.application),
            changes: std::mem::take(&mut record.changes),
        });
        if let Some(call) = record.waiting.take() {
            self.committed(call);
        }
    }

    fn committed(&mut self, call: Call) {
        let Some(session) = self.sessions.get(&call.connection) else {
            // The session ended while its commit waited for the replica.
            self.woken.extend(self.locks.finish(call.connection));
            return;
        };
        let unheard = self.unheard.remove(&session.application);
        self.end_transaction(call.connection, State::Idle);
        if unheard {
            self.end_session(call.connection);
        } else {
            self.reply(call, Response::Committed);
        }
    }

    /// Whether COMMIT waits for the replica at the moment.
    fn waits_for_replica(&self) -> bool {
        self.config.replication == Replication::Synchronous && self.replica().is_some()
    }

    /// Makes visible whatever is on disk.
    pub(super) fn publish_flushed(&mut self) {
        for lsn in self.nodes[self.primary()].lsn + 1..=self.wal.flushed {
            self.publish(lsn);
        }
    }

    /// Writes to disk what is due.
    pub(super) fn flush(&mut self) {
        while self.next_flush().is_some_and(|at| at <= self.now) {
            self.flush_to(self.wal.flushed + 1);
        }
        self.trim();
    }

    fn flush_to(&mut self, lsn: u64) {
        self.wal.flushed = self.wal.flushed.max(lsn);
        let primary = self.primary();
        if let Some(record) = self.wal.get(lsn) {
            self.nodes[primary].sequences = record.sequences;
        }
    }

    pub(super) fn next_flush(&self) -> Option<Timestamp> {
        if self.wal.flushed == self.wal.last {
            return None;
        }
        let record = self.wal.get(self.wal.flushed + 1)?;
        Some(record.committed_at.after(self.config.wal_writer_delay))
    }

    /// Replays on the replica what is due, and makes visible what waited for that.
    pub(super) fn replay(&mut self) {
        while self.next_replay().is_some_and(|at| at <= self.now) {
            self.replay_next();
        }
        self.trim();
    }

    /// Replays the next record, which is on the primary's disk, on the replica. Returns whether there was one.
    pub(super) fn replay_next(&mut self) -> bool {
        let Some(replica) = self.replica() else { return false };
        let lsn = self.nodes[replica].lsn + 1;
        let Some(record) = self.wal.get(lsn) else { return false };
        let node = &mut self.nodes[replica];
        for write in &record.writes {
            node.store.put(&write.key, write.after.clone());
        }
        node.lsn = lsn;
        node.sequences = record.sequences;
        self.publish(lsn);
        true
    }

    pub(super) fn next_replay(&self) -> Option<Timestamp> {
        let replica = self.replica().filter(|&node| self.nodes[node].up && self.nodes[self.primary()].up)?;
        let next = self.nodes[replica].lsn + 1;
        if next > self.wal.flushed {
            return None;
        }
        Some(self.wal.get(next)?.committed_at.after(self.config.replication_lag))
    }

    fn trim(&mut self) {
        let replayed = self.replica().map_or(u64::MAX, |node| self.nodes[node].lsn);
        self.wal.trim(replayed);
    }

    /// The node that takes writes.
    pub fn primary(&self) -> usize {
        (0..NODES).find(|&node| self.nodes[node].standing == Standing::Primary).unwrap_or(0)
    }

    /// The node that replays, attached whether it is up or down.
    pub(super) fn replica(&self) -> Option<usize> {
        (0..NODES).find(|&node| self.nodes[node].standing == Standing::Standby)
    }
}
