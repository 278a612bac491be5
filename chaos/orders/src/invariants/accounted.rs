//! I9 `accounted`: every input is done, dead or pending, exactly one of them, and nothing else is.

use std::collections::BTreeMap;

use stormglass_runtime::{ConsumerName, EventId, Position};

use super::{Commit, EndState, Invariant, Rule, Verdict, Violation, World, log::order_of};

/// See the module.
#[derive(Default)]
pub struct Accounted;

const RULE: Rule = Rule {
    id: "I9",
    name: "accounted",
    statement: "each event that a consumer takes is applied, pending or a dead letter, exactly one of them",
    evidence: "at the end, every record on the log against each consumer's marks and queue",
};

impl Invariant for Accounted {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        for taken in &commit.taken {
            let subject = match &taken.record {
                None => format!("{} took {}, where no record lies", taken.consumer, taken.entry.at),
                Some(record) if !world.takes(&taken.consumer, record) => {
                    format!("{} took {}, which is none of its types", taken.consumer, record.name())
                }
                Some(_) => continue,
            };
            return Err(Violation::new(RULE, world, subject)
                .expected(
                    "marks of events that are on the log and are the consumer's",
                    "a mark of something else",
                )
                .about(taken.record.as_ref().and_then(|record| record.order())));
        }
        Ok(())
    }

    fn at_end(&mut self, _end: &EndState, world: &World) -> Verdict {
        for copies in world.log.events() {
            let readable = |at: &Position| at.offset < world.log.end(&at.partition);
            let Some(record) = copies.iter().find(|copy| readable(&copy.at)) else { continue };
            for consumer in world.setup.takes.keys().filter(|consumer| world.takes(consumer, record)) {
                if !world.has_taken(consumer, record) {
                    let subject = format!("{consumer} never took {}", record.name());
                    return Err(Violation::new(RULE, world, subject)
                        .expected("applied, pending or dead", "none of them")
                        .about(record.order()));
                }
            }
        }
        queued_once(world)
    }
}

fn queued_once(world: &World) -> Verdict {
    let mut rows: BTreeMap<(&ConsumerName, EventId), &Position> = BTreeMap::new();
    for (consumer, row) in world.tables.queued().filter(|(_, row)| !row.timer) {
        let pending = &row.pending;
        if rows.insert((consumer, pending.event_id), &pending.origin).is_some() {
            let subject = format!("{} is twice in the queue of {consumer}", pending.origin);
            return Err(Violation::new(RULE, world, subject)
                .expected("one queue row per event", "two")
                .about(order_of(&pending.id.key)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{Tale, event, placed},
        Accounted,
    };

    #[test]
    fn events_that_are_all_taken_are_fine() {
        let mut tale = Tale::of(Accounted);
        tale.append(0, placed(1)).append(1, placed(1));
        for consumer in ["orders", "payments", "inventory"] {
            tale.tx("w").take(consumer, 0).commit().unwrap();
        }
        tale.end().unwrap();
    }

    #[test]
    fn event_that_one_consumer_never_took_is_caught() {
        let mut tale = Tale::of(Accounted);
        tale.append(0, placed(1));
        tale.tx("w").take("orders", 0).commit().unwrap();
        tale.tx("w").take("payments", 0).commit().unwrap();
        assert!(
            tale.end().unwrap_err().subject.starts_with("inventory never took order.placed at orders@0:0")
        );
    }

    #[test]
    fn mark_of_what_is_not_on_the_log_is_caught() {
        let mut tale = Tale::of(Accounted);
        assert!(tale.tx("w").take("orders", 9).commit().is_err());
    }

    #[test]
    fn mark_of_a_type_that_the_consumer_does_not_take_is_caught() {
        let mut tale = Tale::of(Accounted);
        tale.append(0, event("stock.reserved", 1, "s"));
        assert!(tale.tx("w").take("notifications", 0).commit().is_err());
    }

    #[test]
    fn event_that_is_twice_in_the_queue_is_caught() {
        let mut tale = Tale::of(Accounted);
        tale.append(0, placed(1));
        tale.tx("w").take("orders", 0).commit().unwrap();
        tale.tx("w").take("inventory", 0).commit().unwrap();
        tale.tx("w").take("payments", 0).queue("payments", 0, 1).queue("payments", 0, 2).commit().unwrap();
        assert!(tale.end().unwrap_err().subject.contains("twice in the queue"));
    }
}
