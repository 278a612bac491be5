//! From a seed to an explicit case: the cluster's shape, the scheduled faults and the rates (swarm testing: Groce et
//! al. 2012: whole classes are left out of a run, so that others get room).

use stormglass_runtime::AfterDeath;
use stormglass_sim::{Dice, Fault, FaultClass, Rates};

use crate::{
    provider::{Manners, Outage},
    scenarios::{Provider, SWARM, Scenario},
    shape::{Away, BROKERS, CONSUMERS, DATABASES, Replication, Rollout, Shape},
    workload::TENANTS,
};

/// When the storm ends and the calm begins, in simulated milliseconds.
pub const STORM_MS: u64 = 5_000;

/// No fault begins before this: the first members need to have joined.
const FIRST_STRIKE_MS: u64 = 400;

/// What the seed decided, before the workload is drawn.
pub struct Plan {
    /// The cluster.
    pub shape: Shape,
    /// Orders to place.
    pub orders: u64,
    /// Scheduled faults, by time.
    pub faults: Vec<Fault>,
    /// Op-level rates.
    pub rates: Rates,
}

/// Draws the plan of one seed.
pub fn draw(scenario: &Scenario, seed: u64) -> Plan {
    let dice = Dice::new(seed).for_site("plan");
    let orders = dice.between("orders", 0, 0, scenario.orders.clone());
    let shape = shape(scenario, dice, orders);
    let swarm = swarm(scenario, dice);
    let faults = schedule(&shape, dice, &swarm);
    let rates = rates(dice, &swarm);
    Plan { shape, orders, faults, rates }
}

fn shape(scenario: &Scenario, dice: Dice, orders: u64) -> Shape {
    let between = |site: &str, low: u32, high: u32| {
        u32::try_from(dice.between(site, 0, 0, u64::from(low)..u64::from(high) + 1)).unwrap_or(high)
    };
    let skus = dice.between("skus", 0, 0, scenario.skus.clone());
    let supply = dice.between("supply", 0, 0, scenario.supply_percent.clone());
    Shape {
        gateways: 2,
        members: match scenario.rollout {
            Rollout::Settled => between("members", 1, 2),
            Rollout::SideBySide => 2,
        },
        relays: between("relays", 1, 2),
        clients: between("clients", 2, 3),
        partitions: between("partitions", 3, 6),
        lanes: between("lanes", 1, 2),
        batch_records: between("batch", 16, 64),
        attempts_max: between("attempts", 2, 8),
        skus: u32::try_from(skus).unwrap_or(u32::MAX),
        stock: shelf(orders, skus) * i64::try_from(supply).unwrap_or(i64::MAX) / 100,
        after_death: if dice.chance("hold", 0, 0, 0.7) { AfterDeath::Hold } else { AfterDeath::Skip },
        replication: if dice.chance("asynchronous", 0, 0, scenario.asynchronous) {
            Replication::Asynchronous
        } else {
            Replication::Synchronous
        },
        rollout: scenario.rollout,
        deadline_ms: dice.between("deadline", 0, 0, 1_500..4_000),
        manners: manners(scenario, dice),
        away: away(scenario, dice),
    }
}

/// What is expected to be asked of one shelf. An order has one line or two, of two units on average; each tenant has
/// shelves of its own.
fn shelf(orders: u64, skus: u64) -> i64 {
    let units = orders * (1 + skus.min(2));
    i64::try_from(units.div_ceil(skus * TENANTS.len() as u64)).unwrap_or(i64::MAX)
}

fn manners(scenario: &Scenario, dice: Dice) -> Manners {
    let usual = Manners {
        declined: dice.unit("declined", 0, 0) * 0.15,
        failed: dice.unit("failed", 0, 0) * 0.1,
        busy: dice.unit("busy", 0, 0) * 0.1,
        slow: dice.unit("slow", 0, 0) * 0.05,
        latency_ms_max: dice.between("provider-latency", 0, 0, 20..200),
        ..Manners::default()
    };
    match scenario.provider {
        Provider::Usual => usual,
        Provider::Outage => Manners { failed: 0.1 + usual.failed, ..usual },
    }
}

