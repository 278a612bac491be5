//! The migrations on the real server: they apply, and their constraints refuse what the domain's own checks refuse.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, migrate::Migrator, postgres::PgDatabaseError};
use stormglass_orders::{
    Row, Subject,
    inventory::{Reservation, ReservationState, Stock},
    payments::{Capture, Payment, PaymentState},
    rows::{CHECKED, HELD_BY_TYPES},
    types::{Currency, Customer, Money, OrderId, Reference, Sku, Tenant},
};
use stormglass_runtime::{RowSet, Violation};

use super::{
    constraints::{Break, breaks, valid, with},
    engine,
};

#[tokio::test]
async fn migrations_apply_to_an_empty_database_and_a_second_time_change_nothing() {
    let Some(postgres) = engine::postgres("migrations apply").await else { return };
    let mut connection = postgres.connect().await;
    assert!(migrator().await.iter().count() > 0, "there are no migrations");
    for _ in 0..2 {
        migrator().await.run(&mut connection).await.expect("the migrations apply");
    }
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
            .fetch_all(&mut connection)
            .await
            .expect("the catalogue is readable");
    for table in Row::TABLES {
        assert!(tables.iter().any(|name| name == table), "the domain names {table}, the schema does not");
    }
}

#[tokio::test]
async fn every_constraint_refuses_the_row_that_breaks_it() {
    let Some(postgres) = engine::postgres("constraints refuse").await else { return };
    let mut connection = migrated(&postgres).await;
    for Break { constraint, table, columns } in breaks() {
        assert_eq!(
            refusal(&mut connection, table, &valid(table), Against::All).await,
            None,
            "a valid row of {table}"
        );
        let broken = with(valid(table), &columns);
        let refused = refusal(&mut connection, table, &broken, Against::Only(constraint)).await;
        assert_eq!(refused.as_deref(), Some(constraint), "{table} with {columns}");
    }
    let broken: BTreeSet<String> = breaks().iter().map(|planted| planted.constraint.to_owned()).collect();
    assert_eq!(
        broken,
        constraints(&mut connection).await,
        "constraints that are broken here, and that exist"
    );
}

#[tokio::test]
async fn the_domain_and_the_schema_name_the_same_constraints() {
    let Some(postgres) = engine::postgres("constraints have one name").await else { return };
    let mut connection = migrated(&postgres).await;
    let schema = constraints(&mut connection).await;
    for name in CHECKED.iter().chain(HELD_BY_TYPES) {
        assert!(schema.contains(*name), "the domain holds {name}, the schema does not");
    }
    let of_domain = |name: &&String| Row::TABLES.iter().any(|table| name.starts_with(&format!("{table}_")));
    for name in schema.iter().filter(of_domain) {
        assert!(CHECKED.iter().chain(HELD_BY_TYPES).any(|held| held == name), "only the schema holds {name}");
    }
}

/// No server is needed: each of these rows breaks a constraint that [`breaks`] shows the server to refuse.
#[test]
fn the_domain_refuses_what_the_schema_refuses() {
    let refused: Vec<Violation> = broken_rows().iter().filter_map(|row| row.check().err()).collect();
    // A basket without anything to pay cannot be built, so its constraint can only be broken in SQL.
    let buildable = CHECKED.iter().filter(|name| **name != "orders_total_positive");
    assert_eq!(refused, buildable.map(|name| Violation(name)).collect::<Vec<_>>());
    for Violation(name) in refused {
        assert!(
            breaks().iter().any(|planted| planted.constraint == name),
            "{name} is never broken on the server"
        );
    }
}

/// In the order of [`CHECKED`].
fn broken_rows() -> Vec<Row> {
    let tenant = Tenant::new("acme").expect("valid");
    let sku = Sku::new("s").expect("valid");
    let subject = Subject { tenant: tenant.clone(), order: OrderId::derive(&tenant, "1") };
    let capture = Capture {
        customer: Customer::new("ada").expect("valid"),
        amount: Money { minor: 0, currency: Currency::new("EUR").expect("valid") },
        charge: Reference::new("ch-1").expect("valid"),
    };
    let stock = |available, reserved, sold| {
        Row::Stock(Stock { tenant: tenant.clone(), sku: sku.clone(), available, reserved, sold })
    };
    vec![
        Row::Payment(Payment { subject: subject.clone(), state: PaymentState::Captured(capture) }),
        Row::Reservation(Reservation { subject, state: ReservationState::Reserved(Vec::new()) }),
        stock(-1, 0, 0),
        stock(0, -1, 0),
        stock(0, 0, -1),
        stock(i64::MAX, 0, 1),
    ]
}

async fn migrator() -> Migrator {
    let migrations = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    Migrator::new(migrations).await.expect("the migrations are readable")
}

/// Brings a database up to date.
pub async fn migrate(connection: &mut PgConnection) {
    migrator().await.run(connection).await.expect("the migrations apply");
}

async fn migrated(postgres: &engine::Postgres) -> PgConnection {
    let mut connection = postgres.connect().await;
    migrate(&mut connection).await;
    connection
}

/// Which of a table's CHECK constraints stand while a row is tried.
enum Against {
    All,
    /// The others would hide that this one refuses nothing: the server names the first that is broken.
    Only(&'static str),
}

/// The CHECK constraint that refuses this row, if one does. Nothing is left of the attempt either way.
async fn refusal(
    connection: &mut PgConnection,
    table: &str,
    row: &Value,
    against: Against,
) -> Option<String> {
    let mut transaction = connection.begin().await.expect("a transaction begins");
    if let Against::Only(constraint) = against {
        drop_others(&mut transaction, table, constraint).await;
    }
    let insert = format!(
        "INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(NULL::{table}, $1::text::jsonb)"
    );
    let inserted = sqlx::query(AssertSqlSafe(insert)).bind(row.to_string()).execute(&mut *transaction).await;
    transaction.rollback().await.expect("a transaction rolls back");
    let error = inserted.err()?;
    let refused = error.as_database_error().map(|error| error.downcast_ref::<PgDatabaseError>());
    let name = refused.filter(|error| error.code() == "23514").and_then(|error| error.constraint());
    Some(name.map_or_else(|| error.to_string(), str::to_owned))
}

async fn drop_others(connection: &mut PgConnection, table: &str, constraint: &str) {
    let alter: Option<String> = sqlx::query_scalar(
        "SELECT format('ALTER TABLE %I ', $1) || string_agg(format('DROP CONSTRAINT %I', conname), ', ')
         FROM pg_constraint WHERE contype = 'c' AND conrelid = $1::regclass AND conname <> $2",
    )
    .bind(table)
    .bind(constraint)
    .fetch_one(&mut *connection)
    .await
    .expect("the catalogue is readable");
    if let Some(alter) = alter {
        sqlx::raw_sql(AssertSqlSafe(alter))
            .execute(connection)
            .await
            .expect("the owner may drop constraints");
    }
}

/// The CHECK constraints of all tables and domains of the project.
async fn constraints(connection: &mut PgConnection) -> BTreeSet<String> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT conname::text FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace",
    )
    .fetch_all(connection)
    .await
    .expect("the catalogue is readable");
    names.into_iter().collect()
}
