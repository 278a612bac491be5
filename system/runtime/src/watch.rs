//! Watching a log while it is read: whether retention overtakes the reader, and whether the log still reaches as far
//! as it was read.
//!
//! Kafka's answer to a position outside the log is to reset it (SEMANTICS B23), and all that shows is a step: the next
//! record lies further on than expected, or further back. Neither is evidence, for offsets are sparse and records may
//! come twice. The log's own range is, so a step makes intake ask for it. So does a round of pruning, for logs from
//! which nothing comes.
//!
//! Left out: a log that was cut and has grown past what was read before anybody looked. To see that takes leader epochs
//! (KIP-320), which the broker port does not carry.

use std::sync::Arc;

use tracing::{debug, error};

use crate::{ConsumerName, Failure, Offset, Partition, Position, Service, Watermarks, shared::Shared};

/// How far one partition was delivered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach {
    /// Behind the last record.
    next: Offset,
    /// Behind the furthest one. Further back than this, `next` repeats what was seen.
    furthest: Offset,
    /// What was lost below this was told.
    told: Offset,
    /// `furthest` when the last round of pruning began, and whether it had not moved since the one before.
    round: Option<(Offset, bool)>,
}

/// What is to be held against the log: `expected` must not lie behind its end, and what retention has removed between
/// `unread` and `until` may never have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub expected: Offset,
    pub unread: Offset,
    pub until: Offset,
    /// Whether the cluster has refused to go on.
    pub refused: bool,
}

impl Step {
    /// Nothing came between `expected` and `until`.
    pub fn new(expected: Offset, until: Offset) -> Self {
        Self { expected, unread: expected, until, refused: false }
    }

    /// Both, to be looked into at once. What was read between them counts as unread: better told too much than too little.
    pub fn and(self, later: Step) -> Step {
        Step {
            expected: self.expected.max(later.expected),
            unread: self.unread.min(later.unread),
            until: self.until.max(later.until),
            refused: self.refused || later.refused,
        }
    }
}

/// What the log says to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing is missing that was not told before.
    Whole,
    /// So many offsets are gone unread.
    Overtaken(Offset),
    /// The log ends before what was read of it.
    Cut,
}

impl Reach {
    /// Reading begins at `offset`. What was told of this log is not told again.
    pub fn restart(&mut self, offset: Offset, log: Watermarks) {
        // A log whose start lies further back is another one.
        let told = if self.told <= log.start { self.told } else { 0 };
        *self = Self { next: offset, furthest: offset, told, round: None };
    }

    /// A record came. Returns the step to look into, if it was not the next one.
    pub fn take(&mut self, offset: Offset) -> Option<Step> {
        let Self { next, furthest, .. } = *self;
        self.next = offset + 1;
        self.furthest = furthest.max(self.next);
        (offset < next || offset > furthest).then(|| Step::new(furthest, furthest.max(offset)))
    }

    /// What is to be looked into when the cluster refuses to go on at some position.
    pub fn refused(&self) -> Step {
        Step { refused: true, ..Step::new(self.next, Offset::MAX) }
    }

    /// Whether nothing came since `step` was [refused](Self::refused).
    pub fn is_at(&self, step: Step) -> bool {
        self.next == step.expected
    }

    /// A round of pruning begins.
    pub fn begin_round(&mut self) {
        let quiet = self.round.is_some_and(|(furthest, _)| furthest == self.furthest);
        self.round = Some((self.furthest, quiet));
    }

    /// What the round is to look into. Records that retention has removed may be on their way nevertheless: only if
    /// none came for a whole round they are gone.
    pub fn end_round(&self) -> Option<Step> {
        let (expected, quiet) = self.round?;
        let until = if quiet && self.furthest == expected { Offset::MAX } else { expected };
        Some(Step::new(expected, until))
    }

    /// Holds a step against the log.
    pub fn judge(&mut self, Step { expected, unread, until, .. }: Step, log: Watermarks) -> Finding {
        if log.end < expected {
            return Finding::Cut;
        }
        let gone = log.start.min(until);
        let lost = gone - unread.max(self.told);
        self.told = self.told.max(gone);
        if lost > 0 { Finding::Overtaken(lost) } else { Finding::Whole }
    }
}

