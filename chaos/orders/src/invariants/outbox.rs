//! I8 `published-iff-written`: an outbox row was committed if and only if its event is on the log.
//!
//! At least once: copies are allowed, but each says the same. What a lost suffix had written may have been published
//! before it was lost, and may be decided anew and differently afterwards; nothing else may differ (DESIGN 6).

use std::{collections::BTreeMap, rc::Rc};

use stormglass_embedded::broker::Observed;
use stormglass_runtime::{ConsumerName, OutboxRow, Position, Record};

use super::{
    Commit, EndState, Invariant, Rule, Verdict, Violation, World,
    log::{Identity, LogRecord, order_of},
};

/// See the module.
#[derive(Default)]
pub struct PublishedIffWritten {
    /// What was ever written and committed, lost or not.
    ever: BTreeMap<Identity, Rc<OutboxRow>>,
    /// What is written in the database as it stands.
    written: BTreeMap<Identity, Rc<OutboxRow>>,
    by_seq: BTreeMap<i64, Identity>,
}

const RULE: Rule = Rule {
    id: "I8",
    name: "published-iff-written",
    statement: "an event is on the log exactly if its outbox row was committed",
    evidence: "the brokers' log against committed outbox rows, both ways; dead letters against their records",
};

fn identity(record: &Record) -> Option<Identity> {
    Some((record.headers.get("ce_source")?.clone(), record.headers.get("ce_id")?.clone()))
}

impl Invariant for PublishedIffWritten {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        for row in &commit.emitted {
            let Some(identity) = identity(&row.record) else { continue };
            self.ever.insert(identity.clone(), Rc::clone(row));
            self.written.insert(identity.clone(), Rc::clone(row));
            self.by_seq.insert(row.seq, identity);
        }
        for seq in &commit.published {
            self.deleted_after_publishing(*seq, world)?;
        }
        dead_letters_leave_a_record(commit, world)?;
        discarded_letters_leave_a_record(commit, world)
    }

    fn rewind(&mut self) {
        self.written.clear();
        self.by_seq.clear();
    }

    fn broker(&mut self, seen: &Observed, world: &World) -> Verdict {
        let Observed::Appended { record, position, .. } = seen else { return Ok(()) };
        if !is_from_a_service(record, world) {
            return Ok(());
        }
        let Some(row) = identity(record).and_then(|identity| self.ever.get(&identity)) else {
            return Err(misplaced(record, position, world)
                .expected("a committed outbox row", "no such row was ever committed"));
        };
        let same = row.record.value == record.value && row.record.key == record.key;
        if same || world.lost_suffix {
            return Ok(());
        }
        Err(misplaced(record, position, world)
            .expected(format!("what outbox#{} says", row.seq), "something else"))
    }

    fn at_end(&mut self, _end: &EndState, world: &World) -> Verdict {
        for (identity, row) in &self.written {
            let waits = world.tables.outbox().contains_key(&row.seq);
            if !waits && !is_readable(world.log.copies(identity), world) {
                let subject = format!("outbox#{} was never published", row.seq);
                return Err(Violation::new(RULE, world, subject)
                    .expected("its event on the log", "neither on the log nor in the outbox")
                    .about(order(&row.record)));
            }
        }
        Ok(())
    }
}

fn order(record: &Record) -> Option<uuid::Uuid> {
    record.key.clone().and_then(|key| order_of(&stormglass_runtime::OrderingKey(key)))
}

/// That a record should not be where it is; what must be and what was seen is the caller's to add.
fn misplaced(record: &Record, position: &Position, world: &World) -> Box<Violation> {
    let kind = record.headers.text("ce_type").unwrap_or("a record");
    Violation::new(RULE, world, format!("{kind} at {position} was published")).about(order(record))
}

/// Whether the record claims to come from a consumer; what gateways publish never was in an outbox.
fn is_from_a_service(record: &Record, world: &World) -> bool {
    let source = record.headers.text("ce_source").unwrap_or_default();
    let name = source.rsplit('/').next().unwrap_or_default();
    world.setup.takes.contains_key(&ConsumerName::from(name)) || record.topic != world.setup.topic
}

fn is_readable(copies: &[Rc<LogRecord>], world: &World) -> bool {
    copies.iter().any(|copy| copy.at.offset < world.log.end(&copy.at.partition))
}

impl PublishedIffWritten {
    fn deleted_after_publishing(&self, seq: i64, world: &World) -> Verdict {
        let Some(identity) = self.by_seq.get(&seq) else { return Ok(()) };
        if is_readable(world.log.copies(identity), world) {
            return Ok(());
        }
        let order = self.written.get(identity).and_then(|row| order(&row.record));
        Err(Violation::new(RULE, world, format!("outbox#{seq} was deleted before its event was published"))
            .expected("all in-sync replicas have it first", "it is not on the log")
            .about(order))
    }
}

