//! What there is to run and to check: lookup with the nearest known name, `list` and `explain`.

use stormglass_sim::FaultClass;

use crate::source::program;
use crate::{Invariant, Scenario, Suite};

/// Names of all scenarios, in the suites' order.
pub(crate) fn scenario_names<'s>(suites: &[&'s dyn Suite]) -> Vec<&'s str> {
    suites.iter().flat_map(|suite| suite.scenarios()).map(|scenario| scenario.name).collect()
}

/// A scenario with its suite.
pub(crate) fn scenario<'s>(suites: &[&'s dyn Suite], name: &str) -> Option<(&'s dyn Suite, Scenario)> {
    let mut all =
        suites.iter().flat_map(|suite| suite.scenarios().iter().map(|scenario| (*suite, *scenario)));
    all.find(|(_, scenario)| scenario.name == name)
}

/// `; did you mean …?` if a known name is close, else nothing.
pub(crate) fn nearest(name: &str, known: &[&str]) -> String {
    let close = known.iter().map(|candidate| (distance(name, candidate), candidate)).min();
    match close {
        Some((edits, candidate)) if edits <= name.len().max(3) / 2 => {
            format!("; did you mean `{candidate}`?")
        }
        Some(_) | None => String::new(),
    }
}

/// Edits (insert, delete, replace) between two words (Wagner and Fischer 1974).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// All scenarios, invariants and fault classes, one line each.
pub(crate) fn list(suites: &[&dyn Suite]) -> String {
    let mut text = String::new();
    for suite in suites {
        text += &format!("suite {}\n  scenarios\n", suite.name());
        for Scenario { name, summary } in suite.scenarios() {
            text += &format!("    {name:<18} {summary}\n");
        }
        text += "  invariants\n";
        for Invariant { id, name, statement, .. } in suite.invariants() {
            text += &format!("    {id:<4} {name:<22} {statement}\n");
        }
        text += "  fault classes\n";
        for fault in suite.faults() {
            text += &format!("    {:<4} {:<22} {}\n", fault.id(), fault.name(), fault.summary());
        }
    }
    text
}

/// One scenario, or one invariant or fault class by name or number. The error says what is known.
pub(crate) fn explain(suites: &[&dyn Suite], topic: &str) -> Result<String, String> {
    if let Some((suite, Scenario { name, summary })) = scenario(suites, topic) {
        return Ok(format!(
            "{name} (a scenario of {})\n  {summary}\n  run: {} run {name}\n",
            suite.name(),
            program()
        ));
    }
    let invariants = || suites.iter().flat_map(|suite| suite.invariants());
    if let Some(found) =
        invariants().find(|known| known.name == topic || known.id.eq_ignore_ascii_case(topic))
    {
        let Invariant { id, name, statement, checker } = found;
        return Ok(format!("{id} {name}\n  {statement}\n  checked: {checker}\n"));
    }
    let faults = || suites.iter().flat_map(|suite| suite.faults());
    if let Some(found) =
        faults().find(|known| known.name() == topic || known.id().eq_ignore_ascii_case(topic))
    {
        return Ok(explained(*found));
    }
    let names = invariants().map(|known| known.name).chain(faults().map(|known| known.name()));
    let known: Vec<&str> = scenario_names(suites).into_iter().chain(names).collect();
    Err(format!("nothing is called `{topic}`{}: `list` shows what there is", nearest(topic, &known)))
}

fn explained(fault: FaultClass) -> String {
    let (id, name, summary) = (fault.id(), fault.name(), fault.summary());
    format!(
        "{id} {name} (a fault class)\n  {summary}\n  counted: when it had its effect on something, not when it was \
         scheduled\n"
    )
}
