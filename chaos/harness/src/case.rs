//! A case: the only input of a run, as a TOML file that people read, edit and commit.
//!
//! Reading one never panics and never guesses: a file that is absent, empty, cut off, not text, of another version or of
//! another suite is refused in one line that says what, where, and what to do. What is inside `cluster`, `operation` and
//! `strike` is the suite's own; its `check` answers for it.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use stormglass_sim::{Fault, Rates};
use toml::Table;
use toml::de::{DeTable, DeValue};

use crate::catalogue::{self, nearest};
use crate::{Seed, Suite};

/// The version this build writes and reads.
pub const VERSION: u32 = 1;

/// Last line of every case file: without it a file cut off between two entries would read as a smaller case.
const END: &str = "# end of case";

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Format of the file.
    pub version: u32,
    /// The suite that drew it and runs it.
    pub suite: String,
    /// Its scenario.
    pub scenario: String,
    /// What it was drawn from; the run's own draws (latencies, yields, op-level faults) are keyed by it too.
    pub seed: Seed,
    /// Shape of the world; the suite's own.
    #[serde(default)]
    pub cluster: Table,
    /// Rates of op-level faults.
    #[serde(default)]
    pub rates: Rates,
    /// The workload, in order of time; the suite's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operation: Vec<Table>,
    /// The scheduled faults.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fault: Vec<Fault>,
    /// Op-level faults by name instead of by rate; the suite's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strike: Vec<Table>,
}

/// A case file that cannot be run: `place: what is wrong: what to do`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CaseError(String);

impl Case {
    /// An empty case of this version.
    pub fn new(suite: &str, scenario: &str, seed: Seed) -> Self {
        Self {
            version: VERSION,
            suite: suite.to_owned(),
            scenario: scenario.to_owned(),
            seed,
            cluster: Table::new(),
            rates: Rates::default(),
            operation: Vec::new(),
            fault: Vec::new(),
            strike: Vec::new(),
        }
    }

    /// The file's text. Fails on what TOML cannot hold: an integer above 2^63 - 1.
    pub fn to_text(&self) -> Result<String, CaseError> {
        let body = toml::to_string(self)
            .map_err(|error| CaseError(format!("case {} cannot be written as TOML: {error}", self.seed)))?;
        Ok(format!("{body}\n{END}\n"))
    }

    /// Reads a file and checks it against the suites. `place` names it in errors.
    pub fn load(path: &Path, suites: &[&dyn Suite]) -> Result<Case, CaseError> {
        let place = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            CaseError(format!("{place}: {error}: give a case file that can be read, a seed, or \"latest\""))
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let (line, column) = line_and_column(&String::from_utf8_lossy(&error.as_bytes()[..at]), at);
            CaseError(format!(
                "{place}:{line}:{column}: not UTF-8 text, so not a case: give a file that `run` wrote"
            ))
        })?;
        Self::parse(&place, &text, suites)
    }

    /// Reads a case from its text and checks it against the suites.
    pub fn parse(place: &str, text: &str, suites: &[&dyn Suite]) -> Result<Case, CaseError> {
        let reading = Reading { place, text };
        if text.trim().is_empty() {
            return Err(CaseError(format!(
                "{place}: empty: the run that wrote it was cut short; replay its seed instead"
            )));
        }
        let tree = DeTable::parse(text)
            .map_err(|error| reading.refuse(error.span(), &one_line(error.message()), "restore the file"))?;
        reading.version(tree.get_ref())?;
        if text.trim_end().lines().next_back() != Some(END) {
            let what = format!("cut off: the last line is not `{END}`");
            return Err(reading.refuse(
                Some(text.len()..text.len()),
                &what,
                "restore the file or add that line",
            ));
        }
        let case: Case = toml::from_str(text).map_err(|error| {
            reading.refuse(error.span(), &one_line(error.message()), "correct this entry")
        })?;
        let suite = reading.suite(&case, tree.get_ref(), suites)?;
        suite.check(&case).map_err(|misfit| {
            let what = format!("{}: {}", misfit.at, misfit.what);
            reading.refuse(find(tree.get_ref(), &misfit.at), &what, "correct this entry")
        })?;
        Ok(case)
    }
}

/// A text being read, for errors that say where.
struct Reading<'a> {
    place: &'a str,
    text: &'a str,
}

impl Reading<'_> {
    fn refuse(&self, span: Option<Range<usize>>, what: &str, remedy: &str) -> CaseError {
        let at = span.map_or(0, |span| span.start);
        let (line, column) = line_and_column(self.text, at);
        CaseError(format!("{}:{line}:{column}: {what}: {remedy}", self.place))
    }

    fn version(&self, tree: &DeTable<'_>) -> Result<(), CaseError> {
        let Some(version) = tree.get("version") else {
            return Err(self.refuse(None, "no `version`, so not a case", "give a file that `run` wrote"));
        };
        let found = match version.get_ref() {
            DeValue::Integer(number) => number.as_str().to_owned(),
            other => format!("a {}", other.type_str()),
        };
        if found == VERSION.to_string() {
            return Ok(());
        }
        let what = format!("version {found}, and this build reads version {VERSION}");
        Err(self.refuse(Some(version.span()), &what, "run it at the commit that wrote it"))
    }

    fn suite<'s>(
        &self,
        case: &Case,
        tree: &DeTable<'_>,
        suites: &[&'s dyn Suite],
    ) -> Result<&'s dyn Suite, CaseError> {
        let unknown = |key: &str, name: &str, known: Vec<&str>| {
            let what = format!("unknown {key} `{name}`{}", nearest(name, &known));
            self.refuse(find(tree, key), &what, &format!("use one of: {}", known.join(", ")))
        };
        let suite = suites.iter().find(|suite| suite.name() == case.suite).copied().ok_or_else(|| {
            unknown("suite", &case.suite, suites.iter().map(|suite| suite.name()).collect())
        })?;
        if suite.scenarios().iter().any(|scenario| scenario.name == case.scenario) {
            return Ok(suite);
        }
        Err(unknown("scenario", &case.scenario, catalogue::scenario_names(&[suite])))
    }
}

/// The span of `operation[3].at_ms` or of the nearest entry around it that exists.
fn find(root: &DeTable<'_>, path: &str) -> Option<Range<usize>> {
    let mut steps = path.split(['.', '[', ']']).filter(|step| !step.is_empty());
    let mut here = root.get(steps.next()?)?;
    for step in steps {
        let below = match here.get_ref() {
            DeValue::Table(table) => table.get(step),
            DeValue::Array(array) => step.parse().ok().and_then(|index: usize| array.get(index)),
            _ => None,
        };
        match below {
            Some(below) => here = below,
            None => break,
        }
    }
    Some(here.span())
}

/// One-based line and column of the byte at `at`.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let at = at.min(text.len());
    let before: &[u8] = &text.as_bytes()[..at];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}
