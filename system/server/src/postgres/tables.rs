//! Domain rows in tables: typed ones where the domain has them, else all of them as JSON in `rows`.
//!
//! A [`Table`] says which columns a row has and how to get there and back; the SQL is built from it once, when the
//! adapter is made. Nothing in it comes from input: names are the program's own constants.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sqlx::{
    AssertSqlSafe, PgConnection, Postgres, Row as _,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use stormglass_runtime::{Cause, Failure, Reason, RowSet, Scan, Versioned};
use uuid::Uuid;

use super::{
    failure::of_statement,
    place::Place,
    sql::{PLACE_COLUMNS, Sql},
};

/// How one table of the domain stores its rows: in columns beside `key` and `version`.
pub struct Table<R: RowSet> {
    /// Its name, one of [`RowSet::TABLES`].
    pub name: &'static str,
    /// Its columns without `key` and `version`.
    pub columns: &'static [Column],
    /// A row as cells, one for each column.
    pub write: fn(&R) -> Result<Vec<Cell>, Misfit>,
    /// Cells as a row, the other way round.
    pub read: fn(Cells) -> Result<R, Misfit>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `text`, or a type that text is assigned to.
    Text,
    /// `jsonb`, as its text.
    Json,
    /// `bigint`.
    Bigint,
    /// `uuid`.
    Uuid,
}

/// What one row has in one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Of a [`Kind::Text`] or [`Kind::Json`] column.
    Text(Option<String>),
    /// Of a [`Kind::Bigint`] column.
    Bigint(Option<i64>),
    /// Of a [`Kind::Uuid`] column.
    Uuid(Option<Uuid>),
}

/// A row that does not fit its table, or cells that are no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the row does not fit its table")]
pub struct Misfit;

/// The cells of a row that was read, taken one after the other in the order of the columns.
pub struct Cells(std::vec::IntoIter<Cell>);

impl Cells {
    /// The next cell, of a [`Kind::Text`] or [`Kind::Json`] column.
    ///
    /// # Errors
    /// If the next column is of another kind.
    pub fn text(&mut self) -> Result<Option<String>, Misfit> {
        match self.0.next() {
            Some(Cell::Text(text)) => Ok(text),
            _ => Err(Misfit),
        }
    }

    /// The next cell, of a [`Kind::Bigint`] column.
    ///
    /// # Errors
    /// If the next column is of another kind.
    pub fn bigint(&mut self) -> Result<Option<i64>, Misfit> {
        match self.0.next() {
            Some(Cell::Bigint(number)) => Ok(number),
            _ => Err(Misfit),
        }
    }

    /// The next cell, of a [`Kind::Uuid`] column.
    ///
    /// # Errors
    /// If the next column is of another kind.
    pub fn uuid(&mut self) -> Result<Option<Uuid>, Misfit> {
        match self.0.next() {
            Some(Cell::Uuid(id)) => Ok(id),
            _ => Err(Misfit),
        }
    }
}

/// The tables of a row set, each with its statements.
pub struct Tables<R: RowSet> {
    tables: BTreeMap<&'static str, Prepared<R>>,
}

struct Prepared<R: RowSet> {
    table: Table<R>,
    /// What `rows.kind` is, for tables without columns of their own.
    kind: Option<&'static str>,
    sql: Sql,
}

impl<R: RowSet> Default for Tables<R> {
    /// All rows in `rows`: `(kind, key, version, body)`.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl<R: RowSet> Tables<R> {
    /// These tables; those of [`RowSet::TABLES`] that are not among them are kept in `rows`.
    pub fn new(typed: Vec<Table<R>>) -> Self {
        let mut tables = BTreeMap::new();
        for &name in R::TABLES {
            let sql = Sql::new("rows", JSON, Some("kind"));
            let table = Table { name, columns: JSON, write: to_json, read: from_json };
            tables.insert(name, Prepared { table, kind: Some(name), sql });
        }
        for table in typed {
            let sql = Sql::new(table.name, table.columns, None);
            tables.insert(table.name, Prepared { table, kind: None, sql });
        }
        Self { tables }
    }

    /// Every statement, by table and name.
    pub(super) fn statements(&self) -> impl Iterator<Item = (String, &str)> {
        self.tables.iter().flat_map(|(table, prepared)| {
            prepared.sql.all().map(move |(name, sql)| (format!("{name} of {table}"), sql))
        })
    }

