//! I4 `key-order`: effects of a key in log order, and its publications in the order of their writing.
//!
//! Within one partition and one consumer. After a redrive under `skip` an event takes effect late by definition: it is
//! not looked at, and holds up nobody.

use std::collections::BTreeMap;

use stormglass_embedded::broker::Observed;
use stormglass_runtime::{
    AfterDeath, ConsumerName, EventId, Offset, OrderingKey, OutboxRow, Partition, Record, Topic,
};

use super::{Commit, Effect, Invariant, Rule, Verdict, Violation, World, log::order_of};

/// What orders publications: the topic, the service, the record key.
type Stream = (Topic, bytes::Bytes, bytes::Bytes);

/// See the module.
#[derive(Default)]
pub struct KeyOrder {
    applied: BTreeMap<(ConsumerName, Partition, OrderingKey), Offset>,
    died: Vec<(ConsumerName, EventId)>,
    written: BTreeMap<Stream, Vec<std::rc::Rc<OutboxRow>>>,
}

const RULE: Rule = Rule {
    id: "I4",
    name: "key-order",
    statement: "events of one key take effect, and are published, in their order",
    evidence: "the database's commits against log offsets; the brokers' log against outbox order",
};

impl Invariant for KeyOrder {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        self.note_skipped(commit, world);
        let mut effects: Vec<&Effect> = commit.effects.iter().filter(|effect| !effect.timer).collect();
        effects.sort_by(|a, b| a.origin.cmp(&b.origin));
        for effect in effects {
            self.in_log_order(effect, world)?;
            self.nothing_before_it_waits(effect, world)?;
        }
        for row in &commit.emitted {
            if let Some(stream) = stream(&row.record) {
                self.written.entry(stream).or_default().push(std::rc::Rc::clone(row));
            }
        }
        Ok(())
    }

    fn rewind(&mut self) {
        *self = KeyOrder::default();
    }

    fn broker(&mut self, seen: &Observed, world: &World) -> Verdict {
        let Observed::Appended { record, position, .. } = seen else { return Ok(()) };
        let Some(stream) = stream(record) else { return Ok(()) };
        let rows = self.written.get(&stream).map_or(&[][..], Vec::as_slice);
        let Some(sent) =
            rows.iter().find(|row| row.record.headers.get("ce_id") == record.headers.get("ce_id"))
        else {
            return Ok(());
        };
        let unseen = |row: &&std::rc::Rc<OutboxRow>| row.seq < sent.seq && !is_on_log(&row.record, world);
        let Some(overtaken) = rows.iter().find(unseen) else { return Ok(()) };
        let subject =
            format!("outbox#{} overtook outbox#{} of its key at {position}", sent.seq, overtaken.seq);
        Err(Violation::new(RULE, world, subject)
            .expected(
                "records of one key reach the log in the order of the outbox",
                format!("{} before {}", kind(record), kind(&overtaken.record)),
            )
            .about(order_of(&OrderingKey(stream.2))))
    }
}

fn kind(record: &Record) -> &str {
    record.headers.text("ce_type").unwrap_or("a record")
}

fn stream(record: &Record) -> Option<Stream> {
    Some((record.topic.clone(), record.headers.get("ce_source")?.clone(), record.key.clone()?))
}

fn is_on_log(record: &Record, world: &World) -> bool {
    match (record.headers.get("ce_source"), record.headers.get("ce_id")) {
        (Some(source), Some(id)) => !world.log.copies(&(source.clone(), id.clone())).is_empty(),
        _ => false,
    }
}

impl KeyOrder {
    fn note_skipped(&mut self, commit: &Commit, world: &World) {
        let skipped = commit
            .queued
            .iter()
            .filter(|queued| queued.died() && world.setup.after_death(&queued.consumer) == AfterDeath::Skip)
            .filter_map(|queued| queued.after.as_ref().map(|row| (queued.consumer.clone(), row.event_id)));
        self.died.extend(skipped);
    }

