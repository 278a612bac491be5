//! What this process takes from its machine: the time, jitter, and a name for its incarnation.

use std::time::{SystemTime, UNIX_EPOCH};

use stormglass_runtime::{Clock, Entropy, Timestamp, derive_id};
use uuid::{Builder, Uuid};

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock port of production")]
    fn now(&self) -> Timestamp {
        let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp(micros(since)),
            Err(before) => Timestamp(-micros(before.duration())),
        }
    }
}

/// Jitter that differs from process to process.
#[derive(Clone, Copy, Debug)]
pub struct Jitter {
    process: Uuid,
}

impl Jitter {
    /// Jitter of the process of this name.
    pub fn of(process: Uuid) -> Self {
        Self { process }
    }
}

impl Entropy for Jitter {
    fn draw(&self, site: &'static str, entity: u128, attempt: u32) -> f64 {
        let parts: [&[u8]; 4] =
            [self.process.as_bytes(), site.as_bytes(), &entity.to_be_bytes(), &attempt.to_be_bytes()];
        let hash = derive_id("jitter/v1", &parts).as_u128();
        // The low half of a derived id holds two fixed bits at its top; what lies below them is the hash's.
        let fraction = u32::try_from(hash & u128::from(u32::MAX)).unwrap_or(0);
        f64::from(fraction) / (f64::from(u32::MAX) + 1.0)
    }
}

/// A name that no other process has, nor this one after a restart.
///
/// # Errors
/// If the machine has no randomness to give.
pub fn incarnation() -> Result<Uuid, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(Builder::from_random_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_spreads_over_the_whole_range_and_differs_between_processes() {
        let jitter = Jitter::of(Uuid::from_u128(1));
        let draws: Vec<f64> = (0..1_000).map(|attempt| jitter.draw("test", 7, attempt)).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let below = draws.iter().filter(|draw| **draw < 0.5).count();
        assert!((400..600).contains(&below), "{below} of 1000 are below a half");
        assert_ne!(jitter.draw("test", 7, 1), Jitter::of(Uuid::from_u128(2)).draw("test", 7, 1));
    }

    #[test]
    fn the_clock_shows_this_century() {
        assert!(SystemClock.now() > Timestamp(1_700_000_000_000_000));
    }
}