    pub(super) async fn lock(
        &self,
        on: &mut PgConnection,
        table: &str,
        keys: &[R::Key],
    ) -> Result<Vec<Versioned<R>>, Failure> {
        let prepared = self.table(table)?;
        let keys = prepared.key_texts(keys)?;
        let query = prepared.query(&prepared.sql.lock).bind(&keys);
        let rows = prepared.with_kind(query).fetch_all(on).await.map_err(|error| of_statement(&error))?;
        rows.iter().map(|row| prepared.versioned(row, 0)).collect()
    }

    pub(super) async fn insert(
        &self,
        on: &mut PgConnection,
        table: &str,
        rows: &[R],
    ) -> Result<u64, Failure> {
        let prepared = self.table(table)?;
        let mut sorted = BTreeMap::new();
        // Of a key given twice the first counts.
        for row in rows.iter().rev() {
            sorted.insert(prepared.key_text(&row.key())?, row);
        }
        let mut query = prepared.query(&prepared.sql.insert).bind(sorted.keys().cloned().collect::<Vec<_>>());
        for array in prepared.arrays(sorted.into_values())? {
            query = array.bind(query);
        }
        let inserted = prepared.with_kind(query).execute(on).await.map_err(|error| of_statement(&error))?;
        Ok(inserted.rows_affected())
    }

    pub(super) async fn update(
        &self,
        on: &mut PgConnection,
        table: &str,
        rows: &[Versioned<R>],
    ) -> Result<u64, Failure> {
        let prepared = self.table(table)?;
        let mut sorted = BTreeMap::new();
        for Versioned { row, version } in rows.iter().rev() {
            sorted.insert((prepared.key_text(&row.key())?, *version), row);
        }
        let (keys, versions): (Vec<String>, Vec<i64>) = sorted.keys().cloned().unzip();
        let mut query = prepared.query(&prepared.sql.update).bind(keys).bind(versions);
        for array in prepared.arrays(sorted.into_values())? {
            query = array.bind(query);
        }
        let updated = prepared.with_kind(query).execute(on).await.map_err(|error| of_statement(&error))?;
        Ok(updated.rows_affected())
    }

    /// The rows that exist among keys of one table, and the server's place in the log just after it looked.
    pub(super) async fn read(
        &self,
        on: &mut PgConnection,
        table: &str,
        keys: &[R::Key],
    ) -> Result<(Vec<Versioned<R>>, Place), Failure> {
        let prepared = self.table(table)?;
        let query = prepared.query(&prepared.sql.read).bind(prepared.key_texts(keys)?);
        prepared.placed(&prepared.with_kind(query).fetch_all(on).await.map_err(|error| of_statement(&error))?)
    }

    /// A page of one table, and the server's place in the log just after it looked.
    pub(super) async fn scan(
        &self,
        on: &mut PgConnection,
        scan: &Scan,
    ) -> Result<(Vec<Versioned<R>>, Place), Failure> {
        let prepared = self.table(&scan.table)?;
        let query = prepared
            .query(&prepared.sql.scan)
            .bind(scan.after.clone().unwrap_or_default())
            .bind(scan.prefix.clone())
            // No character comes after it: what begins with the prefix ends here.
            .bind(format!("{}\u{10ffff}", scan.prefix))
            .bind(i64::from(scan.limit));
        prepared.placed(&prepared.with_kind(query).fetch_all(on).await.map_err(|error| of_statement(&error))?)
    }

    fn table(&self, name: &str) -> Result<&Prepared<R>, Failure> {
        let found = self.tables.get(name);
        found.ok_or_else(|| Failure::Rejected(Reason::Invalid(format!("no table {name}"))))
    }
}

