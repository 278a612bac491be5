//! What an administrator, a cluster manager or a fault does to the cluster, and what a checker may look at.
//!
//! Everything that touches clients returns effects, to be performed by [`crate::machine::Server::affect`].

use std::{collections::BTreeMap, time::Duration};

use stormglass_runtime::{
    ConsumerName, EventId, Freshness, Image, Lease, Offset, OutboxRow, Partition, Pending, PendingId,
    Position, Versioned,
};

use super::{
    cluster::{Cluster, Disk},
    config::Replication,
    node::Standing,
    observed::Observed,
    request::{Response, SqlError},
    rows::{self, Row, RowKey},
    session::State,
    wal::{Sequences, Wal},
};
use crate::machine::{Connection, Effect};

/// What a promoted replica knows of the primary's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// All that the primary had on its disk: a switchover, or a replica that was in time.
    Everything,
    /// What it has replayed so far; the rest is lost (D17).
    LosingSuffix,
}

/// The committed state of the primary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Next offsets.
    pub positions: BTreeMap<(ConsumerName, Partition), Offset>,
    /// Where each event that was taken lay.
    pub inbox: BTreeMap<(ConsumerName, EventId), Position>,
    /// The queue.
    pub pending: BTreeMap<(ConsumerName, PendingId), Pending>,
    /// The outbox, by number.
    pub outbox: Vec<OutboxRow>,
    /// Leases by name.
    pub leases: BTreeMap<String, Lease>,
    /// Domain rows by table and key text.
    pub rows: BTreeMap<String, BTreeMap<String, Versioned<Image>>>,
}

impl Cluster {
    /// Power off: the node's sessions are gone, and of the log what was not on its disk (D16).
    pub fn crash(&mut self, node: usize) -> Vec<Effect<Response>> {
        if self.nodes[node].up {
            self.nodes[node].up = false;
            let drop_locks = self.nodes[node].standing == Standing::Primary;
            self.drop_sessions(node);
            if drop_locks {
                self.recover();
            }
        }
        self.take_effects()
    }

    /// Power on again. A primary has recovered what was on its disk; a replica goes on replaying.
    pub fn restart(&mut self, node: usize) -> Vec<Effect<Response>> {
        self.nodes[node].up = true;
        self.take_effects()
    }

    /// `kill -9` of one backend: the postmaster ends every session of the primary and recovers (D14).
    pub fn kill_backend(&mut self) -> Vec<Effect<Response>> {
        let primary = self.primary();
        let mut effects = self.crash(primary);
        effects.extend(self.restart(primary));
        effects
    }

    /// `pg_terminate_backend`: ends one session with 57P01 (D14).
    pub fn terminate(&mut self, session: Connection) -> Vec<Effect<Response>> {
        if let Some(found) = self.sessions.get(&session) {
            if let Some(running) = &found.running {
                let call = running.call;
                self.reply(call, Response::Error(SqlError::AdminShutdown));
            }
            self.end_session(session);
        }
        self.take_effects()
    }

    /// The sessions of an application, oldest connection first.
    pub fn sessions_of(&self, application: &str) -> Vec<Connection> {
        let of = self.sessions.iter().filter(|(_, session)| session.application == application);
        of.map(|(connection, _)| *connection).collect()
    }

    /// Makes the replica the primary of a new timeline; the old primary is fenced off until it rejoins.
    ///
    /// Without an attached replica that is up nothing happens. Sessions of the replica go on and may now write.
    /// Tokens of the old timeline sort before all of the new one: after a lost suffix they are satisfied by whatever
    /// the new timeline has, since what they saw will never exist again; the answer's token shows the new timeline,
    /// and the evidence says [`Observed::LostSuffix`].
    pub fn promote(&mut self, promotion: Promotion) -> Vec<Effect<Response>> {
        let Some(replica) = self.replica().filter(|&node| self.nodes[node].up) else { return Vec::new() };
        let old = self.primary();
        self.drop_sessions(old);
        match promotion {
            Promotion::Everything => {
                self.wal.flushed = if self.nodes[old].up { self.wal.last } else { self.wal.flushed };
                while self.replay_next() {}
            }
            Promotion::LosingSuffix => {}
        }
        let fork = self.nodes[replica].lsn;
        if fork < self.nodes[old].lsn {
            let lsn = Freshness { timeline: self.timeline, lsn: fork };
            self.observed.push(Observed::LostSuffix { at: self.now, lsn });
        }
        self.nodes[old].standing = Standing::Fenced;
        self.nodes[old].up = false;
        self.nodes[replica].standing = Standing::Primary;
        self.locks = super::locks::Locks::default();
        self.timeline += 1;
        self.wal = Wal::after(fork);
        self.sequences = Sequences::recovered(self.nodes[replica].sequences);
        self.take_effects()
    }

