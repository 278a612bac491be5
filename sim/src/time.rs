//! The one simulated wall time, and the clocks that hosts read it with.
//!
//! Time moves in ticks. A host's process lives inside a tick, a cluster node acts at its end, so that no answer is
//! older than its question. Sleeping is not here: it is `tokio::time`, which each process has for itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use stormglass_runtime::{Clock, Timestamp};

/// The world's time. Cloning shares it.
#[derive(Clone, Debug)]
pub struct SimTime {
    tick_start: Arc<AtomicI64>,
    epoch: Timestamp,
    tick: Duration,
}

impl SimTime {
    pub(crate) fn new(epoch: Timestamp, tick: Duration) -> Self {
        Self { tick_start: Arc::new(AtomicI64::new(epoch.0)), epoch, tick }
    }

    /// When the present tick began.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.tick_start.load(Ordering::Relaxed))
    }

    /// When the present tick ends: the time of everything that cluster nodes do in it.
    pub fn tick_end(&self) -> Timestamp {
        self.now().after(self.tick)
    }

    /// Simulated time since the world was raised.
    pub fn elapsed(&self) -> Duration {
        self.now().since(self.epoch)
    }

    /// How long a tick is.
    pub fn tick(&self) -> Duration {
        self.tick
    }

    pub(crate) fn advance(&self) {
        self.tick_start.store(self.tick_end().0, Ordering::Relaxed);
    }
}

impl Clock for SimTime {
    fn now(&self) -> Timestamp {
        SimTime::now(self)
    }
}

/// What one host believes the time to be: the simulated time plus an offset that F18 sets.
#[derive(Clone, Debug)]
pub struct HostClock {
    time: SimTime,
    offset_micros: Arc<AtomicI64>,
}

impl HostClock {
    pub(crate) fn new(time: SimTime) -> Self {
        Self { time, offset_micros: Arc::default() }
    }

    /// Turns this clock forward, or back if `by_ms` is negative.
    pub(crate) fn turn_ms(&self, by_ms: i64) {
        self.offset_micros.fetch_add(by_ms.saturating_mul(1_000), Ordering::Relaxed);
    }
}

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.time.now().0.saturating_add(self.offset_micros.load(Ordering::Relaxed)))
    }
}
