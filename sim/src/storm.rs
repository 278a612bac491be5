//! What every host shares of the storm: whether it rages, at what rates, and what has struck.
//!
//! A draw is keyed by (host, site, entity, attempt), where an attempt counts how often this very pair of site and
//! entity was asked on this host. There is no counter across entities, so taking one strike away shifts no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    Dice, FaultClass, History, Rates, SimTime, Strikes, What,
    hash::{Fingerprint, fingerprint},
};

/// Names one draw: enough to repeat a strike without rates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// The host that asks.
    pub host: String,
    /// The place in the code that asks.
    pub site: String,
    /// The causal entity: a hash of what is being done.
    pub entity: u64,
    /// How often it was asked before, on this host.
    pub attempt: u32,
}

/// A fault that struck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    /// Its class.
    pub class: FaultClass,
    /// When, in simulated milliseconds since the start.
    pub at_ms: u64,
    /// What it struck.
    pub draw: Draw,
}

/// Where the strikes of port calls come from.
#[derive(Clone, Debug, PartialEq)]
pub enum PortFaults {
    /// Drawn at these rates.
    Rates(Rates),
    /// Exactly these, of an earlier run.
    Explicit(BTreeSet<Draw>),
}

impl Default for PortFaults {
    fn default() -> Self {
        PortFaults::Rates(Rates::default())
    }
}

/// The part of the storm that hosts share. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Storm {
    pub(crate) dice: Dice,
    pub(crate) time: SimTime,
    pub(crate) history: History,
    faults: Arc<PortFaults>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    rages: bool,
    strikes: Vec<Strike>,
    counts: Strikes,
}

impl Storm {
    pub(crate) fn new(dice: Dice, faults: PortFaults, history: History, time: SimTime) -> Self {
        let inner = Inner { rages: true, ..Inner::default() };
        Self { dice, time, history, faults: Arc::new(faults), inner: Arc::new(Mutex::new(inner)) }
    }

    /// Ends all drawn faults.
    pub(crate) fn calm(&self) {
        self.lock().rages = false;
    }

    pub(crate) fn rages(&self) -> bool {
        self.lock().rages
    }

    /// What has struck so far, in order, without the first `known`.
    pub(crate) fn list_since(&self, known: usize) -> Vec<Strike> {
        self.lock().strikes.get(known..).unwrap_or_default().to_vec()
    }

    pub(crate) fn counts(&self) -> Strikes {
        self.lock().counts.clone()
    }

    /// Notes that a fault had its effect.
    pub(crate) fn struck(&self, class: FaultClass, draw: Draw) {
        let mut digest = Fingerprint::default();
        digest.bytes(draw.site.as_bytes());
        digest.word(draw.entity);
        digest.word(u64::from(draw.attempt));
        let what = What { host: &draw.host, kind: "strike", digest: digest.finish() };
        self.history.record(what, || {
            format!("{} at {} of {:016x}#{}", class.id(), draw.site, draw.entity, draw.attempt)
        });
        let at_ms = u64::try_from(self.time.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut inner = self.lock();
        inner.counts.count(class);
        inner.strikes.push(Strike { class, at_ms, draw });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One host's draws. Cloning shares the attempts.
#[derive(Clone)]
pub(crate) struct Fate {
    pub(crate) storm: Storm,
    pub(crate) host: Arc<str>,
    dice: Dice,
    attempts: Arc<Mutex<BTreeMap<(u64, &'static str), u32>>>,
}

/// A drawn or explicit fault of a port call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chance {
    /// F1 before the effect.
    ErrorBefore,
    /// F1 after the effect.
    ErrorAfter,
    /// F2.
    LostAck,
    /// F10.
    Late,
}

impl Chance {
    fn rate(self, rates: &Rates) -> f64 {
        match self {
            Chance::ErrorBefore => rates.error_before,
            Chance::ErrorAfter => rates.error_after,
            Chance::LostAck => rates.lost_ack,
            Chance::Late => rates.late,
        }
    }

    fn class(self) -> FaultClass {
        match self {
            Chance::ErrorBefore | Chance::ErrorAfter => FaultClass::PortError,
            Chance::LostAck => FaultClass::LostAck,
            Chance::Late => FaultClass::LateMessage,
        }
    }
}

/// One question to fate: a site and an entity, with the number of times it was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) site: &'static str,
    pub(crate) entity: u64,
    pub(crate) attempt: u32,
}

impl Fate {
    pub(crate) fn new(storm: &Storm, host: &Arc<str>) -> Self {
        let dice = storm.dice.for_site(host);
        Self { storm: storm.clone(), host: Arc::clone(host), dice, attempts: Arc::default() }
    }

    /// Asks about `content` at `site`, once more.
    pub(crate) fn ask(&self, site: &'static str, content: &[u8]) -> Question {
        self.ask_entity(site, fingerprint(content))
    }

    /// Asks about an entity at `site`, once more.
    pub(crate) fn ask_entity(&self, site: &'static str, entity: u64) -> Question {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = attempts.entry((entity, site)).or_default();
        let attempt = *count;
        *count += 1;
        Question { site, entity, attempt }
    }

    /// A number in `[0, 1)` for this question; `salt` keeps several draws of one question apart.
    pub(crate) fn unit(&self, question: Question, salt: &str) -> f64 {
        let entity = u128::from(question.entity) | (u128::from(fingerprint(salt.as_bytes())) << 64);
        self.dice.unit(question.site, entity, question.attempt)
    }

    /// Whether a port fault strikes here. The caller performs it and then says so with [`Fate::struck`].
    pub(crate) fn strikes(&self, question: Question, chance: Chance) -> bool {
        if !self.storm.rages() {
            return false;
        }
        match &*self.storm.faults {
            PortFaults::Rates(rates) => {
                let rate = chance.rate(rates);
                rate > 0.0 && self.unit(question, chance.site()) < rate
            }
            PortFaults::Explicit(draws) => draws.contains(&self.draw(question, chance)),
        }
    }

    /// Counts a strike.
    pub(crate) fn struck(&self, question: Question, chance: Chance) {
        self.storm.struck(chance.class(), self.draw(question, chance));
    }

    fn draw(&self, question: Question, chance: Chance) -> Draw {
        Draw {
            host: self.host.to_string(),
            site: format!("{}/{}", question.site, chance.site()),
            entity: question.entity,
            attempt: question.attempt,
        }
    }
}

impl Chance {
    fn site(self) -> &'static str {
        match self {
            Chance::ErrorBefore => "error-before",
            Chance::ErrorAfter => "error-after",
            Chance::LostAck => "lost-ack",
            Chance::Late => "late",
        }
    }
}
