//! Brokers that several cases kill and start together.
//!
//! A restart of a broker takes longer than most of what a case asks of it. Cases that take the same brokers away in the
//! same order share each restart: every step waits until all that are left of the group have come to it. A case that ends
//! holds up nobody.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::watch;

/// One group of such cases.
pub struct Outage {
    state: Mutex<State>,
    /// How many steps were taken.
    steps: watch::Sender<u64>,
}

struct State {
    running: usize,
    /// Who has come to the next step.
    here: BTreeSet<u64>,
    came: u64,
}

impl Outage {
    /// For so many cases.
    pub fn of(cases: usize) -> Self {
        let state = State { running: cases, here: BTreeSet::new(), came: 0 };
        Self { state: Mutex::new(state), steps: watch::Sender::new(0) }
    }

    /// Waits until every case that still runs has come here. Who gives up waiting has not come.
    pub async fn step(&self) {
        let mut steps = self.steps.subscribe();
        let _here = self.come();
        steps.changed().await.expect("it outlives its cases");
    }

    /// A case has ended.
    pub fn leave(&self) {
        let mut state = self.state();
        state.running -= 1;
        self.go_on(state);
    }

    fn come(&self) -> Here<'_> {
        let mut state = self.state();
        state.came += 1;
        let number = state.came;
        state.here.insert(number);
        self.go_on(state);
        Here { outage: self, number }
    }

    fn go_on(&self, mut state: MutexGuard<'_, State>) {
        if state.here.len() == state.running {
            state.here.clear();
            self.steps.send_modify(|steps| *steps += 1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// A case that waits.
struct Here<'a> {
    outage: &'a Outage,
    number: u64,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.outage.state().here.remove(&self.number);
    }
}

#[tokio::test]
async fn a_step_waits_for_all_that_are_left_and_for_nobody_else() {
    let outage = Outage::of(4);
    outage.leave();
    assert!(futures::FutureExt::now_or_never(outage.step()).is_none(), "it waits for the others");
    let case = async |steps: usize| {
        for _ in 0..steps {
            outage.step().await;
        }
        outage.leave();
        steps
    };
    assert_eq!(futures::join!(case(3), case(1), case(2)), (3, 1, 2));
}
