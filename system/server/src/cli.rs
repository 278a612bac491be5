//! The command line: what can be asked, and which settings it carries.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::{Args, Parser, Subcommand};
use stormglass_runtime::Entropy;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    embedded::{self, Clusters},
    host::Jitter,
    http,
    serve::{self, Process, Role},
    settings::{PREFIX, Settings, SettingsError, Sources},
    stop::{EXIT_CODES, Stop},
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
}

#[derive(Debug, Args)]
struct ServeArguments {
    /// Everything in this process, Kafka, PostgreSQL and the parties outside included. Nothing is kept.
    #[arg(long, required = true)]
    embedded: bool,
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

/// Does what was asked.
///
/// # Errors
/// Why it was not done.
pub async fn run(arguments: &Arguments, settings: Settings) -> Result<(), Stop> {
    if arguments.print_config {
        print!("{}", settings.shown());
        return Ok(());
    }
    match &arguments.command {
        Some(Command::Serve(serve)) => run_serve(serve, settings).await,
        None => Err(Stop::Usage("no command; see --help".to_owned())),
    }
}

async fn run_serve(_arguments: &ServeArguments, settings: Settings) -> Result<(), Stop> {
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    let metrics = http::collect_metrics().map_err(|error| Stop::Internal(format!("metrics: {error}")))?;
    tokio::spawn(http::upkeep(metrics.clone()));
    let listener = http::bind(&settings).await?;
    let incarnation = serve::incarnation()?;
    let entropy: Arc<dyn Entropy> = Arc::new(Jitter::of(incarnation));
    settings.check_work()?;
    let clusters = Clusters::start(&settings).await?;
    let address = listener.local_addr().map_err(|error| Stop::Internal(format!("http.listen: {error}")))?;
    print!("{}", embedded::greeting(address));
    let process = Process {
        stack: clusters.stack(&entropy),
        keyring: Some(embedded::keyring()?),
        settings,
        roles: Role::All.parts(),
        incarnation,
    };
    process.run(listener, Some(metrics), shutdown).await
}

/// A task that cancels `shutdown` on SIGTERM or Ctrl-C.
fn cancel_on_signal(shutdown: CancellationToken) -> Result<impl Future<Output = ()>, Stop> {
    let failed = |error: std::io::Error| Stop::Internal(format!("no signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("Ctrl-C"),
        }
        shutdown.cancel();
    })
}
