//! Brokers that several cases kill and start together.
//!
//! A restart of a broker takes longer than most of what a case asks of it. Cases that take the same brokers away in the
//! same order share each restart: every step waits until all that are left of the group have come to it. A case that ends
//! holds up nobody.

use std::sync::Mutex;

use tokio::sync::watch;

/// One group of such cases.
pub struct Outage {
    state: Mutex<State>,
    /// How many steps were taken.
    steps: watch::Sender<u64>,
}

struct State {
    running: usize,
    waiting: usize,
}

impl Outage {
    /// For so many cases.
    pub fn of(cases: usize) -> Self {
        let state = Mutex::new(State { running: cases, waiting: 0 });
        Self { state, steps: watch::Sender::new(0) }
    }

    /// Waits until every case that still runs has come here.
    pub async fn step(&self) {
        let mut steps = self.steps.subscribe();
        self.change(|state| state.waiting += 1);
        steps.changed().await.expect("it outlives its cases");
    }

    /// A case has ended.
    pub fn leave(&self) {
        self.change(|state| state.running -= 1);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap();
        change(&mut state);
        if state.waiting > 0 && state.waiting == state.running {
            state.waiting = 0;
            self.steps.send_modify(|steps| *steps += 1);
        }
    }
}
