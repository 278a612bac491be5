//! What the cases of one run add up to. The same cases give the same tally in whatever order they ended.

use std::collections::{BTreeMap, BTreeSet};

use stormglass_sim::{FaultClass, Strikes};

use crate::stop::Exit;
use crate::trial::Trial;
use crate::{Case, Suite, TraceHash, Verdict};

/// Sums over cases.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) violated: u64,
    pub(crate) unsettled: u64,
    pub(crate) internal: u64,
    /// Failures that did not repeat; counted in none of the others.
    pub(crate) undetermined: u64,
    /// Cases and failures by scenario.
    pub(crate) scenarios: BTreeMap<String, (u64, u64)>,
    pub(crate) traces: BTreeSet<TraceHash>,
    pub(crate) sim_ms: u64,
    pub(crate) orders: u64,
    pub(crate) strikes: Strikes,
    /// Classes that some case held, as a scheduled fault or as a rate.
    pub(crate) planned: BTreeSet<FaultClass>,
    pub(crate) coverage: BTreeMap<String, u64>,
    pub(crate) distinct: BTreeMap<String, BTreeSet<u64>>,
}

impl Tally {
    pub(crate) fn add(&mut self, trial: &Trial) {
        let outcome = &trial.outcome;
        match (&trial.doubt, &outcome.verdict) {
            (Some(_), _) => self.undetermined += 1,
            (None, Verdict::Passed) => self.passed += 1,
            (None, Verdict::Violated(_)) => self.violated += 1,
            (None, Verdict::Unsettled { .. }) => self.unsettled += 1,
            (None, Verdict::Internal { .. }) => self.internal += 1,
        }
        let (cases, failures) = self.scenarios.entry(trial.case.scenario.clone()).or_default();
        *cases += 1;
        *failures += u64::from(trial.failed());
        self.traces.insert(outcome.hash);
        self.sim_ms += outcome.sim_ms;
        self.orders += outcome.orders;
        self.strikes.add(&outcome.strikes);
        self.planned.extend(planned(&trial.case));
        for (what, count) in &outcome.coverage {
            *self.coverage.entry(what.clone()).or_default() += count;
        }
        for (what, fingerprint) in &outcome.distinct {
            self.distinct.entry(what.clone()).or_default().insert(*fingerprint);
        }
    }

    pub(crate) fn cases(&self) -> u64 {
        self.passed + self.failed()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.violated + self.unsettled + self.internal + self.undetermined
    }

    /// Classes that should have struck and did not: those that a case held, and those that a suite promises for a run
    /// of all its scenarios.
    pub(crate) fn missing(&self, suites: &[&dyn Suite]) -> Vec<FaultClass> {
        let whole = |suite: &&&dyn Suite| {
            suite.scenarios().iter().all(|scenario| self.scenarios.contains_key(scenario.name))
        };
        let promised = suites.iter().filter(whole).flat_map(|suite| suite.faults()).copied();
        let due: BTreeSet<FaultClass> = self.planned.iter().copied().chain(promised).collect();
        due.into_iter().filter(|class| self.strikes.of(*class) == 0).collect()
    }

    /// The worst of what was seen: what cannot be trusted first, then what is wrong.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Tally { internal: 1.., .. } => Exit::Internal,
            Tally { undetermined: 1.., .. } => Exit::Undetermined,
            Tally { violated: 1.., .. } => Exit::Violated,
            Tally { unsettled: 1.., .. } => Exit::Unsettled,
            Tally { passed: 0, .. } => Exit::Nothing,
            Tally { .. } => Exit::Ok,
        }
    }
}

fn planned(case: &Case) -> impl Iterator<Item = FaultClass> {
    let rates = [
        (FaultClass::PortError, case.rates.error_before.max(case.rates.error_after)),
        (FaultClass::LostAck, case.rates.lost_ack),
        (FaultClass::LateMessage, case.rates.late),
    ];
    let by_rate = rates.into_iter().filter(|(_, rate)| *rate > 0.0).map(|(class, _)| class);
    case.fault.iter().map(|fault| fault.class).chain(by_rate)
}
