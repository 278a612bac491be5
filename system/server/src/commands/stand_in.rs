//! `stand-in`: a payment provider or a notifier that only pretends, over HTTP, as badly as it is told to.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    host::Jitter,
    http,
    outside::{self, Ledger, Manners, StandIn},
    serve,
    stop::Stop,
};

/// Whose place it takes, and how well.
#[derive(Debug, Args)]
pub struct StandInArguments {
    /// Whose place it takes.
    party: Party,
    /// Requests that fail, as 5% or 0.05: half before they had an effect, half after it.
    #[arg(long, default_value = "0%", value_parser = share)]
    fail: f64,
    /// Charges that are refused as a business answer, as 5% or 0.05.
    #[arg(long, default_value = "0%", value_parser = share)]
    decline: f64,
    /// How long every request takes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Writes down what it is asked and does, a line of JSON each, and remembers what is written already.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Party {
    /// The payment provider; listens on 127.0.0.1:8081 unless --listen says otherwise.
    Payments,
    /// The notifier; listens on 127.0.0.1:8082 unless --listen says otherwise.
    Notifications,
}

fn share(text: &str) -> Result<f64, String> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let share = number.parse::<f64>().map(|number| number / whole);
    share
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "must be between 0% and 100%".to_owned())
}

/// Serves until `shutdown`.
///
/// # Errors
/// If the address is taken, or the ledger is none.
pub async fn run(
    arguments: &StandInArguments,
    listen: Option<SocketAddr>,
    shutdown: CancellationToken,
) -> Result<(), Stop> {
    let &StandInArguments { party, fail, decline, latency_ms, ref ledger } = arguments;
    let manners = Manners { fail, decline, latency: Duration::from_millis(latency_ms) };
    let entropy = Arc::new(Jitter::of(serve::incarnation()?));
    let mut stand_in = StandIn::new(manners, entropy);
    if let Some(path) = ledger {
        let refuse =
            |error: &dyn std::fmt::Display| Stop::Usage(format!("--ledger {}: {error}", path.display()));
        let kept = Ledger::open(path).map_err(|error| refuse(&error))?;
        stand_in = stand_in.keeping(kept).map_err(|error| refuse(&error))?;
    }
    let stand_in = Arc::new(stand_in);
    let (port, router) = match party {
        Party::Payments => (8081, outside::payments(stand_in)),
        Party::Notifications => (8082, outside::notifications(stand_in)),
    };
    let listener = http::bind(listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)))).await?;
    info!(?party, ?listener, "listening");
    http::serve(listener, router, shutdown.cancelled_owned()).await;
    Ok(())
}
