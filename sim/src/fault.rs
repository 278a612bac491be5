//! The fault classes: one name each, as explicit entries of a case or as rates, and a count of how often each struck.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A class of faults, numbered as SEMANTICS section 3 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FaultClass {
    /// Error at a port call, before or after its effect.
    #[serde(rename = "F1")]
    PortError,
    /// The effect is done, the answer is lost.
    #[serde(rename = "F2")]
    LostAck,
    /// One host isolated from all.
    #[serde(rename = "F3")]
    Isolation,
    /// Kafka reachable, PostgreSQL not, or the other way round.
    #[serde(rename = "F4")]
    PartialCut,
    /// One direction of a link cut.
    #[serde(rename = "F5")]
    OneWayCut,
    /// A host killed without a goodbye, then restarted.
    #[serde(rename = "F6")]
    Kill,
    /// A host paused past its session timeout, then continued.
    #[serde(rename = "F7")]
    Pause,
    /// A slow link.
    #[serde(rename = "F8")]
    Slow,
    /// A message that arrives late.
    #[serde(rename = "F10")]
    LateMessage,
    /// A broker that leads is lost.
    #[serde(rename = "F11")]
    LeaderLoss,
    /// Members come and go.
    #[serde(rename = "F12")]
    RebalanceStorm,
    /// The database fails over to its replica, with or without losing a suffix.
    #[serde(rename = "F13")]
    Failover,
    /// A host's wall clock jumps.
    #[serde(rename = "F18")]
    ClockJump,
    /// A batch is delivered again from an earlier offset.
    #[serde(rename = "F20")]
    Redelivery,
}

impl FaultClass {
    /// All of them, in order.
    pub const ALL: [FaultClass; 14] = [
        FaultClass::PortError,
        FaultClass::LostAck,
        FaultClass::Isolation,
        FaultClass::PartialCut,
        FaultClass::OneWayCut,
        FaultClass::Kill,
        FaultClass::Pause,
        FaultClass::Slow,
        FaultClass::LateMessage,
        FaultClass::LeaderLoss,
        FaultClass::RebalanceStorm,
        FaultClass::Failover,
        FaultClass::ClockJump,
        FaultClass::Redelivery,
    ];

    /// Its number in SEMANTICS.
    pub fn id(self) -> &'static str {
        self.words().0
    }

    /// What a list calls it.
    pub fn name(self) -> &'static str {
        self.words().1
    }

    /// What it does, in one line.
    pub fn summary(self) -> &'static str {
        self.words().2
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            FaultClass::PortError => ("F1", "port-error", "a port call errs, before or after its effect"),
            FaultClass::LostAck => ("F2", "lost-ack", "the effect is done, the answer is lost"),
            FaultClass::Isolation => ("F3", "isolation", "one host is cut off from all"),
            FaultClass::PartialCut => {
                ("F4", "partial-cut", "Kafka is reachable and PostgreSQL not, or the other way round")
            }
            FaultClass::OneWayCut => ("F5", "one-way-cut", "one direction of a link is cut"),
            FaultClass::Kill => ("F6", "kill", "a host is killed without a goodbye, then restarted"),
            FaultClass::Pause => ("F7", "pause", "a host is paused past its session timeout, then goes on"),
            FaultClass::Slow => ("F8", "slow", "a link is slow"),
            FaultClass::LateMessage => ("F10", "late-message", "a message arrives late"),
            FaultClass::LeaderLoss => ("F11", "leader-loss", "a broker that leads partitions is lost"),
            FaultClass::RebalanceStorm => {
                ("F12", "rebalance-storm", "members of a consumer group come and go")
            }
            FaultClass::Failover => {
                ("F13", "failover", "the database fails over to its replica, which may lack the last commits")
            }
            FaultClass::ClockJump => ("F18", "clock-jump", "a host's wall clock jumps"),
            FaultClass::Redelivery => {
                ("F20", "redelivery", "a batch is delivered again from an earlier offset")
            }
        }
    }
}

/// A fault with a time, a target and a duration: an explicit entry of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub class: FaultClass,
    /// When it begins, in simulated milliseconds since the start.
    pub at_ms: u64,
    /// How long it lasts; 0 where it is an instant.
    #[serde(default)]
    pub for_ms: u64,
    /// The hosts it strikes; two sets of hosts for a cut are `hosts` and `from`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The other side of a cut, empty for everyone else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// How much: extra latency or clock offset in milliseconds, offsets to rewind; its meaning is the class's.
    #[serde(default)]
    pub amount: i64,
}

/// Rates of op-level faults, each per port call, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// F1, before the effect.
    #[serde(default)]
    pub error_before: f64,
    /// F1, after the effect.
    #[serde(default)]
    pub error_after: f64,
    /// F2.
    #[serde(default)]
    pub lost_ack: f64,
    /// F10.
    #[serde(default)]
    pub late: f64,
}

/// How often each class struck: had its effect on something, not merely was scheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strikes(pub BTreeMap<FaultClass, u64>);

impl Strikes {
    /// Counts one strike.
    pub fn count(&mut self, class: FaultClass) {
        *self.0.entry(class).or_default() += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Strikes) {
        for (class, count) in &other.0 {
            *self.0.entry(*class).or_default() += count;
        }
    }

    /// How often `class` struck.
    pub fn of(&self, class: FaultClass) -> u64 {
        self.0.get(&class).copied().unwrap_or(0)
    }

    /// All strikes together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}
