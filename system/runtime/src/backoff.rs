//! Exponential backoff with full jitter: a delay drawn from `[0, min(max, base × 2^(attempt − 1)))`.
//!
//! Full jitter spreads retries that failed together best (Brooker, "Exponential Backoff And Jitter", AWS 2015). The
//! draw is keyed by what is retried, so a replay waits as long as the original did.

use std::time::Duration;

use crate::Entropy;

/// The range of delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The ceiling after the first failure.
    pub base: Duration,
    /// The ceiling after many.
    pub max: Duration,
}

impl Backoff {
    /// No delay after `attempt` failures is as long as this. Attempts count from 1.
    pub fn ceiling(self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }

    /// How long to wait after the `attempt`-th failure of `entity` at `site`.
    pub fn delay(self, entropy: &dyn Entropy, site: &'static str, entity: u128, attempt: u32) -> Duration {
        self.ceiling(attempt).mul_f64(entropy.draw(site, entity, attempt).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Fixed(f64);

    impl Entropy for Fixed {
        fn draw(&self, _: &'static str, _: u128, _: u32) -> f64 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn a_delay_stays_below_its_ceiling_and_the_ceiling_below_the_maximum(
            base in 1u64..5_000, factor in 1u64..1_000, attempt in 0u32..200, draw in 0.0f64..1.0,
        ) {
            let backoff = Backoff {
                base: Duration::from_millis(base),
                max: Duration::from_millis(base * factor),
            };
            let delay = backoff.delay(&Fixed(draw), "test", 1, attempt);
            prop_assert!(delay <= backoff.ceiling(attempt));
            prop_assert!(backoff.ceiling(attempt) <= backoff.max);
            prop_assert!(backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1));
        }
    }

    #[test]
    fn the_ceiling_doubles_from_the_base_until_the_maximum() {
        let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_millis(1_000) };
        let ceilings: Vec<_> = (1..=6).map(|attempt| backoff.ceiling(attempt).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1_000, 1_000]);
    }
}
