//! The shape of a storm's cluster: how many hosts of which kind, and how they are configured. Part of the case file.

use serde::{Deserialize, Serialize};
use stormglass_runtime::{AfterDeath, ConfigError};

use crate::{
    provider::{Manners, Outage},
    settings,
};

/// The four consumers, in the order in which their hosts are raised.
pub const CONSUMERS: [&str; 4] = ["orders", "payments", "inventory", "notifications"];

/// The brokers' hosts.
pub const BROKERS: [&str; 3] = ["kafka-1", "kafka-2", "kafka-3"];

/// The database hosts: whichever of them is the primary.
pub const DATABASES: [&str; 2] = ["postgres-1", "postgres-2"];

/// The payment provider's host.
pub const PROVIDER: &str = "provider";

/// The notifier's host.
pub const NOTIFIER: &str = "notifier";

/// The operator's host.
pub const OPERATOR: &str = "operator";

/// More of anything than this is a typing error, not a storm.
const MANY: u32 = 64;

/// How many of what. Every number is at least 1 unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Gateway hosts.
    pub gateways: u32,
    /// Members of each consumer.
    pub members: u32,
    /// Relays: one is active, the others stand by.
    pub relays: u32,
    /// Client hosts.
    pub clients: u32,
    /// Partitions of the `orders` topic.
    pub partitions: u32,
    /// Lanes of each worker.
    pub lanes: u32,
    /// Records per batch at most.
    pub batch_records: u32,
    /// Stock-keeping units on sale.
    pub skus: u32,
    /// Attempts of an event before it is a dead letter.
    pub attempts_max: u32,
    /// Units of each in stock at the start; may be 0.
    pub stock: i64,
    /// What a dead letter does to the later events of its key.
    pub after_death: AfterDeath,
    /// Whether a commit waits for the replica.
    pub replication: Replication,
    /// What versions the members run.
    pub rollout: Rollout,
    /// How long an order may stay open before it is cancelled, in milliseconds.
    pub deadline_ms: u64,
    /// How the payment provider behaves; the notifier is as well-mannered.
    pub manners: Manners,
    /// When the payment provider is away, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
}

/// Whether a commit waits until the replica has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// It does: a failover loses nothing.
    Synchronous,
    /// It does not: a failover may lose the last commits, and events replay.
    Asynchronous,
}

/// When the payment provider is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Away {
    /// From when, in milliseconds since the start.
    pub from_ms: u64,
    /// Until when, in milliseconds since the start.
    pub until_ms: u64,
    /// Whether it refuses or is silent.
    pub how: Outage,
}

/// Which versions of the services run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rollout {
    /// One version everywhere.
    Settled,
    /// The first member of each consumer does not know the events of the second version until it is restarted.
    SideBySide,
}

impl Shape {
    /// Refuses what no storm can be raised from.
    ///
    /// # Errors
    /// The field, and what it must be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        /// A provider that is slower than this never answers a worker in time, and then nothing can come of a storm.
        const SLOWEST_MS: u64 = 1_000;

        let counts = [
            ("gateways", self.gateways),
            ("members", self.members),
            ("relays", self.relays),
            ("clients", self.clients),
            ("partitions", self.partitions),
            ("lanes", self.lanes),
            ("batch_records", self.batch_records),
            ("skus", self.skus),
            ("attempts_max", self.attempts_max),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, count)| !(1..=MANY).contains(count)) {
            return Err((field, format!("must be 1 to {MANY}")));
        }
        if self.stock < 0 {
            return Err(("stock", "must not be negative".to_owned()));
        }
        let Manners { declined, failed, busy, slow, latency_ms_min, latency_ms_max, slow_ms } = self.manners;
        if [declined, failed, busy, slow].iter().any(|rate| !(0.0..=1.0).contains(rate)) {
            return Err(("manners", "rates are probabilities, 0 to 1".to_owned()));
        }
        if latency_ms_min > latency_ms_max {
            return Err(("manners", "latency_ms_min must not be above latency_ms_max".to_owned()));
        }
        if latency_ms_max.max(slow_ms) > SLOWEST_MS {
            return Err(("manners", format!("latency_ms_max and slow_ms must be at most {SLOWEST_MS}")));
        }
        settings::worker(self).validate().map_err(|error| {
            let ConfigError { field, value, range, advice } = error;
            (field, format!("makes a worker's {field} {value}, which must be {range}: {advice}"))
        })
    }

    /// Every host that runs production code, by name.
    pub fn application_hosts(&self) -> Vec<String> {
        let mut hosts = self.gateways();
        for consumer in CONSUMERS {
            hosts.extend(self.members_of(consumer));
        }
        hosts.extend(self.relays());
        hosts
    }

    /// The gateways' hosts.
    pub fn gateways(&self) -> Vec<String> {
        numbered("gateway", self.gateways)
    }

    /// The hosts of one consumer's members.
    pub fn members_of(&self, consumer: &str) -> Vec<String> {
        numbered(consumer, self.members)
    }

    /// The relays' hosts.
    pub fn relays(&self) -> Vec<String> {
        numbered("relay", self.relays)
    }

    /// The clients' hosts.
    pub fn clients(&self) -> Vec<String> {
        numbered("client", self.clients)
    }
}

fn numbered(name: &str, count: u32) -> Vec<String> {
    (1..=count).map(|number| format!("{name}-{number}")).collect()
}
