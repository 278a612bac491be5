//! What a suite gives to the harness, and what a run gives back.
//!
//! The harness knows no domain: a suite draws cases, runs them and judges them. Running is synchronous, on a thread of
//! its own that nothing else has used, and bounded by simulated time alone; the harness never looks at a wall clock to
//! decide a verdict.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use stormglass_sim::{FaultClass, Strikes};

use crate::{Case, Seed};

/// A family of scenarios over one system under test.
pub trait Suite: Sync {
    /// The name a case file carries.
    fn name(&self) -> &'static str;

    /// Its scenarios, in the order `list` shows; their names are unique across all suites of a command.
    fn scenarios(&self) -> &[Scenario];

    /// Its invariants, in the order `list` shows; `Violation::invariant` is the name of one of them.
    fn invariants(&self) -> &[Invariant];

    /// The fault classes that a run of all scenarios must have seen strike.
    fn faults(&self) -> &[FaultClass];

    /// Draws a plan from the seed and expands it to an explicit case. Pure: the same arguments give the same case.
    fn plan(&self, scenario: &str, seed: Seed, profile: Profile) -> Case;

    /// Says where a case that was read from a file does not fit this suite. The harness has checked everything but
    /// `cluster`, `operation` and `strike`, which are the suite's own.
    fn check(&self, case: &Case) -> Result<(), Misfit>;

    /// Runs a case that passed `check`. Everything it does follows from `case`; `observe` only says what to keep.
    fn run(&self, case: &Case, observe: Observe) -> Outcome;
}

/// A kind of storm.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What a user types.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
}

/// Something that must hold.
#[derive(Clone, Copy, Debug)]
pub struct Invariant {
    /// Its number, such as `I3`.
    pub id: &'static str,
    /// What a report and a patch header call it, such as `effect-once`.
    pub name: &'static str,
    /// The rule in one line.
    pub statement: &'static str,
    /// How it is checked, and against which evidence.
    pub checker: &'static str,
}

/// How long and how hard a run is. Also an input of the plan: a soak may draw larger storms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Seconds: before a commit.
    #[default]
    Smoke,
    /// Minutes: every commit.
    Ci,
    /// Hours: overnight.
    Soak,
}

impl Profile {
    /// Cases of a run that was given neither `--seeds` nor `--for`, over all its scenarios together.
    pub fn seeds(self) -> u64 {
        match self {
            Profile::Smoke => 204,
            Profile::Ci => 2_000,
            Profile::Soak => 20_000,
        }
    }

    /// What a user types.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Smoke => "smoke",
            Profile::Ci => "ci",
            Profile::Soak => "soak",
        }
    }
}

/// What a run keeps, and where it stops. Never changes what happens up to that point, nor its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observe {
    /// Whether history lines are kept.
    pub history: History,
    /// Stop at this simulated time and judge only what must hold at every moment.
    pub until_ms: Option<u64>,
}

/// Whether a run keeps its history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum History {
    /// Only its hash: what thousands of passing seeds need.
    #[default]
    Hashed,
    /// Every event as a line of JSON.
    Kept,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Hash of the whole trace; equal hashes mean the same events in the same order.
    pub hash: TraceHash,
    /// Whether what must hold held.
    pub verdict: Verdict,
    /// Simulated milliseconds from start to end.
    pub sim_ms: u64,
    /// Units of work that the system accepted: orders, transfers.
    pub orders: u64,
    /// How often each fault class struck.
    pub strikes: Strikes,
    /// Counters of what the run reached; summed over a run of many seeds.
    pub coverage: BTreeMap<String, u64>,
    /// Fingerprints by kind, such as `interleaving`; a run of many seeds counts the different ones.
    pub distinct: BTreeMap<String, u64>,
    /// One JSON object per event, if `History::Kept`.
    pub history: Vec<String>,
}

/// Identity of a trace: a 64-bit digest of everything that happened, printed as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraceHash(pub u64);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for TraceHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The judgement over one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "verdict")]
pub enum Verdict {
    /// Everything held, and it settled.
    Passed,
    /// An invariant did not hold.
    Violated(Violation),
    /// The storm is over and the system did not come to rest within its bound of simulated time.
    Unsettled {
        /// What is still open, one line each.
        open: Vec<String>,
    },
    /// The run itself went wrong: a panic, or a world that could not be built. Says nothing about the system.
    Internal {
        /// What happened, with its place.
        message: String,
    },
}

impl Verdict {
    /// One word for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Violated(_) => "violated",
            Verdict::Unsettled { .. } => "unsettled",
            Verdict::Internal { .. } => "internal",
        }
    }

    /// The invariant that did not hold, if one did not.
    pub fn invariant(&self) -> Option<&str> {
        match self {
            Verdict::Violated(violation) => Some(&violation.invariant),
            Verdict::Passed | Verdict::Unsettled { .. } | Verdict::Internal { .. } => None,
        }
    }
}

/// An invariant that did not hold, in the words of the domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Name of the invariant, such as `effect-once`.
    pub invariant: String,
    /// When it was seen, in simulated milliseconds since the start.
    pub at_ms: u64,
    /// What is wrong: `order 0190… charged twice: 2 × 49.99 EUR`.
    pub subject: String,
    /// What should have been: `at most one captured payment per order`.
    pub expected: String,
    /// What was: `pay-7 (t=3.902), pay-9 (t=4.310)`.
    pub got: String,
    /// How it came about, cause before effect, faults in brackets.
    pub chain: Vec<String>,
}

/// Where a case does not fit its suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Path inside the file: `operation[3].at_ms`, `cluster.brokers`.
    pub at: String,
    /// What is wrong there and what would be right.
    pub what: String,
}