    fn in_log_order(&mut self, effect: &Effect, world: &World) -> Verdict {
        let name = (effect.consumer.clone(), effect.origin.partition.clone(), effect.key.clone());
        if self.died.contains(&(effect.consumer.clone(), effect.event_id)) {
            return Ok(());
        }
        let later =
            self.applied.insert(name, effect.origin.offset).filter(|last| *last >= effect.origin.offset);
        let Some(later) = later else { return Ok(()) };
        let later = effect.origin.partition.at(later);
        let subject =
            format!("{} applied {} after {later}, which is of the same key", effect.consumer, effect.origin);
        Err(Violation::new(RULE, world, subject)
            .expected("effects of a key in log order", format!("{} after {later}", effect.origin))
            .about(order_of(&effect.key)))
    }

    fn nothing_before_it_waits(&self, effect: &Effect, world: &World) -> Verdict {
        let after_death = world.setup.after_death(&effect.consumer);
        let before = world.tables.waiting(&effect.consumer, &effect.key, after_death).find(|row| {
            row.pending.origin.partition == effect.origin.partition
                && row.pending.origin.offset < effect.origin.offset
                && !self.died.contains(&(effect.consumer.clone(), row.pending.event_id))
        });
        let Some(before) = before else { return Ok(()) };
        let state = if before.pending.dead_at.is_some() { "is a dead letter" } else { "waits in the queue" };
        let subject = format!("{} applied {} ahead of its key's head", effect.consumer, effect.origin);
        Err(Violation::new(RULE, world, subject)
            .expected(
                format!("{} first", before.pending.origin),
                format!("{} done while {} {state}", effect.origin, before.pending.origin),
            )
            .about(order_of(&effect.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{Tale, event, placed},
        KeyOrder,
    };

    fn two_events_of_one_order() -> Tale {
        let mut tale = Tale::of(KeyOrder::default());
        tale.append(0, placed(1)).append(1, event("order.cancelled", 1, "c1"));
        tale
    }

    #[test]
    fn follower_that_waits_behind_its_head_is_fine() {
        let mut tale = two_events_of_one_order();
        tale.tx("w").take("payments", 0).queue("payments", 0, 1).commit().unwrap();
        tale.tx("w").take("payments", 1).queue("payments", 1, 2).commit().unwrap();
        tale.tx("w").dequeue("payments", 1).dequeue("payments", 2).commit().unwrap();
    }

    #[test]
    fn event_that_overtakes_a_waiting_one_is_caught() {
        let mut tale = two_events_of_one_order();
        tale.tx("w").take("payments", 0).queue("payments", 0, 1).commit().unwrap();
        let violation = tale.tx("w").take("payments", 1).commit().unwrap_err();
        assert!(violation.got.contains("orders@0:0 waits in the queue"), "{violation}");
    }

    #[test]
    fn event_applied_after_a_later_one_is_caught() {
        let mut tale = two_events_of_one_order();
        tale.tx("w").take("payments", 1).commit().unwrap();
        assert_eq!(tale.tx("w").take("payments", 0).commit().unwrap_err().invariant, "key-order");
    }

    #[test]
    fn follower_of_a_dead_letter_waits_under_hold() {
        let mut tale = two_events_of_one_order();
        tale.tx("w").take("payments", 0).queue("payments", 0, 1).commit().unwrap();
        tale.tx("w").bury("payments", 1).commit().unwrap();
        let violation = tale.tx("w").take("payments", 1).commit().unwrap_err();
        assert!(violation.got.contains("is a dead letter"), "{violation}");
    }

    #[test]
    fn relay_that_publishes_out_of_order_is_caught() {
        let mut tale = Tale::of(KeyOrder::default());
        tale.append(0, placed(1));
        let (first, second) = (event("stock.reserved", 1, "a"), event("stock.released", 1, "b"));
        tale.tx("w").take("inventory", 0).emit(1, "a", first).emit(2, "b", second.clone()).commit().unwrap();
        assert!(tale.try_append(1, second).unwrap_err().subject.contains("outbox#2 overtook outbox#1"));
    }

    #[test]
    fn relay_that_repeats_a_batch_is_fine() {
        let mut tale = Tale::of(KeyOrder::default());
        tale.append(0, placed(1));
        let (first, second) = (event("stock.reserved", 1, "a"), event("stock.released", 1, "b"));
        tale.tx("w")
            .take("inventory", 0)
            .emit(1, "a", first.clone())
            .emit(2, "b", second.clone())
            .commit()
            .unwrap();
        for (offset, record) in [first.clone(), second.clone(), first, second].into_iter().enumerate() {
            tale.try_append(offset as i64 + 1, record).unwrap();
        }
    }
}
