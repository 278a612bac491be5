//! I1 `accepted-order-kept` and I2 `unknown-order-whole`: what clients were told about placing and cancelling orders
//! holds.
//!
//! An accepted order is on the log before the client hears of it, and never goes. One whose answer was lost is whole or
//! absent; one that was refused is absent; no order exists that nobody placed. An order's id follows from tenant and
//! Idempotency-Key alone, so every repeat is the same order.

use std::collections::{BTreeMap, BTreeSet};

use stormglass_runtime::derive_id;
use uuid::Uuid;

use super::{EndState, Invariant, Rule, Verdict, Violation, World};
use crate::client::{Answer, Asked, ExchangeId, Observed};

/// I1: see the module.
#[derive(Default)]
pub struct AcceptedOrderKept {
    cancelling: BTreeMap<ExchangeId, Uuid>,
    accepted: BTreeSet<Uuid>,
    cancelled: BTreeSet<Uuid>,
}

const KEPT: Rule = Rule {
    id: "I1",
    name: "accepted-order-kept",
    statement: "an order or cancellation that was answered with 202 is on the log for good; the order reaches the database",
    evidence: "client answers against the brokers' log as each 202 arrives, and against log and database at the end",
};

/// The order that a tenant places under a key (DESIGN 7), derived here a second time.
fn order_id(tenant: &str, idempotency_key: &str) -> Uuid {
    derive_id("order/v1", &[tenant.as_bytes(), idempotency_key.as_bytes()])
}

fn is_placed(order: Uuid, world: &World) -> bool {
    is_on_log("order.placed", order, world)
}

fn is_on_log(kind: &str, order: Uuid, world: &World) -> bool {
    world.log.story(order).iter().any(|record| {
        record.kind() == Some(kind)
            && record.at.partition.topic == world.setup.topic
            && record.at.offset < world.log.end(&record.at.partition)
    })
}

/// What asks for a cancellation.
const CANCEL: &str = "order.cancel-requested";

/// Whoever hears a 202 finds the event on the log.
fn acknowledged(kind: &str, order: Uuid, world: &World) -> Verdict {
    if is_on_log(kind, order, world) {
        return Ok(());
    }
    Err(Violation::new(KEPT, world, format!("{kind} of order {order} was accepted"))
        .expected("on all in-sync replicas before the 202", "it is not on the log")
        .about(order))
}

impl Invariant for AcceptedOrderKept {
    fn rule(&self) -> Rule {
        KEPT
    }

    fn client(&mut self, seen: &Observed, world: &World) -> Verdict {
        match seen {
            Observed::Sent { exchange, asked: Asked::Cancel { order }, .. } => {
                self.cancelling.insert(*exchange, *order);
                Ok(())
            }
            Observed::Answered { answer: Answer::Accepted { order }, .. } => {
                self.accepted.insert(*order);
                acknowledged("order.placed", *order, world)
            }
            Observed::Answered { exchange, answer: Answer::CancelAccepted, .. } => {
                let Some(order) = self.cancelling.remove(exchange) else { return Ok(()) };
                self.cancelled.insert(order);
                acknowledged(CANCEL, order, world)
            }
            Observed::Sent { .. } | Observed::Answered { .. } => Ok(()),
        }
    }

    fn at_end(&mut self, _end: &EndState, world: &World) -> Verdict {
        if let Some(order) = self.cancelled.iter().find(|order| !is_on_log(CANCEL, **order, world)) {
            return Err(Violation::new(KEPT, world, format!("the cancellation of order {order} is lost"))
                .expected("on the log for good", "it is gone from the log")
                .about(*order));
        }
        for order in &self.accepted {
            let got = if !is_placed(*order, world) {
                "it is gone from the log"
            } else if world.order(*order).is_none() && !world.is_stuck(*order) {
                "the database does not know it"
            } else {
                continue;
            };
            return Err(Violation::new(KEPT, world, format!("order {order} was accepted and is lost"))
                .expected("on the log and in the database", got)
                .about(*order));
        }
        Ok(())
    }
}

