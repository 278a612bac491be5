//! The command line, and its errors as one line each.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::styling::Styles;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{Profile, Seed, folder::Folder};

/// Seeded storms against the production services. Bare: the smoke profile over all scenarios.
#[derive(Debug, Parser)]
#[command(version, styles = Styles::plain(), disable_help_subcommand = true, after_help = EXITS)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXITS: &str = "Exit codes: 0 ok, 1 invariant violated, 2 usage, 3 did not settle, 4 nothing ran, \
5 not deterministic, 6 a goal was not reached, 70 internal, 130 interrupted";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Raise storms and judge them
    Run(RunArguments),
    /// Repeat one case
    Replay(ReplayArguments),
    /// Show that the same seed takes the same turn: other threads, order, process, environment, log level
    Verify(VerifyArguments),
    /// Plant each known mistake in a copy of the workspace and count the seeds until it is found
    Power(PowerArguments),
    /// All scenarios, invariants and fault classes
    List,
    /// What a scenario or a fault class does, or what an invariant demands and how it is checked
    Explain {
        /// A scenario, or an invariant or a fault class by name or number
        topic: String,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunArguments {
    /// All scenarios if none is named
    pub(crate) scenario: Vec<String>,
    /// The run's base seed: a number (42, 0x8f3a) or a commit hash. Each scenario's first case takes it as it is;
    /// a number without --seeds, --for and --profile runs just those first cases
    #[arg(long, value_name = "N|0x…|COMMIT", allow_hyphen_values = true)]
    pub(crate) seed: Option<Seed>,
    /// How many cases, over all scenarios together
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = count)]
    pub(crate) seeds: Option<u64>,
    /// Start new cases for this long, such as 30s, 10m, 2h
    #[arg(long = "for", value_name = "TIME", conflicts_with = "seeds", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) time: Option<Duration>,
    /// Cases at once; as many as the machine has cores if not given
    #[arg(short = 'j', value_name = "N", allow_hyphen_values = true, value_parser = width)]
    pub(crate) jobs: Option<usize>,
    #[command(flatten)]
    pub(crate) size: Size,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Stop at the first failure
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// The second of four equal parts of the run is 2/4
    #[arg(long, value_name = "PART/PARTS", allow_hyphen_values = true, default_value = "1/1")]
    pub(crate) shard: Shard,
    /// Exit 6 if a fault class never struck; always so under ci and soak
    #[arg(long)]
    pub(crate) require_faults: bool,
    /// For people, for programs, or as annotations of GitHub Actions
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// How many cases; smoke if not given
    #[arg(long, value_enum)]
    pub(crate) profile: Option<Profile>,
}

impl Size {
    pub(crate) fn profile(self) -> Profile {
        self.profile.unwrap_or_default()
    }
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Place {
    /// Where failures are kept, instead of target/chaos/latest
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

impl Place {
    pub(crate) fn folder(&self) -> Folder {
        Folder::at(self.out.clone().unwrap_or_else(Folder::default_place))
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ReplayArguments {
    /// A seed, a case file, or "latest" for the failure kept last
    #[arg(value_name = "SEED|CASE|latest")]
    pub(crate) what: String,
    /// The scenario of a seed; not needed for a failure that is still kept
    #[arg(long)]
    pub(crate) scenario: Option<String>,
    /// Show every event of the history, and debug lines on stderr
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log: Log,
    /// Stop at this simulated time, such as 4.2s or 4200ms
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) until: Option<Duration>,
    #[command(flatten)]
    pub(crate) size: Size,
    #[command(flatten)]
    pub(crate) place: Place,
    /// For people, for programs, or as annotations of GitHub Actions
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArguments {
    /// Check this seed in every scenario, or with --seeds N that many cases of a run with this base
    #[arg(value_name = "SEED", allow_hyphen_values = true)]
    pub(crate) seed: Option<Seed>,
    /// Only this scenario; may be given more than once
    #[arg(long)]
    pub(crate) scenario: Vec<String>,
    /// How many cases, over all scenarios together
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = count)]
    pub(crate) seeds: Option<u64>,
    #[command(flatten)]
    pub(crate) size: Size,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PowerArguments {
    /// The catalogue of mistakes: one patch each
    #[arg(long, value_name = "DIR", default_value = "chaos/bugs")]
    pub(crate) bugs: PathBuf,
    /// At most this many cases per mistake; fewer if it was found often
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = count, default_value_t = 240)]
    pub(crate) seeds: u64,
    /// Cases at once; as many as the machine has cores if not given
    #[arg(short = 'j', value_name = "N", allow_hyphen_values = true, value_parser = width)]
    pub(crate) jobs: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Pretty,
    Json,
    Github,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Log {
    #[default]
    Verdict,
    Full,
}

/// One of several equal parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// From 0.
    pub(crate) part: u64,
    pub(crate) parts: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<(u64, u64)> =
            text.split_once('/').and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
        match numbers {
            Some((part, parts)) if 1 <= part && part <= parts => Ok(Shard { part: part - 1, parts }),
            Some(_) | None => Err("not a part from 1 to its parts, such as 2/4".to_owned()),
        }
    }
}

fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "not a whole number from 0 up".to_owned())
}

fn width(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|width| (1..=1024).contains(width))
        .ok_or("not a number of threads, 1 to 1024".to_owned())
}

/// `1500ms`, `4.2s`, `10m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_seconds = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("not a number with a unit: 1500ms, 4.2s, 10m, 2h".to_owned()),
    };
    let seconds = digits.parse::<f64>().ok().map(|number| number * unit_seconds);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or("not a time from 0 up, such as 1500ms, 4.2s, 10m, 2h".to_owned())
}

/// What `parse` answers instead of arguments.
pub(crate) enum Told {
    /// Help or version, for stdout.
    Text(String),
    /// One line, for stderr.
    Wrong(String),
}

/// Reads the command line. Clap's several lines of error become one.
pub(crate) fn parse(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Arguments, Told> {
    Arguments::try_parse_from(arguments).map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Told::Text(error.to_string());
        }
        let text = error.to_string();
        let lines = text.lines().map(str::trim);
        let said = lines.filter(|line| !line.is_empty() && !line.starts_with("Usage:"));
        let said: Vec<&str> = said.filter(|line| !line.starts_with("For more information")).collect();
        // A line that ends in a colon belongs to the one after it.
        let line = said.join("; ").replace(":; ", ": ");
        Told::Wrong(format!("{}: see --help", line.trim_start_matches("error: ")))
    })
}

/// What a command without a subcommand means: `run`, with all its defaults.
pub(crate) fn bare() -> Command {
    Command::Run(RunArguments {
        scenario: Vec::new(),
        seed: None,
        seeds: None,
        time: None,
        jobs: None,
        size: Size::default(),
        place: Place::default(),
        fail_fast: false,
        shard: Shard { part: 0, parts: 1 },
        require_faults: false,
        format: Format::Pretty,
    })
}
