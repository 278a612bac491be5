//! A domain of its own: accounts and stock, neither of which may go below zero.

use serde::{Deserialize, Serialize};
use stormglass_runtime::{RowSet, Versioned, Violation};

/// A row of the test's domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Row {
    /// Money.
    Account { id: u32, balance: i64 },
    /// Goods.
    Stock { sku: u32, left: i64, note: String },
}

/// Its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// An account.
    Account(u32),
    /// A stock row.
    Stock(u32),
}

impl RowSet for Row {
    type Key = Key;
    const TABLES: &'static [&'static str] = &["accounts", "stock"];

    fn key(&self) -> Key {
        match self {
            Row::Account { id, .. } => Key::Account(*id),
            Row::Stock { sku, .. } => Key::Stock(*sku),
        }
    }

    fn table(key: &Key) -> &str {
        match key {
            Key::Account(_) => "accounts",
            Key::Stock(_) => "stock",
        }
    }

    fn key_text(key: &Key) -> String {
        let (Key::Account(number) | Key::Stock(number)) = key;
        format!("{number:010}")
    }

    fn check(&self) -> Result<(), Violation> {
        match self {
            Row::Account { balance, .. } if *balance < 0 => Err(Violation("balance_not_negative")),
            Row::Stock { left, .. } if *left < 0 => Err(Violation("left_not_negative")),
            Row::Account { .. } | Row::Stock { .. } => Ok(()),
        }
    }
}

/// An account.
pub fn account(id: u32, balance: i64) -> Row {
    Row::Account { id, balance }
}

/// A row as it was read at `version`.
pub fn at(version: i64, row: Row) -> Versioned<Row> {
    Versioned { row, version }
}
