//! `target/chaos/latest`: the case that each slot is running, and case, history and verdict of each failure.
//!
//! Bounded: one running file per slot, at most `KEPT_MAX` failures, and a new run removes what the last one left. It
//! removes only files of the names it writes, so `--out` on a directory with other things loses none of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use crate::stop::Stop;
use crate::{Seed, Verdict};

/// Failures that one run keeps: more would say nothing new, and a broken build fails every seed.
const KEPT_MAX: usize = 100;

const CASE: &str = "case.toml";
const HISTORY: &str = "history.jsonl";
const VERDICT: &str = "verdict.json";

/// The directory of one run.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    /// Failures of this run so far.
    failures: AtomicUsize,
}

/// What is kept of a failure.
pub(crate) struct Evidence<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) seed: Seed,
    pub(crate) case: &'a str,
    pub(crate) history: &'a [String],
    pub(crate) verdict: &'a Verdict,
    pub(crate) hash: String,
}

impl Folder {
    /// The place for results; nothing is touched yet.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root, failures: AtomicUsize::new(0) }
    }

    /// The place that a user did not choose: beside the build, wherever in the workspace the command was typed.
    pub(crate) fn default_place() -> PathBuf {
        target().join("chaos").join("latest")
    }

    /// Makes the directory ready for a run that adds to what is there.
    pub(crate) fn open(&self) -> Result<(), Stop> {
        for below in ["running", "failures"] {
            let path = self.root.join(below);
            fs::create_dir_all(&path).map_err(|error| Stop::unwritable(&path, &error))?;
        }
        Ok(())
    }

    /// Removes what earlier runs left.
    pub(crate) fn clear(&self) -> Result<(), Stop> {
        for case in entries(&self.root.join("running")) {
            if case.extension().is_some_and(|extension| extension == "toml") {
                remove(&case)?;
            }
        }
        for failure in entries(&self.root.join("failures")) {
            for name in [CASE, HISTORY, VERDICT] {
                remove(&failure.join(name))?;
            }
            // Fails, as it should, if somebody put a file of their own beside ours.
            fs::remove_dir(&failure).ok();
        }
        Ok(())
    }

    /// Writes the case that `slot` is about to run, so that even a run that takes the process down can be repeated.
    pub(crate) fn begin(&self, slot: usize, case: &str) -> Result<(), Stop> {
        write(&self.running(slot), case.as_bytes())
    }

    /// The slot's run is over.
    pub(crate) fn end(&self, slot: usize) -> Result<(), Stop> {
        remove(&self.running(slot))
    }

    /// Keeps a failure under its seed, with the scenario added if another one failed with the same seed.
    /// `None` if the run has kept enough.
    pub(crate) fn keep(&self, evidence: &Evidence<'_>) -> Result<Option<PathBuf>, Stop> {
        if self.failures.fetch_add(1, Ordering::SeqCst) >= KEPT_MAX {
            return Ok(None);
        }
        let plain = self.root.join("failures").join(evidence.seed.to_string());
        let taken = fs::read_to_string(plain.join(CASE)).is_ok_and(|case| case != evidence.case);
        let named = format!("{}-{}", evidence.seed, evidence.scenario);
        let place = if taken { plain.with_file_name(named) } else { plain };
        fs::create_dir_all(&place).map_err(|error| Stop::unwritable(&place, &error))?;
        let verdict = serde_json::json!({
            "scenario": evidence.scenario,
            "seed": evidence.seed,
            "hash": evidence.hash,
            "judgement": evidence.verdict,
        });
        let mut history = evidence.history.join("\n");
        history.push('\n');
        write(&place.join(CASE), evidence.case.as_bytes())?;
        write(&place.join(HISTORY), history.as_bytes())?;
        write(&place.join(VERDICT), format!("{verdict:#}\n").as_bytes())?;
        Ok(Some(place))
    }

    /// The case file of the failure kept last, else of a run that never came to its end.
    pub(crate) fn latest(&self) -> Option<PathBuf> {
        let failures = entries(&self.root.join("failures")).into_iter().map(|failure| failure.join(CASE));
        newest(failures.collect()).or_else(|| newest(entries(&self.root.join("running"))))
    }

    /// The case file kept for `seed`, if exactly one is.
    pub(crate) fn kept(&self, seed: Seed) -> Option<PathBuf> {
        let name = seed.to_string();
        let of_seed = |failure: &PathBuf| {
            let file =
                failure.file_name().map_or_else(Default::default, |file| file.to_string_lossy().into_owned());
            file == name || file.starts_with(&format!("{name}-"))
        };
        let found: Vec<PathBuf> = entries(&self.root.join("failures")).into_iter().filter(of_seed).collect();
        match found.as_slice() {
            [only] => Some(only.join(CASE)).filter(|case| case.is_file()),
            _ => None,
        }
    }

    /// The hash that the run which kept this case saw.
    pub(crate) fn recorded_hash(case: &Path) -> Option<String> {
        let verdict = fs::read_to_string(case.with_file_name(VERDICT)).ok()?;
        let verdict: serde_json::Value = serde_json::from_str(&verdict).ok()?;
        verdict.get("hash").and_then(|hash| hash.as_str()).map(str::to_owned)
    }

    /// Where the cases under way are, as a user would write it.
    pub(crate) fn place(&self) -> String {
        shown(&self.root)
    }

    pub(crate) fn running_place(&self) -> String {
        shown(&self.root.join("running"))
    }

    fn running(&self, slot: usize) -> PathBuf {
        self.root.join("running").join(format!("{slot}.toml"))
    }
}

/// The build's target directory: cargo's variable, else beside the nearest lock file, else below here.
pub(crate) fn target() -> PathBuf {
    let below = || workspace().join("target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(below, PathBuf::from)
}

/// The nearest directory upwards that holds a `Cargo.lock`, else the current one.
pub(crate) fn workspace() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let found = here.ancestors().find(|directory| directory.join("Cargo.lock").is_file()).map(Path::to_owned);
    found.unwrap_or(here)
}

/// `path` as a user in the current directory would write it.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Stop> {
    fs::write(path, bytes).map_err(|error| Stop::unwritable(path, &error))
}

fn remove(path: &Path) -> Result<(), Stop> {
    match fs::remove_file(path) {
        Err(error)
            if error.kind() != io::ErrorKind::NotFound && error.kind() != io::ErrorKind::NotADirectory =>
        {
            Err(Stop::unwritable(path, &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What is in a directory, sorted; nothing if it is not there.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(directory).map(|found| found.flatten().map(|entry| entry.path()).collect());
    let mut found: Vec<PathBuf> = read.unwrap_or_default();
    found.sort();
    found
}

fn newest(files: Vec<PathBuf>) -> Option<PathBuf> {
    let age = |file: &PathBuf| {
        fs::metadata(file).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    files.into_iter().filter(|file| file.is_file()).max_by_key(age)
}
