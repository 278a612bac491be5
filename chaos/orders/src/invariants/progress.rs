//! I15 `progress`: while nothing disturbs the system, a partition with lag does not stand still.
//!
//! Only the calm is looked at: in a storm with op-level faults there is no moment of which one could say that nothing
//! disturbs. That the lag ends is `settles` (I11).

use std::collections::BTreeMap;

use stormglass_runtime::{ConsumerName, Offset, Partition, Timestamp};

use super::{Invariant, Rule, Verdict, Violation, World};

/// See the module.
#[derive(Default)]
pub struct Progress {
    still: BTreeMap<(ConsumerName, Partition), (Offset, Timestamp)>,
}

const RULE: Rule = Rule {
    id: "I15",
    name: "progress",
    statement: "while there is lag and nothing is broken, positions move",
    evidence: "positions against the end of the log, while the storm is calm",
};

impl Invariant for Progress {
    fn rule(&self) -> Rule {
        RULE
    }

    fn tick(&mut self, world: &World) -> Verdict {
        if world.healed.is_none() || world.now < world.disturbed_until {
            self.still.clear();
            return Ok(());
        }
        for consumer in world.setup.takes.keys() {
            for partition in world.partitions() {
                self.check(consumer, partition, world)?;
            }
        }
        Ok(())
    }
}

impl Progress {
    fn check(&mut self, consumer: &ConsumerName, partition: &Partition, world: &World) -> Verdict {
        let name = (consumer.clone(), partition.clone());
        let Some(waiting) = world.lag(consumer, partition) else {
            self.still.remove(&name);
            return Ok(());
        };
        let position = world.tables.position(consumer, partition).unwrap_or(0);
        let (last, since) = self.still.entry(name).or_insert((position, world.now));
        if *last != position {
            (*last, *since) = (position, world.now);
        }
        let still = world.now.since(*since);
        if still <= world.setup.standstill_max {
            return Ok(());
        }
        Err(Violation::new(RULE, world, format!("{consumer} stands still at {}", partition.at(position)))
            .expected(
                format!("a move within {} ms of calm", world.setup.standstill_max.as_millis()),
                format!("{} has waited for {} ms", waiting.name(), still.as_millis()),
            )
            .about(waiting.order()))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{Tale, event, placed},
        Progress,
    };

    #[test]
    fn partition_that_stands_still_in_the_calm_is_caught() {
        let mut tale = Tale::of(Progress::default());
        tale.append(0, placed(1)).heal();
        tale.wait_ms(4_000).unwrap();
        assert!(tale.wait_ms(2_000).unwrap_err().subject.contains("stands still at orders@0:0"));
    }

    #[test]
    fn partition_that_stands_still_in_the_storm_is_fine() {
        let mut tale = Tale::of(Progress::default());
        tale.append(0, placed(1));
        tale.wait_ms(60_000).unwrap();
    }

    #[test]
    fn records_that_no_consumer_takes_are_no_lag() {
        let mut tale = Tale::of(Progress::default());
        tale.append(0, event("weather.changed", 1, "w")).heal();
        tale.wait_ms(60_000).unwrap();
    }
}
