//! The migration and the rows name the same tables and the same CHECKs. That the SQL *means* the same is held against
//! the real server, in containers.

use std::collections::BTreeSet;

use stormglass_orders::{
    Row,
    rows::{CHECKED, HELD_BY_TYPES},
};
use stormglass_runtime::RowSet;

const SQL: &str = include_str!("../../../../migrations/0002_orders.sql");

/// The word that follows each `before`, if `after` is what comes next.
fn named<'a>(before: &'a str, after: &'a str) -> BTreeSet<&'a str> {
    let code: Vec<&str> = SQL
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .flat_map(str::split_whitespace)
        .collect();
    let phrase: Vec<&str> = before.split_whitespace().collect();
    let follows =
        |window: &&[&'static str]| window.starts_with(&phrase) && window[phrase.len() + 1].starts_with(after);
    code.windows(phrase.len() + 2).filter(follows).map(|window| window[phrase.len()]).collect()
}

#[test]
fn every_check_of_the_migration_is_one_of_the_rows_and_the_other_way_round() {
    let rows: BTreeSet<&str> = CHECKED.iter().chain(HELD_BY_TYPES).copied().collect();
    assert_eq!(
        rows.len(),
        CHECKED.len() + HELD_BY_TYPES.len(),
        "a check is evaluated or held by a type, not both"
    );
    assert_eq!(named("CONSTRAINT", "CHECK"), rows);
}

#[test]
fn every_table_of_the_migration_is_one_of_the_rows_and_the_other_way_round() {
    assert_eq!(named("CREATE TABLE", "("), Row::TABLES.iter().copied().collect());
}
