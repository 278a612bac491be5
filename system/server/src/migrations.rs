//! The schema that this binary was built for: `migrations/`, carried inside it, applied and compared.

use std::collections::BTreeMap;

use sqlx::{
    ConnectOptions, PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgDatabaseError},
};
use tokio::time::{Duration, timeout};

use crate::{settings::Settings, stop::Stop};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// A connection to the primary, and where it leads.
struct Primary {
    connection: PgConnection,
    host: String,
}

/// Applies what is missing; answers with the migrations that were.
///
/// # Errors
/// Why the database could not be brought to this binary's schema.
pub async fn apply(settings: &Settings) -> Result<Vec<String>, Stop> {
    settings.check_postgres()?;
    let mut primary = connect(settings).await?;
    let missing = missing(&mut primary).await?;
    MIGRATOR.run(&mut primary.connection).await.map_err(|error| match error {
        MigrateError::Execute(error) => refused(&primary.host, &error),
        MigrateError::ExecuteMigration(error, version) => {
            Stop::Unfit(format!("PostgreSQL at {}: migration {version} fails: {error}", primary.host))
        }
        other => Stop::Unfit(format!("PostgreSQL at {}: {other}", primary.host)),
    })?;
    Ok(missing)
}

/// Whether the primary has exactly the migrations of this binary.
///
/// # Errors
/// If it has not, or cannot be asked.
pub async fn check(settings: &Settings) -> Result<(), Stop> {
    let mut primary = connect(settings).await?;
    let missing = missing(&mut primary).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let (host, missing) = (primary.host, missing.join(", "));
    Err(Stop::Unfit(format!("PostgreSQL at {host} lacks migration {missing}; run `stormglass migrate`")))
}

/// The migrations that the primary lacks, by name. One that is not ours, or another than ours, is an error.
async fn missing(primary: &mut Primary) -> Result<Vec<String>, Stop> {
    let rows: Result<Vec<(i64, bool, Vec<u8>)>, sqlx::Error> =
        sqlx::query_as("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version")
            .fetch_all(&mut primary.connection)
            .await;
    let host = &primary.host;
    let applied = match rows {
        Ok(rows) => rows,
        Err(error) if code(&error) == Some("42P01") => Vec::new(),
        Err(error) => return Err(refused(host, &error)),
    };
    let unfit = |line: String| Err(Stop::Unfit(format!("PostgreSQL at {host}: {line}")));
    let mut wanted: BTreeMap<i64, _> =
        MIGRATOR.iter().map(|migration| (migration.version, migration)).collect();
    for (version, success, checksum) in applied {
        let Some(migration) = wanted.remove(&version) else {
            return unfit(format!(
                "migration {version} is of a newer release; use that release's stormglass"
            ));
        };
        if !success {
            return unfit(format!(
                "migration {version} broke off; mend its changes, and delete its row of _sqlx_migrations"
            ));
        }
        if migration.checksum.as_ref() != checksum {
            return unfit(format!("migration {version} is not the one that this stormglass was built with"));
        }
    }
    let name = |(version, migration): (&i64, &&sqlx::migrate::Migration)| {
        format!("{version} ({})", migration.description)
    };
    Ok(wanted.iter().map(name).collect())
}

/// The first node that takes writes.
async fn connect(settings: &Settings) -> Result<Primary, Stop> {
    let limit = Duration::from_millis(settings.postgres.connect_timeout_ms);
    let mut last = Stop::Usage("postgres.urls names no server".to_owned());
    for url in &settings.postgres.urls {
        let (host, options) = (url.host(), url.options(&settings.postgres.password));
        let asked = timeout(limit, ask(options.application_name("stormglass"))).await;
        last = match asked {
            Ok(Ok((connection, false))) => return Ok(Primary { connection, host }),
            Ok(Ok((_, true))) => Stop::Unreachable(format!(
                "PostgreSQL at {host} is a replica, and no primary answers (postgres.urls)"
            )),
            Ok(Err(error)) => refused(&host, &error),
            Err(_) => Stop::Unreachable(format!(
                "PostgreSQL at {host} does not answer within {limit:?} (postgres.urls)"
            )),
        };
    }
    Err(last)
}

/// A connection, and whether it leads to a replica.
async fn ask(options: PgConnectOptions) -> Result<(PgConnection, bool), sqlx::Error> {
    let mut connection = options.connect().await?;
    let replica = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await?;
    Ok((connection, replica))
}

/// What a refusal means to whoever typed the command.
fn refused(host: &str, error: &sqlx::Error) -> Stop {
    let advice = match code(error) {
        Some("28P01" | "28000") => "; check user and password (postgres.urls, postgres.password)",
        Some("3D000") => "; check the database's name (postgres.urls)",
        Some("42501") => "; the user lacks a permission",
        Some(_) => "",
        None => " (postgres.urls)",
    };
    let said = match error {
        sqlx::Error::Database(database) => database.message().to_owned(),
        sqlx::Error::Io(io) => io.to_string(),
        other => other.to_string(),
    };
    Stop::Unreachable(format!("PostgreSQL at {host}: {said}{advice}"))
}

fn code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}
