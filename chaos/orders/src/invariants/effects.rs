//! I3 `effect-once`: one effect per event and consumer, in the transaction that marks the event.
//!
//! What it does not see is an effect that is *missing*: that is `accounted` (I9), `settles` (I11) and
//! `saga-ends-once` (I16).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stormglass_runtime::{ConsumerName, EventId, OutboxRow};

use super::{Commit, Fact, Invariant, Queued, Rule, Taken, Verdict, Violation, World, log::order_of};

/// See the module.
#[derive(Default)]
pub struct EffectOnce {
    done: BTreeSet<(ConsumerName, EventId)>,
    queued: BTreeSet<(ConsumerName, EventId)>,
    emitted: BTreeMap<(Bytes, Bytes), i64>,
}

const RULE: Rule = Rule {
    id: "I3",
    name: "effect-once",
    statement: "each event has one effect per consumer, committed together with the mark that it was taken",
    evidence: "the database's commits: marks, queue rows, emissions and rows of each transaction",
};

impl Invariant for EffectOnce {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        for taken in &commit.taken {
            taken_once(taken, commit, world)?;
        }
        for queued in &commit.queued {
            self.queued_once(queued, commit, world)?;
        }
        for effect in &commit.effects {
            if !self.done.insert((effect.consumer.clone(), effect.event_id)) {
                let subject = format!("{} applied {} twice", effect.consumer, effect.origin);
                return Err(Violation::new(RULE, world, subject)
                    .expected("one effect", format!("a second one in the transaction of {}", commit.session))
                    .about(order_of(&effect.key)));
            }
        }
        for row in &commit.emitted {
            self.emitted_once(row, world)?;
        }
        effect_with_cause(commit, world)
    }

    fn rewind(&mut self) {
        *self = EffectOnce::default();
    }
}

fn taken_once(taken: &Taken, commit: &Commit, world: &World) -> Verdict {
    if !taken.again {
        return Ok(());
    }
    let subject = format!("{} took {} twice", taken.consumer, taken.entry.at);
    Err(Violation::new(RULE, world, subject)
        .expected("one mark per event", format!("a second one in the transaction of {}", commit.session))
        .about(taken.record.as_ref().and_then(|record| record.order())))
}

/// A queue row whose cause nobody can name: neither an event of the log nor the transaction of another event.
fn uncaused(commit: &Commit, queued: &Queued) -> bool {
    queued.timer
        && commit.effects.iter().all(|effect| effect.consumer != queued.consumer)
        && !commit.queued.iter().any(|other| other.consumer == queued.consumer && other.died())
}

impl EffectOnce {
    fn queued_once(&mut self, queued: &Queued, commit: &Commit, world: &World) -> Verdict {
        let (None, Some(row)) = (&queued.before, &queued.after) else { return Ok(()) };
        let name = (queued.consumer.clone(), row.event_id);
        let first = self.queued.insert(name.clone());
        if first && !self.done.contains(&name) && !uncaused(commit, queued) {
            return Ok(());
        }
        let subject = format!("{} queued {} a second time, or without a cause", queued.consumer, row.origin);
        Err(Violation::new(RULE, world, subject)
            .expected(
                "an event enters the queue once, when it is taken",
                format!("queue row {} in the transaction of {}", row.id.seq, commit.session),
            )
            .about(order_of(&row.id.key)))
    }

    fn emitted_once(&mut self, row: &OutboxRow, world: &World) -> Verdict {
        // A dead letter that was redriven may die again, under the same id.
        if row.record.topic.as_str().ends_with(".dlq") {
            return Ok(());
        }
        let headers = &row.record.headers;
        let (Some(source), Some(id)) = (headers.get("ce_source"), headers.get("ce_id")) else {
            let subject = format!("outbox#{} has no ce_source or no ce_id", row.seq);
            return Err(Violation::new(RULE, world, subject).expected("a CloudEvent", "none"));
        };
        let Some(first) = self.emitted.insert((source.clone(), id.clone()), row.seq) else { return Ok(()) };
        let kind = headers.text("ce_type").unwrap_or("event");
        let subject = format!("{kind} was emitted twice: outbox#{first} and outbox#{}", row.seq);
        Err(Violation::new(RULE, world, subject)
            .expected("one emission per effect", format!("two under ce_id {}", id.escape_ascii()))
            .about(row.record.key.clone().and_then(|key| order_of(&stormglass_runtime::OrderingKey(key)))))
    }
}

