//! I10 `no-early-commit`: neither the position row nor the group's offset is ahead of what is accounted for.

use std::collections::BTreeMap;

use stormglass_embedded::broker::Observed;
use stormglass_runtime::{ConsumerName, Offset, Partition, Position, Timestamp};

use super::{Commit, EndState, Invariant, Rule, Verdict, Violation, World, commit::Moved};

/// See the module.
#[derive(Default)]
pub struct NoEarlyCommit {
    /// The furthest each position ever was. A suffix that is lost takes positions back, but a report that was right
    /// when it was made stays right.
    furthest: BTreeMap<(ConsumerName, Partition), Offset>,
    /// Reports that are looked at one tick later: within a tick, brokers are heard before the database.
    reports: Vec<(Timestamp, ConsumerName, Position)>,
}

const RULE: Rule = Rule {
    id: "I10",
    name: "no-early-commit",
    statement: "no position, in the database or at the brokers, is beyond an event that is not accounted for",
    evidence: "positions as they commit, and offsets as groups report them, against the marks",
};

impl Invariant for NoEarlyCommit {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        self.check_reports(world, world.now)?;
        for moved in &commit.moved {
            let name = (moved.consumer.clone(), moved.to.partition.clone());
            let furthest = self.furthest.entry(name).or_default();
            *furthest = moved.to.offset.max(*furthest);
            forward(moved, commit, world)?;
            everything_before_is_taken(moved, world)?;
        }
        Ok(())
    }

    fn broker(&mut self, seen: &Observed, world: &World) -> Verdict {
        if let Observed::Reported { group, position, .. } = seen
            && world.setup.takes.contains_key(group)
        {
            self.reports.push((world.now, group.clone(), position.clone()));
        }
        Ok(())
    }

    fn tick(&mut self, world: &World) -> Verdict {
        self.check_reports(world, world.now)
    }

    fn at_end(&mut self, _end: &EndState, world: &World) -> Verdict {
        self.check_reports(world, Timestamp(i64::MAX))
    }
}

impl NoEarlyCommit {
    fn check_reports(&mut self, world: &World, before: Timestamp) -> Verdict {
        let ripe = self.reports.iter().take_while(|(at, ..)| *at < before).count();
        for (at, group, position) in self.reports.drain(..ripe) {
            let stored =
                self.furthest.get(&(group.clone(), position.partition.clone())).copied().unwrap_or(0);
            if position.offset > stored {
                let mut violation =
                    Violation::new(RULE, world, format!("{group} reported {position} to the brokers"))
                        .expected(
                            format!(
                                "at most {}, as far as its database ever was",
                                position.partition.at(stored)
                            ),
                            position.to_string(),
                        );
                violation.at = at;
                return Err(violation);
            }
        }
        Ok(())
    }
}

fn forward(moved: &Moved, commit: &Commit, world: &World) -> Verdict {
    let Some(from) = moved.from.filter(|from| moved.to.offset < *from) else { return Ok(()) };
    let subject = format!("{} moved {} back from {from}", commit.session, moved.to);
    Err(Violation::new(RULE, world, subject)
        .expected("a worker that is behind finds the position moved and stops", "it overwrote the position"))
}

fn everything_before_is_taken(moved: &Moved, world: &World) -> Verdict {
    let Moved { consumer, from, to } = moved;
    let end = world.log.end(&to.partition);
    if to.offset > end {
        let subject = format!("{consumer} moved its position to {to}");
        return Err(Violation::new(RULE, world, subject)
            .expected(format!("at most the end at {end}"), to.to_string()));
    }
    let from = from.unwrap_or_else(|| world.log.start(&to.partition));
    let missing = world
        .log
        .between(&to.partition, from..to.offset)
        .find(|record| world.takes(consumer, record) && !world.has_taken(consumer, record));
    let Some(missing) = missing else { return Ok(()) };
    Err(Violation::new(RULE, world, format!("{consumer} moved its position past {}", missing.name()))
        .expected(format!("{} taken in the same transaction or before", missing.at), format!("next is {to}"))
        .about(missing.order()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{Tale, event, placed},
        NoEarlyCommit,
    };

    #[test]
    fn position_that_moves_with_its_events_is_fine() {
        let mut tale = Tale::of(NoEarlyCommit::default());
        tale.append(0, placed(1)).append(1, event("payment.captured", 1, "p"));
        tale.tx("w").at("payments", 0).commit().unwrap();
        tale.tx("w").take("payments", 0).at("payments", 2).commit().unwrap();
        tale.report("payments", 2);
        tale.end().unwrap();
    }

    #[test]
    fn position_past_an_event_that_was_not_taken_is_caught() {
        let mut tale = Tale::of(NoEarlyCommit::default());
        tale.append(0, placed(1));
        let violation = tale.tx("w").at("payments", 1).commit().unwrap_err();
        assert_eq!(violation.subject, "payments moved its position past order.placed at orders@0:0");
    }

    #[test]
    fn position_that_a_zombie_takes_back_is_caught() {
        let mut tale = Tale::of(NoEarlyCommit::default());
        tale.append(0, placed(1));
        tale.tx("w").take("payments", 0).at("payments", 1).commit().unwrap();
        assert!(
            tale.tx("zombie")
                .at("payments", 0)
                .commit()
                .unwrap_err()
                .subject
                .contains("zombie moved orders@0:0")
        );
    }

    #[test]
    fn position_beyond_the_high_watermark_is_caught() {
        let mut tale = Tale::of(NoEarlyCommit::default());
        tale.append(0, event("payment.captured", 1, "p"));
        assert!(tale.tx("w").at("payments", 2).commit().is_err());
    }

    #[test]
    fn offset_reported_ahead_of_the_database_is_caught() {
        let mut tale = Tale::of(NoEarlyCommit::default());
        tale.append(0, placed(1));
        tale.tx("w").at("payments", 0).commit().unwrap();
        tale.report("payments", 1);
        assert!(tale.end().unwrap_err().got.contains("orders@0:1"));
    }

    #[test]
    fn report_of_a_position_that_was_lost_afterwards_is_fine() {
        let mut tale = Tale::of(NoEarlyCommit::default());
        tale.append(0, placed(1));
        let before = tale.lsn();
        tale.tx("w").take("payments", 0).at("payments", 1).commit().unwrap();
        tale.lose_after(before).unwrap();
        tale.report("payments", 1);
        tale.end().unwrap();
    }
}
