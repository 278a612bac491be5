//! What a storm will do, drawn from its seed: the faults, their targets and lengths, and what clients order when.
//!
//! The same seed gives the same plan. What the system makes of it is not repeatable: the times of a real machine are not.

use std::{collections::BTreeMap, fmt, time::Duration};

use stormglass_chaos::{
    provider::Manners,
    shape::{Replication, Rollout, Shape},
    workload::{self, Action, Operation},
};
use stormglass_runtime::AfterDeath;
use stormglass_sim::{Dice, FaultClass};

/// How large a storm is. The defaults are those of a plain `cargo test`.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub seed: u64,
    pub orders: u64,
    pub faults: u32,
}

impl Size {
    /// What `STORM_SEED`, `STORM_ORDERS` and `STORM_FAULTS` say.
    pub fn from_environment() -> Size {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
            Err(_) => default,
        };
        let faults = u32::try_from(number("STORM_FAULTS", 5)).expect("STORM_FAULTS is too large");
        Size { seed: number("STORM_SEED", 1), orders: number("STORM_ORDERS", 300), faults }
    }

    /// How long orders come in for.
    pub fn lasts(self) -> Duration {
        (GAP * (self.faults + 1)).max(Duration::from_millis(self.orders * 1_000 / ORDERS_PER_SECOND))
    }
}

/// From the beginning of one fault to that of the next, at least.
const GAP: Duration = Duration::from_secs(7);
/// What clients ask for at most, however slow the answers are.
const ORDERS_PER_SECOND: u64 = 40;

/// Sides of the system, each with ways of its own to Kafka and PostgreSQL. Every role has a process on each.
pub const SIDES: usize = 2;
/// Clients of the gateways.
pub const CLIENTS: u32 = 4;
/// `worker.attempts_max`.
pub const ATTEMPTS_MAX: u32 = 10;
/// Partitions of the topic of events.
pub const PARTITIONS: u32 = 6;

/// Everything that runs the production binary and is part of the system.
pub const ROLES: [&str; 6] = ["gateway", "orders", "payments", "inventory", "notifications", "relay"];

/// Units by `tenant/sku`.
pub type Shelves = BTreeMap<String, i64>;

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub kind: Kind,
    /// Which of the candidates: a process, a partition, a side, a consumer.
    pub pick: usize,
    pub lasting: Duration,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill −9 of a process.
    Kill,
    /// SIGSTOP of a worker until its session is over, then SIGCONT.
    Zombie,
    /// The broker that leads a partition is killed, and started again.
    LeaderLoss,
    /// PostgreSQL is killed, and started again.
    PostgresKill,
    /// Sessions are terminated in their COMMIT (SEMANTICS D3).
    LostCommit,
    /// The primary is killed, the replica promoted.
    Promotion,
    /// A consumer's positions go back to the start: everything is delivered again.
    Reset,
    /// One side of the system reaches PostgreSQL and not Kafka.
    CutKafka,
    /// One side of the system reaches Kafka and not PostgreSQL.
    CutPostgres,
    /// The payment provider or the notifier is killed, and started again.
    Outage,
}

impl Kind {
    /// In the order in which a small storm would miss them least.
    pub const ALL: [Kind; 10] = [
        Kind::Kill,
        Kind::Zombie,
        Kind::LeaderLoss,
        Kind::PostgresKill,
        Kind::LostCommit,
        Kind::Promotion,
        Kind::Reset,
        Kind::CutKafka,
        Kind::CutPostgres,
        Kind::Outage,
    ];

    /// Its name in the catalogue of faults; an outage of a party outside has none.
    pub fn class(self) -> Option<FaultClass> {
        match self {
            Kind::Kill | Kind::PostgresKill => Some(FaultClass::Kill),
            Kind::Zombie => Some(FaultClass::Pause),
            Kind::LeaderLoss => Some(FaultClass::LeaderLoss),
            Kind::LostCommit => Some(FaultClass::LostAck),
            Kind::Promotion => Some(FaultClass::Failover),
            Kind::Reset => Some(FaultClass::Redelivery),
            Kind::CutKafka | Kind::CutPostgres => Some(FaultClass::PartialCut),
            Kind::Outage => None,
        }
    }

    fn lasting_ms(self) -> std::ops::Range<u64> {
        match self {
            Kind::Kill => 300..3_000,
            // Past `kafka.session_timeout_ms`.
            Kind::Zombie => 7_500..10_000,
            Kind::LeaderLoss => 2_000..5_000,
            Kind::PostgresKill => 500..3_000,
            Kind::LostCommit | Kind::Promotion | Kind::Reset => 0..1,
            Kind::CutKafka => 3_000..9_000,
            Kind::CutPostgres => 2_000..6_000,
            Kind::Outage => 2_000..6_000,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kill => "kill -9 of a process",
            Kind::Zombie => "SIGSTOP past the session, SIGCONT",
            Kind::LeaderLoss => "kill of a broker that leads",
            Kind::PostgresKill => "kill -9 of PostgreSQL",
            Kind::LostCommit => "pg_terminate_backend during COMMIT",
            Kind::Promotion => "promotion of the replica",
            Kind::Reset => "positions reset to the start",
            Kind::CutKafka => "cut from Kafka only",
            Kind::CutPostgres => "cut from PostgreSQL only",
            Kind::Outage => "outage of a party outside",
        })
    }
}

