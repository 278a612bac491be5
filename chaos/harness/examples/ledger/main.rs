//! A chaos command over a bank without mistakes: `cargo run --package stormglass-harness --example ledger`.

mod suite;

use std::process::ExitCode;

use stormglass_harness::Scenario;
use suite::{Ledger, Mistake};

fn main() -> ExitCode {
    stormglass_harness::main(&[&Ledger {
        scenarios: &[
            Scenario {
                name: "transfers",
                summary: "money moves between five accounts, acknowledgements get lost",
            },
            Scenario { name: "salaries", summary: "the same with other draws" },
        ],
        mistakes: &[Mistake::None, Mistake::None],
    }])
}
