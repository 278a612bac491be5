//! One case from its text to a verdict that has been seen twice.
//!
//! What is run is what was written: the text is read back, so a case file repeats its run by construction. A failure is
//! believed only when a second fresh thread and then a fresh process saw the same trace.

use std::path::PathBuf;

use serde_json::Value;

use crate::folder::{Evidence, Folder};
use crate::machine::{self, Stopwatch};
use crate::stop::Stop;
use crate::{Case, History, Observe, Outcome, Profile, Seed, Suite, TraceHash, Verdict, catalogue, child};

/// What a drawn case follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw<'s> {
    pub(crate) scenario: &'s str,
    pub(crate) seed: Seed,
    pub(crate) profile: Profile,
}

impl Draw<'_> {
    /// What `replay` needs to draw this case: the seed, and what the seed alone does not say.
    pub(crate) fn arguments(&self, suites: &[&dyn Suite]) -> String {
        let mut arguments = self.seed.to_string();
        if catalogue::scenario_names(suites).len() > 1 {
            arguments += &format!(" --scenario {}", self.scenario);
        }
        if self.profile != Profile::default() {
            arguments += &format!(" --profile {}", self.profile.name());
        }
        arguments
    }
}

/// A case that was run.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) case: Case,
    /// What to give to `replay` for the same again.
    pub(crate) again: String,
    pub(crate) outcome: Outcome,
    pub(crate) wall_ms: u64,
    /// Why the verdict is not to be trusted: repeating it gave another one.
    pub(crate) doubt: Option<String>,
    /// Where the failure is kept.
    pub(crate) files: Option<PathBuf>,
}

impl Trial {
    /// Whether there is something to report: a failure, or a pass that did not repeat.
    pub(crate) fn failed(&self) -> bool {
        self.doubt.is_some() || self.outcome.verdict != Verdict::Passed
    }
}

/// Whether failures are repeated and kept.
pub(crate) enum Keeping<'a> {
    /// `verify` compares hashes and needs no more.
    Nothing,
    Failures(&'a Folder),
}

/// The text of a drawn case, planned on a fresh thread.
pub(crate) fn plan(suites: &[&dyn Suite], draw: Draw<'_>) -> Result<String, Stop> {
    let Draw { scenario, seed, profile } = draw;
    let (suite, _) = catalogue::scenario(suites, scenario)
        .ok_or_else(|| Stop::usage(format!("unknown scenario `{scenario}`")))?;
    let planned = machine::on_fresh_thread(|| suite.plan(scenario, seed, profile).to_text());
    let failed = |why: String| Stop::internal(format!("planning {scenario} {seed} failed: {why}"));
    planned.map_err(failed)?.map_err(|error| failed(error.to_string()))
}

/// Runs the case that `text` holds on a fresh thread. Everything that goes wrong is in the outcome.
pub(crate) fn run(suites: &[&dyn Suite], text: &str, observe: Observe) -> Outcome {
    let ran = machine::on_fresh_thread(|| {
        let case = Case::parse("the case as written", text, suites).map_err(|error| error.to_string())?;
        let suite = suites.iter().find(|suite| suite.name() == case.suite).ok_or("its suite is gone")?;
        Ok::<Outcome, String>(suite.run(&case, observe))
    });
    ran.and_then(|outcome| outcome).unwrap_or_else(|message| Outcome {
        hash: TraceHash::default(),
        verdict: Verdict::Internal { message },
        sim_ms: 0,
        orders: 0,
        strikes: Default::default(),
        coverage: Default::default(),
        distinct: Default::default(),
        history: Vec::new(),
    })
}

/// Draws, writes, runs, and on a failure repeats and keeps.
pub(crate) fn attempt(
    suites: &[&dyn Suite],
    draw: Draw<'_>,
    slot: usize,
    keeping: &Keeping<'_>,
) -> Result<Trial, Stop> {
    let text = plan(suites, draw)?;
    let case = Case::parse("the case as planned", &text, suites)
        .map_err(|error| Stop::internal(error.to_string()))?;
    if let Keeping::Failures(folder) = keeping {
        folder.begin(slot, &text)?;
    }
    let watch = Stopwatch::start();
    let outcome = run(suites, &text, Observe::default());
    let wall_ms = watch.elapsed_ms();
    let again = draw.arguments(suites);
    let mut trial = Trial { case, again, outcome, wall_ms, doubt: None, files: None };
    if let Keeping::Failures(folder) = keeping {
        if trial.outcome.verdict != Verdict::Passed {
            confirm(suites, &text, &mut trial, folder)?;
        }
        folder.end(slot)?;
    }
    Ok(trial)
}

fn confirm(suites: &[&dyn Suite], text: &str, trial: &mut Trial, folder: &Folder) -> Result<(), Stop> {
    let again = run(suites, text, Observe { history: History::Kept, until_ms: None });
    trial.doubt = differs(&trial.outcome, &again).map(|how| format!("a second thread {how}"));
    let evidence = Evidence {
        scenario: &trial.case.scenario,
        seed: trial.case.seed,
        case: text,
        history: &again.history,
        verdict: &trial.outcome.verdict,
        hash: trial.outcome.hash.to_string(),
    };
    let Some(place) = folder.keep(&evidence)? else { return Ok(()) };
    if trial.doubt.is_none() {
        trial.doubt = in_another_process(&trial.outcome, &place.join("case.toml"))?;
    }
    trial.files = Some(place);
    Ok(())
}

fn differs(first: &Outcome, again: &Outcome) -> Option<String> {
    if first.hash != again.hash {
        return Some(format!("took another turn: trace {} became {}", first.hash, again.hash));
    }
    (first.verdict != again.verdict)
        .then(|| format!("judged the same trace otherwise: {}", again.verdict.name()))
}

fn in_another_process(first: &Outcome, case: &std::path::Path) -> Result<Option<String>, Stop> {
    let seen = child::replay(case)?;
    let same = |key: &str, value: Option<&str>| seen.get(key).and_then(Value::as_str) == value;
    let hash = first.hash.to_string();
    let agrees = same("hash", Some(&hash))
        && same("verdict", Some(first.verdict.name()))
        && same("invariant", first.verdict.invariant());
    Ok((!agrees).then(|| {
        format!(
            "a second process saw {} {}, not {} {hash}",
            seen["verdict"],
            seen["hash"],
            first.verdict.name()
        )
    }))
}
