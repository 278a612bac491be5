//! The command line: what can be asked, and which settings it carries.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::{Args, Parser, Subcommand};
use metrics_exporter_prometheus::PrometheusHandle;
use stormglass_runtime::Entropy;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    commands::{
        dead::{self, DeadCommand},
        doctor,
        stand_in::{self, StandInArguments},
        stock::{self, StockCommand},
        topics,
    },
    embedded::{self, Clusters},
    host::Jitter,
    http, migrations, real,
    serve::{self, Process, Role},
    settings::{PREFIX, Settings, SettingsError, Sources},
    stop::{EXIT_CODES, EXIT_CUT_SHORT, Stop},
};

/// Stormglass: an order backend on Kafka and PostgreSQL that loses nothing.
///
/// Settings come from a TOML file, then from the environment (STORMGLASS_KAFKA_BROKERS sets kafka.brokers; lists are
/// separated by commas), then from flags; each goes over the one before. `--print-config` shows the result.
#[derive(Debug, Parser)]
#[command(name = "stormglass", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Arguments {
    #[command(flatten)]
    sources: SourceArguments,
    /// Print the settings that hold, secrets hidden, and do nothing else.
    #[arg(long, global = true)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where settings come from.
#[derive(Debug, Args)]
struct SourceArguments {
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE", env = "STORMGLASS_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Sets one setting, as `--set kafka.brokers=localhost:9092`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value, global = true)]
    set: Vec<(String, String)>,
    /// Where to serve HTTP: the gateway, /metrics, /livez. Short for --set http.listen=….
    #[arg(long, value_name = "ADDRESS:PORT", global = true)]
    listen: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs until SIGTERM or Ctrl-C, then drains.
    Serve(ServeArguments),
    /// Applies the migrations that the database lacks.
    Migrate,
    /// Asks every server that the settings name whether it is as it must be, and says what to do where it is not.
    Doctor,
    /// Creates the topics, or checks them against what the guarantees need.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Lists, shows, redrives and discards dead letters.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Puts units on a shelf.
    #[command(subcommand)]
    Stock(StockCommand),
    /// Serves a payment provider or a notifier that only pretends.
    StandIn(StandInArguments),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ServeArguments {
    /// What this process is, on the Kafka and PostgreSQL of the settings.
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// Everything in this process, Kafka, PostgreSQL and the parties outside included. Nothing is kept.
    #[arg(long)]
    embedded: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum TopicsCommand {
    /// Creates what is missing, then checks.
    Create,
    /// Prints what each topic is.
    Check,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Arguments {
    /// The settings of file, environment and flags.
    ///
    /// # Errors
    /// The first that does not exist or cannot have its value.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let SourceArguments { config, set, listen } = &self.sources;
        let listen = listen.map(|address| ("http.listen".to_owned(), address.to_string()));
        // Variables that are not Unicode are none of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX));
        Settings::load(&Sources {
            file: config.as_deref(),
            environment: environment.collect(),
            flags: set.iter().cloned().chain(listen).collect(),
        })
    }
}

impl Arguments {
    /// What is logged: what `log.filter` says, else enough to follow what serves, and no more than errors and the audit
    /// of what answers at once.
    pub fn log_filter<'a>(&self, settings: &'a Settings) -> &'a str {
        match (settings.log.filter.as_str(), &self.command) {
            ("", Some(Command::Serve(_) | Command::StandIn(_))) => "info,librdkafka=warn",
            ("", _) => "error,librdkafka=off,stormglass_runtime=info",
            (filter, _) => filter,
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// Why it was not done.
pub async fn run(arguments: &Arguments, settings: Settings) -> Result<(), Stop> {
    if arguments.print_config {
        print!("{}", settings.shown());
        return Ok(());
    }
    let command =
        arguments.command.as_ref().ok_or_else(|| Stop::Usage("no command; see --help".to_owned()))?;
    match command {
        Command::Serve(ServeArguments { role: Some(role), .. }) => serve_real(*role, settings).await,
        Command::Serve(ServeArguments { role: None, .. }) => serve_embedded(settings).await,
        Command::Migrate => migrate(&settings).await,
        Command::Doctor => doctor::run(&settings).await,
        Command::Topics(TopicsCommand::Create) => topics::create(&settings).await,
        Command::Topics(TopicsCommand::Check) => topics::check(&settings).await,
        Command::Dead(command) => dead::run(command, &settings).await,
        Command::Stock(command) => stock::run(command, &settings).await,
        Command::StandIn(stand_in) => {
            stand_in::run(stand_in, arguments.sources.listen, shutdown_on_signal()?).await
        }
    }
}

async fn migrate(settings: &Settings) -> Result<(), Stop> {
    let applied = migrations::apply(settings).await?;
    if applied.is_empty() {
        println!("nothing to apply: the schema is this release's");
    }
    for migration in applied {
        println!("applied {migration}");
    }
    Ok(())
}

async fn serve_embedded(settings: Settings) -> Result<(), Stop> {
    settings.check_work()?;
    settings.check_gateway()?;
    let listener = http::bind(settings.http.listen).await?;
    let (metrics, shutdown, incarnation) = (metrics()?, shutdown_on_signal()?, serve::incarnation()?);
    let clusters = Clusters::start(&settings).await?;
    let address = listener.local_addr().map_err(|error| Stop::Internal(format!("http.listen: {error}")))?;
    print!("{}", embedded::greeting(address));
    let process = Process {
        stack: clusters.stack(&jitter(incarnation)),
        keyring: Some(embedded::keyring()?),
        settings,
        roles: Role::All.parts(),
        incarnation,
    };
    process.run(listener, Some(metrics), shutdown).await
}

/// Everything is checked before anything starts: settings, then the address, then topics and migrations.
async fn serve_real(role: Role, settings: Settings) -> Result<(), Stop> {
    settings.check_work()?;
    settings.check_postgres()?;
    settings.check_gateway()?;
    let roles = role.parts();
    let keyring = roles.contains(&Role::Gateway).then(|| settings.keyring()).transpose()?;
    let parties = real::Parties::new(&settings)?;
    let kafka = real::kafka(&settings)?;
    let listener = http::bind(settings.http.listen).await?;
    let (metrics, shutdown, incarnation) = (metrics()?, shutdown_on_signal()?, serve::incarnation()?);
    real::check_topics(&kafka, &settings).await?;
    let database = match role {
        Role::Gateway => real::database_if_there(&settings).await?,
        Role::Orders | Role::Payments | Role::Inventory | Role::Notifications | Role::Relay | Role::All => {
            real::database(&settings).await?
        }
    };
    let stack = real::stack((kafka, database), parties, &settings, jitter(incarnation))?;
    info!(%role, listening = ?listener.local_addr(), "checked");
    Process { stack, settings, roles, keyring, incarnation }.run(listener, Some(metrics), shutdown).await
}

fn jitter(incarnation: Uuid) -> Arc<dyn Entropy> {
    Arc::new(Jitter::of(incarnation))
}

fn metrics() -> Result<PrometheusHandle, Stop> {
    let metrics = http::collect_metrics().map_err(|error| Stop::Internal(format!("metrics: {error}")))?;
    tokio::spawn(http::upkeep(metrics.clone()));
    Ok(metrics)
}

fn shutdown_on_signal() -> Result<CancellationToken, Stop> {
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    Ok(shutdown)
}

/// A task that cancels `shutdown` on SIGTERM or Ctrl-C, and ends the process on the next: a kill, as far as the data goes.
fn cancel_on_signal(shutdown: CancellationToken) -> Result<impl Future<Output = ()>, Stop> {
    let failed = |error: std::io::Error| Stop::Internal(format!("no signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut told = async move || {
        tokio::select! {
            biased;
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "Ctrl-C",
        }
    };
    Ok(async move {
        let first = told().await;
        shutdown.cancel();
        info!("{first}: draining; once more ends at once");
        let second = told().await;
        warn!("{second} again: not waiting for what is on its way");
        std::process::exit(EXIT_CUT_SHORT);
    })
}
