//! The vocabulary of the store port, one function per statement, as documented on [`Statement`].
//!
//! A function here decides which rows a statement is about, in which order, from what the transaction sees when the
//! statement begins. Locking, waiting and rechecking are [`super::execution`]'s.

mod inbox;
mod outbox;
mod queue;
mod rows;
mod text;

use stormglass_runtime::{Image, Statement};

use super::{
    execution::{Execution, Planned},
    request::SqlError,
};

/// Whether the statement only reads: what a standby allows (D18).
pub(super) fn only_reads(statement: &Statement<Image>) -> bool {
    match statement {
        Statement::BlockedKeys { .. } | Statement::ReadDead { .. } | Statement::ReadOutbox { .. } => true,
        Statement::OpenPositions { .. }
        | Statement::LockPositions { .. }
        | Statement::MovePositions { .. }
        | Statement::TakeInbox { .. }
        | Statement::LockRows { .. }
        | Statement::InsertRows { .. }
        | Statement::UpdateRows { .. }
        | Statement::Enqueue { .. }
        | Statement::Emit { .. }
        | Statement::Claim { .. }
        | Statement::LockPending { .. }
        | Statement::LockDead { .. }
        | Statement::ChangePending { .. }
        | Statement::AcquireLease { .. }
        | Statement::DeleteOutbox { .. }
        | Statement::PruneInbox { .. } => false,
    }
}

/// Begins a statement.
pub(super) fn plan(on: &mut Execution<'_>, statement: Statement<Image>) -> Result<Planned, SqlError> {
    text::check(&statement)?;
    match statement {
        Statement::OpenPositions { consumer, positions } => Ok(inbox::open_positions(&consumer, positions)),
        Statement::LockPositions { consumer, partitions } => {
            Ok(inbox::lock_positions(on, &consumer, partitions))
        }
        Statement::MovePositions { consumer, positions } => {
            Ok(inbox::move_positions(on, &consumer, positions))
        }
        Statement::TakeInbox { consumer, entries } => Ok(inbox::take(on, &consumer, entries)),
        Statement::PruneInbox { consumer, below, limit } => Ok(inbox::prune(on, &consumer, &below, limit)),
        Statement::LockRows { table, keys } => rows::lock(on, &table, keys),
        Statement::InsertRows { table, rows } => rows::insert(on, &table, rows),
        Statement::UpdateRows { table, rows } => rows::update(on, &table, rows),
        Statement::BlockedKeys { consumer, keys, after_death } => {
            Ok(queue::blocked_keys(on, &consumer, keys, after_death))
        }
        Statement::Enqueue { consumer, rows } => queue::enqueue(on, &consumer, rows),
        Statement::Claim { consumer, claim, limit, after_death } => {
            queue::claim(on, &queue::Claiming { consumer, claim, limit, after_death })
        }
        Statement::LockPending { consumer, keys, limit, after_death } => {
            Ok(queue::lock(on, &consumer, queue::Locking { keys, limit, after_death }))
        }
        Statement::LockDead { consumer, ids } => Ok(queue::lock_dead(on, &consumer, ids)),
        Statement::ChangePending { consumer, changes } => Ok(queue::change(on, &consumer, changes)),
        Statement::ReadDead { consumer, limit } => Ok(queue::read_dead(on, &consumer, limit)),
        Statement::AcquireLease { name, holder, ttl } => Ok(outbox::acquire_lease(on, &name, holder, ttl)),
        Statement::Emit { records } => outbox::emit(on, records),
        Statement::ReadOutbox { limit } => Ok(outbox::read(on, limit)),
        Statement::DeleteOutbox { seqs } => Ok(outbox::delete(on, seqs)),
    }
}

/// A limit as a count.
fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
