//! The two ports without which no code is deterministic: wall time and randomness.
//!
//! Sleeping is not here: it is `tokio::time` everywhere, which the simulator already owns.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment of wall time, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment moved by `duration`, saturating.
    pub fn after(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The time that passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC, as `ce_time` wants it; a moment outside jiff's range (years −9999 to 9999) is clamped to it.
    pub fn rfc3339(self) -> String {
        let clamped = jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        clamped.to_string()
    }

    /// Whole milliseconds since the Unix epoch.
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }
}

/// Wall time. May jump and may differ between hosts; nothing orders events by it.
pub trait Clock: Send + Sync {
    /// The present moment as this host believes it to be.
    fn now(&self) -> Timestamp;
}

/// Randomness, for jitter only: ids are derived, never drawn.
///
/// A draw is keyed, not a stream: the same (`site`, `entity`, `attempt`) may give the same answer, so taking one
/// draw away changes no other. Production may ignore the key.
pub trait Entropy: Send + Sync {
    /// A number in `[0, 1)`. `site` names the place in the code, `entity` the event, key or host that it concerns.
    fn draw(&self, site: &'static str, entity: u128, attempt: u32) -> f64;
}
