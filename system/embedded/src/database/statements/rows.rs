//! The domain's tables.

use std::collections::BTreeMap;

use stormglass_runtime::{Image, ImageKey, Versioned};

use crate::database::{
    execution::{Edit, Execution, Finish, Plan, Planned, Step},
    request::SqlError,
    rows::{Row, RowKey},
};

pub(super) fn lock(on: &Execution<'_>, table: &str, keys: Vec<ImageKey>) -> Result<Planned, SqlError> {
    let mut wanted: Vec<_> =
        keys.iter().map(|key| row_key(on, table, &key.table, &key.key)).collect::<Result<_, _>>()?;
    wanted.sort_unstable();
    wanted.dedup();
    on.schema.table(table)?;
    let steps = wanted.into_iter().filter(|key| on.row(key).is_some()).map(Step::Lock);
    Ok(Planned::Steps(Plan::new(steps, Finish::Rows)))
}

pub(super) fn insert(on: &Execution<'_>, table: &str, rows: Vec<Image>) -> Result<Planned, SqlError> {
    let mut wanted = BTreeMap::new();
    on.schema.table(table)?;
    for row in rows {
        let key = row_key(on, table, &row.table, &row.key)?;
        wanted.entry(key).or_insert(Row::Domain { body: row.body, version: 1 });
    }
    let steps = wanted.into_iter().map(|(key, row)| Step::Insert(key, row));
    Ok(Planned::Steps(Plan::new(steps, Finish::Count)))
}

/// The condition on the version is first judged on the snapshot: where it does not hold, nothing is locked.
pub(super) fn update(
    on: &Execution<'_>,
    table: &str,
    rows: Vec<Versioned<Image>>,
) -> Result<Planned, SqlError> {
    let mut wanted = BTreeMap::new();
    on.schema.table(table)?;
    for Versioned { row, version } in rows {
        let key = row_key(on, table, &row.table, &row.key)?;
        if on.row(&key).and_then(|row| row.version()) == Some(version) {
            wanted.entry(key).or_insert(Edit::Replace { read: version, body: row.body });
        }
    }
    let steps = wanted.into_iter().map(|(key, edit)| Step::Edit(key, edit));
    Ok(Planned::Steps(Plan::new(steps, Finish::Count)))
}

fn row_key(on: &Execution<'_>, table: &str, of: &str, key: &str) -> Result<RowKey, SqlError> {
    if of != table {
        return Err(SqlError::UndefinedTable(format!("{of} in a statement about {table}")));
    }
    Ok(RowKey::Domain(on.schema.table(table)?, key.into()))
}
