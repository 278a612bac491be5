//! Golden hashes: a few storms and the traces they left when these lines were written.
//!
//! A trace covers every message, statement, fault and answer, so any change of behaviour shows here, on any machine and
//! in any build, before somebody wonders why an old seed no longer fails. A change that is meant to change behaviour
//! writes the new hashes down in the same commit; one that is not has a bug.

use rstest::rstest;
use stormglass_chaos::OrderSuite;
use stormglass_harness::{Observe, Profile, Seed, Suite};

#[rstest]
#[case::cuts_kills_and_copies("checkout", 0x1, "796063027ff7d95e")]
#[case::lost_leaders_and_a_promotion("failover", 0x2, "fa923ecc1d67afd9")]
#[case::two_versions_side_by_side("deploy", 0x3, "6326842080745e59")]
fn storm_leaves_the_trace_it_left_before(#[case] scenario: &str, #[case] seed: u64, #[case] hash: &str) {
    let case = OrderSuite.plan(scenario, Seed(seed), Profile::Smoke);
    // A fresh thread, as every storm wants one: the test runner's own, one a case.
    let outcome = OrderSuite.run(&case, Observe::default());
    assert_eq!(
        outcome.hash.to_string(),
        hash,
        "{scenario} {seed:#x}: behaviour has changed; see this file's head"
    );
}
