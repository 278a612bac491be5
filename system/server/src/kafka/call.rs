//! One call of `publish`: its records, chained by key, and what is known of each.
//!
//! A chain's next record is sent in the same step in which the report of the one before it is written down, under one
//! lock. So a call that was given up sends nothing more from the moment on at which it was: what its caller publishes
//! next cannot be overtaken by what is left of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use stormglass_runtime::{Cause, Failure, Position, Record, Topic};
use tokio::sync::Notify;

const PREDECESSOR: Failure = Failure::NotDone(Cause::Predecessor);

/// Records that are published together.
pub(super) struct Call {
    pub(super) records: Vec<Record>,
    /// By record: the next of the same topic and key.
    followers: Vec<Option<usize>>,
    /// The first of each key, and every record without one, in the order given.
    pub(super) heads: Vec<usize>,
    state: Mutex<State>,
    finished: Notify,
}

struct State {
    results: Vec<Option<Result<Position, Failure>>>,
    open: usize,
    given_up: bool,
}

impl Call {
    pub(super) fn new(records: Vec<Record>) -> Self {
        let mut followers = vec![None; records.len()];
        let mut heads = Vec::with_capacity(records.len());
        let mut last: BTreeMap<(&Topic, &Bytes), usize> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            let before = record.key.as_ref().and_then(|key| last.insert((&record.topic, key), index));
            match before {
                Some(before) => followers[before] = Some(index),
                None => heads.push(index),
            }
        }
        let state = State { results: vec![None; records.len()], open: records.len(), given_up: false };
        Self { records, followers, heads, state: Mutex::new(state), finished: Notify::new() }
    }

    /// Writes down what became of a record, and lets the next of its key follow or fail. `send` queues a record, or
    /// says why that fails; it must not call back.
    pub(super) fn settle(
        &self,
        index: usize,
        result: Result<Position, Failure>,
        send: impl Fn(usize) -> Result<(), Failure>,
    ) {
        let mut state = self.state();
        let mut failed = result.is_err();
        state.write(index, result);
        let mut last = index;
        while let Some(next) = self.followers[last] {
            if failed {
                state.write(next, Err(PREDECESSOR));
            } else if state.given_up {
                break;
            } else if let Err(failure) = send(next) {
                state.write(next, Err(failure));
                failed = true;
            } else {
                break;
            }
            last = next;
        }
        if state.open == 0 {
            self.finished.notify_one();
        }
    }

    /// Sends a record whose turn had come before, unless the call was given up.
    pub(super) fn unless_given_up<T>(&self, send: impl FnOnce() -> T) -> Option<T> {
        let state = self.state();
        (!state.given_up).then(send)
    }

    /// Waits for the last report.
    pub(super) async fn finished(&self) -> Vec<Result<Position, Failure>> {
        while self.state().open > 0 {
            self.finished.notified().await;
        }
        let results = std::mem::take(&mut self.state().results);
        // None is open, so none is missing.
        results.into_iter().map(|result| result.unwrap_or(Err(Failure::Unknown(Cause::Protocol)))).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, index: usize, result: Result<Position, Failure>) {
        if let Some(slot) = self.results.get_mut(index)
            && slot.is_none()
        {
            *slot = Some(result);
            self.open -= 1;
        }
    }
}

/// Gives a call up when it is dropped: nothing more of it is sent.
pub(super) struct GiveUp<'a>(pub(super) &'a Call);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.state().given_up = true;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use stormglass_runtime::{Headers, Partition};

    use super::*;

    fn call(keys: &[&'static str]) -> Call {
        let record = |key: &&'static str| Record {
            topic: Topic::from("orders"),
            key: (!key.is_empty()).then(|| Bytes::from_static(key.as_bytes())),
            headers: Headers::default(),
            value: Bytes::new(),
        };
        Call::new(keys.iter().map(record).collect())
    }

    fn stored() -> Result<Position, Failure> {
        Ok(Partition::new(&Topic::from("orders"), 0).at(0))
    }

    #[test]
    fn different_keys_leave_together_and_one_key_in_turn() {
        let call = call(&["a", "b", "a", "", "", "a"]);
        assert_eq!(call.heads, [0, 1, 3, 4]);
        let sent = RefCell::new(vec![]);
        let send = |index| {
            sent.borrow_mut().push(index);
            Ok(())
        };
        call.settle(1, stored(), send);
        call.settle(0, stored(), send);
        call.settle(2, stored(), send);
        assert_eq!(*sent.borrow(), [2, 5]);
    }

    #[tokio::test]
    async fn behind_a_failed_record_its_key_fails_unsent() {
        let call = call(&["a", "b", "a", "a"]);
        let never = |_| panic!("sent behind a failure");
        call.settle(0, Err(Failure::Unknown(Cause::TimedOut)), never);
        call.settle(1, stored(), never);
        let results = call.finished().await;
        assert_eq!(results[0], Err(Failure::Unknown(Cause::TimedOut)));
        assert_eq!((&results[2], &results[3]), (&Err(PREDECESSOR), &Err(PREDECESSOR)));
        assert!(results[1].is_ok());
    }

    #[test]
    fn a_call_that_was_given_up_sends_nothing_more() {
        let call = call(&["a", "a"]);
        drop(GiveUp(&call));
        call.settle(0, stored(), |_| panic!("sent after the call was given up"));
    }
}
