//! The `chaos` command over the order suite.

use std::process::ExitCode;

use stormglass_chaos::OrderSuite;

fn main() -> ExitCode {
    stormglass_harness::main(&[&OrderSuite])
}
