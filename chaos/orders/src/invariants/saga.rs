//! I16 `saga-ends-once`: each order ends in one final state, and the log tells one end.
//!
//! After a suffix was lost, what was published may tell an end that was decided anew, and differently (DESIGN 6).

use std::collections::BTreeSet;

use stormglass_embedded::broker::Observed;

use super::{EndState, Invariant, Rule, Verdict, Violation, World, facts::ReservationState, log::order_of};

/// See the module.
#[derive(Default)]
pub struct SagaEndsOnce;

const RULE: Rule = Rule {
    id: "I16",
    name: "saga-ends-once",
    statement: "each order ends either confirmed, with its items sold, or cancelled, with none held",
    evidence: "ends that are told on the brokers' log; orders and reservations at the end",
};

impl Invariant for SagaEndsOnce {
    fn rule(&self) -> Rule {
        RULE
    }

    fn broker(&mut self, seen: &Observed, world: &World) -> Verdict {
        let Observed::Appended { position, .. } = seen else { return Ok(()) };
        let Some(record) = world.log.at(position) else { return Ok(()) };
        let ends = |kind: Option<&str>| matches!(kind, Some("order.confirmed" | "order.cancelled"));
        let Some(order) = order_of(&record.key).filter(|_| ends(record.kind()) && !world.lost_suffix) else {
            return Ok(());
        };
        let story = world.log.story(order).iter().filter(|record| ends(record.kind()));
        let told: BTreeSet<_> = story.map(|record| &record.identity).collect();
        if told.len() <= 1 {
            return Ok(());
        }
        Err(Violation::new(RULE, world, format!("order {order} ended a second time at {position}"))
            .expected("one end", format!("{} events that end it", told.len()))
            .about(order))
    }

    fn at_end(&mut self, _end: &EndState, world: &World) -> Verdict {
        for (order, rows) in world.tables.stories() {
            if world.is_stuck(order) {
                continue;
            }
            let state = rows.order.as_ref().map_or("unknown", |order| order.state.name());
            let items = rows.reservation.as_ref().map(|row| &row.state);
            let whole = match (state, items) {
                ("confirmed", Some(ReservationState::Sold(_))) => true,
                ("cancelled", held) => {
                    !matches!(held, Some(ReservationState::Reserved(_) | ReservationState::Sold(_)))
                }
                _ => false,
            };
            if !whole {
                let items = items.map_or("not reserved", ReservationState::name);
                return Err(Violation::new(RULE, world, format!("order {order} did not end as a whole"))
                    .expected(
                        "confirmed and sold, or cancelled and nothing held",
                        format!("{state} and {items}"),
                    )
                    .about(order));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::testkit::{Tale, event},
        SagaEndsOnce,
    };

    fn tale(order: &str, reservation: serde_json::Value) -> Tale {
        let mut tale = Tale::of(SagaEndsOnce);
        tale.tx("w").order_row(1, order).row("reservations", 1, reservation).commit().unwrap();
        tale
    }

    #[test]
    fn orders_that_end_as_a_whole_are_fine() {
        tale("confirmed", json!({ "Sold": [] })).end().unwrap();
        tale("cancelled", json!({ "Released": [] })).end().unwrap();
        tale("cancelled", json!("Barred")).end().unwrap();
    }

    #[test]
    fn order_that_never_ends_is_caught() {
        assert_eq!(tale("open", json!({ "Reserved": [] })).end().unwrap_err().got, "open and reserved");
    }

    #[test]
    fn confirmed_order_whose_items_are_not_sold_is_caught() {
        assert!(tale("confirmed", json!({ "Reserved": [] })).end().is_err());
    }

    #[test]
    fn cancelled_order_that_holds_items_is_caught() {
        assert!(tale("cancelled", json!({ "Reserved": [] })).end().is_err());
    }

    #[test]
    fn order_that_is_told_to_end_twice_is_caught() {
        let mut tale = Tale::of(SagaEndsOnce);
        tale.append(0, event("order.confirmed", 1, "a"));
        tale.try_append(1, event("order.confirmed", 1, "a")).unwrap();
        assert!(
            tale.try_append(2, event("order.cancelled", 1, "b"))
                .unwrap_err()
                .subject
                .contains("a second time")
        );
    }
}
