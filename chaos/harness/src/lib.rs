//! The generic chaos command: draws cases, runs them on fresh threads, judges, keeps and repeats failures. No domain.
//!
//! A binary is one line: `stormglass_harness::main(&[&MySuite])`.

mod case;
mod catalogue;
mod seed;
mod suite;

pub use case::{Case, CaseError, VERSION};
pub use seed::{BASE, NotASeed, Seed};
pub use suite::{
    History, Invariant, Misfit, Observe, Outcome, Profile, Scenario, Suite, TraceHash, Verdict, Violation,
};
