//! The typed table of the cases' domain: accounts. Its stock is kept in `rows`, so both mappings are tried.

use stormglass_server::postgres::{Cell, Cells, Column, Kind, Misfit, Table};

use crate::database::cases::domain::{Row, account};

/// `accounts (id, balance)`.
pub fn accounts() -> Table<Row> {
    Table {
        name: "accounts",
        columns: &[Column { name: "id", kind: Kind::Bigint }, Column { name: "balance", kind: Kind::Bigint }],
        write,
        read,
    }
}

fn write(row: &Row) -> Result<Vec<Cell>, Misfit> {
    match row {
        Row::Account { id, balance } => {
            Ok(vec![Cell::Bigint(Some(i64::from(*id))), Cell::Bigint(Some(*balance))])
        }
        Row::Stock { .. } => Err(Misfit),
    }
}

fn read(mut cells: Cells) -> Result<Row, Misfit> {
    let id = cells.bigint()?.and_then(|id| u32::try_from(id).ok()).ok_or(Misfit)?;
    Ok(account(id, cells.bigint()?.ok_or(Misfit)?))
}
