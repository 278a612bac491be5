//! One node: what it has replayed, and reads outside transactions.

use stormglass_runtime::{Image, ImageKey, Scan, Versioned};

use super::{
    config::Schema,
    request::{Role, SqlError},
    rows::{self, RowKey},
    store::Store,
    wal::Logged,
};

/// A node of the cluster.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) store: Store,
    /// The last transaction that is visible here.
    pub(super) lsn: u64,
    /// Where sequences go on if this node recovers or is promoted at this place.
    pub(super) sequences: Logged,
    pub(super) standing: Standing,
    pub(super) up: bool,
}

/// What a node is to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Primary,
    /// Attached: the primary keeps the log for it, and sends it when it is up.
    Standby,
    /// It was the primary before a promotion: fenced off until it is rebuilt.
    Fenced,
}

impl Node {
    pub(super) fn new(standing: Standing) -> Self {
        Self { store: Store::default(), lsn: 0, sequences: Logged::default(), standing, up: true }
    }

    pub(super) fn role(&self) -> Option<Role> {
        match self.standing {
            Standing::Primary => Some(Role::Primary),
            Standing::Standby => Some(Role::Standby),
            Standing::Fenced => None,
        }
    }

    pub(super) fn read(&self, schema: &Schema, keys: &[ImageKey]) -> Result<Vec<Versioned<Image>>, SqlError> {
        let mut wanted = keys.iter().map(|key| RowKey::domain(schema, key)).collect::<Result<Vec<_>, _>>()?;
        wanted.sort_unstable();
        wanted.dedup();
        Ok(wanted.iter().filter_map(|key| rows::image(schema, key, self.store.get(key)?)).collect())
    }

    pub(super) fn scan(&self, schema: &Schema, scan: &Scan) -> Result<Vec<Versioned<Image>>, SqlError> {
        let table = schema.table(&scan.table)?;
        let after = scan.after.as_deref().unwrap_or_default();
        let from = RowKey::Domain(table, scan.prefix.as_str().max(after).into());
        let page = self.store.from(from).take_while(|(key, _)| match key {
            RowKey::Domain(of, key) => *of == table && key.starts_with(&scan.prefix),
            _ => false,
        });
        let is_after = |key: &RowKey| match (key, &scan.after) {
            (RowKey::Domain(_, key), Some(after)) => **key > **after,
            _ => true,
        };
        let limit = usize::try_from(scan.limit).unwrap_or(usize::MAX);
        let rows = page.filter(|(key, _)| is_after(key)).take(limit);
        Ok(rows.filter_map(|(key, row)| rows::image(schema, key, row)).collect())
    }
}