impl<R: RowSet> Prepared<R> {
    fn query(&self, sql: &Arc<str>) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(AssertSqlSafe(Arc::clone(sql)))
    }

    /// Binds what tells the rows of this table from others in `rows`; always the last parameter.
    fn with_kind<'q>(&self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        match self.kind {
            Some(kind) => query.bind(kind),
            None => query,
        }
    }

    fn key_text(&self, key: &R::Key) -> Result<String, Failure> {
        let (table, of) = (self.table.name, R::table(key));
        if of == table {
            Ok(R::key_text(key))
        } else {
            Err(Failure::Rejected(Reason::Invalid(format!("a key of {of} in a statement about {table}"))))
        }
    }

    /// Each key once, in the order of locking.
    fn key_texts(&self, keys: &[R::Key]) -> Result<Vec<String>, Failure> {
        let sorted: BTreeSet<String> = keys.iter().map(|key| self.key_text(key)).collect::<Result<_, _>>()?;
        Ok(sorted.into_iter().collect())
    }

    /// Rows as one array for each column.
    fn arrays<'a>(&self, rows: impl Iterator<Item = &'a R>) -> Result<Vec<Array>, Failure> {
        let mut arrays: Vec<_> = self.table.columns.iter().map(|column| Array::of(column.kind)).collect();
        for row in rows {
            if self.kind.is_some() {
                // `rows` has no constraints of the domain.
                row.check().map_err(|broken| Failure::Rejected(Reason::Constraint(broken.0.to_owned())))?;
            }
            let misfit = |misfit: Misfit| Failure::Rejected(Reason::InvalidValue(misfit.to_string()));
            let cells = (self.table.write)(row).map_err(misfit)?;
            if cells.len() != arrays.len() {
                return Err(misfit(Misfit));
            }
            arrays.iter_mut().zip(cells).try_for_each(|(array, cell)| array.push(cell)).map_err(misfit)?;
        }
        Ok(arrays)
    }

    /// Rows that come after their place; a place alone comes with a version that is NULL.
    fn placed(&self, rows: &[PgRow]) -> Result<(Vec<Versioned<R>>, Place), Failure> {
        let protocol = |_| Failure::NotDone(Cause::Protocol);
        let first = rows.first().ok_or(Failure::NotDone(Cause::Protocol))?;
        let place = Place::of(first).map_err(protocol)?;
        let mut found = Vec::new();
        for row in rows {
            if row.try_get::<Option<i64>, _>(PLACE_COLUMNS).map_err(protocol)?.is_some() {
                found.push(self.versioned(row, PLACE_COLUMNS)?);
            }
        }
        Ok((found, place))
    }

    /// A row whose version is in column `from`, followed by its own.
    fn versioned(&self, row: &PgRow, from: usize) -> Result<Versioned<R>, Failure> {
        let read = || -> Result<Versioned<R>, sqlx::Error> {
            let version = row.try_get(from)?;
            let cell = |(at, column): (usize, &Column)| match column.kind {
                Kind::Text | Kind::Json => row.try_get(from + 1 + at).map(Cell::Text),
                Kind::Bigint => row.try_get(from + 1 + at).map(Cell::Bigint),
                Kind::Uuid => row.try_get(from + 1 + at).map(Cell::Uuid),
            };
            let cells = self.table.columns.iter().enumerate().map(cell).collect::<Result<Vec<_>, _>>()?;
            let row = (self.table.read)(Cells(cells.into_iter()));
            Ok(Versioned { row: row.map_err(|misfit| sqlx::Error::Decode(misfit.into()))?, version })
        };
        read().map_err(|_| Failure::NotDone(Cause::Protocol))
    }
}

const JSON: &[Column] = &[Column { name: "body", kind: Kind::Json }];

fn to_json<R: RowSet>(row: &R) -> Result<Vec<Cell>, Misfit> {
    let body = serde_json::to_string(row).map_err(|_| Misfit)?;
    Ok(vec![Cell::Text(Some(body))])
}

fn from_json<R: RowSet>(mut cells: Cells) -> Result<R, Misfit> {
    serde_json::from_str(&cells.text()?.ok_or(Misfit)?).map_err(|_| Misfit)
}

/// The cells of one column.
enum Array {
    Text(Vec<Option<String>>),
    Bigint(Vec<Option<i64>>),
    Uuid(Vec<Option<Uuid>>),
}

impl Array {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Text | Kind::Json => Array::Text(Vec::new()),
            Kind::Bigint => Array::Bigint(Vec::new()),
            Kind::Uuid => Array::Uuid(Vec::new()),
        }
    }

    fn push(&mut self, cell: Cell) -> Result<(), Misfit> {
        match (self, cell) {
            (Array::Text(cells), Cell::Text(cell)) => cells.push(cell),
            (Array::Bigint(cells), Cell::Bigint(cell)) => cells.push(cell),
            (Array::Uuid(cells), Cell::Uuid(cell)) => cells.push(cell),
            (Array::Text(_) | Array::Bigint(_) | Array::Uuid(_), _) => return Err(Misfit),
        }
        Ok(())
    }

    fn bind<'q>(self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        match self {
            Array::Text(cells) => query.bind(cells),
            Array::Bigint(cells) => query.bind(cells),
            Array::Uuid(cells) => query.bind(cells),
        }
    }
}