fn away(scenario: &Scenario, dice: Dice) -> Option<Away> {
    match scenario.provider {
        Provider::Usual => None,
        Provider::Outage => {
            let from_ms = dice.between("outage", 0, 0, 800..2_500);
            let until_ms = from_ms + dice.between("outage-length", 0, 0, 1_500..3_500);
            let ways = [Outage::Refuses, Outage::Silent, Outage::Mute];
            let how = ways[usize::try_from(dice.between("outage-way", 0, 0, 0..3)).unwrap_or(0)];
            Some(Away { from_ms, until_ms, how })
        }
    }
}

/// The classes of this run: the scenario's own, and whichever of the others the seed includes.
fn swarm(scenario: &Scenario, dice: Dice) -> Vec<FaultClass> {
    let includes = |class: FaultClass, odds: f64| {
        scenario.always.contains(&class) || dice.chance("swarm", class as u128, 0, odds)
    };
    SWARM.iter().filter(|(class, odds)| includes(*class, *odds)).map(|(class, _)| *class).collect()
}

fn rates(dice: Dice, swarm: &[FaultClass]) -> Rates {
    let rate = |class: FaultClass, site: &str, most: f64| {
        if swarm.contains(&class) { (0.1 + 0.9 * dice.unit(site, 0, 0)) * most } else { 0.0 }
    };
    Rates {
        error_before: rate(FaultClass::PortError, "error-before", 0.02),
        error_after: rate(FaultClass::PortError, "error-after", 0.02),
        lost_ack: rate(FaultClass::LostAck, "lost-ack", 0.03),
        late: rate(FaultClass::LateMessage, "late", 0.03),
    }
}

fn schedule(shape: &Shape, dice: Dice, swarm: &[FaultClass]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for class in swarm {
        let strikes = dice.between("strikes", *class as u128, 0, 1..4);
        for strike in 0..strikes {
            let draw = Draw { shape, dice: dice.for_site(class.id()), strike: u128::from(strike) };
            faults.extend(draw.fault(*class));
        }
    }
    faults.sort_by_key(|fault| (fault.at_ms, fault.class));
    faults
}

/// The draws of one scheduled fault: keyed by its class and number, so that no other fault depends on them.
struct Draw<'a> {
    shape: &'a Shape,
    dice: Dice,
    strike: u128,
}

