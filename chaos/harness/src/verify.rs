//! `verify`: the same cases must take the same turn whatever surrounds them.
//!
//! Three passes: on one thread; on two in reverse order; in another process with another environment, directory and log
//! level. Where two hashes differ the case is repeated with its history, and the first event that differs is named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::arguments::{Shard, VerifyArguments};
use crate::console::Console;
use crate::folder;
use crate::machine;
use crate::report::counted;
use crate::run::{Cases, chosen, limit};
use crate::seed::BASE;
use crate::stop::{Exit, Stop};
use crate::trial::{self, Draw, Keeping};
use crate::{History, Observe, Suite, child};

/// Hashes of the cases by number.
type Hashes = BTreeMap<u64, String>;

/// Pairs of repeats that look for the first difference: one that needs an unlucky moment may hide from a single pair.
const REPEATS: usize = 3;

/// The command.
pub(crate) fn verify(suites: &[&dyn Suite], arguments: &VerifyArguments) -> Result<Exit, Stop> {
    let scenarios = chosen(suites, &arguments.scenario)?;
    // A seed means that seed whatever its profile: a failure of a soak is verified by its own size.
    let profile = arguments.size.profile.filter(|_| arguments.seed.is_none());
    let count = limit(arguments.seeds, arguments.seed, profile, scenarios.len());
    let base = arguments.seed.unwrap_or(BASE);
    let shard = Shard { part: 0, parts: 1 };
    let profile = arguments.size.profile();
    let cases = Cases { scenarios, base, profile, limit: Some(count), shard };
    if count == 0 {
        return Err(Stop::nothing("--seeds is 0"));
    }
    Check { suites, cases, count, interrupted: machine::interruption(), console: Console::new() }.compare()
}

/// The cases that are compared.
struct Check<'a> {
    suites: &'a [&'a dyn Suite],
    cases: Cases<'a>,
    count: u64,
    interrupted: Arc<AtomicBool>,
    console: Console,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// On one thread.
    Forward,
    /// On two.
    Reverse,
}

impl Check<'_> {
    fn compare(mut self) -> Result<Exit, Stop> {
        self.console.progress("on one thread");
        let first = self.pass(Order::Forward)?;
        self.console.progress("on two threads, last case first");
        let reverse = self.pass(Order::Reverse)?;
        self.console.progress("in another process");
        let passes = [("at -j 2 in reverse order", reverse), ("in another process", self.elsewhere()?)];
        if self.is_interrupted() {
            self.console.say(&self.so_far(&first, &passes));
            self.console.finish()?;
            return Ok(Exit::Interrupted);
        }
        for (how, hashes) in &passes {
            let odd = first.iter().find(|(nth, hash)| hashes.get(nth) != Some(hash));
            if let Some(draw) = odd.and_then(|(nth, _)| self.cases.nth(*nth)) {
                self.console.say(&format!("{} {} took another turn {how}\n", draw.scenario, draw.seed));
                self.console.say(&first_difference(self.suites, draw)?);
                self.console.finish()?;
                return Ok(Exit::Undetermined);
            }
        }
        let different = first.values().collect::<BTreeSet<_>>().len() as u64;
        self.console.say(&format!(
            "{}, {}: the same at -j 1, at -j 2 in reverse order, and in another process with another environment, \
             directory and log level\n",
            self.what(),
            counted(different, "different trace"),
        ));
        self.console.finish()?;
        Ok(Exit::Ok)
    }

    /// Which cases these are.
    fn what(&self) -> String {
        let (cases, base) = (counted(self.count, "case"), self.cases.base);
        let seed = if self.count > self.cases.scenarios.len() as u64 { "base seed" } else { "seed" };
        // The first round may be all there is, and not even that whole.
        let width = usize::try_from(self.count).unwrap_or(usize::MAX).min(self.cases.scenarios.len());
        format!("{cases} of {seed} {base} in {}", self.cases.scenarios[..width].join(", "))
    }

    /// What Ctrl-C left of it.
    fn so_far(&self, first: &Hashes, passes: &[(&str, Hashes)]) -> String {
        let mut text = format!("interrupted: {} of {} had run at -j 1\n", first.len(), self.what());
        for (how, hashes) in passes {
            let known = || first.iter().filter_map(|(nth, hash)| Some((hash, hashes.get(nth)?)));
            let (compared, same) = (known().count(), known().filter(|(one, other)| one == other).count());
            text += &format!("  {how}: {compared} compared, {same} the same\n");
        }
        text
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Runs all cases here, those that are begun before Ctrl-C.
    fn pass(&self, order: Order) -> Result<Hashes, Stop> {
        let width = if order == Order::Forward { 1 } else { 2 };
        let work = |slot: usize, at: u64| {
            let nth = if order == Order::Forward {
                Some(at).filter(|at| *at < self.count)
            } else {
                (self.count - 1).checked_sub(at)
            };
            let (nth, draw) = nth.and_then(|nth| Some((nth, self.cases.nth(nth)?)))?;
            Some(
                trial::attempt(self.suites, draw, slot, &Keeping::Nothing)
                    .map(|trial| (nth, trial.outcome.hash.to_string())),
            )
        };
        let mut results = Vec::new();
        machine::in_parallel(width, &self.interrupted, work, |made| results.extend(made));
        results.into_iter().collect()
    }

    /// Runs all cases in a child whose surroundings differ in everything that is not the case. None of them counts if
    /// Ctrl-C, which reaches the child as well, came before its end.
    fn elsewhere(&self) -> Result<Hashes, Stop> {
        if self.is_interrupted() {
            return Ok(Hashes::new());
        }
        let place = folder::target().join("chaos").join("verify");
        std::fs::create_dir_all(&place).map_err(|error| Stop::unwritable(&place, &error))?;
        let mut command = estranged(&place)?;
        command.arg("run").args(&self.cases.scenarios).args(["--format", "json", "-j", "2"]);
        command.args(["--seeds", &self.count.to_string(), "--seed", &self.cases.base.to_string()]);
        command.args(["--profile", self.cases.profile.name()]);
        command.arg("--out").arg(place.canonicalize().unwrap_or(place));
        let lines = match child::objects(command) {
            Err(stop) if stop.exit == Exit::Interrupted => {
                self.interrupted.store(true, Ordering::SeqCst);
                Vec::new()
            }
            lines => lines?,
        };
        let hashes =
            lines.iter().filter(|line| line["kind"] == "case").filter_map(|line| line["hash"].as_str());
        Ok((0..).zip(hashes.map(str::to_owned)).collect())
    }
}