/// A step with the log's range as it was found after.
pub(crate) struct Look {
    pub partition: Partition,
    /// The opening of the partition whose records made the step.
    pub opening: u64,
    pub step: Step,
    pub log: Option<Watermarks>,
}

impl Look {
    /// Asks for the log's range, for as long as it takes.
    pub async fn done<S: Service>(mut self, shared: Arc<Shared<S>>) -> Look {
        let mut failures = 0;
        loop {
            match shared.ports.broker.watermarks(&self.partition).await {
                Ok(log) => {
                    self.log = Some(log);
                    return self;
                }
                Err(failure @ Failure::Rejected(_)) => {
                    debug!(partition = %self.partition, %failure, "the log cannot be looked at");
                    return self;
                }
                Err(Failure::NotDone(_) | Failure::Unknown(_)) => {
                    failures += 1;
                    tokio::time::sleep(shared.retry_delay("retry-look", failures)).await;
                }
            }
        }
    }
}

/// What an operator must know of a partition that is not read.
pub(crate) fn tell_of_closed(consumer: &ConsumerName, stored: &Position, log: Watermarks) {
    error!(
        %consumer,
        topic = %stored.partition.topic,
        partition = stored.partition.index,
        stored = stored.offset,
        log_start = log.start,
        log_end = log.end,
        "the log has lost records at the stored position: the partition stays closed. To read on, set `next` of its row \
         in table `positions` to where the log was cut, or to log_start if that is unknown or lies above; what was done \
         before is recognised and not done again"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(start: Offset, end: Offset) -> Watermarks {
        Watermarks { start, end }
    }

    fn reach(offset: Offset) -> Reach {
        let mut reach = Reach::default();
        reach.restart(offset, log(0, offset));
        reach
    }

    #[test]
    fn a_gap_is_a_loss_only_as_far_as_the_log_has_lost_its_start_and_is_told_once() {
        let mut reach = reach(5);
        assert_eq!(reach.take(5), None);
        let step = reach.take(9);
        assert_eq!(step, Some(Step::new(6, 9)));
        let step = step.unwrap();
        assert_eq!(reach.judge(step, log(6, 20)), Finding::Whole);
        assert_eq!(reach.judge(step, log(8, 20)), Finding::Overtaken(2));
        assert_eq!(reach.judge(step, log(15, 20)), Finding::Overtaken(1));
        assert_eq!(reach.judge(step, log(15, 20)), Finding::Whole);
    }

    #[test]
    fn records_that_come_again_are_looked_into_once_and_only_a_log_that_ends_too_soon_is_cut() {
        let mut reach = reach(5);
        assert_eq!(reach.take(2), Some(Step::new(5, 5)));
        assert_eq!((reach.take(3), reach.take(4), reach.take(5)), (None, None, None));
        let step = Step::new(5, 5);
        assert_eq!(reach.judge(step, log(0, 5)), Finding::Whole);
        assert_eq!(reach.judge(step, log(0, 4)), Finding::Cut);
    }

    #[test]
    fn steps_that_are_looked_into_at_once_miss_neither_a_cut_nor_a_loss() {
        let both = Step::new(6, 9).and(Step::new(12, 15));
        assert_eq!(reach(5).judge(both, log(0, 11)), Finding::Cut);
        assert_eq!(reach(5).judge(both, log(8, 20)), Finding::Overtaken(2));
        assert_eq!(reach(5).judge(both, log(0, 20)), Finding::Whole);
    }

    #[test]
    fn retention_ahead_of_a_reader_is_a_loss_once_nothing_came_for_a_round() {
        let mut reach = reach(5);
        reach.begin_round();
        let first = reach.end_round().unwrap();
        assert_eq!(reach.judge(first, log(9, 9)), Finding::Whole);
        reach.begin_round();
        let second = reach.end_round().unwrap();
        assert_eq!(reach.judge(second, log(9, 9)), Finding::Overtaken(4));
    }
}
