//! The `stormglass` command.

use std::{
    io::{IsTerminal, stderr},
    process::ExitCode,
};

use clap::Parser;
use stormglass_server::{
    cli::{self, Arguments},
    settings::LogFormat,
    stop::Stop,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            eprintln!("stormglass: {stop}");
            ExitCode::from(stop.exit_code())
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Stop> {
    let settings = arguments.settings()?;
    start_log(settings.log.format, arguments.log_filter(&settings))?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Stop::Internal(format!("no threads to work on: {error}")))?;
    runtime.block_on(cli::run(arguments, settings))
}

/// Logs go to standard error; standard output is for what was asked.
fn start_log(format: LogFormat, filter: &str) -> Result<(), Stop> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Stop::Usage(format!("settings: log.filter = {filter:?}: {error}")))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match format {
        LogFormat::Pretty => log.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
