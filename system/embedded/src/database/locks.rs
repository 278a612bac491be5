//! Row locks (FOR NO KEY UPDATE) with FIFO waiting, and waiting for the end of a transaction.
//!
//! Two kinds of waiting, as in PostgreSQL: whoever wants to lock or change a row queues for that row and holds it
//! when its turn comes; whoever inserts a key that another transaction is inserting, changing or deleting waits for
//! that *transaction* to end, holds nothing, and looks again (D4). A session waits for one thing at a time, so
//! the graph of waiters is a set of paths and a deadlock check is a walk. Other lock modes, NOWAIT and advisory
//! locks are left out: no statement takes them.

use std::collections::{BTreeMap, VecDeque};

use super::rows::RowKey;
use crate::machine::Connection;

/// What a statement waits for. A session has one transaction at most, so its connection names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The turn on a row.
    Row(RowKey),
    /// The end of a session's transaction.
    End(Connection),
}

/// The lock table of a primary.
#[derive(Debug, Default)]
pub(super) struct Locks {
    rows: BTreeMap<RowKey, Lock>,
    held: BTreeMap<Connection, Vec<RowKey>>,
    ends: BTreeMap<Connection, Vec<Waiter>>,
    /// Who became the first in a queue and still waits: for someone else than before, so its wait begins anew.
    pub(super) moved_up: Vec<Connection>,
    /// How many waits there have been.
    waits: u64,
}

/// A session in a queue, ordered by when it began to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiter {
    number: u64,
    session: Connection,
}

#[derive(Debug)]
struct Lock {
    holder: Connection,
    written: bool,
    queue: VecDeque<Waiter>,
}

impl Locks {
    /// Takes the row if it is free or already `me`'s; else says what to wait for. Does not queue.
    pub(super) fn acquire(&mut self, me: Connection, key: &RowKey) -> Result<(), Wait> {
        match self.rows.get(key) {
            Some(lock) if lock.holder == me => Ok(()),
            Some(_) => Err(Wait::Row(key.clone())),
            None => {
                let lock = Lock { holder: me, written: false, queue: VecDeque::new() };
                self.rows.insert(key.clone(), lock);
                self.held.entry(me).or_default().push(key.clone());
                Ok(())
            }
        }
    }

    /// Notes that the holder of the row has an uncommitted version of it.
    pub(super) fn mark_written(&mut self, key: &RowKey) {
        if let Some(lock) = self.rows.get_mut(key) {
            lock.written = true;
        }
    }

    /// Who has an uncommitted version of the row.
    pub(super) fn writer(&self, key: &RowKey) -> Option<Connection> {
        self.rows.get(key).filter(|lock| lock.written).map(|lock| lock.holder)
    }

    /// Puts `me` at the end of the queue.
    pub(super) fn enqueue(&mut self, me: Connection, wait: &Wait) {
        self.waits += 1;
        let waiter = Waiter { number: self.waits, session: me };
        match wait {
            Wait::Row(key) => {
                if let Some(lock) = self.rows.get_mut(key) {
                    lock.queue.push_back(waiter);
                }
            }
            Wait::End(other) => self.ends.entry(*other).or_default().push(waiter),
        }
    }

    /// Takes `me` out of the queue.
    pub(super) fn withdraw(&mut self, me: Connection, wait: &Wait) {
        match wait {
            Wait::Row(key) => {
                if let Some(lock) = self.rows.get_mut(key) {
                    let was_first = lock.queue.front().is_some_and(|first| first.session == me);
                    lock.queue.retain(|waiter| waiter.session != me);
                    self.moved_up.extend(lock.queue.front().filter(|_| was_first).map(|first| first.session));
                }
            }
            Wait::End(other) => {
                if let Some(waiters) = self.ends.get_mut(other) {
                    waiters.retain(|waiter| waiter.session != me);
                }
            }
        }
    }

    /// Whose transaction has to end before the wait of `me` can. Of those who queue for a row only the first waits for
    /// its holder; the others wait for the first, as for PostgreSQL's lock on the tuple.
    pub(super) fn blocker(&self, me: Connection, wait: &Wait) -> Option<Connection> {
        match wait {
            Wait::Row(key) => self.rows.get(key).map(|lock| match lock.queue.front() {
                Some(first) if first.session != me => first.session,
                Some(_) | None => lock.holder,
            }),
            Wait::End(other) => Some(*other),
        }
    }

    /// Gives up one row before the transaction ends: there was nothing to lock. Returns who has it now.
    pub(super) fn release(&mut self, me: Connection, key: &RowKey) -> Option<Connection> {
        if let Some(held) = self.held.get_mut(&me) {
            held.retain(|other| other != key);
        }
        self.pass_on(key).map(|next| next.session)
    }

    /// The transaction of `me` has ended: every row passes to its next waiter. Returns who can go on, those who have
    /// waited longest first.
    pub(super) fn finish(&mut self, me: Connection) -> Vec<Connection> {
        let held = self.held.remove(&me).unwrap_or_default();
        let mut woken: Vec<_> = held.iter().filter_map(|key| self.pass_on(key)).collect();
        woken.extend(self.ends.remove(&me).unwrap_or_default());
        woken.sort_unstable();
        woken.into_iter().map(|waiter| waiter.session).collect()
    }

    /// How many rows are locked.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    fn pass_on(&mut self, key: &RowKey) -> Option<Waiter> {
        let lock = self.rows.get_mut(key)?;
        match lock.queue.pop_front() {
            Some(next) => {
                lock.holder = next.session;
                lock.written = false;
                self.moved_up.extend(lock.queue.front().map(|first| first.session));
                self.held.entry(next.session).or_default().push(key.clone());
                Some(next)
            }
            None => {
                self.rows.remove(key);
                None
            }
        }
    }
}
