//! An independent model of row locks at READ COMMITTED: lists searched from the front, one row type, no indexes.
//!
//! It shares no code with the machine and decides differently: after every step it recomputes from scratch who may
//! go on, by replaying the whole queue of waiting statements in the order in which they began to wait. What it
//! predicts: every answer, who waits, the committed rows, and that a deadlock is exactly a cycle.

use std::collections::{BTreeMap, BTreeSet};

/// How long a statement waits before it looks for a deadlock.
pub const DEADLOCK_TIMEOUT_MS: u64 = 1_000;

/// What a session does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Locks accounts, in order.
    Lock(Vec<u32>),
    /// Sets an account's balance where its version is the one that the session saw last.
    Set(u32, i64),
    /// Creates an account.
    Create(u32),
    /// Takes events into the inbox.
    Take(Vec<u8>),
    /// Puts one row into the queue, under an ordering key.
    Enqueue(u8),
    /// Claims queue rows.
    Claim(u8),
    Commit,
    Rollback,
    /// Time passes, enough for deadlocks to be found.
    Pause,
}

/// What names a row. The order is the order of locking within a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Account(u32),
    Event(u8),
    /// Ordering key and number.
    Queued(u8, i64),
}

/// A row: balance and version, or attempts and whether it is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(pub i64, pub i64);

/// What a statement or a transaction's end is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Rows(Vec<(u32, Value)>),
    Count(u64),
    Fresh(Vec<u8>),
    Seq(i64),
    Claimed(Vec<i64>),
    Committed,
    RolledBack,
    Deadlock,
}

#[derive(Clone, Debug)]
struct Work {
    /// What is left to be done, row by row.
    rows: Vec<(Name, Task)>,
    reply: Reply,
}

#[derive(Clone, Debug)]
enum Task {
    Lock,
    Set { version: i64, balance: i64 },
    Create,
}

#[derive(Clone, Debug, Default)]
struct Open {
    own: BTreeMap<Name, Value>,
    locks: BTreeSet<Name>,
}

/// The model.
#[derive(Debug, Default)]
pub struct Oracle {
    pub committed: BTreeMap<Name, Value>,
    sessions: BTreeMap<usize, Open>,
    /// Statements that wait, oldest wait first.
    waiting: Vec<Waiting>,
    /// The versions each session saw last.
    seen: BTreeMap<(usize, u32), i64>,
    seq: i64,
    /// When each queue row is due.
    due: BTreeMap<i64, u64>,
    /// Milliseconds.
    now: u64,
}

#[derive(Debug)]
struct Waiting {
    session: usize,
    blocked: Blocked,
    work: Work,
    since: u64,
    /// Whether it has looked for a deadlock.
    checked: bool,
}

/// What stands in a statement's way.
#[derive(Clone, Debug, PartialEq)]
enum Blocked {
    /// Its turn on a row comes after this session's, or after others that queue.
    Turn(Name),
    /// The end of this session's transaction.
    End(usize),
}

impl Oracle {
    pub fn is_waiting(&self, session: usize) -> bool {
        self.waiting.iter().any(|waiting| waiting.session == session)
    }

    pub fn is_open(&self, session: usize) -> bool {
        self.sessions.contains_key(&session)
    }

    pub fn locked_rows(&self) -> usize {
        self.sessions.values().map(|open| open.locks.len()).sum()
    }

    /// Does it, `passed` milliseconds after the action before. Returns the replies that follow.
    pub fn act(&mut self, session: usize, action: &Action, passed: u64) -> Vec<(usize, Reply)> {
        self.now += passed;
        let mut replies = self.find_deadlocks();
        if self.is_waiting(session) || replies.iter().any(|(victim, _)| *victim == session) {
            return replies;
        }
        replies.extend(self.perform_action(session, action));
        replies
    }

    /// Whether the session could be given this action now.
    pub fn can_act(&self, session: usize, action: &Action) -> bool {
        match action {
            Action::Pause => true,
            Action::Commit | Action::Rollback => self.is_open(session) && !self.is_waiting(session),
            _ => !self.is_waiting(session),
        }
    }

    fn perform_action(&mut self, session: usize, action: &Action) -> Vec<(usize, Reply)> {
        match action {
            Action::Pause => Vec::new(),
            Action::Commit => self.end(session, Reply::Committed),
            Action::Rollback => self.end(session, Reply::RolledBack),
            Action::Enqueue(key) => {
                self.seq += 1;
                let name = Name::Queued(*key, self.seq);
                let open = self.open(session);
                open.locks.insert(name.clone());
                open.own.insert(name, Value(0, 0));
                self.due.insert(self.seq, self.now);
                vec![(session, Reply::Seq(self.seq))]
            }
            Action::Claim(limit) => {
                self.open(session);
                vec![(session, self.claim(session, usize::from(*limit)))]
            }
            Action::Lock(_) | Action::Set(..) | Action::Create(_) | Action::Take(_) => {
                self.open(session);
                let work = self.work(session, action);
                self.go_on(session, work, None)
            }
        }
    }

