//! The scenarios: what is bought, what certainly strikes and what may. A scenario is a few lines; the seed does the rest.

use std::ops::Range;

use stormglass_sim::FaultClass::{self, *};

use crate::shape::Rollout;

/// A kind of storm. Ranges are drawn from by the seed.
pub struct Scenario {
    /// What `chaos run` calls it.
    pub name: &'static str,
    /// What `chaos list` says of it.
    pub summary: &'static str,
    /// Orders that clients place.
    pub orders: Range<u64>,
    /// Stock-keeping units on sale.
    pub skus: Range<u64>,
    /// Units in stock for every 100 that are expected to be asked for.
    pub supply_percent: Range<u64>,
    /// How the payment provider fares.
    pub provider: Provider,
    /// Which versions run.
    pub rollout: Rollout,
    /// The share of storms in which commits do not wait for the replica, so that a failover may lose the last ones.
    pub asynchronous: f64,
    /// Fault classes that every storm of this kind includes: scheduled, or drawn per port call at a rate above zero.
    pub always: &'static [FaultClass],
}

/// How the payment provider fares in a scenario.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Declines some, fails some, answers all.
    Usual,
    /// Answers nothing for seconds and fails much around it.
    Outage,
}

/// Every fault class with the odds that a seed's swarm includes it. The classes behind most real failures come often.
pub const SWARM: [(FaultClass, f64); 14] = [
    (PortError, 0.7),
    (LostAck, 0.7),
    (Kill, 0.7),
    (PartialCut, 0.6),
    (Redelivery, 0.6),
    (LateMessage, 0.6),
    (Isolation, 0.4),
    (OneWayCut, 0.4),
    (Pause, 0.4),
    (Slow, 0.4),
    (LeaderLoss, 0.4),
    (RebalanceStorm, 0.3),
    (Failover, 0.3),
    (ClockJump, 0.4),
];

const USUAL: Scenario = Scenario {
    name: "",
    summary: "",
    orders: 100..121,
    skus: 12..25,
    supply_percent: 80..140,
    provider: Provider::Usual,
    rollout: Rollout::Settled,
    asynchronous: 0.0,
    always: &[],
};

/// All scenarios, in the order in which `chaos list` shows them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "checkout",
        summary: "orders on many items, any mix of faults",
        always: &[Kill, PortError, LostAck, PartialCut, Redelivery],
        ..USUAL
    },
    Scenario {
        name: "rush",
        summary: "everybody wants the same item, and there is not enough of it",
        skus: 1..2,
        supply_percent: 30..80,
        always: &[PortError, Kill, Redelivery],
        ..USUAL
    },
    Scenario {
        name: "failover",
        summary: "the database fails over to its replica, brokers lose their leaders",
        asynchronous: 0.5,
        always: &[Failover, LeaderLoss, LostAck],
        ..USUAL
    },
    Scenario {
        name: "rebalance",
        summary: "members come, go, freeze and wake up as zombies",
        always: &[RebalanceStorm, Pause, Kill],
        ..USUAL
    },
    Scenario {
        name: "provider-outage",
        summary: "the payment provider is away for seconds while orders keep coming",
        provider: Provider::Outage,
        always: &[LostAck, PortError],
        ..USUAL
    },
    Scenario {
        name: "deploy",
        summary: "old and new members side by side, each restarted in turn",
        rollout: Rollout::SideBySide,
        always: &[RebalanceStorm, Redelivery],
        ..USUAL
    },
];

/// The scenario called `name`.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
