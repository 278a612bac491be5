//! Plans that were made while the tables were empty, as they stay for the life of a connection.
//!
//! No statement may read a table that grows but by an index and a condition on it, or in the order of an index as far as
//! a LIMIT goes. Judged are the plans of the statements as the adapter prepares them, under its own session settings.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Column as _, Connection, Executor as _, PgConnection, Row as _, SqlSafeStr,
    Statement as _, TypeInfo as _,
};
use stormglass_orders::Row as OrderRow;
use stormglass_runtime::RowSet;
use stormglass_server::postgres::{Client, Config, Tables, orders};

use crate::{domain::Row, engine, migrations::migrate};

/// Tables that hold more, the longer the system runs. `positions` and `leases` hold what there is of partitions and relays.
const GROWING: [&str; 9] =
    ["inbox", "pending", "outbox", "rows", "orders", "payments", "reservations", "stock", "messages"];

#[tokio::test]
async fn no_statement_scans_a_growing_table_though_it_was_prepared_when_all_were_empty() {
    let Some(postgres) = engine::postgres("plans on empty tables").await else { return };
    migrate(&mut postgres.connect().await).await;
    let config = Config::new(vec![postgres.options().await]);
    let session = &config.sessions()[0];
    let mut connection = PgConnection::connect_with(session).await.expect("PostgreSQL accepts connections");
    assert_eq!(
        faults_of(&mut connection, "SELECT * FROM inbox WHERE topic = $1").await,
        ["Seq Scan of inbox"],
        "the judge sees a sequential scan"
    );
    let unbounded =
        "SELECT seq FROM pending WHERE consumer = $1 AND dead_at IS NULL ORDER BY due, key LIMIT 1";
    let sorted = ["a sort of all that is found of pending"];
    assert_eq!(faults_of(&mut connection, unbounded).await, sorted, "the judge sees a sort before a LIMIT");

    let typed = Client::<OrderRow>::new(&config, orders::tables()).statements();
    let untyped = Client::<Row>::new(&config, Tables::default()).statements();
    assert!(typed.len() > 5 * OrderRow::TABLES.len(), "every table has its statements");
    let mut faults = Vec::new();
    for (name, sql) in typed.iter().chain(&untyped) {
        let found = faults_of(&mut connection, sql).await;
        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    assert_eq!(faults, Vec::<String>::new());
}

/// The checked macros are built from `.sqlx`: it must say of each statement what the schema says today.
#[tokio::test]
async fn the_committed_descriptions_of_statements_are_those_of_the_schema() {
    let Some(postgres) = engine::postgres("descriptions of statements").await else { return };
    let mut connection = postgres.connect().await;
    migrate(&mut connection).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../system/server/.sqlx");
    let mut described = BTreeMap::new();
    for file in std::fs::read_dir(folder).expect("the descriptions are committed") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a readable file");
        let description: Value = serde_json::from_str(&text).expect("JSON");
        let query = description["query"].as_str().expect("a query").to_owned();
        described.insert(query, description["describe"].clone());
    }
    let config = Config::new(vec![postgres.options().await]);
    let domain = Client::<Row>::new(&config, Tables::default()).statements();
    let runtime: BTreeMap<_, _> = domain.into_iter().filter(|(name, _)| !name.contains(" of ")).collect();
    for (name, sql) in &runtime {
        let committed = described.remove(sql).unwrap_or_else(|| panic!("{name} has no description"));
        let prepared =
            connection.prepare(AssertSqlSafe(sql.clone()).into_sql_str()).await.expect("it is valid");
        let today = prepared.columns().iter().map(|column| (column.name(), column.type_info().name()));
        let columns = committed["columns"].as_array().expect("a list");
        let then = columns.iter().map(|column| (&column["name"], &column["type_info"]));
        let then = then.map(|(name, kind)| (name.as_str().unwrap_or(""), kind.as_str().unwrap_or("")));
        let upper = |(name, kind): (&str, &str)| (name.to_owned(), kind.to_uppercase());
        assert_eq!(today.map(upper).collect::<Vec<_>>(), then.map(upper).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(
        described.into_keys().collect::<Vec<_>>(),
        Vec::<String>::new(),
        "descriptions of no statement"
    );
}

/// What is wrong with the plan of a statement.
async fn faults_of(on: &mut PgConnection, sql: &str) -> Vec<String> {
    run(on, &format!("PREPARE judged AS {sql}")).await;
    let parameters: i32 = sqlx::query_scalar(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'judged'",
    )
    .fetch_one(&mut *on)
    .await
    .expect("it was just prepared");
    let nulls = vec!["NULL"; usize::try_from(parameters).expect("a count")].join(", ");
    let arguments = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE judged {arguments}");
    let row = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(&mut *on).await.expect("a plan");
    let plan: Value = row.try_get(0).expect("EXPLAIN answers JSON");
    run(on, "DEALLOCATE judged").await;
    let mut faults = Vec::new();
    judge(&plan[0]["Plan"], &Value::Null, &mut faults);
    faults
}

async fn run(on: &mut PgConnection, command: &str) {
    sqlx::raw_sql(AssertSqlSafe(command)).execute(on).await.expect(command);
}

fn judge(node: &Value, parent: &Value, faults: &mut Vec<String>) {
    let kind = node["Node Type"].as_str().unwrap_or_default();
    let is_bounded = !node["Index Cond"].is_null() || parent["Node Type"] == "Limit";
    if let Some(table) = growing(node) {
        match kind {
            "Seq Scan" => faults.push(format!("{kind} of {table}")),
            "Index Scan" | "Index Only Scan" if !is_bounded => {
                faults.push(format!("{kind} of {table} without a condition"));
            }
            _ => {}
        }
    }
    if kind == "Bitmap Index Scan" && !is_bounded {
        faults.push(format!("{kind} of {} without a condition", node["Index Name"]));
    }
    if matches!(kind, "Sort" | "Incremental Sort")
        && let Some(table) = unlimited(node)
    {
        faults.push(format!("a sort of all that is found of {table}"));
    }
    for child in children(node) {
        judge(child, node, faults);
    }
}

/// A growing table that is read below this node without a LIMIT on the way.
fn unlimited(node: &Value) -> Option<&str> {
    let below = children(node).filter(|child| child["Node Type"] != "Limit");
    below.filter_map(|child| growing(child).or_else(|| unlimited(child))).next()
}

/// The growing table that this node reads.
fn growing(node: &Value) -> Option<&str> {
    let reads = node["Node Type"] != "ModifyTable";
    node["Relation Name"].as_str().filter(|name| reads && GROWING.contains(name))
}

fn children(node: &Value) -> impl Iterator<Item = &Value> {
    node["Plans"].as_array().into_iter().flatten()
}