/// Whatever dies does so together with its record for `<consumer>.dlq`, one each.
fn dead_letters_leave_a_record(commit: &Commit, world: &World) -> Verdict {
    let mut balance: BTreeMap<String, i64> = BTreeMap::new();
    for queued in commit.queued.iter().filter(|queued| queued.died()) {
        *balance.entry(format!("{}.dlq", queued.consumer)).or_default() += 1;
    }
    let is_letter = |record: &Record| record.headers.text("ce_type") == Some("stormglass.dead-letter");
    for row in commit.emitted.iter().filter(|row| is_letter(&row.record)) {
        *balance.entry(row.record.topic.as_str().to_owned()).or_default() -= 1;
    }
    let Some((topic, missing)) = balance.into_iter().find(|(_, balance)| *balance != 0) else {
        return Ok(());
    };
    let order = commit
        .queued
        .iter()
        .find(|queued| queued.died())
        .and_then(|queued| queued.after.as_ref().and_then(|row| order_of(&row.id.key)));
    Err(Violation::new(RULE, world, format!("{} wrote dead letters and {topic} apart", commit.session))
        .expected(
            "one record per dead letter, in its transaction",
            format!("{missing:+} dead letters without one"),
        )
        .about(order))
}

/// A dead letter goes for good only with the record of who discarded it.
fn discarded_letters_leave_a_record(commit: &Commit, world: &World) -> Verdict {
    let discarded = commit.queued.iter().filter(|queued| queued.discarded());
    let is_audit = |row: &&Rc<OutboxRow>| {
        row.record.headers.text("ce_type") == Some("stormglass.dead-letter-discarded")
            && row.record.headers.text("by").is_some_and(|by| !by.is_empty())
    };
    let (gone, audits) = (discarded.clone().count(), commit.emitted.iter().filter(is_audit).count());
    if gone == audits {
        return Ok(());
    }
    let subject = format!("{} deleted dead letters without a word", commit.session);
    Err(Violation::new(RULE, world, subject)
        .expected(format!("{gone} records of who did it and why"), audits.to_string())
        .about(discarded.filter_map(super::Queued::order).next()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{Tale, event, placed},
        PublishedIffWritten,
    };

    fn reserved() -> stormglass_runtime::Record {
        event("stock.reserved", 1, "r1")
    }

    fn one_written() -> Tale {
        let mut tale = Tale::of(PublishedIffWritten::default());
        tale.append(0, placed(1));
        tale.tx("w").take("inventory", 0).emit(1, "r1", reserved()).commit().unwrap();
        tale
    }

    #[test]
    fn event_that_is_written_published_twice_and_deleted_is_fine() {
        let mut tale = one_written();
        tale.append(1, reserved()).append(2, reserved());
        tale.tx("relay").delete_outbox(1).commit().unwrap();
        tale.end().unwrap();
    }

    #[test]
    fn event_that_was_never_written_is_caught() {
        let mut tale = Tale::of(PublishedIffWritten::default());
        assert!(tale.try_append(0, reserved()).unwrap_err().got.contains("no such row"));
    }

    #[test]
    fn event_that_says_something_else_is_caught() {
        let mut tale = one_written();
        let mut other = reserved();
        other.value = "{}".into();
        assert!(tale.try_append(1, other).is_err());
    }

    #[test]
    fn outbox_row_deleted_before_its_event_is_on_the_log_is_caught() {
        let mut tale = one_written();
        assert!(
            tale.tx("relay").delete_outbox(1).commit().unwrap_err().subject.contains("outbox#1 was deleted")
        );
    }

    #[test]
    fn event_that_was_lost_with_its_suffix_may_be_on_the_log() {
        let mut tale = Tale::of(PublishedIffWritten::default());
        tale.append(0, placed(1));
        let before = tale.lsn();
        tale.tx("w").take("inventory", 0).emit(1, "r1", reserved()).commit().unwrap();
        tale.lose_after(before).unwrap();
        tale.try_append(1, reserved()).unwrap();
        tale.end().unwrap();
    }

    #[test]
    fn dead_letter_without_its_record_is_caught() {
        let mut tale = one_written();
        tale.tx("w").take("payments", 0).queue("payments", 0, 1).commit().unwrap();
        let violation = tale.tx("w").bury_without_record("payments", 1).commit().unwrap_err();
        assert!(violation.subject.contains("payments.dlq"), "{violation}");
    }

    #[test]
    fn dead_letter_that_vanishes_without_an_audit_is_caught() {
        let mut tale = one_written();
        tale.tx("w").take("payments", 0).queue("payments", 0, 1).commit().unwrap();
        tale.tx("w").bury("payments", 1).commit().unwrap();
        let violation = tale.tx("w").dequeue("payments", 1).commit().unwrap_err();
        assert!(violation.subject.contains("without a word"), "{violation}");
    }

    #[test]
    fn dead_letter_with_its_record_is_fine() {
        let mut tale = one_written();
        tale.tx("w").take("payments", 0).queue("payments", 0, 1).commit().unwrap();
        tale.tx("w").bury("payments", 1).commit().unwrap();
    }
}
