//! The schema that this binary was built for: `migrations/`, carried inside it, applied and compared.

use std::collections::BTreeMap;

use sqlx::{
    PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgDatabaseError},
};
use tokio::time::Duration;

use crate::{
    postgres::{
        Config,
        primary::{self, Newest, NoAnswer, NoPrimary, Told},
    },
    settings::Settings,
    stop::Stop,
};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// A connection to the primary, and where it leads.
pub(crate) struct Primary {
    pub(crate) connection: PgConnection,
    pub(crate) host: String,
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
        MigrateError::Execute(error) => refused(&format!("PostgreSQL at {}", primary.host), &error),
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
    compare(&mut connect(settings).await?).await
}

/// The same of a primary that is connected to.
pub(crate) async fn compare(primary: &mut Primary) -> Result<(), Stop> {
    let missing = missing(primary).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let (host, missing) = (&primary.host, missing.join(", "));
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
        Err(error) => return Err(refused(&format!("PostgreSQL at {host}"), &error)),
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

/// The node to write to; nothing is written while another that does not answer may be it.
async fn connect(settings: &Settings) -> Result<Primary, Stop> {
    let config = settings.database();
    let named = config.nodes.iter().cloned().map(|node| node.application_name("stormglass"));
    let nodes: Vec<PgConnectOptions> = named.collect();
    let mut told = primary::ask_all(&nodes, config.connect_timeout).await;
    let places: Vec<_> = told.iter().map(|told| told.as_ref().ok().map(|(_, place)| *place)).collect();
    match primary::choose(&places, &Newest::default(), config.silent_nodes) {
        Ok(node) => match told.swap_remove(node) {
            Ok((connection, _)) => Ok(Primary { connection, host: name_of(&config, node) }),
            // Only who answered is chosen.
            Err(no_answer) => Err(unanswered(&at(&config, node), &no_answer, config.connect_timeout)),
        },
        Err(none) => Err(no_primary(none, &told, &config)),
    }
}

/// What it means to whoever typed the command that there is nobody to write to.
pub(crate) fn no_primary(none: NoPrimary, told: &[Told], config: &Config) -> Stop {
    let silence = |node: usize| {
        let no_answer = told.get(node)?.as_ref().err()?;
        Some(unanswered(&at(config, node), no_answer, config.connect_timeout).to_string())
    };
    Stop::Unreachable(match none {
        NoPrimary::Absent => (0..told.len()).rev().find_map(silence).unwrap_or_else(|| {
            let nodes: Vec<String> = (0..told.len()).map(|node| name_of(config, node)).collect();
            format!(
                "PostgreSQL at {}: none is a primary; promote one, or name it (postgres.urls)",
                nodes.join(", ")
            )
        }),
        NoPrimary::Outdated(node) => format!(
            "{} takes writes on a timeline that has been left, and the new primary does not answer; stop the old one, \
             and name the new one (postgres.urls)",
            at(config, node)
        ),
        NoPrimary::Two(first, second) => format!(
            "{} and {} both take writes on one timeline; stop the one that is not to go on",
            at(config, first),
            at(config, second)
        ),
        NoPrimary::Silent(node) => format!(
            "{}; it may have been promoted, so nothing is written to another node: bring it back, take it out of \
             postgres.urls, or set postgres.silent_nodes = \"ignore\"",
            silence(node).unwrap_or_default()
        ),
    })
}

fn name_of(config: &Config, node: usize) -> String {
    config.nodes.get(node).map(primary::name).unwrap_or_default()
}

fn at(config: &Config, node: usize) -> String {
    format!("PostgreSQL at {}", name_of(config, node))
}

/// What it means to whoever typed the command that a node did not say where it stands.
pub(crate) fn unanswered(at: &str, no_answer: &NoAnswer, limit: Duration) -> Stop {
    match no_answer {
        NoAnswer::Refused(error) => refused(at, error),
        NoAnswer::Silent => {
            Stop::Unreachable(format!("{at} does not answer within {limit:?} (postgres.urls)"))
        }
    }
}

/// What a refusal means to whoever typed the command.
pub(crate) fn refused(at: &str, error: &sqlx::Error) -> Stop {
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
    Stop::Unreachable(format!("{at}: {said}{advice}"))
}

fn code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}
