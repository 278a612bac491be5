//! The vocabulary of the store port, one SQL statement each, as documented on [`Statement`].
//!
//! The SQL stands in `../sql`, checked when it is compiled against the schema as `.sqlx` describes it (`just sqlx-prepare`
//! describes it anew, a container test holds it to the migrations). Every statement takes whole batches as
//! arrays, sorted here as the port sorts them: `unnest` keeps their order, so it is the order of the locks. `LATERAL`
//! fixes the plan where a join could be turned around, since a plan made for empty tables stays.
//!
//! Due times, leases and deaths count from the moment of their statement (`clock_timestamp()`), not from the start of
//! a transaction that may have waited for locks since.

mod inbox;
mod outbox;
mod queue;
mod values;

use std::collections::BTreeSet;

use sqlx::PgConnection;
use stormglass_runtime::{Answer, Failure, Reason, Record, RowSet, Statement, Topic};

use super::tables::Tables;

/// Everything that a session can be asked.
pub(super) struct Vocabulary<R: RowSet> {
    pub(super) tables: Tables<R>,
    pub(super) record_bytes_max: usize,
    pub(super) topics: Option<BTreeSet<Topic>>,
}

impl<R: RowSet> Vocabulary<R> {
    /// Executes a statement. After an error the transaction can only be rolled back.
    pub(super) async fn execute(
        &self,
        on: &mut PgConnection,
        statement: Statement<R>,
    ) -> Result<Answer<R>, Failure> {
        match statement {
            Statement::OpenPositions { consumer, positions } => {
                inbox::open_positions(on, &consumer, &positions).await.map(Answer::Positions)
            }
            Statement::LockPositions { consumer, partitions } => {
                inbox::lock_positions(on, &consumer, &partitions).await.map(Answer::Positions)
            }
            Statement::MovePositions { consumer, positions } => {
                inbox::move_positions(on, &consumer, &positions).await.map(Answer::Count)
            }
            Statement::TakeInbox { consumer, entries } => {
                inbox::take(on, &consumer, &entries).await.map(Answer::Fresh)
            }
            Statement::PruneInbox { consumer, below, limit } => {
                inbox::prune(on, &consumer, &below, limit).await.map(Answer::Count)
            }
            Statement::LockRows { table, keys } => {
                self.tables.lock(on, &table, &keys).await.map(Answer::Rows)
            }
            Statement::InsertRows { table, rows } => {
                self.tables.insert(on, &table, &rows).await.map(Answer::Count)
            }
            Statement::UpdateRows { table, rows } => {
                self.tables.update(on, &table, &rows).await.map(Answer::Count)
            }
            Statement::BlockedKeys { consumer, keys, after_death } => {
                queue::blocked_keys(on, &consumer, keys, after_death).await.map(Answer::Keys)
            }
            Statement::Enqueue { consumer, rows } => {
                queue::enqueue(on, &consumer, &rows).await.map(Answer::Sequence)
            }
            Statement::Claim { consumer, claim, limit, after_death } => {
                let asked = queue::Claiming { consumer, claim, limit, after_death };
                queue::claim(on, &asked).await.map(Answer::Pending)
            }
            Statement::LockPending { consumer, keys, limit, after_death } => {
                let asked = queue::Locking { consumer, keys, limit, after_death };
                queue::lock(on, asked).await.map(Answer::Pending)
            }
            Statement::LockDead { consumer, ids } => {
                queue::lock_dead(on, &consumer, ids).await.map(Answer::Pending)
            }
            Statement::ChangePending { consumer, changes } => {
                queue::change(on, &consumer, &changes).await.map(Answer::Count)
            }
            Statement::ReadDead { consumer, limit } => {
                queue::read_dead(on, &consumer, limit).await.map(Answer::Pending)
            }
            Statement::Emit { records } => {
                self.check(&records)?;
                outbox::emit(on, &records).await.map(|()| Answer::Done)
            }
            Statement::ReadOutbox { limit } => outbox::read(on, limit).await.map(Answer::Outbox),
            Statement::DeleteOutbox { seqs } => outbox::delete(on, &seqs).await.map(Answer::Count),
            Statement::AcquireLease { name, holder, ttl } => {
                outbox::acquire_lease(on, &name, holder, ttl).await.map(Answer::Lease)
            }
        }
    }

    /// Refuses what the broker would refuse.
    fn check(&self, records: &[Record]) -> Result<(), Failure> {
        for record in records {
            let (bytes, limit) = (record.size(), self.record_bytes_max);
            if bytes > limit {
                return Err(Failure::Rejected(Reason::TooLarge { bytes, limit }));
            }
            if self.topics.as_ref().is_some_and(|topics| !topics.contains(&record.topic)) {
                return Err(Failure::Rejected(Reason::UnknownTopic(record.topic.to_string())));
            }
        }
        Ok(())
    }
}
