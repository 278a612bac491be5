//! A chaos command over banks that are wrong, one way per scenario: what the harness's tests must see reported.

#[path = "../ledger/suite.rs"]
mod suite;

use std::process::ExitCode;

use stormglass_harness::Scenario;
use suite::{Ledger, Mistake};

fn main() -> ExitCode {
    stormglass_harness::main(&[&Ledger {
        scenarios: &[
            Scenario { name: "right", summary: "nothing is wrong" },
            Scenario { name: "forgets", summary: "a transfer that is sent again moves the money again" },
            Scenario { name: "panics", summary: "a lost acknowledgement is a panic" },
            Scenario { name: "silent", summary: "the last transfer is never acknowledged" },
            Scenario { name: "leaks", summary: "what happened in other runs changes this one" },
            Scenario { name: "once", summary: "as `forgets`, in the first run of a process only" },
        ],
        mistakes: &[
            Mistake::None,
            Mistake::ForgetsTransfers,
            Mistake::Panics,
            Mistake::NeverAnswers,
            Mistake::RemembersOtherRuns,
            Mistake::ForgetsOnce,
        ],
    }])
}
