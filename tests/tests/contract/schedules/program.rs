//! A program: what two to four sessions do, one step after the other. Drawn at random, or written down.
//!
//! Keys are few, so that sessions collide. Times are either at once or a day away: what is in between would depend on how
//! fast a machine is. Rows that only a run can name (a number out of a sequence, a version) are named by how they come
//! up in it.

use std::fmt;

use proptest::{collection::vec, prelude::*};

/// Steps of sessions, numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Program(pub Vec<(usize, Action)>);

/// Sessions at most.
pub const SESSIONS: usize = 4;

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Executes a statement; opens the transaction where none is open.
    Ask(Ask),
    Commit,
    Rollback,
    /// The client drops its session, whether a statement runs or not.
    Drop,
    /// The operator ends the session.
    Terminate,
    /// Time passes, enough for deadlocks to be found.
    Pause,
}

/// A statement of the port, its parameters by number.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    OpenPositions(Vec<u32>),
    LockPositions(Vec<u32>),
    /// Partition and offset.
    MovePositions(Vec<(u32, i64)>),
    TakeInbox(Vec<u8>),
    /// Below this offset, so many at most.
    PruneInbox(i64, u32),
    BlockedKeys(Vec<u8>, Death),
    LockRows(Table, Vec<u32>),
    /// Key and amount; a negative amount breaks a constraint.
    InsertRows(Table, Vec<(u32, i64)>),
    /// Key and amount, at the version that the session saw last.
    UpdateRows(Table, Vec<(u32, i64)>),
    Enqueue(Vec<(u8, Fate)>),
    Emit(u8),
    Claim(u32, When, Death),
    LockPending(Vec<u8>, u32, Death),
    /// The rows that were enqueued as these.
    LockDead(Vec<u8>),
    /// What becomes of the row that was enqueued as this one; `None` deletes it.
    ChangePending(Vec<(u8, Option<Fate>)>),
    ReadDead(u32),
    /// Who asks, and until when.
    AcquireLease(u8, When),
    ReadOutbox(u32),
    DeleteOutbox(Vec<i64>),
}

/// A table with columns, or one that is kept in `rows`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Table {
    Accounts,
    Stock,
}

/// At once, or in a day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    Now,
    Tomorrow,
}

/// What a queue row is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    Due(When),
    Claimed(When),
    Dead,
}

/// Whether a dead row blocks its key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Death {
    Hold,
    Skip,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (session, action)) in self.0.iter().enumerate() {
            writeln!(f, "{number:>3}  session {session}: {}", Said(action))?;
        }
        Ok(())
    }
}

struct Said<'a>(&'a Action);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Action::Ask(ask) => write!(f, "{ask:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What every run begins with, as session 0: a row of each kind, committed.
pub fn prelude() -> Vec<Action> {
    let rows = vec![(0, Fate::Due(When::Now)), (0, Fate::Due(When::Now)), (1, Fate::Due(When::Now))];
    let asks = [
        Ask::OpenPositions(vec![0, 1]),
        Ask::TakeInbox(vec![0]),
        Ask::InsertRows(Table::Accounts, vec![(0, 100), (1, 100)]),
        Ask::InsertRows(Table::Stock, vec![(0, 100)]),
        Ask::Enqueue(rows),
        Ask::Emit(2),
    ];
    asks.into_iter().map(Action::Ask).chain([Action::Commit]).collect()
}

/// Programs of so many steps at most.
pub fn program(steps: usize) -> impl Strategy<Value = Program> {
    (2..=SESSIONS).prop_flat_map(move |sessions| vec((0..sessions, action()), 4..steps)).prop_map(Program)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        60 => ask().prop_map(Action::Ask),
        12 => Just(Action::Commit),
        6 => Just(Action::Rollback),
        1 => Just(Action::Drop),
        1 => Just(Action::Terminate),
        1 => Just(Action::Pause),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let positions = prop_oneof![
        vec(0..3u32, 1..3).prop_map(Ask::OpenPositions),
        vec(0..3u32, 1..3).prop_map(Ask::LockPositions),
        vec((0..3u32, 0..9i64), 1..3).prop_map(Ask::MovePositions),
    ];
    let inbox = prop_oneof![
        4 => vec(0..4u8, 1..3).prop_map(Ask::TakeInbox),
        // The port does not say which rows a limit leaves.
        1 => (0..4i64).prop_map(|below| Ask::PruneInbox(below, 10)),
    ];
    let rows = prop_oneof![
        3 => (table(), vec(0..3u32, 1..3)).prop_map(|(table, keys)| Ask::LockRows(table, keys)),
        2 => rows().prop_map(|(table, rows)| Ask::InsertRows(table, rows)),
        3 => rows().prop_map(|(table, rows)| Ask::UpdateRows(table, rows)),
    ];
    let outbox = prop_oneof![
        3 => (0..2u8, when()).prop_map(|(holder, until)| Ask::AcquireLease(holder, until)),
        1 => (1..3u8).prop_map(Ask::Emit),
        1 => (1..4u32).prop_map(Ask::ReadOutbox),
        2 => vec(1..5i64, 1..3).prop_map(Ask::DeleteOutbox),
    ];
    prop_oneof![2 => positions, 3 => inbox, 6 => rows, 6 => queue(), 2 => outbox]
}

fn queue() -> impl Strategy<Value = Ask> {
    let change = (0..6u8, proptest::option::of(fate()));
    prop_oneof![
        1 => (vec(0..3u8, 1..3), death()).prop_map(|(keys, death)| Ask::BlockedKeys(keys, death)),
        2 => vec((0..3u8, fate()), 1..3).prop_map(Ask::Enqueue),
        4 => (1..4u32, when(), death()).prop_map(|(limit, until, death)| Ask::Claim(limit, until, death)),
        3 => (vec(0..3u8, 1..3), 1..4u32, death()).prop_map(|(keys, limit, death)| Ask::LockPending(keys, limit, death)),
        1 => vec(0..6u8, 1..3).prop_map(Ask::LockDead),
        3 => vec(change, 1..3).prop_map(Ask::ChangePending),
        1 => (1..4u32).prop_map(Ask::ReadDead),
    ]
}

fn table() -> impl Strategy<Value = Table> {
    prop_oneof![3 => Just(Table::Accounts), 1 => Just(Table::Stock)]
}

/// Only a table with columns has constraints that the server checks, one row after the other.
fn rows() -> impl Strategy<Value = (Table, Vec<(u32, i64)>)> {
    let accounts = vec((0..3u32, prop_oneof![9 => 0..100i64, 1 => Just(-1)]), 1..3);
    let stock = vec((0..3u32, 0..100i64), 1..3);
    prop_oneof![
        3 => accounts.prop_map(|rows| (Table::Accounts, rows)),
        1 => stock.prop_map(|rows| (Table::Stock, rows)),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![Just(When::Now), Just(When::Tomorrow)]
}

fn death() -> impl Strategy<Value = Death> {
    prop_oneof![Just(Death::Hold), Just(Death::Skip)]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => when().prop_map(Fate::Due),
        1 => when().prop_map(Fate::Claimed),
        1 => Just(Fate::Dead),
    ]
}