/// I2: see the module.
#[derive(Default)]
pub struct UnknownOrderWhole {
    placing: BTreeMap<ExchangeId, Uuid>,
    /// Every order that was ever asked for, with the totals of the bodies sent; and those that may exist.
    totals: BTreeMap<Uuid, BTreeSet<i64>>,
    possible: BTreeSet<Uuid>,
}

const WHOLE: Rule = Rule {
    id: "I2",
    name: "unknown-order-whole",
    statement: "an order without an answer is whole or absent, a repeat is the same order, and nobody's order does not exist",
    evidence: "every request that clients sent against the brokers' log and the database's rows at the end",
};

impl Invariant for UnknownOrderWhole {
    fn rule(&self) -> Rule {
        WHOLE
    }

    fn client(&mut self, seen: &Observed, world: &World) -> Verdict {
        match seen {
            Observed::Sent {
                exchange, asked: Asked::Place { tenant, idempotency_key, total_minor }, ..
            } => {
                let order = order_id(tenant, idempotency_key);
                self.placing.insert(*exchange, order);
                self.totals.entry(order).or_default().insert(*total_minor);
                Ok(())
            }
            Observed::Answered { exchange, answer, .. } => {
                let Some(expected) = self.placing.remove(exchange) else { return Ok(()) };
                self.answered(expected, answer, world)
            }
            Observed::Sent { .. } => Ok(()),
        }
    }

    fn at_end(&mut self, _end: &EndState, world: &World) -> Verdict {
        // What was sent and never answered, not even by a timeout, may exist too.
        self.possible.extend(self.placing.values());
        for order in world.log.orders().filter(|order| is_placed(*order, world)) {
            if !self.possible.contains(&order) {
                let known = if self.totals.contains_key(&order) { "was refused" } else { "was never placed" };
                return Err(Violation::new(WHOLE, world, format!("order {order} {known} and is on the log"))
                    .expected("no trace of it", "an order.placed")
                    .about(order));
            }
        }
        world.tables.stories().try_for_each(|(order, _)| self.whole(order, world))
    }
}

impl UnknownOrderWhole {
    fn answered(&mut self, expected: Uuid, answer: &Answer, world: &World) -> Verdict {
        match answer {
            Answer::Accepted { order } if *order != expected => {
                return Err(Violation::new(WHOLE, world, "a repeat of one Idempotency-Key is another order")
                    .expected(expected.to_string(), order.to_string())
                    .about(expected));
            }
            Answer::Refused { .. } => return Ok(()),
            Answer::Accepted { .. }
            | Answer::Unknown { .. }
            | Answer::CancelAccepted
            | Answer::Found { .. }
            | Answer::Absent
            | Answer::Listed { .. } => {}
        }
        self.possible.insert(expected);
        Ok(())
    }