    /// Rebuilds a fenced node from the primary and attaches it as the replica.
    pub fn rejoin(&mut self, node: usize) -> Vec<Effect<Response>> {
        let primary = self.primary();
        if self.nodes[node].standing == Standing::Fenced {
            self.nodes[node].store = self.nodes[primary].store.clone();
            self.nodes[node].lsn = self.nodes[primary].lsn;
            self.nodes[node].sequences = self.nodes[primary].sequences;
            self.nodes[node].standing = Standing::Standby;
            self.nodes[node].up = true;
        }
        self.take_effects()
    }

    /// The next COMMIT of a session of `application` is done, but its connection is closed instead of an answer (D3).
    pub fn drop_after_commit(&mut self, application: &str) {
        self.unheard.insert(application.to_owned());
    }

    /// Fills or empties the primary's disk.
    pub fn set_disk(&mut self, disk: Disk) {
        self.disk = disk;
    }

    /// Changes how far the replica is behind.
    pub fn set_replication_lag(&mut self, lag: Duration) {
        self.config.replication_lag = lag;
    }

    /// Changes whether COMMIT waits for the replica. Commits that need not wait any more are acknowledged.
    pub fn set_replication(&mut self, replication: Replication) -> Vec<Effect<Response>> {
        self.config.replication = replication;
        match replication {
            Replication::Asynchronous => self.publish_flushed(),
            Replication::Synchronous => {}
        }
        self.take_effects()
    }

    /// What happened since the last call, in order.
    pub fn drain_observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.observed)
    }

    /// How many transactions are open, failed ones included.
    pub fn open_transactions(&self) -> usize {
        self.sessions.values().filter(|session| !matches!(session.state, State::Idle)).count()
    }

    /// How many rows are locked.
    pub fn held_locks(&self) -> usize {
        self.locks.count()
    }

    /// How many statements wait for a lock.
    pub fn waiting_statements(&self) -> usize {
        self.sessions.values().filter(|session| session.running.is_some()).count()
    }

    /// The place in the log up to which a node shows everything.
    pub fn freshness(&self, node: usize) -> Freshness {
        Freshness { timeline: self.timeline, lsn: self.nodes[node].lsn }
    }

    /// The committed state of the primary.
    pub fn tables(&self) -> Snapshot {
        let mut tables = Snapshot::default();
        for (key, row) in self.nodes[self.primary()].store.all() {
            match (key, &**row) {
                (RowKey::Position(consumer, partition), Row::Position(offset)) => {
                    tables.positions.insert((consumer.clone(), partition.clone()), *offset);
                }
                (RowKey::Inbox(consumer, id), Row::Inbox { at, .. }) => {
                    tables.inbox.insert((consumer.clone(), *id), at.clone());
                }
                (RowKey::Pending(consumer, id), Row::Pending(row)) => {
                    tables.pending.insert((consumer.clone(), id.clone()), row.seen.clone());
                }
                (RowKey::Lease(name), Row::Lease(lease)) => {
                    tables.leases.insert(name.to_string(), lease.clone());
                }
                (key, row) => {
                    tables.outbox.extend(rows::outbox_row(key, row));
                    if let Some(image) = rows::image(&self.schema, key, row) {
                        let table = tables.rows.entry(image.row.table.clone()).or_default();
                        table.insert(image.row.key.clone(), image);
                    }
                }
            }
        }
        tables
    }

    fn drop_sessions(&mut self, node: usize) {
        let sessions: Vec<_> = self.sessions.keys().filter(|session| session.node == node).copied().collect();
        for session in sessions {
            self.end_session(session);
        }
    }

    /// What a primary does when it comes back: loses what was not on disk, shows what was.
    fn recover(&mut self) {
        let primary = self.primary();
        if self.wal.lose_unflushed(&mut self.nodes[primary].store) {
            self.nodes[primary].lsn = self.nodes[primary].lsn.min(self.wal.flushed);
            let lsn = Freshness { timeline: self.timeline, lsn: self.wal.flushed };
            self.observed.push(Observed::LostSuffix { at: self.now, lsn });
        }
        self.publish_flushed();
        self.locks = super::locks::Locks::default();
        self.sequences = Sequences::recovered(self.nodes[primary].sequences);
    }
}
