//! The invariants of SEMANTICS section 4, each as one checker that only believes witnesses.
//!
//! A witness is a host's own log: what the brokers appended, what the database committed, what the payment provider
//! booked, what the notifier was sent, what clients were answered, which faults struck. Nothing here calls the
//! services, the runtime's algorithm or the adapters; the rules of the domain (which events a consumer takes, which
//! transitions are legal) are written down a second time, on purpose.
//!
//! Left out: I13 (a burst needs a measure of goodput, not a checker), I18 (the state machines' own suites) and
//! I22. I17 is held by `chaos verify`, which compares runs; here it is only a line in the catalogue.

mod accepted;
mod accounted;
mod attempts;
mod commit;
mod effects;
mod facts;
mod freshness;
mod judge;
mod key_order;
mod legal;
mod log;
mod money;
mod notified;
mod outbox;
mod positions;
mod progress;
mod saga;
mod settles;
mod stock;
mod strikes;
#[cfg(test)]
mod testkit;
mod world;

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use stormglass_embedded::{broker, database};
use stormglass_runtime::{AfterDeath, ConsumerName, Timestamp, Topic};
use stormglass_sim::{FaultClass, Strikes};
use uuid::Uuid;

use crate::{client, notifier, provider};

pub use commit::{Commit, Effect, Queued, RowChange, Taken};
pub use facts::{Fact, OrderState, money};
pub use judge::{Judge, checkers};
pub use settles::NAME as SETTLES;
pub use world::World;

/// One thing that a witness tells. The order in which a [`Judge`] is given evidence is the order of time; evidence of
/// one simulated tick is given brokers first, then provider, notifier, database, clients, strikes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Evidence {
    /// The brokers' log.
    Broker(broker::Observed),
    /// The database's log.
    Database(database::Observed),
    /// The payment provider's ledger.
    Provider(provider::Observed),
    /// The notifier's log.
    Notifier(notifier::Observed),
    /// What clients sent and were answered.
    Client(client::Observed),
    /// What was done to the world.
    Strike(Strike),
}

/// What the storm did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Strike {
    /// A fault had its effect on something; it may go on until `until`.
    Struck {
        /// Its class.
        class: FaultClass,
        /// The host it struck; empty where it struck none in particular.
        host: String,
        /// Until when it may disturb the system; the moment itself for an instant.
        until: Timestamp,
    },
    /// Every fault is healed: the calm has begun.
    Healed,
}

/// What a run is like, as far as invariants need to know. Written by the scenario, not read from the services.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The topic of all the domain's events.
    pub topic: Topic,
    /// The stock on hand before the first order: per `tenant/sku`, or per SKU where all tenants have the same.
    pub stock: BTreeMap<String, i64>,
    /// What each consumer takes, by `ce_type`.
    pub takes: BTreeMap<ConsumerName, Vec<&'static str>>,
    /// What a dead letter does to its key, per consumer; `Hold` where nothing is said.
    pub after_death: BTreeMap<ConsumerName, AfterDeath>,
    /// Attempts before an event becomes a dead letter.
    pub attempts_max: u32,
    /// After how many failures in a row a provider's circuit opens, and for how long.
    pub circuit: (u32, Duration),
    /// In the calm, how long a partition with lag may stand still.
    pub standstill_max: Duration,
}

impl Setup {
    /// The order system on `topic` with `stock` on hand: four consumers that hold behind their dead letters.
    pub fn new(topic: Topic, stock: BTreeMap<String, i64>) -> Self {
        let takes =
            TAKES.iter().map(|(consumer, kinds)| (ConsumerName::from(*consumer), kinds.to_vec())).collect();
        Setup {
            topic,
            stock,
            takes,
            after_death: BTreeMap::new(),
            attempts_max: 8,
            circuit: (5, Duration::from_millis(400)),
            standstill_max: Duration::from_secs(5),
        }
    }

    /// What a dead letter of `consumer` does to the later events of its key.
    pub fn after_death(&self, consumer: &ConsumerName) -> AfterDeath {
        self.after_death.get(consumer).copied().unwrap_or_default()
    }

    /// Whether `consumer` takes events of `kind`.
    pub fn takes(&self, consumer: &ConsumerName, kind: &str) -> bool {
        self.takes.get(consumer).is_some_and(|kinds| kinds.contains(&kind))
    }
}

/// Who takes what (DESIGN 5), repeated here so that a consumer that forgets a type is found out.
const TAKES: [(&str, &[&str]); 4] = [
    (
        "orders",
        &[
            "order.placed",
            "order.cancel-requested",
            "payment.captured",
            "payment.declined",
            "payment.refunded",
            "stock.reserved",
            "stock.rejected",
            "stock.released",
        ],
    ),
    ("payments", &["order.placed", "order.cancelled"]),
    ("inventory", &["order.placed", "order.confirmed", "order.cancelled"]),
    ("notifications", &["order.confirmed", "order.cancelled", "payment.refunded"]),
];

/// What the storm knows when the run is over.
#[derive(Clone, Debug, Default)]
pub struct EndState {
    /// How often each class of faults struck.
    pub strikes: Strikes,
    /// The classes of which a scheduled fault was certain to strike: each must have.
    pub planned: Vec<FaultClass>,
    /// Transactions still open in the database.
    pub open_transactions: usize,
    /// Row locks still held in the database.
    pub locks: usize,
}

