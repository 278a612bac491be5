//! A partition of a worker, as intake knows it.

use crate::{
    Offset, Partition,
    watch::{Look, Reach, Step},
};

/// A partition of ours.
pub(crate) struct Owned {
    pub lane: usize,
    /// The opening that is under way, or was the last.
    pub opening: u64,
    pub state: State,
    /// What is stored, once that is known.
    pub stored: Option<Offset>,
    pub reported: Option<Offset>,
    pub reach: Reach,
    pub is_looking: bool,
    /// What is to be looked into after that.
    pub unseen: Option<Step>,
    /// What pruning saw the last time: where the log ended.
    pub log_end: Option<Offset>,
}

/// Whether a partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not before its position is known.
    Opening,
    Open,
    /// Not before its stored position is another one than this: the log has lost what follows it.
    Closed(Offset),
}

impl Owned {
    pub fn new(lane: usize, opening: u64) -> Self {
        Self {
            lane,
            opening,
            state: State::Opening,
            stored: None,
            reported: None,
            reach: Reach::default(),
            is_looking: false,
            unseen: None,
            log_end: None,
        }
    }

    /// A look into `step`, unless one is under way: then it waits for that, together with others. One at a time, however
    /// many gaps a log has and however slowly its broker answers.
    pub fn look(&mut self, partition: &Partition, step: Step) -> Option<Look> {
        let step = self.unseen.take().map_or(step, |before| before.and(step));
        if self.is_looking {
            self.unseen = Some(step);
            return None;
        }
        self.is_looking = true;
        Some(Look { partition: partition.clone(), opening: self.opening, step, log: None })
    }

    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }
}
