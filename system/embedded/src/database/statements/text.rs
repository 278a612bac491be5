//! Text that PostgreSQL cannot hold: a NUL in a text or JSON value fails with 22021 or 22P05.
//!
//! Only text columns are looked at; keys, headers, values and calls are `bytea` and hold anything.

use stormglass_runtime::{Image, PendingChange, Position, Statement};

use crate::database::request::SqlError;

/// Checks every text parameter of a statement.
pub(super) fn check(statement: &Statement<Image>) -> Result<(), SqlError> {
    match statement {
        Statement::OpenPositions { consumer, positions: at }
        | Statement::MovePositions { consumer, positions: at }
        | Statement::PruneInbox { consumer, below: at, .. } => {
            plain(consumer.as_str())?;
            at.iter().try_for_each(topic)
        }
        Statement::LockPositions { consumer, partitions } => {
            plain(consumer.as_str())?;
            partitions.iter().try_for_each(|partition| plain(partition.topic.as_str()))
        }
        Statement::TakeInbox { consumer, entries } => {
            plain(consumer.as_str())?;
            entries.iter().try_for_each(|entry| topic(&entry.at))
        }
        Statement::LockRows { keys, .. } => keys.iter().try_for_each(|key| plain(&key.key)),
        Statement::InsertRows { rows, .. } => rows.iter().try_for_each(image),
        Statement::UpdateRows { rows, .. } => rows.iter().try_for_each(|versioned| image(&versioned.row)),
        Statement::Enqueue { consumer, rows } => {
            plain(consumer.as_str())?;
            rows.iter().try_for_each(|row| {
                topic(&row.origin)?;
                plain(row.error.as_deref().unwrap_or_default())
            })
        }
        Statement::ChangePending { consumer, changes } => {
            plain(consumer.as_str())?;
            changes.iter().try_for_each(|change| match change {
                PendingChange::Delete(_) => Ok(()),
                PendingChange::Update { error, .. } => plain(error.as_deref().unwrap_or_default()),
            })
        }
        Statement::Emit { records } => records.iter().try_for_each(|record| plain(record.topic.as_str())),
        Statement::AcquireLease { name, .. } => plain(name),
        Statement::BlockedKeys { consumer, .. }
        | Statement::Claim { consumer, .. }
        | Statement::LockPending { consumer, .. }
        | Statement::LockDead { consumer, .. }
        | Statement::ReadDead { consumer, .. } => plain(consumer.as_str()),
        Statement::ReadOutbox { .. } | Statement::DeleteOutbox { .. } => Ok(()),
    }
}

fn topic(position: &Position) -> Result<(), SqlError> {
    plain(position.partition.topic.as_str())
}

fn image(image: &Image) -> Result<(), SqlError> {
    plain(&image.key)?;
    if escapes_nul(&image.body) { Err(nul()) } else { plain(&image.body) }
}

fn plain(text: &str) -> Result<(), SqlError> {
    if text.contains('\0') { Err(nul()) } else { Ok(()) }
}

fn nul() -> SqlError {
    SqlError::InvalidValue("NUL in text".to_owned())
}

/// Whether JSON text holds the escape of a NUL; a backslash that is itself escaped begins none.
fn escapes_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let backslashes = json.as_bytes()[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        backslashes.is_multiple_of(2)
    })
}

#[cfg(test)]
mod tests {
    use super::escapes_nul;

    #[test]
    fn an_escaped_nul_is_found_and_an_escaped_backslash_is_not() {
        assert!(escapes_nul(&serde_json::to_string("a\0b").unwrap()));
        assert!(escapes_nul(&serde_json::to_string("\\\0").unwrap()));
        assert!(!escapes_nul(&serde_json::to_string("\\u0000").unwrap()));
    }
}
