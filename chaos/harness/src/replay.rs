//! `replay`: one case again, from a seed, a case file or the failure kept last.

use std::path::{Path, PathBuf};

use crate::arguments::{Format, Log, ReplayArguments};
use crate::catalogue;
use crate::folder::{Folder, shown};
use crate::machine::Stopwatch;
use crate::report::{Frame, Reporter};
use crate::run::choose;
use crate::stop::{Exit, Stop};
use crate::tally::Tally;
use crate::trial::{self, Draw, Keeping, Trial};
use crate::{Case, History, Observe, Seed, Suite, Verdict};

/// What is to be repeated.
enum Target<'s> {
    File(PathBuf),
    Drawn(Draw<'s>),
}

/// The command.
pub(crate) fn replay(suites: &[&dyn Suite], arguments: &ReplayArguments) -> Result<Exit, Stop> {
    let folder = arguments.place.folder();
    let mut reporter = Reporter::new(arguments.format);
    let watch = Stopwatch::start();
    let target = target(suites, arguments, &folder)?;
    let trial = match &target {
        Target::File(path) => from_file(suites, arguments, path, &mut reporter)?,
        // Asked for its events or for a part of it: nothing to judge, so nothing to keep.
        Target::Drawn(draw) if arguments.until.is_some() || arguments.log == Log::Full => {
            let again = draw.arguments(suites);
            Trial { again, ..observed(suites, arguments, &trial::plan(suites, *draw)?, &mut reporter)? }
        }
        Target::Drawn(draw) => {
            folder.open()?;
            trial::attempt(suites, *draw, 0, &Keeping::Failures(&folder))?
        }
    };
    if stopped(arguments, &trial) {
        reporter.stopped(&trial);
        return reporter.console.finish().map(|()| Exit::Ok);
    }
    let mut tally = Tally::default();
    tally.add(&trial);
    reporter.case(&trial);
    let (base, profile, wall_ms) = (trial.case.seed, arguments.size.profile(), watch.elapsed_ms());
    reporter.summary(&tally, &Frame { base, profile, wall_ms, interrupted: false, missing: Vec::new() });
    reporter.console.finish()?;
    Ok(tally.exit())
}

/// Whether `--until` ended the run before it could be judged. What is wrong at that moment already is a verdict.
fn stopped(arguments: &ReplayArguments, trial: &Trial) -> bool {
    let reached = until_ms(arguments).is_some_and(|until_ms| trial.outcome.sim_ms >= until_ms);
    reached && trial.outcome.verdict == Verdict::Passed
}

fn until_ms(arguments: &ReplayArguments) -> Option<u64> {
    arguments.until.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn target<'s>(
    suites: &[&'s dyn Suite],
    arguments: &ReplayArguments,
    folder: &Folder,
) -> Result<Target<'s>, Stop> {
    let what = arguments.what.as_str();
    if what == "latest" {
        let none = || {
            let place = folder.place();
            Stop::usage(format!(
                "no failure is kept in {place}: nothing failed in the last run; give a seed or a case file"
            ))
        };
        return folder.latest().map(Target::File).ok_or_else(none);
    }
    let path = Path::new(what);
    if path.exists() || what.ends_with(".toml") || what.contains('/') {
        return Ok(Target::File(path.to_owned()));
    }
    let seed: Seed = what.parse().map_err(|_| {
        Stop::usage(format!("`{what}` is no seed (0x8f3a, 42), case file or \"latest\": see replay --help"))
    })?;
    let profile = arguments.size.profile();
    let drawn = |scenario| Target::Drawn(Draw { scenario, seed, profile });
    if let Some(named) = &arguments.scenario {
        return choose(suites, named).map(drawn);
    }
    match (catalogue::scenario_names(suites).as_slice(), folder.kept(seed)) {
        ([only], _) => Ok(drawn(only)),
        (_, Some(kept)) => Ok(Target::File(kept)),
        (known, None) => Err(Stop::usage(format!(
            "seed {seed} alone names no case: add --scenario with one of: {}",
            known.join(", ")
        ))),
    }
}

/// A file is the user's: it is run as it is, once, and nothing is written beside it.
fn from_file(
    suites: &[&dyn Suite],
    arguments: &ReplayArguments,
    path: &Path,
    reporter: &mut Reporter,
) -> Result<Trial, Stop> {
    let case = Case::load(path, suites).map_err(|error| Stop::usage(error.to_string()))?;
    let text = case.to_text().map_err(|error| Stop::usage(error.to_string()))?;
    let trial = observed(suites, arguments, &text, reporter)?;
    let recorded = Folder::recorded_hash(path).filter(|_| arguments.until.is_none());
    if recorded.is_some_and(|recorded| recorded != trial.outcome.hash.to_string()) {
        reporter
            .console
            .note("not the trace that was kept with this case: the source or the case has changed since");
    }
    Ok(Trial { again: shown(path), ..trial })
}

fn observed(
    suites: &[&dyn Suite],
    arguments: &ReplayArguments,
    text: &str,
    reporter: &mut Reporter,
) -> Result<Trial, Stop> {
    let case = Case::parse("the case", text, suites).map_err(|error| Stop::internal(error.to_string()))?;
    let history = if arguments.log == Log::Full { History::Kept } else { History::Hashed };
    let watch = Stopwatch::start();
    let mut outcome = trial::run(suites, text, Observe { history, until_ms: until_ms(arguments) });
    let wall_ms = watch.elapsed_ms();
    for event in std::mem::take(&mut outcome.history) {
        match arguments.format {
            Format::Json => reporter.console.say(&format!("{{\"kind\":\"event\",\"event\":{event}}}\n")),
            Format::Pretty | Format::Github => reporter.console.say(&format!("{event}\n")),
        }
    }
    Ok(Trial { case, again: String::new(), outcome, wall_ms, doubt: None, files: None })
}
