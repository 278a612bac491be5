//! The generic chaos command: draws cases, runs them on fresh threads, judges, keeps and repeats failures. No domain.
//!
//! A binary is one line: `stormglass_harness::main(&[&MySuite])`. What a suite must give is in [`Suite`]; what it gets is
//! the whole command: `run`, `replay`, `verify`, `power`, `list`, `explain`, with exit codes that scripts can rely on.

mod arguments;
mod bugs;
mod case;
mod catalogue;
mod child;
mod console;
mod estimate;
mod folder;
mod machine;
mod power;
mod replay;
mod report;
mod run;
mod scratch;
mod seed;
mod source;
mod stop;
mod suite;
mod tally;
mod trial;
mod verify;

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

pub use case::{Case, CaseError, VERSION};
pub use seed::{BASE, NotASeed, Seed};
pub use suite::{
    History, Invariant, Misfit, Observe, Outcome, Profile, Scenario, Suite, TraceHash, Verdict, Violation,
};

use arguments::{Command, Log, Told};
use console::Console;
use stop::{Exit, Stop};

/// The command over these suites. Results go to stdout, progress and errors to stderr.
pub fn main(suites: &[&dyn Suite]) -> ExitCode {
    let exit = match arguments::parse(std::env::args_os()) {
        Ok(arguments) => obey(suites, arguments.command).unwrap_or_else(|stop| {
            Console::new().note(&format!("error: {}", stop.line.replace('\n', " ")));
            stop.exit
        }),
        Err(Told::Text(text)) => {
            Console::new().say(&text);
            Exit::Ok
        }
        Err(Told::Wrong(line)) => {
            Console::new().note(&format!("error: {line}"));
            Exit::Usage
        }
    };
    ExitCode::from(exit as u8)
}

fn obey(suites: &[&dyn Suite], command: Option<Command>) -> Result<Exit, Stop> {
    let command = command.unwrap_or_else(arguments::bare);
    log(&command);
    match &command {
        Command::List => show(&catalogue::list(suites)),
        Command::Explain { topic } => show(&catalogue::explain(suites, topic).map_err(Stop::usage)?),
        Command::Run(arguments) => seeded().and_then(|()| run::run(suites, arguments)),
        Command::Replay(arguments) => seeded().and_then(|()| replay::replay(suites, arguments)),
        Command::Verify(arguments) => seeded().and_then(|()| verify::verify(suites, arguments)),
        Command::Power(arguments) => seeded().and_then(|()| power::power(suites, arguments)),
    }
}

fn show(text: &str) -> Result<Exit, Stop> {
    let mut console = Console::new();
    console.say(text);
    console.finish().map(|()| Exit::Ok)
}

/// Refuses a build in which the same seed may take another turn.
fn seeded() -> Result<(), Stop> {
    if cfg!(tokio_unstable) {
        return Ok(());
    }
    Err(Stop::usage(
        "built without `--cfg tokio_unstable`, so tokio would not seed the order of select! branches: unset RUSTFLAGS \
         (it replaces .cargo/config.toml), or add the flag to it, and build again",
    ))
}

/// Log lines on stderr, as RUST_LOG asks; none without it, except under `replay --log full`.
fn log(command: &Command) {
    let full = matches!(command, Command::Replay(arguments) if arguments.log == Log::Full);
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| if full { "debug" } else { "off" }.to_owned());
    let lines = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(level)).with_writer(std::io::stderr);
    // Fails only if somebody installed a subscriber before calling `main`: then theirs is the one to use.
    lines.without_time().try_init().ok();
}
