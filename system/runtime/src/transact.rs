//! The statements that lanes and settlements share: locking domain rows (R) and writing a plan (W, O).
//!
//! Both keep the one order in which everybody waits: tables in the order of [`RowSet::TABLES`], keys in order within
//! a table. A statement with nothing to say is not sent.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Cause, ConsumerName, Failure, RowSet, Rows, Session, Statement, Versioned, plan::Writes};

/// An open transaction.
pub(crate) type Transaction<R> = Box<dyn Session<R>>;

/// R: locks the rows that exist among `keys` and reads them.
pub(crate) async fn lock_rows<R: RowSet>(
    session: &mut Transaction<R>,
    keys: &BTreeSet<R::Key>,
) -> Result<Rows<R>, Failure> {
    let mut rows: Vec<Versioned<R>> = Vec::new();
    for ((_, table), keys) in by_table::<R, _>(keys.iter().cloned(), R::Key::clone) {
        rows.extend(session.rows(Statement::LockRows { table, keys }).await?);
    }
    Ok(Rows::read(rows))
}

/// W and O: writes the domain's rows, the queue and the outbox. Returns the numbers of the rows appended to the queue.
///
/// Fewer rows than expected means that another transaction wrote a row that was absent when this one looked: nothing
/// must commit, and the next try will find it.
pub(crate) async fn write<R: RowSet>(
    session: &mut Transaction<R>,
    consumer: &ConsumerName,
    writes: Writes<R>,
) -> Result<Vec<i64>, Failure> {
    let (inserts, updates) = writes.rows.changes();
    let mut inserts = by_table::<R, _>(inserts, RowSet::key);
    let mut updates = by_table::<R, _>(updates, |versioned: &Versioned<R>| versioned.row.key());
    let tables: BTreeSet<TableOrder> = inserts.keys().chain(updates.keys()).cloned().collect();
    for at in tables {
        let table = at.1.clone();
        if let Some(rows) = inserts.remove(&at) {
            let expected = rows.len();
            all_of(session, Statement::InsertRows { table: table.clone(), rows }, expected).await?;
        }
        if let Some(rows) = updates.remove(&at) {
            let expected = rows.len();
            all_of(session, Statement::UpdateRows { table, rows }, expected).await?;
        }
    }
    if !writes.change.is_empty() {
        let expected = writes.change.len();
        let statement = Statement::ChangePending { consumer: consumer.clone(), changes: writes.change };
        all_of(session, statement, expected).await?;
    }
    let mut sequence = Vec::new();
    if !writes.enqueue.is_empty() {
        let statement = Statement::Enqueue { consumer: consumer.clone(), rows: writes.enqueue };
        sequence = session.sequence(statement).await?;
    }
    if !writes.emit.is_empty() {
        session.execute(Statement::Emit { records: writes.emit }).await?;
    }
    Ok(sequence)
}

/// Executes a statement that must affect exactly `expected` rows.
async fn all_of<R: RowSet>(
    session: &mut Transaction<R>,
    statement: Statement<R>,
    expected: usize,
) -> Result<(), Failure> {
    match session.count(statement).await? {
        count if count == expected as u64 => Ok(()),
        _ => Err(Failure::NotDone(Cause::Conflict)),
    }
}

/// A table's place in the lock order, and its name.
type TableOrder = (usize, String);

/// Items by table, tables in lock order, items in the order given.
fn by_table<R: RowSet, T>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> R::Key,
) -> BTreeMap<TableOrder, Vec<T>> {
    let mut tables: BTreeMap<TableOrder, Vec<T>> = BTreeMap::new();
    for item in items {
        let key = key(&item);
        let name = R::table(&key);
        // A table that TABLES does not name comes last, ordered by its name.
        let place = R::TABLES.iter().position(|&table| table == name).unwrap_or(usize::MAX);
        tables.entry((place, name.to_owned())).or_default().push(item);
    }
    tables
}