/// This command with another environment, directory and log level.
fn estranged(directory: &Path) -> Result<std::process::Command, Stop> {
    let mut command = child::command()?;
    command.env_clear().current_dir(directory);
    command.envs([
        ("RUST_LOG", "debug"),
        ("TZ", "Asia/Kathmandu"),
        ("LANG", "tr_TR.UTF-8"),
        ("HOME", "/nonexistent"),
    ]);
    Ok(command)
}

/// The first event that differs between two repeats of a case.
fn first_difference(suites: &[&dyn Suite], draw: Draw<'_>) -> Result<String, Stop> {
    let text = trial::plan(suites, draw)?;
    let observe = Observe { history: History::Kept, until_ms: None };
    let mut known = trial::run(suites, &text, observe).history;
    for _ in 0..REPEATS {
        let again = trial::run(suites, &text, observe).history;
        if let Some(found) = compare(&known, &again) {
            return Ok(found);
        }
        known = again;
    }
    let there = history_elsewhere(draw)?;
    Ok(compare(&known, &there).unwrap_or_else(|| {
        "  its repeats agreed with each other: it needs neighbours or an unlucky moment; give it more --seeds\n".to_owned()
    }))
}

fn history_elsewhere(draw: Draw<'_>) -> Result<Vec<String>, Stop> {
    let place = folder::target().join("chaos").join("verify");
    let mut command = estranged(&place)?;
    command.args(["replay", &draw.seed.to_string(), "--scenario", draw.scenario]);
    command.args(["--profile", draw.profile.name(), "--format", "json", "--log", "full"]);
    let events = child::objects(command)?.into_iter().filter(|line| line["kind"] == "event");
    Ok(events.map(|line| line["event"].to_string()).collect())
}

/// `None` if both histories tell the same.
fn compare(left: &[String], right: &[String]) -> Option<String> {
    let same = |(one, other): &(&String, &String)| {
        one == other || parsed(one).is_some_and(|value| parsed(other) == Some(value))
    };
    let at = left.iter().zip(right).take_while(same).count();
    if at == left.len() && at == right.len() {
        return None;
    }
    let show = |events: &[String]| events.get(at).map_or_else(|| "(ended)".to_owned(), Clone::clone);
    Some(format!(
        "  first difference at event {}\n  one:   {}\n  other: {}\n",
        at + 1,
        show(left),
        show(right)
    ))
}

/// Lines that came through another process may have their keys in another order.
fn parsed(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}
