//! I11 `settles`: after the heal everything converges, and nothing is left lying about.
//!
//! [`unsettled`] is also what the storm's calm waits for: it names the first thing that is not settled yet. A timer
//! that is due in the future is at rest; a follower of a dead letter is too.

use stormglass_runtime::{AfterDeath, ConsumerName};

use super::{
    EndState, Invariant, Rule, Verdict, Violation, World,
    facts::{PaymentState, ReservationState},
    world::QueueRow,
};

/// See the module.
#[derive(Default)]
pub struct Settles;

/// The invariant's name.
pub const NAME: &str = "settles";

const RULE: Rule = Rule {
    id: "I11",
    name: NAME,
    statement: "after the heal everything converges: no lag, no outbox, no open order, no orphan of any kind",
    evidence: "at the end, what the log, the queue, the outbox and the rows still hold open",
};

impl Invariant for Settles {
    fn rule(&self) -> Rule {
        RULE
    }

    fn at_end(&mut self, end: &EndState, world: &World) -> Verdict {
        let left = unsettled(world).or_else(|| {
            let EndState { open_transactions, locks, .. } = end;
            (*open_transactions + *locks > 0)
                .then(|| (format!("{open_transactions} transactions are open, {locks} rows locked"), None))
        });
        let Some((what, order)) = left else { return Ok(()) };
        Err(Violation::new(RULE, world, what).expected("a system at rest", "one that is not").about(order))
    }
}

/// What stands in the way of rest, and the order that it concerns.
pub fn unsettled(world: &World) -> Option<(String, Option<uuid::Uuid>)> {
    outbox(world).or_else(|| queue(world)).or_else(|| lag(world)).or_else(|| orders(world))
}

fn outbox(world: &World) -> Option<(String, Option<uuid::Uuid>)> {
    let (seq, _) = world.tables.outbox().first_key_value()?;
    Some((format!("{} rows wait in the outbox, outbox#{seq} first", world.tables.outbox().len()), None))
}

fn queue(world: &World) -> Option<(String, Option<uuid::Uuid>)> {
    let (consumer, row) = world.tables.queued().find(|(consumer, row)| !is_at_rest(consumer, row, world))?;
    Some((format!("{} waits in the queue of {consumer}", row.pending.origin), row.order()))
}

fn is_at_rest(consumer: &ConsumerName, row: &QueueRow, world: &World) -> bool {
    if row.pending.dead_at.is_some()
        || (row.timer && row.pending.due > world.now && row.pending.claim.is_none())
    {
        return true;
    }
    world.setup.after_death(consumer) == AfterDeath::Hold
        && world
            .tables
            .waiting(consumer, &row.pending.id.key, AfterDeath::Hold)
            .any(|head| head.pending.dead_at.is_some() && head.pending.id.seq < row.pending.id.seq)
}

fn lag(world: &World) -> Option<(String, Option<uuid::Uuid>)> {
    world.setup.takes.keys().find_map(|consumer| {
        world.partitions().find_map(|partition| {
            let record = world.lag(consumer, partition)?;
            Some((format!("{consumer} has not read {}", record.name()), record.order()))
        })
    })
}

fn orders(world: &World) -> Option<(String, Option<uuid::Uuid>)> {
    world.log.orders().find_map(|order| {
        let what = orphan(world, order)?;
        (!world.is_stuck(order)).then(|| (format!("order {order} {what}"), Some(order)))
    })
}

