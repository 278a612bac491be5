//! What every flaky third party has in common: it takes its time, has bad minutes, and forgets nothing.
//!
//! A request is worked on when its latency has passed, not when it arrives, so a caller that gave up in between has
//! an effect to reckon with. Nothing here knows what a request means.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use serde::{Deserialize, Serialize};
use stormglass_embedded::machine::{Call, Connection, Effect};
use stormglass_runtime::Timestamp;
use stormglass_sim::Dice;
use uuid::Uuid;

/// How well a third party behaves. Rates are probabilities, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manners {
    /// Customers whose charge is refused, for ever: a business answer.
    pub declined: f64,
    /// Keys that fail for good without effect; every repeat is told the same.
    pub failed: f64,
    /// Requests that are turned away unread.
    pub busy: f64,
    /// Requests that take `slow_ms` instead.
    pub slow: f64,
    /// The usual latency at least, in milliseconds.
    pub latency_ms_min: u64,
    /// The usual latency at most, in milliseconds.
    pub latency_ms_max: u64,
    /// The latency of a slow request, in milliseconds: beyond the caller's timeout.
    pub slow_ms: u64,
}

impl Default for Manners {
    fn default() -> Self {
        Manners {
            declined: 0.05,
            failed: 0.02,
            busy: 0.02,
            slow: 0.01,
            latency_ms_min: 5,
            latency_ms_max: 30,
            slow_ms: 800,
        }
    }
}

impl Manners {
    /// A third party that always works, at once.
    pub fn perfect() -> Self {
        Manners {
            declined: 0.0,
            failed: 0.0,
            busy: 0.0,
            slow: 0.0,
            latency_ms_min: 0,
            latency_ms_max: 0,
            slow_ms: 0,
        }
    }

    fn usual(&self) -> Range<Duration> {
        Duration::from_millis(self.latency_ms_min)..Duration::from_millis(self.latency_ms_max)
    }
}

/// Whether a third party is there at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outage {
    /// It works.
    #[default]
    None,
    /// It turns every request away, unread and at once.
    Refuses,
    /// It takes requests and answers none; they have no effect.
    Silent,
    /// It does what it is asked, and none of its answers arrives.
    Mute,
}

/// What the desk does with a request that has just arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// It is worked on later.
    Accepted,
    /// It is turned away.
    TurnedAway {
        /// With how many before it on its connection, without one that was accepted between them.
        in_a_row: u32,
    },
    /// It is dropped.
    Ignored,
}

/// Requests in work, each until its time has come.
#[derive(Debug)]
pub struct Desk<Q> {
    manners: Manners,
    outage: Outage,
    dice: Dice,
    asked: BTreeMap<Uuid, u32>,
    arrivals: u64,
    /// How many requests in a row were turned away on each connection.
    turned_away: BTreeMap<Connection, u32>,
    work: BTreeMap<(Timestamp, u64), (Call, Q)>,
}

impl<Q> Desk<Q> {
    /// An idle desk.
    pub fn new(manners: Manners, dice: Dice) -> Self {
        Desk {
            manners,
            outage: Outage::None,
            dice,
            asked: BTreeMap::new(),
            arrivals: 0,
            turned_away: BTreeMap::new(),
            work: BTreeMap::new(),
        }
    }

    /// Begins or ends an outage. What is already in work is finished.
    pub fn set_outage(&mut self, outage: Outage) {
        self.outage = outage;
    }

    /// Takes in a request under `key`.
    pub fn receive(&mut self, now: Timestamp, (call, key): (Call, Uuid), request: Q) -> Reception {
        match self.outage {
            Outage::None | Outage::Mute => {}
            Outage::Refuses => return self.turn_away(call.connection),
            Outage::Silent => return Reception::Ignored,
        }
        let attempt = self.asked.entry(key).or_default();
        *attempt += 1;
        let (entity, attempt) = (key.as_u128(), *attempt);
        if self.dice.chance("busy", entity, attempt, self.manners.busy) {
            return self.turn_away(call.connection);
        }
        self.turned_away.remove(&call.connection);
        let latency = if self.dice.chance("slow", entity, attempt, self.manners.slow) {
            Duration::from_millis(self.manners.slow_ms)
        } else {
            self.dice.duration("latency", entity, attempt, self.manners.usual())
        };
        self.arrivals += 1;
        self.work.insert((now.after(latency), self.arrivals), (call, request));
        Reception::Accepted
    }

    fn turn_away(&mut self, caller: Connection) -> Reception {
        let in_a_row = self.turned_away.entry(caller).or_default();
        *in_a_row += 1;
        Reception::TurnedAway { in_a_row: *in_a_row }
    }

    /// The answer to a request that was worked on, unless the desk is mute.
    pub fn answer<A>(&self, call: Call, response: A) -> Option<Effect<A>> {
        (self.outage != Outage::Mute).then_some(Effect::Reply(call, response))
    }

    /// The next request whose time has come.
    pub fn next_due(&mut self, now: Timestamp) -> Option<(Call, Q)> {
        let first = self.work.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(first.remove())
    }

    /// When the next request is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.work.first_key_value().map(|((due, _), _)| *due)
    }

    /// Whether what is asked under `key` fails for good.
    pub fn fails(&self, key: Uuid) -> bool {
        self.dice.chance("failed", key.as_u128(), 0, self.manners.failed)
    }

    /// Whether the means of an order's customer are refused: under whichever key it is tried.
    pub fn declines(&self, order: Uuid) -> bool {
        self.dice.chance("declined", order.as_u128(), 0, self.manners.declined)
    }
}