impl Draw<'_> {
    /// A fault of `class`; `None` where the class has rates and no schedule.
    fn fault(&self, class: FaultClass) -> Option<Fault> {
        let applications = self.shape.application_hosts();
        let one = |hosts: &[String]| vec![self.pick(hosts)];
        let (hosts, from, for_ms, amount) = match class {
            FaultClass::PortError | FaultClass::LostAck | FaultClass::LateMessage => return None,
            FaultClass::Isolation => (one(&self.anyone()), vec![], self.millis(200, 2_500), 0),
            FaultClass::PartialCut => (one(&applications), self.one_side(), self.millis(200, 2_500), 0),
            FaultClass::OneWayCut => (one(&applications), self.one_side(), self.millis(200, 2_000), 0),
            FaultClass::Kill => (one(&self.mortals()), vec![], self.millis(50, 2_000), 0),
            FaultClass::Pause => (one(&self.workers()), vec![], self.millis(1_200, 3_000), 0),
            FaultClass::Slow => (one(&self.anyone()), vec![], self.millis(500, 2_500), self.amount(20, 250)),
            FaultClass::LeaderLoss => (one(&owned(&BROKERS)), vec![], self.millis(500, 2_500), 0),
            FaultClass::RebalanceStorm => {
                let consumer = CONSUMERS[self.index("consumer", CONSUMERS.len())];
                (self.shape.members_of(consumer), vec![], self.millis(800, 2_500), 0)
            }
            FaultClass::Failover => (self.primary(), vec![], self.millis(300, 2_000), self.suffix_lost()),
            FaultClass::ClockJump => (one(&applications), vec![], self.millis(500, 3_000), self.jump()),
            FaultClass::Redelivery => (vec![], vec![], 0, self.amount(3, 60)),
        };
        Some(Fault { class, at_ms: self.millis_at(), for_ms, hosts, from, amount })
    }

    /// Hosts that any network fault may strike.
    fn anyone(&self) -> Vec<String> {
        let mut hosts = self.shape.application_hosts();
        hosts.extend(owned(&BROKERS));
        hosts.extend(owned(&DATABASES));
        hosts
    }

    /// Hosts that may be killed; brokers are F11's, the primary is F13's.
    fn mortals(&self) -> Vec<String> {
        let mut hosts = self.shape.application_hosts();
        hosts.push(DATABASES[0].to_owned());
        hosts
    }

    /// Each failover makes the other node the primary.
    fn primary(&self) -> Vec<String> {
        vec![DATABASES[usize::from(self.strike % 2 == 1)].to_owned()]
    }

    fn workers(&self) -> Vec<String> {
        let mut hosts: Vec<String> =
            CONSUMERS.iter().flat_map(|consumer| self.shape.members_of(consumer)).collect();
        hosts.extend(self.shape.relays());
        hosts
    }

    /// All of Kafka or all of PostgreSQL: what a partial partition cuts a host from.
    fn one_side(&self) -> Vec<String> {
        if self.dice.chance("side", self.strike, 0, 0.5) { owned(&BROKERS) } else { owned(&DATABASES) }
    }

    fn pick(&self, hosts: &[String]) -> String {
        hosts[self.index("host", hosts.len())].clone()
    }

    fn index(&self, site: &str, length: usize) -> usize {
        usize::try_from(self.dice.word(site, self.strike, 0) % length as u64).unwrap_or(0)
    }

    /// A time in the third of the storm that belongs to this strike, so that strikes of a class come in their order.
    fn millis_at(&self) -> u64 {
        let third = (STORM_MS * 9 / 10 - FIRST_STRIKE_MS) / 3;
        let begin = FIRST_STRIKE_MS + third * u64::try_from(self.strike % 3).unwrap_or(0);
        self.dice.between("at", self.strike, 0, begin..begin + third)
    }

    fn millis(&self, low: u64, high: u64) -> u64 {
        self.dice.between("for", self.strike, 0, low..high)
    }

    fn amount(&self, low: u64, high: u64) -> i64 {
        i64::try_from(self.dice.between("amount", self.strike, 0, low..high)).unwrap_or(0)
    }

    /// Whether a failover loses what the replica has not replayed; a synchronous one has replayed what was acknowledged.
    fn suffix_lost(&self) -> i64 {
        i64::from(self.dice.chance("suffix-lost", self.strike, 0, 0.5))
    }

    /// A wall clock that is off by up to ten seconds either way.
    fn jump(&self) -> i64 {
        self.amount(0, 20_000) - 10_000
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        scenarios,
        workload::{self, Action},
    };

    #[test]
    fn in_a_rush_every_storm_runs_short() {
        let rush = scenarios::find("rush").expect("a scenario");
        for seed in 0..100 {
            let Plan { shape, orders, .. } = draw(rush, seed);
            let mut asked: BTreeMap<String, i64> = BTreeMap::new();
            for operation in workload::draw(&shape, orders, seed) {
                if let Action::Place(basket) = operation.action {
                    let units: i64 = basket.lines.iter().map(|line| line.quantity).sum();
                    *asked.entry(basket.tenant).or_default() += units;
                }
            }
            assert!(
                asked.values().any(|units| *units > shape.stock),
                "seed {seed}: {asked:?} of {}",
                shape.stock
            );
        }
    }
}