    fn open(&mut self, session: usize) -> &mut Open {
        self.sessions.entry(session).or_default()
    }

    /// Whoever has waited for the deadlock timeout looks once whether it waits for itself, and gives up if so.
    fn find_deadlocks(&mut self) -> Vec<(usize, Reply)> {
        let mut replies = Vec::new();
        loop {
            let due = self
                .waiting
                .iter_mut()
                .filter(|waiting| !waiting.checked && waiting.since + DEADLOCK_TIMEOUT_MS <= self.now);
            let Some(first) = due.min_by_key(|waiting| (waiting.since, waiting.session)) else {
                return replies;
            };
            first.checked = true;
            let session = first.session;
            if self.is_deadlocked(session) {
                if let Some(at) = self.waiting.iter().position(|waiting| waiting.session == session) {
                    self.leave(at);
                }
                replies.push((session, Reply::Deadlock));
                replies.extend(self.drop_locks(session));
            }
        }
    }

    /// Whether the session waits, through others, for itself.
    fn is_deadlocked(&self, session: usize) -> bool {
        let mut reached = BTreeSet::new();
        let mut next = self.waits_for(session);
        while let Some(other) = next {
            if other == session {
                return true;
            }
            if !reached.insert(other) {
                return false;
            }
            next = self.waits_for(other);
        }
        false
    }

    fn waits_for(&self, session: usize) -> Option<usize> {
        let waiting = self.waiting.iter().find(|waiting| waiting.session == session)?;
        match &waiting.blocked {
            Blocked::End(other) => Some(*other),
            // Only the first in line waits for the holder; the others wait for the first.
            Blocked::Turn(name) => match self.waiting.iter().find(|other| other.blocked == waiting.blocked) {
                Some(first) if first.session != session => Some(first.session),
                _ => self.holder(name),
            },
        }
    }

    fn holder(&self, name: &Name) -> Option<usize> {
        self.sessions.iter().find(|(_, open)| open.locks.contains(name)).map(|(session, _)| *session)
    }

    fn visible(&self, session: usize, name: &Name) -> Option<Value> {
        let own = self.sessions.get(&session).and_then(|open| open.own.get(name));
        own.or_else(|| self.committed.get(name)).copied()
    }

    /// The rows a statement is about: those that its session sees now.
    fn work(&self, session: usize, action: &Action) -> Work {
        let exists = |name: &Name| self.visible(session, name).is_some();
        match action {
            Action::Lock(ids) => {
                let ids: BTreeSet<_> = ids.iter().copied().collect();
                let rows = ids.into_iter().map(Name::Account).filter(exists).map(|name| (name, Task::Lock));
                Work { rows: rows.collect(), reply: Reply::Rows(Vec::new()) }
            }
            Action::Set(id, balance) => {
                let version = self.seen.get(&(session, *id)).copied().unwrap_or(1);
                let matches = self.visible(session, &Name::Account(*id)).is_some_and(|row| row.1 == version);
                let row = matches.then_some((Name::Account(*id), Task::Set { version, balance: *balance }));
                Work { rows: row.into_iter().collect(), reply: Reply::Count(0) }
            }
            Action::Create(id) => {
                Work { rows: vec![(Name::Account(*id), Task::Create)], reply: Reply::Count(0) }
            }
            Action::Take(ids) => {
                let ids: BTreeSet<_> = ids.iter().copied().collect();
                let rows = ids.into_iter().map(|id| (Name::Event(id), Task::Create)).collect();
                Work { rows, reply: Reply::Fresh(Vec::new()) }
            }
            Action::Enqueue(_) | Action::Claim(_) | Action::Commit | Action::Rollback | Action::Pause => {
                unreachable!("these are not done row by row")
            }
        }
    }

    /// The version that `Set` asks for.
    pub fn version_seen(&self, session: usize, id: u32) -> i64 {
        self.seen.get(&(session, id)).copied().unwrap_or(1)
    }

    /// Goes row by row until done or in someone's way. The row whose turn it is may be `taken` past the queue.
    fn go_on(&mut self, session: usize, mut work: Work, mut taken: Option<Name>) -> Vec<(usize, Reply)> {
        while let Some((name, task)) = work.rows.first().cloned() {
            let its_turn = taken.take().is_some_and(|taken| taken == name);
            if let Some(blocked) = self.obstacle(session, &name, &task).filter(|_| !its_turn) {
                self.waiting.push(Waiting { session, blocked, work, since: self.now, checked: false });
                return Vec::new();
            }
            self.perform(session, &name, &task, &mut work.reply);
            work.rows.remove(0);
        }
        if let Reply::Rows(rows) = &mut work.reply {
            // Rows are answered as they are at the end of the statement; nobody else can have changed them.
            for (id, value) in rows {
                self.seen.insert((session, *id), value.1);
            }
        }
        vec![(session, work.reply)]
    }

