//! I20 `fault-fired`: each class of faults that the case scheduled did strike, where nothing stood in its way
//! ([`certain_classes`](crate::certainty)). A storm that misses its target proves nothing.

use super::{EndState, Invariant, Rule, Verdict, Violation, World};

/// See the module.
#[derive(Default)]
pub struct FaultFired;

const RULE: Rule = Rule {
    id: "I20",
    name: "fault-fired",
    statement: "each class of faults that the case schedules, unhindered by others, has had an effect on something",
    evidence: "the world's strike counts against the case's schedule",
};

impl Invariant for FaultFired {
    fn rule(&self) -> Rule {
        RULE
    }

    fn at_end(&mut self, end: &EndState, world: &World) -> Verdict {
        let silent = end.planned.iter().find(|class| end.strikes.of(**class) == 0);
        let Some(class) = silent else { return Ok(()) };
        Err(Violation::new(RULE, world, format!("{} ({class:?}) was scheduled and never struck", class.id()))
            .expected("one strike at least", "none"))
    }
}

#[cfg(test)]
mod tests {
    use stormglass_sim::FaultClass;

    use super::{
        super::{EndState, testkit::Tale},
        FaultFired,
    };

    fn end(struck: &[FaultClass]) -> EndState {
        let mut end = EndState { planned: vec![FaultClass::Kill, FaultClass::Pause], ..EndState::default() };
        struck.iter().for_each(|class| end.strikes.count(*class));
        end
    }

    #[test]
    fn faults_that_all_struck_are_fine() {
        Tale::of(FaultFired).end_with(&end(&[FaultClass::Kill, FaultClass::Pause])).unwrap();
    }

    #[test]
    fn fault_that_never_struck_is_caught() {
        let violation = Tale::of(FaultFired).end_with(&end(&[FaultClass::Kill])).unwrap_err();
        assert!(violation.subject.starts_with("F7"), "{violation}");
    }
}
