//! The outbox, and the lease of the relay that empties it.

use std::time::Duration;

use stormglass_runtime::{Answer, Lease, Record};
use uuid::Uuid;

use super::count;
use crate::database::{
    execution::{Edit, Execution, Finish, Plan, Planned, Step},
    request::SqlError,
    rows::{self, Row, RowKey},
};

pub(super) fn emit(on: &mut Execution<'_>, records: Vec<Record>) -> Result<Planned, SqlError> {
    let written_at = on.now();
    for record in records {
        let (bytes, limit) = (record.size(), on.config.max_record_bytes);
        if bytes > limit {
            return Err(SqlError::RecordTooLarge { bytes, limit });
        }
        if on.config.topics.as_ref().is_some_and(|topics| !topics.contains(&record.topic)) {
            return Err(SqlError::UnknownTopic(record.topic.to_string()));
        }
        let key = RowKey::Outbox(on.sequences.outbox.allocate());
        on.insert_new(&key, Row::Outbox { record, written_at })?;
    }
    Ok(Planned::Answer(Answer::Done))
}

pub(super) fn read(on: &Execution<'_>, limit: u32) -> Planned {
    let rows = on.range(RowKey::outbox()).filter_map(|(key, row)| rows::outbox_row(key, row));
    Planned::Answer(Answer::Outbox(rows.take(count(limit)).collect()))
}

pub(super) fn delete(on: &Execution<'_>, mut seqs: Vec<i64>) -> Planned {
    seqs.sort_unstable();
    seqs.dedup();
    let keys = seqs.into_iter().map(RowKey::Outbox).filter(|key| on.row(key).is_some());
    Planned::Steps(Plan::new(keys.map(|key| Step::Edit(key, Edit::Delete)), Finish::Count))
}

/// INSERT … ON CONFLICT DO UPDATE … WHERE: inserts, else locks the row and takes it where the condition holds.
pub(super) fn acquire_lease(on: &Execution<'_>, name: &str, holder: Uuid, ttl: Duration) -> Planned {
    let key = RowKey::Lease(name.into());
    let lease = Lease { holder, epoch: 1, expires_at: on.clock.after(ttl) };
    let steps =
        [Step::Insert(key.clone(), Row::Lease(lease)), Step::Edit(key.clone(), Edit::Lease(holder, ttl))];
    Planned::Steps(Plan::new(steps, Finish::Lease(key)))
}
