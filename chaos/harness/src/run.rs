//! `run`: many cases in parallel, their results in the order of the cases.
//!
//! Case k of a run is round k / S of scenario k % S, where S scenarios take part; a shard takes every n-th round. So a
//! run of N cases covers all scenarios evenly, and its cases do not depend on thread count or on where it stopped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::arguments::{RunArguments, Shard};
use crate::catalogue::{self, nearest};
use crate::folder::Folder;
use crate::machine::{self, Stopwatch};
use crate::report::{Frame, Reporter};
use crate::seed::BASE;
use crate::stop::{Exit, Stop};
use crate::tally::Tally;
use crate::trial::{self, Draw, Keeping, Trial};
use crate::{Profile, Seed, Suite};

/// How long running cases may take after Ctrl-C. A case cannot be cut short, so the process then ends without them.
const GRACE: Duration = Duration::from_secs(3);

/// Silence after which a user is told which cases are running.
const QUIET: Duration = Duration::from_secs(60);

/// Which cases a run consists of.
#[derive(Clone, Debug)]
pub(crate) struct Cases<'s> {
    pub(crate) scenarios: Vec<&'s str>,
    pub(crate) base: Seed,
    pub(crate) profile: Profile,
    /// Cases over all scenarios and shards; `None` under `--for`.
    pub(crate) limit: Option<u64>,
    pub(crate) shard: Shard,
}

impl<'s> Cases<'s> {
    /// The `nth` case of this shard.
    pub(crate) fn nth(&self, nth: u64) -> Option<Draw<'s>> {
        let width = self.scenarios.len() as u64;
        let (round, lane) = (nth.checked_div(width)?, nth.checked_rem(width)?);
        let round = round.checked_mul(self.shard.parts)?.checked_add(self.shard.part)?;
        let whole = round.checked_mul(width)?.checked_add(lane)?;
        let scenario = self.scenarios[usize::try_from(lane).ok()?];
        let within = self.limit.is_none_or(|limit| whole < limit);
        within.then(|| Draw { scenario, seed: self.base.draw(scenario, round), profile: self.profile })
    }
}

/// How many cases a run has: what was asked for, or one round for a seed given alone, or the profile's.
pub(crate) fn limit(
    seeds: Option<u64>,
    seed: Option<Seed>,
    profile: Option<Profile>,
    scenarios: usize,
) -> u64 {
    match (seeds, seed, profile) {
        (Some(seeds), _, _) => seeds,
        (None, Some(_), None) => scenarios as u64,
        (None, _, profile) => profile.unwrap_or_default().seeds(),
    }
}

/// The scenarios that were named, or all.
pub(crate) fn chosen<'s>(suites: &[&'s dyn Suite], named: &[String]) -> Result<Vec<&'s str>, Stop> {
    let known = catalogue::scenario_names(suites);
    if named.is_empty() {
        return Ok(known);
    }
    let mut chosen = Vec::new();
    for name in named {
        let scenario = choose(suites, name)?;
        // Named twice is not meant twice: its cases would be the same.
        if !chosen.contains(&scenario) {
            chosen.push(scenario);
        }
    }
    Ok(chosen)
}

/// The scenario of that name.
pub(crate) fn choose<'s>(suites: &[&'s dyn Suite], name: &str) -> Result<&'s str, Stop> {
    let known = catalogue::scenario_names(suites);
    known.iter().find(|known| **known == name).copied().ok_or_else(|| {
        let close = nearest(name, &known);
        Stop::usage(format!("unknown scenario `{name}`{close}: use one of: {}", known.join(", ")))
    })
}

/// The command.
pub(crate) fn run(suites: &[&dyn Suite], arguments: &RunArguments) -> Result<Exit, Stop> {
    let scenarios = chosen(suites, &arguments.scenario)?;
    let count = limit(arguments.seeds, arguments.seed, arguments.size.profile, scenarios.len());
    let cases = Cases {
        scenarios,
        base: arguments.seed.unwrap_or(BASE),
        profile: arguments.size.profile(),
        limit: arguments.time.is_none().then_some(count),
        shard: arguments.shard,
    };
    if let Some(why) = empty(arguments, &cases) {
        return Err(Stop::nothing(why));
    }
    let folder = arguments.place.folder();
    folder.open()?;
    folder.clear()?;
    Storms {
        suites,
        arguments,
        cases,
        reporter: Reporter::new(arguments.format),
        tally: Tally::default(),
        watch: Stopwatch::start(),
        early: BTreeMap::new(),
        next: 0,
        stop: None,
        quiet: Stopwatch::start(),
        patience: QUIET,
    }
    .raise(&folder)
}

/// Why there is not one case to run. Told before anything is touched: what the last run kept is still worth having.
fn empty(arguments: &RunArguments, cases: &Cases<'_>) -> Option<&'static str> {
    match (arguments.time, cases.limit) {
        (Some(Duration::ZERO), _) => Some("--for is 0"),
        (None, Some(0)) => Some("--seeds is 0"),
        _ if cases.nth(0).is_none() => Some("there are fewer rounds of cases than parts in --shard"),
        _ => None,
    }
}

/// A run under way, seen from the thread that collects results.
struct Storms<'a> {
    suites: &'a [&'a dyn Suite],
    arguments: &'a RunArguments,
    cases: Cases<'a>,
    reporter: Reporter,
    tally: Tally,
    watch: Stopwatch,
    /// Results that came before one of an earlier case.
    early: BTreeMap<u64, Result<Trial, Stop>>,
    /// The case whose result is told next.
    next: u64,
    stop: Option<Stop>,
    /// Since the last result.
    quiet: Stopwatch,
    /// How much longer silence must last to be spoken of.
    patience: Duration,
}

