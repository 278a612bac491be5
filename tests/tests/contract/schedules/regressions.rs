//! Programs that once told the model from the server, shrunk: they run before any that is drawn.

use super::program::{
    Action::{Ask as Asks, Commit, Pause},
    Ask, Death, Fate, Program, Table, When,
};

/// Each with what was wrong.
pub fn regressions() -> Vec<(&'static str, Program)> {
    vec![
        (
            "a claim went by when its transaction began",
            Program(vec![
                (0, Asks(Ask::ReadOutbox(1))),
                (1, Asks(Ask::Enqueue(vec![(2, Fate::Due(When::Now))]))),
                (1, Commit),
                (0, Asks(Ask::Claim(3, When::Tomorrow, Death::Hold))),
            ]),
        ),
        (
            "a lease went by when its transaction began",
            Program(vec![
                (0, Asks(Ask::ReadOutbox(1))),
                (1, Asks(Ask::AcquireLease(0, When::Now))),
                (1, Commit),
                (0, Asks(Ask::AcquireLease(1, When::Tomorrow))),
            ]),
        ),
        (
            "a change was made to a version that its statement had not seen",
            Program(vec![
                (0, Asks(Ask::Claim(1, When::Tomorrow, Death::Hold))),
                (1, Asks(Ask::ChangePending(vec![(0, Some(Fate::Dead))]))),
                (0, Commit),
            ]),
        ),
        (
            "a prune looked at outbox rows that its own transaction had deleted",
            Program(vec![(0, Asks(Ask::DeleteOutbox(vec![1, 2]))), (0, Asks(Ask::PruneInbox(1, 10)))]),
        ),
        (
            "who waits in line was not part of a deadlock",
            Program(vec![
                (0, Asks(Ask::LockRows(Table::Accounts, vec![0]))),
                (1, Asks(Ask::LockRows(Table::Accounts, vec![1]))),
                (2, Asks(Ask::LockRows(Table::Accounts, vec![0]))),
                (1, Asks(Ask::LockRows(Table::Accounts, vec![0]))),
                (0, Asks(Ask::LockRows(Table::Accounts, vec![1]))),
                (0, Pause),
            ]),
        ),
    ]
}
