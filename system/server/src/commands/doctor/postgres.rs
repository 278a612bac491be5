//! What is asked of PostgreSQL's nodes: of each whether it fits, of all of them whether they fit together.

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use stormglass_orders::Row;
use stormglass_runtime::{Clock, RowSet};
use tokio::time::Duration;

use super::Report;
use crate::{
    host::SystemClock,
    migrations::{self, Primary},
    postgres::{
        Config,
        primary::{self, Newest, Place, Told},
    },
    settings::Settings,
};

/// The oldest release that the statements and the tests are written for.
const VERSION_MIN: i32 = 150_000;
/// Times that are shown come from this host, times that decide from the database's.
const SKEW_NOTED: Duration = Duration::from_secs(1);
/// An order's deadline, and what a client reads about it, is off by as much.
const SKEW_MAX: Duration = Duration::from_secs(60);
/// How much a replica may lag behind its primary before a read rather goes there.
const LAG_NOTED: u64 = 16 << 20;

/// What the runtime's statements need of its tables.
const RUNTIME: [(&str, &[&str]); 5] = [
    ("positions", &["SELECT", "INSERT", "UPDATE"]),
    ("inbox", &["SELECT", "INSERT", "DELETE"]),
    ("pending", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("outbox", &["SELECT", "INSERT", "DELETE"]),
    ("leases", &["SELECT", "INSERT", "UPDATE"]),
];
/// And those of a service of its own.
const DOMAIN: &[&str] = &["SELECT", "INSERT", "UPDATE"];

const FACTS: &str = "
    SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('synchronous_standby_names') AS standbys,
           current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
           current_setting('max_connections')::int AS connections,
           (SELECT system_identifier FROM pg_control_system()) AS cluster,
           (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS clock";

/// What a node says of itself.
struct Facts {
    number: i32,
    version: String,
    synchronous_commit: String,
    standbys: String,
    /// Settings that are off and must not be.
    off: Vec<&'static str>,
    connections: i32,
    /// Its data comes from this `initdb`.
    cluster: i64,
    /// How far its clock is ahead of this host's, in microseconds, and how sure that is.
    ahead_us: i64,
    within_us: i64,
}

/// All nodes of `postgres.urls`.
pub(super) async fn check(settings: &Settings) -> Report {
    let mut report = Report::default();
    if let Err(refusal) = settings.check_postgres() {
        report.error(refusal.to_string());
        return report;
    }
    let config = settings.database();
    // With the settings of the services' own sessions: a server that refuses those refuses the services.
    let nodes = config.sessions();
    let names: Vec<String> =
        nodes.iter().map(|node| format!("PostgreSQL at {}", primary::name(node))).collect();
    let mut told = primary::ask_all(&nodes, config.connect_timeout).await;
    let mut cluster = None;
    for (name, told) in names.iter().zip(&mut told) {
        match told {
            Err(no_answer) => {
                report.error(migrations::unanswered(name, no_answer, config.connect_timeout).to_string());
            }
            Ok((connection, place)) => match facts(connection).await {
                Ok(facts) => {
                    node(&mut report, (name, *place), &facts, settings);
                    if *cluster.get_or_insert(facts.cluster) != facts.cluster {
                        report.error(format!(
                            "{name}: another cluster than the first node's; mend postgres.urls"
                        ));
                    }
                }
                Err(error) => report.error(migrations::refused(name, &error).to_string()),
            },
        }
    }
    together(&mut report, (names, told), &config).await;
    report
}

/// What holds of one node alone.
fn node(report: &mut Report, (name, place): (&str, Place), facts: &Facts, settings: &Settings) {
    let role = if place.is_standby { "replica" } else { "primary" };
    let line = format!("{name}: {role} on timeline {}, version {}", place.timeline(), facts.version);
    if facts.number >= VERSION_MIN {
        report.fine(line);
    } else {
        report.error(format!("{line}; must be at least {}", VERSION_MIN / 10_000));
    }
    if !facts.off.is_empty() {
        let off = facts.off.join(" and ");
        report.error(format!("{name}: {off} is off; a crash of the machine would lose what was committed"));
    }
    let skew =
        Duration::from_micros(facts.ahead_us.unsigned_abs().saturating_sub(facts.within_us.unsigned_abs()));
    let way = if facts.ahead_us < 0 { "behind" } else { "ahead of" };
    let line = format!("{name}: its clock is {skew:.3?} {way} this host's");
    match skew {
        skew if skew > SKEW_MAX => report.error(format!("{line}; synchronise both")),
        skew if skew > SKEW_NOTED => report.warning(format!("{line}; synchronise both")),
        _ => report.fine(format!("{name}: its clock and this host's agree")),
    }
    if !place.is_standby {
        durability(report, name, facts, settings);
    }
}

/// Whether what the primary acknowledges stays.
fn durability(report: &mut Report, name: &str, facts: &Facts, settings: &Settings) {
    let Facts { synchronous_commit, standbys, .. } = facts;
    let waits = !standbys.is_empty() && !matches!(synchronous_commit.as_str(), "off" | "local");
    if synchronous_commit == "off" {
        report.error(format!(
            "{name}: synchronous_commit is off; a crash loses commits that were acknowledged"
        ));
    } else if waits {
        report
            .fine(format!("{name}: commits wait for {standbys} (synchronous_commit = {synchronous_commit})"));
    } else if settings.postgres.urls.len() > 1 {
        report.warning(format!(
            "{name}: commits do not wait for a replica; a failover may lose the last ones (synchronous_standby_names)"
        ));
    } else {
        report.fine(format!("{name}: commits are flushed (synchronous_commit = {synchronous_commit})"));
    }
    let wanted = settings.postgres.transactions_max + settings.postgres.reads_per_node_max;
    if usize::try_from(facts.connections).is_ok_and(|connections| connections < wanted) {
        let connections = facts.connections;
        report
            .warning(format!("{name}: max_connections = {connections}; one process alone may want {wanted}"));
    }
}

/// What holds of the nodes together, and of the schema on the primary.
async fn together(report: &mut Report, (names, mut told): (Vec<String>, Vec<Told>), config: &Config) {
    let places: Vec<_> = told.iter().map(|told| told.as_ref().ok().map(|(_, place)| *place)).collect();
    let node = match primary::choose(&places, &Newest::default(), config.silent_nodes) {
        Ok(node) => node,
        Err(none) => {
            report.error(format!(
                "PostgreSQL: nowhere to write: {}",
                migrations::no_primary(none, &told, config)
            ));
            for unasked in ["migrations", "permissions", "replication lag"] {
                report.error(format!("PostgreSQL: {unasked}: nobody to ask, without a primary"));
            }
            return;
        }
    };
    let lsn = |place: Place| place.token().lsn;
    let Some(here) = places.get(node).copied().flatten() else { return };
    for (name, place) in names.iter().zip(&places) {
        let Some(place) = place.filter(|place| place.is_standby) else { continue };
        let behind = lsn(here).saturating_sub(lsn(place));
        let line = format!("{name}: replays {behind} bytes behind the primary");
        if place.timeline() < here.timeline() {
            report.error(format!(
                "{name}: follows a timeline that has been left; make it a replica of the primary"
            ));
        } else if behind > LAG_NOTED {
            report.warning(format!("{line}; reads wait or go to the primary"));
        } else {
            report.fine(line);
        }
    }
    let Ok((connection, _)) = told.swap_remove(node) else { return };
    let name = names.get(node).cloned().unwrap_or_default();
    let host = name.trim_start_matches("PostgreSQL at ").to_owned();
    let mut primary = Primary { connection, host };
    report.judge(migrations::compare(&mut primary).await, format!("{name}: migrations are this release's"));
    permissions(report, &name, &mut primary.connection).await;
}

/// Whether the role may do what the statements do.
async fn permissions(report: &mut Report, name: &str, connection: &mut PgConnection) {
    let domain = Row::TABLES.iter().map(|table| (*table, DOMAIN));
    let needed = RUNTIME.into_iter().chain(domain);
    let (tables, privileges): (Vec<&str>, Vec<&str>) =
        needed.flat_map(|(table, rights)| rights.iter().map(move |right| (table, *right))).unzip();
    let lacking: Result<Vec<String>, sqlx::Error> = sqlx::query_scalar(
        "SELECT n.privilege || ' on ' || n.name FROM unnest($1::text[], $2::text[]) AS n (name, privilege)
         WHERE to_regclass(n.name) IS NOT NULL AND NOT has_table_privilege(to_regclass(n.name), n.privilege)",
    )
    .bind(tables)
    .bind(privileges)
    .fetch_all(connection)
    .await;
    match lacking {
        Ok(lacking) if lacking.is_empty() => {
            report.fine(format!("{name}: the role may read and write its tables"))
        }
        Ok(lacking) => report.error(format!("{name}: the role lacks {}; GRANT it", lacking.join(", "))),
        Err(error) => report.error(migrations::refused(name, &error).to_string()),
    }
}

async fn facts(connection: &mut PgConnection) -> Result<Facts, sqlx::Error> {
    let before = SystemClock.now().0;
    let row: PgRow = sqlx::query(FACTS).fetch_one(connection).await?;
    let after = SystemClock.now().0;
    let off =
        |name: &'static str| Ok::<_, sqlx::Error>((row.try_get::<&str, _>(name)? == "off").then_some(name));
    Ok(Facts {
        number: row.try_get("number")?,
        version: row.try_get("version")?,
        synchronous_commit: row.try_get("synchronous_commit")?,
        standbys: row.try_get("standbys")?,
        off: [off("fsync")?, off("full_page_writes")?].into_iter().flatten().collect(),
        connections: row.try_get("connections")?,
        cluster: row.try_get("cluster")?,
        ahead_us: row.try_get::<i64, _>("clock")? - before.midpoint(after),
        within_us: (after - before) / 2,
    })
}