    /// An order of which the database knows anything is on the log, and is known by its own row, as it was placed.
    fn whole(&self, order: Uuid, world: &World) -> Verdict {
        let row = world.order(order);
        let broken = if world.log.story(order).is_empty() {
            "it has rows, and is not on the log".to_owned()
        } else if row.is_none() && !world.is_stuck(order) {
            "payments or inventory know it, orders does not".to_owned()
        } else if let Some(total) = row.and_then(|row| row.basket()).map(super::facts::Basket::total)
            && !self.totals.get(&order).is_some_and(|totals| totals.contains(&total))
        {
            format!("a total of {total} that nobody sent")
        } else {
            return Ok(());
        };
        Err(Violation::new(WHOLE, world, format!("order {order} is not whole"))
            .expected("whole or absent", broken)
            .about(order))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{
        super::testkit::{Tale, event_of, placed, placed_as},
        *,
    };

    fn place(total_minor: i64) -> Asked {
        Asked::Place { tenant: "acme".to_owned(), idempotency_key: "k1".to_owned(), total_minor }
    }

    fn id() -> Uuid {
        order_id("acme", "k1")
    }

    fn accepted() -> Answer {
        Answer::Accepted { order: id() }
    }

    fn unknown() -> Answer {
        Answer::Unknown { why: "timed out".to_owned() }
    }

    #[test]
    fn accepted_order_that_is_on_the_log_and_stored_is_fine() {
        let mut tale = Tale::of(AcceptedOrderKept::default());
        tale.append(0, placed_as(id()));
        tale.exchange(place(4999), accepted()).unwrap();
        tale.tx("w").order_row_of(id(), "open").commit().unwrap();
        tale.end().unwrap();
    }

    #[test]
    fn accepted_order_that_is_not_on_the_log_is_caught() {
        let mut tale = Tale::of(AcceptedOrderKept::default());
        assert!(tale.exchange(place(4999), accepted()).is_err());
    }

    #[test]
    fn accepted_cancellation_that_is_not_on_the_log_or_leaves_it_is_caught() {
        let mut tale = Tale::of(AcceptedOrderKept::default());
        let cancel = || Asked::Cancel { order: id() };
        assert!(tale.exchange(cancel(), Answer::CancelAccepted).is_err());
        tale.append(0, event_of("order.cancel-requested", id(), "c1"));
        tale.exchange(cancel(), Answer::CancelAccepted).unwrap();
        tale.end().unwrap();
        tale.truncate(0);
        assert!(tale.end().unwrap_err().subject.contains("cancellation"));
    }

    #[test]
    fn accepted_order_that_the_log_loses_is_caught() {
        let mut tale = Tale::of(AcceptedOrderKept::default());
        tale.append(0, placed_as(id()));
        tale.exchange(place(4999), accepted()).unwrap();
        tale.truncate(0);
        assert_eq!(tale.end().unwrap_err().got, "it is gone from the log");
    }

    #[test]
    fn accepted_order_that_never_reaches_the_database_is_caught() {
        let mut tale = Tale::of(AcceptedOrderKept::default());
        tale.append(0, placed_as(id()));
        tale.exchange(place(4999), accepted()).unwrap();
        assert_eq!(tale.end().unwrap_err().got, "the database does not know it");
    }

    #[rstest]
    #[case::absent(false)]
    #[case::whole(true)]
    fn order_without_an_answer_may_be_either(#[case] exists: bool) {
        let mut tale = Tale::of(UnknownOrderWhole::default());
        tale.exchange(place(4999), unknown()).unwrap();
        if exists {
            tale.append(0, placed_as(id()));
            tale.tx("w").order_row_of(id(), "open").commit().unwrap();
        }
        tale.end().unwrap();
    }

    #[test]
    fn order_that_was_refused_and_exists_is_caught() {
        let mut tale = Tale::of(UnknownOrderWhole::default());
        tale.exchange(place(4999), Answer::Refused { status: 503, problem: "not-accepted".to_owned() })
            .unwrap();
        tale.append(0, placed_as(id()));
        assert!(tale.end().unwrap_err().subject.contains("was refused"));
    }

    #[test]
    fn order_that_nobody_placed_is_caught() {
        let mut tale = Tale::of(UnknownOrderWhole::default());
        tale.append(0, placed(1));
        assert!(tale.end().unwrap_err().subject.contains("was never placed"));
    }

    #[test]
    fn repeat_that_becomes_another_order_is_caught() {
        let mut tale = Tale::of(UnknownOrderWhole::default());
        assert!(tale.exchange(place(4999), Answer::Accepted { order: Uuid::from_u128(9) }).is_err());
    }

    #[test]
    fn order_that_is_known_to_others_only_is_caught() {
        let mut tale = Tale::of(UnknownOrderWhole::default());
        tale.exchange(place(4999), unknown()).unwrap();
        tale.append(0, placed_as(id()));
        tale.tx("w").row_of("reservations", id(), serde_json::json!("Barred")).commit().unwrap();
        assert!(tale.end().unwrap_err().got.contains("orders does not"));
    }

    #[test]
    fn order_with_a_body_that_nobody_sent_is_caught() {
        let mut tale = Tale::of(UnknownOrderWhole::default());
        tale.exchange(place(1), unknown()).unwrap();
        tale.append(0, placed_as(id()));
        tale.tx("w").order_row_of(id(), "open").commit().unwrap();
        assert!(tale.end().unwrap_err().got.contains("a total of 4999"));
    }
}