impl Storms<'_> {
    fn raise(mut self, folder: &Folder) -> Result<Exit, Stop> {
        let (suites, cases) = (self.suites, self.cases.clone());
        let (halt, interrupted) = (AtomicBool::new(false), machine::interruption());
        let keeping = Keeping::Failures(folder);
        self.reporter.announce(&cases);
        let work = |slot: usize, nth: u64| {
            let draw = cases.nth(nth)?;
            Some((nth, trial::attempt(suites, draw, slot, &keeping)))
        };
        let width = self.arguments.jobs.unwrap_or_else(machine::cores);
        let mut asked: Option<Stopwatch> = None;
        machine::in_parallel(width, &halt, work, |made| {
            match made {
                Some((nth, result)) => {
                    self.early.insert(nth, result);
                    self.tell();
                    (self.quiet, self.patience) = (Stopwatch::start(), QUIET);
                }
                None => self.wonder(folder),
            }
            if interrupted.load(Ordering::SeqCst) {
                let since = *asked.get_or_insert_with(Stopwatch::start);
                if since.elapsed() > GRACE {
                    self.abandon();
                }
            }
            if asked.is_some() || self.is_over() {
                halt.store(true, Ordering::SeqCst);
            }
        });
        self.finish(interrupted.load(Ordering::SeqCst))
    }

    /// Tells all results whose turn it is. After the first failure under `--fail-fast` no later case has a turn, even
    /// one that had already ended: the report does not depend on which thread was faster.
    fn tell(&mut self) {
        while !self.is_decided()
            && let Some(result) = self.early.remove(&self.next)
        {
            self.next += 1;
            match result {
                Ok(trial) => {
                    self.tally.add(&trial);
                    self.reporter.case(&trial);
                }
                Err(stop) => self.stop = Some(stop),
            }
        }
        let (done, failed) = (self.tally.cases(), self.tally.failed());
        let of =
            self.cases.limit.map_or_else(String::new, |limit| format!("/{}", limit / self.cases.shard.parts));
        let seconds = self.watch.elapsed().as_secs();
        self.reporter.console.progress(&format!("{done}{of} cases, {failed} failed, {seconds} s"));
    }

    /// A run is bounded by simulated time only: one whose time stands still would never end, and must not do so silently.
    fn wonder(&mut self, folder: &Folder) {
        if self.quiet.elapsed() > self.patience {
            let (seconds, place) = (self.quiet.elapsed().as_secs(), folder.running_place());
            self.reporter
                .console
                .note(&format!("no case has ended for {seconds} s: {place} holds what is running"));
            self.patience *= 4;
        }
    }

    /// Whether later cases no longer matter.
    fn is_decided(&self) -> bool {
        self.stop.is_some() || (self.arguments.fail_fast && self.tally.failed() > 0)
    }

    /// Whether no further case is to be started.
    fn is_over(&self) -> bool {
        let late = self.arguments.time.is_some_and(|time| self.watch.elapsed() >= time);
        let failed = |result: &Result<Trial, Stop>| {
            result.as_ref().map_or(true, |trial| self.arguments.fail_fast && trial.failed())
        };
        late || self.is_decided() || self.reporter.console.is_lost() || self.early.values().any(failed)
    }

    /// Ctrl-C, and a case that does not end: reports without it and leaves.
    fn abandon(&mut self) {
        self.report(true);
        self.reporter.console.note("interrupted: a case was still running and is not counted");
        std::process::exit(Exit::Interrupted as i32);
    }

    fn finish(mut self, interrupted: bool) -> Result<Exit, Stop> {
        let missing = self.report(interrupted || self.stop.is_some());
        // Ctrl-C reaches the processes that confirm failures as well: what broke then broke because of it.
        if let Some(stop) = self.stop.take().filter(|_| !interrupted) {
            return Err(stop);
        }
        self.reporter.console.finish()?;
        Ok(match self.tally.exit() {
            _ if interrupted => Exit::Interrupted,
            Exit::Ok if missing => Exit::Goal,
            exit => exit,
        })
    }

    /// Prints the sums; true if a required fault class never struck.
    fn report(&mut self, interrupted: bool) -> bool {
        let required = self.arguments.require_faults || self.cases.profile != Profile::Smoke;
        let missing = if required && !interrupted { self.tally.missing(self.suites) } else { Vec::new() };
        let lacks = !missing.is_empty() && self.tally.cases() > 0;
        let (base, profile, wall_ms) = (self.cases.base, self.cases.profile, self.watch.elapsed_ms());
        self.reporter.summary(&self.tally, &Frame { base, profile, wall_ms, interrupted, missing });
        lacks
    }
}