/// An invariant's entry in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number in SEMANTICS, such as `I3`.
    pub id: &'static str,
    /// Its name on the command line, such as `effect-once`.
    pub name: &'static str,
    /// What it says.
    pub statement: &'static str,
    /// Whose word it is checked by.
    pub evidence: &'static str,
}

/// What a checker answers.
pub type Verdict = Result<(), Box<Violation>>;

/// A checker. It implements the witnesses it listens to; whatever it is shown is already part of `world`.
pub trait Invariant {
    /// Its entry in the catalogue.
    fn rule(&self) -> Rule;

    /// The brokers did something.
    ///
    /// # Errors
    /// The invariant does not hold; so for every method below.
    fn broker(&mut self, _seen: &broker::Observed, _world: &World) -> Verdict {
        Ok(())
    }

    /// A transaction became visible.
    ///
    /// # Errors
    /// The invariant does not hold.
    fn committed(&mut self, _commit: &Commit, _world: &World) -> Verdict {
        Ok(())
    }

    /// The database lost a suffix: forget whatever was concluded from commits. The commits that survived are shown
    /// again right after this.
    fn rewind(&mut self) {}

    /// A read outside transactions was answered by the database.
    ///
    /// # Errors
    /// The invariant does not hold.
    fn database_read(&mut self, _seen: &database::Observed, _world: &World) -> Verdict {
        Ok(())
    }

    /// The payment provider booked something.
    ///
    /// # Errors
    /// The invariant does not hold.
    fn provider(&mut self, _seen: &provider::Observed, _world: &World) -> Verdict {
        Ok(())
    }

    /// The notifier was sent something.
    ///
    /// # Errors
    /// The invariant does not hold.
    fn notifier(&mut self, _seen: &notifier::Observed, _world: &World) -> Verdict {
        Ok(())
    }

    /// A client sent something or was answered.
    ///
    /// # Errors
    /// The invariant does not hold.
    fn client(&mut self, _seen: &client::Observed, _world: &World) -> Verdict {
        Ok(())
    }

    /// Time has passed; called every few hundred simulated milliseconds, for what shows by *not* happening.
    ///
    /// # Errors
    /// The invariant does not hold.
    fn tick(&mut self, _world: &World) -> Verdict {
        Ok(())
    }

    /// The run is over.
    ///
    /// # Errors
    /// The invariant does not hold.
    fn at_end(&mut self, _end: &EndState, _world: &World) -> Verdict {
        Ok(())
    }
}

/// How an invariant was broken, in the words of the domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// When it was seen.
    pub at: Timestamp,
    /// What happened to whom: `order 0190… charged twice: 2 × 49.99 EUR`.
    pub subject: String,
    /// What must be.
    pub expected: String,
    /// What was seen instead.
    pub got: String,
    /// The order concerned, if it is one order's story.
    pub order: Option<Uuid>,
    /// That story, as the witnesses tell it; the judge fills it in.
    pub chain: Vec<String>,
}

impl Violation {
    /// `rule` does not hold for `subject`, as of `world`'s present.
    pub fn new(rule: Rule, world: &World, subject: impl Into<String>) -> Box<Self> {
        Box::new(Violation {
            invariant: rule.name,
            at: world.now,
            subject: subject.into(),
            expected: rule.statement.to_owned(),
            got: String::new(),
            order: None,
            chain: Vec::new(),
        })
    }

    /// With what must be, and what was seen.
    #[must_use]
    pub fn expected(mut self: Box<Self>, expected: impl Into<String>, got: impl Into<String>) -> Box<Self> {
        self.expected = expected.into();
        self.got = got.into();
        self
    }

    /// With the order concerned.
    #[must_use]
    pub fn about(mut self: Box<Self>, order: impl Into<Option<Uuid>>) -> Box<Self> {
        self.order = order.into();
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subject)?;
        write!(f, "expected {}; got {}", self.expected, self.got)?;
        if self.chain.is_empty() {
            return Ok(());
        }
        write!(f, "\nchain: {}", self.chain.join(" → "))
    }
}

/// All invariants that a run is held to, in the order of their numbers; `chaos list` and `chaos explain` read it.
pub fn catalogue() -> Vec<Rule> {
    let mut rules: Vec<Rule> = judge::checkers().iter().map(|checker| checker.rule()).collect();
    rules.push(SAME_SEED_SAME_TRACE);
    rules.sort_by_key(|rule| rule.id[1..].parse::<u32>().unwrap_or(u32::MAX));
    rules
}

/// Held by `chaos verify`, which runs cases twice and compares; no checker inside one run can see it.
pub const SAME_SEED_SAME_TRACE: Rule = Rule {
    id: "I17",
    name: "same-seed-same-trace",
    statement: "one case gives one trace, wherever it runs",
    evidence: "no checker: `chaos verify` runs cases twice and compares",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_names_every_invariant_that_the_suite_promises() {
        let ids: Vec<&str> = catalogue().iter().map(|rule| rule.id).collect();
        let promised = [
            "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I12", "I14", "I15", "I16",
            "I17", "I20", "I21",
        ];
        assert_eq!(ids, promised);
    }
}
