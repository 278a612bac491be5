//! A circuit breaker for one provider: after enough failures in a row nothing is asked of it for a while.
//!
//! While it is open nothing is claimed, so no attempt of any event counts (DESIGN G4). When the time is over one
//! event is claimed as a probe; its outcome closes the circuit or opens it again. Kept in memory: a new process
//! begins closed and learns by itself.

use std::time::Duration;

use tokio::time::Instant;

/// How much may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// As much as there is room for.
    All,
    /// One event, if no other is in hand.
    Probe,
    /// Nothing.
    Nothing,
}

/// The breaker.
#[derive(Debug)]
pub(crate) struct Circuit {
    threshold: u32,
    open_for: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen,
}

impl Circuit {
    /// A closed circuit that opens for `open_for` after `threshold` failures in a row.
    pub fn new(threshold: u32, open_for: Duration) -> Self {
        Self { threshold, open_for, state: State::Closed { failures: 0 } }
    }

    /// What may be claimed at `now`.
    pub fn allowance(&mut self, now: Instant) -> Allowance {
        if let State::Open { until } = self.state
            && until <= now
        {
            self.state = State::HalfOpen;
        }
        match self.state {
            State::Closed { .. } => Allowance::All,
            State::HalfOpen => Allowance::Probe,
            State::Open { .. } => Allowance::Nothing,
        }
    }

    /// When an open circuit lets a probe through.
    pub fn reopens(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::HalfOpen => None,
        }
    }

    /// The provider answered. Answers to calls that began before the circuit opened do not close it: the provider
    /// was already failing others by then.
    pub fn succeeded(&mut self) {
        match self.state {
            State::Closed { .. } | State::HalfOpen => self.state = State::Closed { failures: 0 },
            State::Open { .. } => {}
        }
    }

    /// The provider failed, or could not be reached. True if this opened the circuit.
    pub fn failed(&mut self, now: Instant) -> bool {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::HalfOpen => self.threshold,
            State::Open { .. } => return false,
        };
        let opens = failures >= self.threshold;
        self.state =
            if opens { State::Open { until: now + self.open_for } } else { State::Closed { failures } };
        opens
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn opens_after_the_threshold_and_probes_once_the_time_is_over() {
        let now = Instant::now();
        let mut circuit = Circuit::new(2, OPEN_FOR);
        assert!(!circuit.failed(now));
        assert_eq!(circuit.allowance(now), Allowance::All);
        assert!(circuit.failed(now));
        assert_eq!(circuit.allowance(now), Allowance::Nothing);
        assert_eq!(circuit.allowance(now + OPEN_FOR), Allowance::Probe);
        circuit.succeeded();
        assert_eq!(circuit.allowance(now + OPEN_FOR), Allowance::All);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_opens_it_again_at_once() {
        let now = Instant::now();
        let mut circuit = Circuit::new(3, OPEN_FOR);
        for _ in 0..3 {
            circuit.failed(now);
        }
        assert_eq!(circuit.allowance(now + OPEN_FOR), Allowance::Probe);
        assert!(circuit.failed(now + OPEN_FOR));
        assert_eq!(circuit.reopens(), Some(now + OPEN_FOR * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_between_failures_starts_the_count_again() {
        let now = Instant::now();
        let mut circuit = Circuit::new(2, OPEN_FOR);
        circuit.failed(now);
        circuit.succeeded();
        assert!(!circuit.failed(now));
        assert_eq!(circuit.allowance(now), Allowance::All);
    }

    proptest! {
        #[test]
        fn it_is_open_exactly_when_the_last_calls_failed(results in proptest::collection::vec(any::<bool>(), 1..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
            runtime.block_on(async {
                let now = Instant::now();
                let mut circuit = Circuit::new(3, OPEN_FOR);
                let mut in_a_row = 0;
                for succeeded in results {
                    if succeeded { circuit.succeeded() } else { circuit.failed(now); }
                    in_a_row = if succeeded && in_a_row < 3 { 0 } else if succeeded { in_a_row } else { in_a_row + 1 };
                    prop_assert_eq!(circuit.allowance(now) == Allowance::All, in_a_row < 3);
                }
                Ok(())
            })?;
        }
    }
}
