//! The text of every statement: the runtime's own as files, and those of a domain table, built from its columns.
//!
//! Shapes are the same everywhere: arrays in, sorted; `LATERAL` from each element to its row by the primary key, so
//! that no plan can read more of a table than was asked for, whatever was in it when the plan was made.

use std::sync::Arc;

use super::tables::{Column, Kind};

/// The statements about the runtime's own tables, by name.
pub(super) const RUNTIME: [(&str, &str); 18] = [
    ("open_positions", include_str!("sql/open_positions.sql")),
    ("read_positions", include_str!("sql/read_positions.sql")),
    ("lock_positions", include_str!("sql/lock_positions.sql")),
    ("move_positions", include_str!("sql/move_positions.sql")),
    ("take_inbox", include_str!("sql/take_inbox.sql")),
    ("prune_inbox", include_str!("sql/prune_inbox.sql")),
    ("blocked_keys", include_str!("sql/blocked_keys.sql")),
    ("enqueue", include_str!("sql/enqueue.sql")),
    ("claim", include_str!("sql/claim.sql")),
    ("lock_pending", include_str!("sql/lock_pending.sql")),
    ("lock_dead", include_str!("sql/lock_dead.sql")),
    ("change_pending", include_str!("sql/change_pending.sql")),
    ("read_dead", include_str!("sql/read_dead.sql")),
    ("emit", include_str!("sql/emit.sql")),
    ("read_outbox", include_str!("sql/read_outbox.sql")),
    ("delete_outbox", include_str!("sql/delete_outbox.sql")),
    ("acquire_lease", include_str!("sql/acquire_lease.sql")),
    ("place", PLACE),
];

/// Where the server's log stands: the columns that reads begin with.
const PLACE: &str = include_str!("sql/place.sql");

/// How many columns those are.
pub(super) const PLACE_COLUMNS: usize = 4;

/// The statements about one domain table. Where `rows` holds several tables, the last parameter tells which.
pub(super) struct Sql {
    /// `$1` keys. Answers version and columns.
    pub(super) lock: Arc<str>,
    /// `$1` keys, then the columns.
    pub(super) insert: Arc<str>,
    /// `$1` keys, `$2` versions, then the columns.
    pub(super) update: Arc<str>,
    /// `$1` keys. Answers the place in the log, then version and columns; these are NULL in one row if there is none.
    pub(super) read: Arc<str>,
    /// `$1` after, `$2` prefix, `$3` its end, `$4` limit. Answers as `read`.
    pub(super) scan: Arc<str>,
}

impl Sql {
    /// For a table with these columns; `kind` names the column that tells several tables in one apart.
    pub(super) fn new(table: &str, columns: &[Column], kind: Option<&str>) -> Self {
        let text = Text { table, columns, kind };
        Self {
            lock: text.lock().into(),
            insert: text.insert().into(),
            update: text.update().into(),
            read: text.read().into(),
            scan: text.scan().into(),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Self { lock, insert, update, read, scan } = self;
        [("lock", lock), ("insert", insert), ("update", update), ("read", read), ("scan", scan)]
            .into_iter()
            .map(|(name, sql)| (name, &**sql))
    }
}

struct Text<'a> {
    table: &'a str,
    columns: &'a [Column],
    kind: Option<&'a str>,
}

impl Text<'_> {
    fn lock(&self) -> String {
        format!(
            "SELECT t.version{} FROM unnest($1::text[]) AS asked (key) \
             CROSS JOIN LATERAL (SELECT * FROM {} t WHERE {}t.key = asked.key FOR NO KEY UPDATE) AS t",
            self.selected(),
            self.table,
            self.of_kind(2),
        )
    }

    fn insert(&self) -> String {
        let kind = self.columns.len() + 2;
        format!(
            "INSERT INTO {} ({}key, version{}) SELECT {}new.key, 1{} FROM unnest($1::text[]{}) AS new (key{}) \
             ORDER BY new.key COLLATE \"C\" ON CONFLICT DO NOTHING",
            self.table,
            self.kind.map_or(String::new(), |column| format!("{column}, ")),
            self.each(|column| format!(", {}", column.name)),
            self.kind.map_or(String::new(), |_| format!("${kind}, ")),
            self.each(|column| format!(", new.{}{}", column.name, cast(column.kind))),
            self.arrays(2),
            self.each(|column| format!(", {}", column.name)),
        )
    }

    /// The condition on the version is judged when the row is locked; what does not satisfy it is not updated.
    fn update(&self) -> String {
        format!(
            "WITH locked AS MATERIALIZED (SELECT row.at, asked.* \
             FROM unnest($1::text[], $2::bigint[]{}) AS asked (key, version{}) \
             CROSS JOIN LATERAL (SELECT t.ctid AS at FROM {} t \
             WHERE {}t.key = asked.key AND t.version = asked.version FOR NO KEY UPDATE) AS row) \
             UPDATE {} t SET version = locked.version + 1{} FROM locked WHERE t.ctid = locked.at",
            self.arrays(3),
            self.each(|column| format!(", {}", column.name)),
            self.table,
            self.of_kind(self.columns.len() + 3),
            self.table,
            self.each(|column| format!(", {} = locked.{}{}", column.name, column.name, cast(column.kind))),
        )
    }

    fn read(&self) -> String {
        format!(
            "SELECT place.*, t.version{} FROM ({PLACE} OFFSET 0) AS place LEFT JOIN LATERAL (SELECT t.* \
             FROM unnest($1::text[]) AS asked (key) \
             CROSS JOIN LATERAL (SELECT * FROM {} t WHERE {}t.key = asked.key LIMIT 1) AS t) AS t ON true",
            self.selected(),
            self.table,
            self.of_kind(2),
        )
    }

    fn scan(&self) -> String {
        format!(
            "SELECT place.*, t.version{} FROM ({PLACE} OFFSET 0) AS place LEFT JOIN LATERAL (SELECT * FROM {} t \
             WHERE {}t.key > $1 AND t.key >= $2 AND t.key <= $3 AND starts_with(t.key, $2) \
             ORDER BY t.key LIMIT $4) AS t ON true ORDER BY t.key",
            self.selected(),
            self.table,
            self.of_kind(5),
        )
    }

    fn selected(&self) -> String {
        self.each(|column| match column.kind {
            Kind::Text | Kind::Json => format!(", t.{}::text", column.name),
            Kind::Bigint | Kind::Uuid => format!(", t.{}", column.name),
        })
    }

    fn of_kind(&self, parameter: usize) -> String {
        self.kind.map_or(String::new(), |column| format!("t.{column} = ${parameter} AND "))
    }

    /// The parameters of the columns, from number `first` on.
    fn arrays(&self, first: usize) -> String {
        let array = |(at, column): (usize, &Column)| {
            let of = match column.kind {
                Kind::Text | Kind::Json => "text",
                Kind::Bigint => "bigint",
                Kind::Uuid => "uuid",
            };
            format!(", ${}::{of}[]", first + at)
        };
        self.columns.iter().enumerate().map(array).collect()
    }

    fn each(&self, part: impl Fn(&Column) -> String) -> String {
        self.columns.iter().map(part).collect()
    }
}

fn cast(kind: Kind) -> &'static str {
    match kind {
        Kind::Json => "::jsonb",
        Kind::Text | Kind::Bigint | Kind::Uuid => "",
    }
}