/// The faults of a storm: every kind once before any comes again, in an order of the seed's.
pub fn faults(size: Size) -> Vec<Fault> {
    let dice = Dice::new(size.seed).for_site("faults");
    let mut kinds: Vec<Kind> = Vec::new();
    for round in 0..size.faults.div_ceil(Kind::ALL.len() as u32) {
        let mut all = Kind::ALL.to_vec();
        all.sort_by_key(|kind| dice.word("order", *kind as u128, round));
        kinds.extend(all);
    }
    let drawn = kinds.into_iter().take(size.faults as usize).zip(0_u128..).map(|(kind, number)| Fault {
        kind,
        pick: usize::try_from(dice.between("pick", number, 0, 0..1 << 30)).unwrap_or(0),
        lasting: Duration::from_millis(dice.between("lasting", number, 0, kind.lasting_ms())),
    });
    drawn.collect()
}

/// What is on the shelves and who orders, in the words of the simulator, whose workload it is.
pub fn shape(size: Size) -> Shape {
    Shape {
        gateways: 2,
        members: 2,
        relays: 2,
        clients: CLIENTS,
        partitions: PARTITIONS,
        lanes: 2,
        batch_records: 100,
        skus: 8,
        attempts_max: ATTEMPTS_MAX,
        // About as much as is ordered: the last ones find some shelves empty.
        stock: i64::try_from(size.orders / 5).unwrap_or(i64::MAX),
        after_death: AfterDeath::Hold,
        replication: Replication::Synchronous,
        rollout: Rollout::Settled,
        deadline_ms: 900_000,
        manners: Manners::default(),
        away: None,
    }
}

/// What each client does, at times that spread the orders over the whole storm.
pub fn operations(size: Size) -> Vec<Vec<Operation>> {
    let drawn = workload::draw(&shape(size), size.orders, size.seed);
    let first = drawn.first().map_or(0, |operation| operation.at_ms);
    let placings = drawn.iter().filter(|operation| operation.places_order());
    let last = placings.map(|operation| operation.at_ms).max().unwrap_or(1).max(first + 1);
    let lasts = u64::try_from(size.lasts().as_millis()).unwrap_or(u64::MAX);
    let spread = |at_ms: u64| (at_ms.clamp(first, last) - first) * lasts / (last - first);
    let mut placed = BTreeMap::new();
    for operation in &drawn {
        if let Action::Place(basket) = &operation.action {
            placed.insert(basket.order(), operation.at_ms);
        }
    }
    let mut clients = vec![Vec::new(); CLIENTS as usize];
    for mut operation in drawn.into_iter().filter(|operation| !operation.is_duty()) {
        let order = match &operation.action {
            Action::Place(basket) | Action::Repeat(basket) => Some(basket.order()),
            Action::Cancel(order) | Action::Read(order) => Some(order.clone()),
            Action::List { .. } | Action::Redrive { .. } | Action::Discard { .. } => None,
        };
        // What follows an order follows it as soon as it would in a short storm.
        let begun = order.and_then(|order| placed.get(&order).copied()).unwrap_or(operation.at_ms);
        operation.at_ms = (spread(begun) + operation.at_ms).saturating_sub(begun);
        clients[operation.client as usize].push(operation);
    }
    clients
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { seed: 7, orders: 200, faults: 23 };

    #[test]
    fn the_same_seed_plans_the_same_storm_and_another_seed_another() {
        assert_eq!(faults(SIZE), faults(SIZE));
        assert_eq!(operations(SIZE), operations(SIZE));
        assert_ne!(faults(SIZE), faults(Size { seed: 8, ..SIZE }));
    }

    #[test]
    fn every_kind_strikes_before_any_strikes_again() {
        let faults = faults(SIZE);
        for round in faults.chunks(Kind::ALL.len()).take(2) {
            let mut kinds: Vec<Kind> = round.iter().map(|fault| fault.kind).collect();
            kinds.sort_unstable();
            assert_eq!(kinds, Kind::ALL);
        }
        assert_eq!(faults.len(), 23);
    }

    #[test]
    fn orders_come_in_all_through_the_storm() {
        let clients = operations(SIZE);
        let mut placed: Vec<u64> = clients
            .iter()
            .flatten()
            .filter(|operation| operation.places_order())
            .map(|op| op.at_ms)
            .collect();
        placed.sort_unstable();
        assert_eq!(placed.len(), 200);
        let lasts = SIZE.lasts().as_millis() as u64;
        assert!(placed[0] < lasts / 10 && placed[199] > lasts * 9 / 10 && placed[199] <= lasts, "{placed:?}");
    }
}
