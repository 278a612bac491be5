//! The catalogue of mistakes: patches, each with a header that says what it breaks and who must notice.
//!
//! ```text
//! # breaks: the inbox mark commits in a transaction of its own
//! # invariant: effect-once
//! # scenario: checkout, rebalance
//! diff --git a/system/runtime/src/lane.rs b/system/runtime/src/lane.rs
//! ```
//! `invariant` names one invariant or, where two say the same of a mistake, several. `scenario` may be absent: all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::catalogue::nearest;
use crate::run::choose;
use crate::stop::Stop;
use crate::{Suite, Verdict};

/// A mistake that somebody made once, ready to be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bug {
    /// The patch's file name without its ending.
    pub(crate) name: String,
    pub(crate) patch: PathBuf,
    pub(crate) breaks: String,
    /// What must fire: any of these.
    pub(crate) invariants: Vec<String>,
    /// Empty for all.
    pub(crate) scenarios: Vec<String>,
}

/// All patches of a directory, by name.
pub(crate) fn catalogue(directory: &Path, suites: &[&dyn Suite]) -> Result<Vec<Bug>, Stop> {
    let place = directory.display();
    let found = fs::read_dir(directory).map_err(|error| {
        Stop::usage(format!("{place}: {error}: give the directory of patches with --bugs DIR"))
    })?;
    let is_patch = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "patch");
    let mut patches: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).filter(is_patch).collect();
    patches.sort();
    patches.iter().map(|patch| read(patch, suites)).collect()
}

fn read(patch: &Path, suites: &[&dyn Suite]) -> Result<Bug, Stop> {
    let place = patch.display();
    let bytes =
        fs::read(patch).map_err(|error| Stop::usage(format!("{place}: {error}: make it readable")))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut bug = Bug {
        name: patch.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        patch: fs::canonicalize(patch).unwrap_or_else(|_| patch.to_owned()),
        breaks: String::new(),
        invariants: Vec::new(),
        scenarios: Vec::new(),
    };
    let header = text.lines().take_while(|line| !line.starts_with("diff ") && !line.starts_with("--- "));
    for (line, entry) in (1..).zip(header).filter(|(_, entry)| entry.starts_with('#')) {
        let wrong = |what: String| Stop::usage(format!("{place}:{line}: {what}"));
        let (key, value) =
            entry[1..].split_once(':').map_or((entry, ""), |(key, value)| (key.trim(), value.trim()));
        let list = || value.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
        match key {
            "breaks" => bug.breaks = value.to_owned(),
            "invariant" => bug.invariants = known_invariants(suites, list()).map_err(wrong)?,
            "scenario" => bug.scenarios = known_scenarios(suites, list()).map_err(wrong)?,
            _ => return Err(wrong(format!("unknown header `{key}`: use breaks, invariant or scenario"))),
        }
    }
    if bug.breaks.is_empty() || bug.invariants.is_empty() {
        let what = "needs a header `# breaks: …` and `# invariant: …` above its diff";
        return Err(Stop::usage(format!("{place}:1: {what}")));
    }
    Ok(bug)
}

fn known_invariants(suites: &[&dyn Suite], names: Vec<String>) -> Result<Vec<String>, String> {
    let known: Vec<&str> =
        suites.iter().flat_map(|suite| suite.invariants()).map(|known| known.name).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("unknown invariant `{name}`{}: see `list`", nearest(name, &known))),
        None => Ok(names),
    }
}

fn known_scenarios(suites: &[&dyn Suite], names: Vec<String>) -> Result<Vec<String>, String> {
    names.iter().try_for_each(|name| choose(suites, name).map(drop)).map_err(|stop| stop.line)?;
    Ok(names)
}

impl Bug {
    /// Whether what fired in a case is what the header names. A system that did not settle broke `settles`.
    pub(crate) fn is_named(&self, fired: &str) -> bool {
        self.invariants.iter().any(|name| name == fired)
    }
}

/// What fired in a case of `run --format json`, or `None` if it passed.
pub(crate) fn fired(case: &serde_json::Value) -> Option<String> {
    let verdict = case["verdict"].as_str().unwrap_or("undetermined");
    let unsettled = Verdict::Unsettled { open: Vec::new() };
    if verdict == Verdict::Passed.name() {
        None
    } else if verdict == unsettled.name() {
        Some("settles".to_owned())
    } else {
        Some(case["invariant"].as_str().unwrap_or(verdict).to_owned())
    }
}
