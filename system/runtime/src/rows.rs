//! Rows of a domain as the store sees them: typed by the domain's [`RowSet`], or as their bare [`Image`].

use std::fmt::Debug;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The rows of a domain: one enum with a variant per table, and a key enum beside it.
pub trait RowSet: Clone + Debug + PartialEq + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// Names one row of one table. Its order is the order in which rows are locked within a table.
    type Key: Clone + Debug + Ord + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// The tables in the one order in which every transaction locks them.
    const TABLES: &'static [&'static str];

    /// The key of this row.
    fn key(&self) -> Self::Key;

    /// The table of a row with this key; one of [`RowSet::TABLES`].
    fn table(key: &Self::Key) -> &str;

    /// The key as text, unique within its table; ordered bytewise it has the order of the keys (COLLATE "C").
    fn key_text(key: &Self::Key) -> String;

    /// The CHECK constraints of the row's table.
    ///
    /// # Errors
    /// The name of the constraint that the row breaks.
    fn check(&self) -> Result<(), Violation>;
}

/// The name of a violated CHECK constraint.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("constraint {0} violated")]
pub struct Violation(pub &'static str);

/// A row and the version it had when it was read. Versions start at 1 and grow by 1 with each update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<R> {
    /// The row.
    pub row: R,
    /// Its version.
    pub version: i64,
}

/// A row without its domain: what adapters that do not know the domain store and send.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Image {
    /// The table's name.
    pub table: String,
    /// [`RowSet::key_text`].
    pub key: String,
    /// The row as JSON.
    pub body: String,
}

/// The key of an [`Image`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageKey {
    /// The table's name.
    pub table: String,
    /// [`RowSet::key_text`].
    pub key: String,
}

/// Images are a row set too, so statements over them need no type of their own.
impl RowSet for Image {
    type Key = ImageKey;
    const TABLES: &'static [&'static str] = &[];

    fn key(&self) -> ImageKey {
        ImageKey { table: self.table.clone(), key: self.key.clone() }
    }

    fn table(key: &ImageKey) -> &str {
        &key.table
    }

    fn key_text(key: &ImageKey) -> String {
        key.key.clone()
    }

    fn check(&self) -> Result<(), Violation> {
        Ok(())
    }
}
