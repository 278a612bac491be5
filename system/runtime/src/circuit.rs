//! A circuit breaker for one provider: after enough failures in a row nothing is asked of it for a while.
//!
//! "In a row" is meant in the order in which calls *began*. In the order in which they end, a slow success from before
//! an outage would set back what the outage has shown since, and the circuit would stay closed all through it.
//!
//! While it is open nothing is claimed, so no attempt of any event counts (DESIGN G4). When the time is over one
//! event is claimed as a probe; its outcome closes the circuit or opens it again. Kept in memory: a new process
//! begins closed and learns by itself.

use std::{collections::BTreeSet, time::Duration};

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

/// A call's place in the order in which calls begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallNumber(u64);

/// The breaker.
#[derive(Debug)]
pub(crate) struct Circuit {
    threshold: usize,
    open_for: Duration,
    state: State,
    next_call: u64,
    /// Calls before this one say nothing any more: a later one succeeded, or the circuit has opened since.
    spent: CallNumber,
    /// Calls that failed, from `spent` on.
    failed: BTreeSet<CallNumber>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen,
}

impl Circuit {
    /// A closed circuit that opens for `open_for` after `threshold` failures in a row.
    pub fn new(threshold: u32, open_for: Duration) -> Self {
        Self {
            threshold: threshold as usize,
            open_for,
            state: State::Closed,
            next_call: 0,
            spent: CallNumber(0),
            failed: BTreeSet::new(),
        }
    }

    /// A call begins; what becomes of it is told under this number.
    pub fn begin_call(&mut self) -> CallNumber {
        let call = CallNumber(self.next_call);
        self.next_call += 1;
        call
    }

    /// What may be claimed at `now`.
    pub fn allowance(&mut self, now: Instant) -> Allowance {
        if let State::Open { until } = self.state
            && until <= now
        {
            self.state = State::HalfOpen;
        }
        match self.state {
            State::Closed => Allowance::All,
            State::HalfOpen => Allowance::Probe,
            State::Open { .. } => Allowance::Nothing,
        }
    }

    /// When an open circuit lets a probe through.
    pub fn reopens(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed | State::HalfOpen => None,
        }
    }

    /// The provider answered `call`.
    pub fn succeeded(&mut self, call: CallNumber) {
        if call < self.spent {
            return;
        }
        self.spent = call;
        self.failed = self.failed.split_off(&call);
        self.state = State::Closed;
    }

    /// The provider failed `call`, or could not be reached. True if this opened the circuit.
    pub fn failed(&mut self, call: CallNumber, now: Instant) -> bool {
        if call < self.spent {
            return false;
        }
        self.failed.insert(call);
        let opens = self.state == State::HalfOpen || self.failed.len() >= self.threshold;
        if opens {
            self.state = State::Open { until: now + self.open_for };
            self.spent = CallNumber(self.next_call);
            self.failed.clear();
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(5);

    /// A call that fails before the next begins.
    fn fail(circuit: &mut Circuit, now: Instant) -> bool {
        let call = circuit.begin_call();
        circuit.failed(call, now)
    }

    fn succeed(circuit: &mut Circuit) {
        let call = circuit.begin_call();
        circuit.succeeded(call);
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_the_threshold_and_probes_once_the_time_is_over() {
        let now = Instant::now();
        let mut circuit = Circuit::new(2, OPEN_FOR);
        assert!(!fail(&mut circuit, now));
        assert_eq!(circuit.allowance(now), Allowance::All);
        assert!(fail(&mut circuit, now));
        assert_eq!(circuit.allowance(now), Allowance::Nothing);
        assert_eq!(circuit.allowance(now + OPEN_FOR), Allowance::Probe);
        succeed(&mut circuit);
        assert_eq!(circuit.allowance(now + OPEN_FOR), Allowance::All);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_opens_it_again_at_once() {
        let now = Instant::now();
        let mut circuit = Circuit::new(3, OPEN_FOR);
        for _ in 0..3 {
            fail(&mut circuit, now);
        }
        assert_eq!(circuit.allowance(now + OPEN_FOR), Allowance::Probe);
        assert!(fail(&mut circuit, now + OPEN_FOR));
        assert_eq!(circuit.reopens(), Some(now + OPEN_FOR * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_success_from_before_an_outage_does_not_hide_it() {
        let now = Instant::now();
        let mut circuit = Circuit::new(3, OPEN_FOR);
        let slow = circuit.begin_call();
        assert!(!fail(&mut circuit, now));
        assert!(!fail(&mut circuit, now));
        circuit.succeeded(slow);
        assert!(fail(&mut circuit, now));
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_it_opened_neither_closes_it_nor_holds_it_open() {
        let now = Instant::now();
        let mut circuit = Circuit::new(1, OPEN_FOR);
        let (well, ill) = (circuit.begin_call(), circuit.begin_call());
        fail(&mut circuit, now);
        circuit.succeeded(well);
        assert_eq!(circuit.allowance(now), Allowance::Nothing);
        assert_eq!(circuit.allowance(now + OPEN_FOR), Allowance::Probe);
        assert!(!circuit.failed(ill, now + OPEN_FOR));
        assert_eq!(circuit.allowance(now + OPEN_FOR), Allowance::Probe);
    }

    proptest! {
        /// However answers are late: closed as long as of the calls begun last fewer than the threshold failed.
        #[test]
        fn it_is_open_exactly_when_calls_begun_in_a_row_failed(
            calls in proptest::collection::vec((any::<bool>(), 0..8_usize), 1..40)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
            runtime.block_on(async {
                let now = Instant::now();
                let mut circuit = Circuit::new(3, OPEN_FOR);
                let mut heard: Vec<_> = calls.iter().enumerate().map(|(n, (well, late))| (n + late, n, *well)).collect();
                heard.sort_unstable();
                let numbers: Vec<_> = calls.iter().map(|_| circuit.begin_call()).collect();
                let mut known: Vec<Option<bool>> = vec![None; calls.len()];
                for (_, n, well) in heard {
                    if well { circuit.succeeded(numbers[n]) } else { circuit.failed(numbers[n], now); }
                    known[n] = Some(well);
                    let ended = known.iter().rev().flatten();
                    let in_a_row = ended.take_while(|well| !**well).count();
                    let closed = circuit.allowance(now) == Allowance::All;
                    prop_assert_eq!(closed, in_a_row < 3);
                    if !closed { break }
                }
                Ok(())
            })?;
        }
    }
}
