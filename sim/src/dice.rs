//! Keyed randomness: every draw is a hash of (seed, site, entity, attempt), never the next of a stream.
//!
//! Taking one fault away therefore changes only what that fault caused, which is what makes shrinking and
//! counterfactuals work. The mixer is SplitMix64's finaliser (Steele, Lea, Flood 2014), applied per word.

use std::time::Duration;

use stormglass_runtime::Entropy;

use crate::hash::mix;

/// A seed's source of draws. Copies share nothing and agree on everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dice {
    seed: u64,
}

impl Dice {
    /// The dice of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Dice of their own for one part of the world.
    pub fn for_site(self, site: &str) -> Self {
        Self { seed: self.word(site, 0, 0) }
    }

    /// 64 bits. `site` names the place that asks, `entity` the causal id concerned, `attempt` how often it has asked.
    pub fn word(self, site: &str, entity: u128, attempt: u32) -> u64 {
        let site = site.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let words = [site, entity as u64, (entity >> 64) as u64, u64::from(attempt)];
        words.into_iter().fold(mix(self.seed), |state, word| mix(state ^ mix(word)))
    }

    /// A number in `[0, 1)`.
    pub fn unit(self, site: &str, entity: u128, attempt: u32) -> f64 {
        (self.word(site, entity, attempt) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with probability `rate`.
    pub fn chance(self, site: &str, entity: u128, attempt: u32, rate: f64) -> bool {
        self.unit(site, entity, attempt) < rate
    }

    /// A number in `[low, high)`; `low` if the range is empty.
    pub fn between(self, site: &str, entity: u128, attempt: u32, range: std::ops::Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        range.start + self.word(site, entity, attempt) % width
    }

    /// A duration in `[low, high)`, to the microsecond.
    pub fn duration(
        self,
        site: &str,
        entity: u128,
        attempt: u32,
        range: std::ops::Range<Duration>,
    ) -> Duration {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.between(site, entity, attempt, micros(range.start)..micros(range.end)))
    }
}

impl Entropy for Dice {
    fn draw(&self, site: &'static str, entity: u128, attempt: u32) -> f64 {
        self.unit(site, entity, attempt)
    }
}