    fn obstacle(&self, session: usize, name: &Name, task: &Task) -> Option<Blocked> {
        let holder = self.holder(name);
        if holder == Some(session) {
            return None;
        }
        match task {
            // Nobody overtakes those who wait for the row already.
            Task::Lock | Task::Set { .. } => {
                let turn = Blocked::Turn(name.clone());
                let queued = self.waiting.iter().any(|waiting| waiting.blocked == turn);
                (holder.is_some() || queued).then_some(turn)
            }
            // A row that is merely locked exists: an insert need not wait to see that.
            Task::Create => {
                let writer = holder.filter(|holder| self.sessions[holder].own.contains_key(name));
                writer.map(Blocked::End)
            }
        }
    }

    fn perform(&mut self, session: usize, name: &Name, task: &Task, reply: &mut Reply) {
        let current = self.visible(session, name);
        let open = self.sessions.get_mut(&session).expect("its transaction is open");
        match (task, current) {
            (Task::Create, Some(_)) | (Task::Lock | Task::Set { .. }, None) => {}
            (Task::Create, None) => {
                open.locks.insert(name.clone());
                open.own.insert(name.clone(), Value(0, 1));
                count(reply, name);
            }
            (Task::Lock, Some(value)) => {
                open.locks.insert(name.clone());
                if let (Reply::Rows(rows), Name::Account(id)) = (reply, name) {
                    rows.push((*id, value));
                }
            }
            (Task::Set { version, balance }, Some(value)) => {
                open.locks.insert(name.clone());
                if value.1 == *version {
                    open.own.insert(name.clone(), Value(*balance, version + 1));
                    count(reply, name);
                }
            }
        }
    }

    fn claim(&mut self, session: usize, limit: usize) -> Reply {
        let all: BTreeSet<Name> =
            self.committed.keys().chain(self.sessions[&session].own.keys()).cloned().collect();
        let mut heads: BTreeMap<u8, i64> = BTreeMap::new();
        for name in &all {
            if let Name::Queued(key, seq) = name {
                heads.entry(*key).or_insert(*seq);
            }
        }
        let mut order: Vec<_> = heads.into_iter().map(|(key, seq)| (self.due[&seq], seq, key)).collect();
        order.retain(|(due, ..)| *due <= self.now);
        order.sort_unstable();
        let mut claimed = Vec::new();
        for (_, seq, key) in order {
            let name = Name::Queued(key, seq);
            let free = self.holder(&name).is_none_or(|holder| holder == session);
            let Some(Value(attempts, 0)) = self.visible(session, &name) else { continue };
            if free && claimed.len() < limit {
                let open = self.sessions.get_mut(&session).expect("its transaction is open");
                open.locks.insert(name.clone());
                open.own.insert(name, Value(attempts + 1, 1));
                claimed.push(seq);
            }
        }
        Reply::Claimed(claimed)
    }

    fn end(&mut self, session: usize, reply: Reply) -> Vec<(usize, Reply)> {
        if reply == Reply::Committed {
            let own = self.sessions.get(&session).map(|open| open.own.clone()).unwrap_or_default();
            self.committed.extend(own);
        }
        let mut replies = vec![(session, reply)];
        replies.extend(self.drop_locks(session));
        replies
    }

    /// Ends the transaction. Whoever is first in line for one of its rows goes on, then whoever waited for its end.
    fn drop_locks(&mut self, session: usize) -> Vec<(usize, Reply)> {
        self.sessions.remove(&session);
        let mut replies = Vec::new();
        // From the front, again and again, until nobody can go on.
        while let Some(at) = (0..self.waiting.len()).find(|&at| self.can_go_on(at)) {
            let Waiting { session, blocked, work, .. } = self.leave(at);
            let taken = match blocked {
                Blocked::Turn(name) => Some(name),
                Blocked::End(_) => None,
            };
            replies.extend(self.go_on(session, work, taken));
        }
        replies
    }

    /// Takes a statement out of the line. Who was behind the first now waits for someone else, from now on.
    fn leave(&mut self, at: usize) -> Waiting {
        let left = self.waiting.remove(at);
        let first = self.waiting[..at].iter().all(|ahead| ahead.blocked != left.blocked);
        let next = self.waiting.iter_mut().find(|waiting| waiting.blocked == left.blocked);
        if let (true, Blocked::Turn(_), Some(next)) = (first, &left.blocked, next) {
            (next.since, next.checked) = (self.now, false);
        }
        left
    }

    fn can_go_on(&self, at: usize) -> bool {
        let Waiting { session, blocked, .. } = &self.waiting[at];
        match blocked {
            Blocked::End(other) => !self.sessions.contains_key(other),
            Blocked::Turn(name) => {
                let free = self.holder(name).is_none_or(|holder| holder == *session);
                free && self.waiting[..at].iter().all(|ahead| ahead.blocked != *blocked)
            }
        }
    }
}

fn count(reply: &mut Reply, name: &Name) {
    match (reply, name) {
        (Reply::Count(count), _) => *count += 1,
        (Reply::Fresh(ids), Name::Event(id)) => ids.push(*id),
        _ => {}
    }
}