/// Rows and emissions belong to a transaction that also marks the event which caused them.
fn effect_with_cause(commit: &Commit, world: &World) -> Verdict {
    let caused = !commit.effects.is_empty()
        || commit.queued.iter().any(|row| row.died() || row.asked() || row.after.is_none());
    let stocked = |fact: &Fact| matches!(fact, Fact::Stock(_));
    let stocking = commit.emitted.is_empty()
        && commit.rows.iter().all(|change| change.before.is_none() && stocked(&change.after));
    if caused || stocking {
        return Ok(());
    }
    let what = match (commit.rows.first(), commit.emitted.first()) {
        (Some(change), _) => change.name.clone(),
        (None, Some(row)) => format!("outbox#{}", row.seq),
        (None, None) => return Ok(()),
    };
    let order = commit.rows.iter().find_map(|change| change.after.order());
    Err(Violation::new(RULE, world, format!("{} wrote {what} without an event", commit.session))
        .expected("the effect commits together with the mark of its event", "a transaction that marks none")
        .about(order))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::testkit::{Tale, placed};

    #[test]
    fn event_taken_and_applied_once_is_fine() {
        let mut tale = Tale::of(super::EffectOnce::default());
        tale.append(0, placed(1));
        tale.tx("payments-1").take("payments", 0).queue("payments", 0, 1).commit().unwrap();
        tale.tx("payments-1").dequeue("payments", 1).order_row(1, "placed").commit().unwrap();
    }

    #[rstest]
    #[case::two_copies_of_one_event(|tale: &mut Tale| {
        tale.append(1, placed(1));
        tale.tx("orders-2").take("orders", 1).commit()
    })]
    #[case::same_mark_twice(|tale: &mut Tale| tale.tx("orders-2").take("orders", 0).commit())]
    #[case::effect_outside_its_transaction(|tale: &mut Tale| tale.tx("orders-1").order_row(1, "placed").commit())]
    #[case::emission_outside_its_transaction(|tale: &mut Tale| tale.tx("orders-1").emit(1, "e1", placed(1)).commit())]
    #[case::queued_after_it_was_applied(|tale: &mut Tale| tale.tx("orders-1").queue("orders", 0, 7).commit())]
    fn second_effect_is_caught(#[case] act: impl Fn(&mut Tale) -> super::Verdict) {
        let mut tale = Tale::of(super::EffectOnce::default());
        tale.append(0, placed(1));
        tale.tx("orders-1").take("orders", 0).commit().unwrap();
        assert_eq!(act(&mut tale).unwrap_err().invariant, "effect-once");
    }

    #[test]
    fn same_event_emitted_twice_is_caught() {
        let mut tale = Tale::of(super::EffectOnce::default());
        tale.append(0, placed(1)).append(1, placed(2));
        tale.tx("orders-1").take("orders", 0).emit(1, "e1", placed(1)).commit().unwrap();
        let violation = tale.tx("orders-1").take("orders", 1).emit(2, "e1", placed(1)).commit().unwrap_err();
        assert!(violation.subject.contains("outbox#1 and outbox#2"), "{violation}");
    }

    #[test]
    fn replay_after_a_lost_suffix_is_no_second_effect() {
        let mut tale = Tale::of(super::EffectOnce::default());
        tale.append(0, placed(1));
        let before = tale.lsn();
        tale.tx("orders-1").take("orders", 0).emit(1, "e1", placed(1)).commit().unwrap();
        tale.lose_after(before).unwrap();
        tale.tx("orders-1").take("orders", 0).emit(1, "e1", placed(1)).commit().unwrap();
    }
}