fn orphan(world: &World, order: uuid::Uuid) -> Option<&'static str> {
    let Some(rows) = world.tables.story(order) else { return Some("is on the log and nowhere else") };
    let payment = rows.payment.as_ref().map(|payment| &payment.state);
    let items = rows.reservation.as_ref().map(|reservation| &reservation.state);
    if !rows.order.as_ref().is_some_and(|order| order.state.is_final()) {
        Some("is not final")
    } else if matches!(items, Some(ReservationState::Reserved(_))) {
        Some("is final, and items are still held for it")
    } else if matches!(payment, Some(PaymentState::RefundOwed(_))) {
        Some("is cancelled, and its money is still owed")
    } else if matches!(payment, Some(PaymentState::Asked(_))) {
        Some("is final, and nobody knows what became of its charge")
    } else if payment.is_none() || items.is_none() {
        Some("was not heard of by payments or inventory")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;
    use stormglass_runtime::Timestamp;

    use super::{
        super::{
            EndState,
            testkit::{Tale, placed},
        },
        Settles,
    };

    /// One order, sold and done with.
    fn settled() -> Tale {
        let mut tale = Tale::of(Settles);
        tale.append(0, placed(1));
        for consumer in ["orders", "payments", "inventory"] {
            tale.tx("w").take(consumer, 0).at(consumer, 1).commit().unwrap();
        }
        let capture =
            json!({ "customer": "ann", "amount": { "minor": 4999, "currency": "EUR" }, "charge": "ch-1" });
        let paid = json!({ "Captured": capture });
        tale.tx("w")
            .order_row(1, "confirmed")
            .row("payments", 1, paid)
            .row("reservations", 1, json!({ "Sold": [] }))
            .commit()
            .unwrap();
        tale
    }

    #[test]
    fn order_that_is_done_with_is_fine() {
        settled().end().unwrap();
    }

    #[rstest]
    #[case::event_not_read(|tale: &mut Tale| { tale.append(1, placed(2)); }, "has not read")]
    #[case::row_in_the_outbox(|tale: &mut Tale| tale.tx("w").emit(1, "e", placed(1)).commit().unwrap(), "outbox#1")]
    #[case::row_in_the_queue(|tale: &mut Tale| tale.tx("w").queue("orders", 0, 1).commit().unwrap(), "waits in the queue")]
    #[case::order_open(|tale: &mut Tale| tale.tx("w").order_row(1, "open").commit().unwrap(), "is not final")]
    #[case::items_held(
        |tale: &mut Tale| tale.tx("w").row("reservations", 1, json!({ "Reserved": [] })).commit().unwrap(),
        "still held"
    )]
    fn whatever_is_left_is_caught(#[case] leave: impl Fn(&mut Tale), #[case] subject: &str) {
        let mut tale = settled();
        leave(&mut tale);
        let violation = tale.end().unwrap_err();
        assert!(violation.subject.contains(subject), "{violation}");
    }

    #[test]
    fn message_that_died_does_not_excuse_an_order_that_is_stuck() {
        let mut tale = settled();
        tale.tx("w").order_row(1, "open").queue("notifications", 0, 1).commit().unwrap();
        tale.tx("w").bury("notifications", 1).commit().unwrap();
        tale.tx("relay").delete_outbox(1_001).commit().unwrap();
        assert!(tale.end().unwrap_err().subject.contains("is not final"));
    }

    #[test]
    fn open_transaction_is_caught() {
        let end = EndState { open_transactions: 1, ..EndState::default() };
        assert!(settled().end_with(&end).is_err());
    }

    #[test]
    fn timer_of_the_future_is_at_rest_and_one_of_the_past_is_not() {
        let mut tale = settled();
        tale.tx("w").timer("orders", 9, Timestamp(i64::MAX)).commit().unwrap();
        tale.end().unwrap();
        tale.tx("w").change("orders", 9, |row| row.due = Timestamp(0)).commit().unwrap();
        assert!(tale.end().is_err());
    }

    #[test]
    fn followers_of_a_dead_letter_are_at_rest() {
        let mut tale = settled();
        tale.tx("w").queue("orders", 0, 1).queue("orders", 0, 2).commit().unwrap();
        tale.tx("w").bury("orders", 1).commit().unwrap();
        tale.tx("relay").delete_outbox(1_001).commit().unwrap();
        tale.end().unwrap();
    }
}
