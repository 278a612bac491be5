//! What is compared of answers, errors and rows: everything but what the two sides may write differently.
//!
//! Times are today or tomorrow, texts of errors are left out, and a row's body is its values.

use std::collections::BTreeMap;

use stormglass_embedded::database::Snapshot;
use stormglass_runtime::{Answer, Failure, Reason, Timestamp};

use crate::database::cases::domain::Row;

/// Today or tomorrow.
fn day(at: Timestamp, noon: Timestamp) -> Timestamp {
    Timestamp(i64::from(at > noon))
}

fn normal_pending(row: &mut stormglass_runtime::Pending, noon: Timestamp) {
    row.due = day(row.due, noon);
    row.dead_at = row.dead_at.map(|at| day(at, noon));
}

pub fn normal_answer(mut answer: Answer<Row>, noon: Timestamp) -> Answer<Row> {
    match &mut answer {
        Answer::Pending(rows) => rows.iter_mut().for_each(|row| normal_pending(row, noon)),
        Answer::Lease(lease) => lease.expires_at = day(lease.expires_at, noon),
        Answer::Done
        | Answer::Count(_)
        | Answer::Positions(_)
        | Answer::Fresh(_)
        | Answer::Keys(_)
        | Answer::Rows(_)
        | Answer::Sequence(_)
        | Answer::Outbox(_) => {}
    }
    answer
}

/// Without texts: only the class is the contract's.
pub fn normal_failure(failure: Failure) -> Failure {
    match failure {
        Failure::Rejected(Reason::InvalidValue(_)) => Failure::Rejected(Reason::InvalidValue(String::new())),
        Failure::Rejected(Reason::Invalid(_)) => Failure::Rejected(Reason::Invalid(String::new())),
        other => other,
    }
}

pub fn normal_tables(mut tables: Snapshot, noon: Timestamp) -> Snapshot {
    tables.pending.values_mut().for_each(|row| normal_pending(row, noon));
    for lease in tables.leases.values_mut() {
        lease.expires_at = Timestamp(0);
    }
    for row in tables.rows.values_mut().flat_map(BTreeMap::values_mut) {
        // The bodies of the two sides are the same values, written differently.
        let value: serde_json::Value = serde_json::from_str(&row.row.body).expect("a body is JSON");
        let fields =
            value.as_object().and_then(|kind| kind.values().next()).filter(|inner| inner.is_object());
        let mut fields = fields.unwrap_or(&value).clone();
        if let Some(map) = fields.as_object_mut() {
            map.remove("key");
            map.remove("version");
        }
        row.row.body = fields.to_string();
    }
    tables
}
