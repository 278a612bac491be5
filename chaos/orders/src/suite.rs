//! The order suite as the harness sees it: seeds become cases, cases become storms, storms become verdicts.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use stormglass_harness::{
    Case, History, Invariant, Misfit, Observe, Outcome, Profile, Scenario, Seed, Suite, TraceHash, Verdict,
    Violation,
};
use stormglass_sim::{FaultClass, Keep};
use toml::Table;

use crate::{
    check::check,
    invariants, plan,
    scenarios::{self, SCENARIOS},
    shape::Shape,
    storm::{self, Cause, Ended, Storm},
    workload::{self, Operation},
};

/// Storms over the order services.
pub struct OrderSuite;

static LISTED: LazyLock<Vec<Scenario>> = LazyLock::new(|| {
    SCENARIOS.iter().map(|scenario| Scenario { name: scenario.name, summary: scenario.summary }).collect()
});

static INVARIANTS: LazyLock<Vec<Invariant>> = LazyLock::new(|| {
    let entry = |rule: invariants::Rule| Invariant {
        id: rule.id,
        name: rule.name,
        statement: rule.statement,
        checker: rule.evidence,
    };
    invariants::catalogue().into_iter().map(entry).collect()
});

impl Suite for OrderSuite {
    fn name(&self) -> &'static str {
        "orders"
    }

    fn scenarios(&self) -> &[Scenario] {
        &LISTED
    }

    fn invariants(&self) -> &[Invariant] {
        &INVARIANTS
    }

    fn faults(&self) -> &[FaultClass] {
        &FaultClass::ALL
    }

    fn plan(&self, scenario: &str, seed: Seed, _profile: Profile) -> Case {
        let mut case = Case::new(self.name(), scenario, seed);
        // The harness asks only for scenarios of this suite; anything else is an empty case, which `check` refuses.
        let Some(scenario) = scenarios::find(scenario) else { return case };
        let plan = plan::draw(scenario, seed.0);
        let operations = workload::draw(&plan.shape, plan.orders, seed.0);
        case.cluster = table(&plan.shape);
        case.rates = plan.rates;
        case.operation = operations.iter().map(table).collect();
        case.fault = plan.faults;
        case
    }

    fn check(&self, case: &Case) -> Result<(), Misfit> {
        cause(case).map(drop)
    }

    fn run(&self, case: &Case, observe: Observe) -> Outcome {
        let cause = match cause(case) {
            Ok(cause) => cause,
            Err(Misfit { at, what }) => return broken(format!("{at}: {what}")),
        };
        let keep = match observe.history {
            History::Hashed => Keep::Hash,
            History::Kept => Keep::All,
        };
        let orders = cause.operations.iter().filter(|operation| operation.places_order()).count();
        let (storm, ended) = storm::run(cause, keep, observe.until_ms.map(Duration::from_millis));
        outcome(&storm, orders, ended)
    }
}

/// A table of what a run depends on. Plain structs of numbers and names always have one.
fn table(value: &impl Serialize) -> Table {
    Table::try_from(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(at: impl Fn() -> String, table: &Table) -> Result<T, Misfit> {
    table
        .clone()
        .try_into()
        .map_err(|error: toml::de::Error| Misfit { at: at(), what: error.message().replace('\n', " ") })
}

/// Reads what the harness left to the suite, and refuses what no storm can be raised from.
fn cause(case: &Case) -> Result<Cause, Misfit> {
    let shape: Shape = parse(|| "cluster".to_owned(), &case.cluster)?;
    let operations = case
        .operation
        .iter()
        .enumerate()
        .map(|(index, table)| parse(|| format!("operation[{index}]"), table))
        .collect::<Result<Vec<Operation>, Misfit>>()?;
    check(case, &shape, &operations)?;
    let mut faults = case.fault.clone();
    faults.sort_by_key(|fault| fault.at_ms);
    Ok(Cause { seed: case.seed.0, shape, operations, faults, rates: case.rates })
}

fn outcome(storm: &Storm, orders: usize, ended: Result<(), Ended>) -> Outcome {
    let world = storm.world();
    let (time, history) = (world.time(), world.history());
    let verdict = match ended {
        Ok(()) | Err(Ended::Stopped) => Verdict::Passed,
        Err(Ended::Violated(violation)) => Verdict::Violated(told(*violation, &time)),
        Err(Ended::Unsettled(open)) => Verdict::Unsettled { open: vec![open] },
        Err(Ended::Broken(error)) => Verdict::Internal { message: error.to_string() },
    };
    Outcome {
        hash: TraceHash(history.hash()),
        verdict,
        sim_ms: millis(time.elapsed()),
        orders: orders as u64,
        strikes: world.strikes(),
        coverage: storm.coverage(),
        distinct: BTreeMap::new(),
        history: history.events().iter().filter_map(|event| serde_json::to_string(event).ok()).collect(),
    }
}

fn told(violation: invariants::Violation, time: &stormglass_sim::SimTime) -> Violation {
    let ago = time.now().since(violation.at);
    Violation {
        invariant: violation.invariant.to_owned(),
        at_ms: millis(time.elapsed().saturating_sub(ago)),
        subject: violation.subject,
        expected: violation.expected,
        got: violation.got,
        chain: violation.chain,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn broken(message: String) -> Outcome {
    Outcome {
        hash: TraceHash::default(),
        verdict: Verdict::Internal { message },
        sim_ms: 0,
        orders: 0,
        strikes: Default::default(),
        coverage: BTreeMap::new(),
        distinct: BTreeMap::new(),
        history: Vec::new(),
    }
}
