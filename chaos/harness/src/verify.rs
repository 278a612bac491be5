//! `verify`: the same cases must take the same turn whatever surrounds them.
//!
//! Three passes: on one thread; on two in reverse order; in another process with another environment, directory and log
//! level. Where two hashes differ the case is repeated with its history, and the first event that differs is named.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use crate::arguments::VerifyArguments;
use crate::console::Console;
use crate::folder;
use crate::machine;
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
    let profile = arguments.common.profile();
    let scenarios = chosen(suites, &[])?;
    let count = limit(arguments.seeds, arguments.seed, arguments.common.profile, scenarios.len());
    let base = arguments.seed.unwrap_or(BASE);
    let shard = crate::arguments::Shard { part: 0, parts: 1 };
    let cases = Cases { scenarios, base, profile, limit: Some(count), shard };
    if count == 0 {
        return Ok(Exit::Nothing);
    }
    let mut console = Console::new();
    console.progress("on one thread");
    let first = pass(suites, &cases, count, Order::Forward)?;
    console.progress("on two threads, last case first");
    let passes = [
        ("at -j 2 in reverse order", pass(suites, &cases, count, Order::Reverse)?),
        ("in another process", elsewhere(&cases, count, &mut console)?),
    ];
    let different = first.values().collect::<std::collections::BTreeSet<_>>().len();
    for (how, hashes) in &passes {
        let odd = first.iter().find(|(nth, hash)| hashes.get(nth) != Some(hash));
        if let Some(draw) = odd.and_then(|(nth, _)| cases.nth(*nth)) {
            console.say(&format!("{} {} took another turn {how}\n", draw.scenario, draw.seed));
            console.say(&first_difference(suites, draw)?);
            console.finish()?;
            return Ok(Exit::Undetermined);
        }
    }
    console.say(&format!(
        "{count} cases, {different} different traces: the same at -j 1, at -j 2 in reverse order, and in another \
         process with another environment, directory and log level\n"
    ));
    console.finish()?;
    Ok(Exit::Ok)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// On one thread.
    Forward,
    /// On two.
    Reverse,
}

/// Runs all cases here.
fn pass(suites: &[&dyn Suite], cases: &Cases<'_>, count: u64, order: Order) -> Result<Hashes, Stop> {
    let width = if order == Order::Forward { 1 } else { 2 };
    let work = |slot: usize, at: u64| {
        let nth = if order == Order::Forward {
            Some(at).filter(|at| *at < count)
        } else {
            (count - 1).checked_sub(at)
        };
        let (nth, draw) = nth.and_then(|nth| Some((nth, cases.nth(nth)?)))?;
        Some(
            trial::attempt(suites, draw, slot, &Keeping::Nothing)
                .map(|trial| (nth, trial.outcome.hash.to_string())),
        )
    };
    let mut results = Vec::new();
    machine::in_parallel(width, &AtomicBool::new(false), work, |made| results.extend(made));
    results.into_iter().collect()
}

/// Runs all cases in a child whose surroundings differ in everything that is not the case.
fn elsewhere(cases: &Cases<'_>, count: u64, console: &mut Console) -> Result<Hashes, Stop> {
    console.progress("in another process");
    let place = folder::target().join("chaos").join("verify");
    std::fs::create_dir_all(&place).map_err(|error| Stop::unwritable(&place, &error))?;
    let mut command = estranged(&place)?;
    command.args(["run", "--format", "json", "-j", "2", "--seeds", &count.to_string()]);
    command.args(["--seed", &cases.base.to_string(), "--profile", cases.profile.name()]);
    command.arg("--out").arg(place.canonicalize().unwrap_or(place));
    let lines = child::objects(command)?;
    let hashes = lines.iter().filter(|line| line["kind"] == "case").filter_map(|line| line["hash"].as_str());
    Ok((0..).zip(hashes.map(str::to_owned)).collect())
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
