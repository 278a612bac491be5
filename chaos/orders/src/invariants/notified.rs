//! I21 `notified-once`: one message per order and occasion, under one idempotency key.
//!
//! Requests may repeat (at least once) as long as they carry the same key; what the notifier sent is what counts.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{EndState, Invariant, OrderState, Rule, Verdict, Violation, World, facts::PaymentState};
use crate::notifier::Observed;

/// See the module.
#[derive(Default)]
pub struct NotifiedOnce {
    sent: BTreeMap<(Uuid, String), Uuid>,
}

const RULE: Rule = Rule {
    id: "I21",
    name: "notified-once",
    statement: "a customer gets one message per event, and its request is committed before it is sent",
    evidence: "the notifier's own log against committed intents and the orders' rows",
};

impl Invariant for NotifiedOnce {
    fn rule(&self) -> Rule {
        RULE
    }

    fn notifier(&mut self, seen: &Observed, world: &World) -> Verdict {
        match seen {
            Observed::Requested { order, kind, .. } => {
                if world.has_intended_call("notifications", *order) || world.lost_suffix {
                    return Ok(());
                }
                Err(Violation::new(
                    RULE,
                    world,
                    format!("the message {kind:?} was asked for without an intent"),
                )
                .expected("a queue row with the call, committed before", "none")
                .about(*order))
            }
            Observed::Sent { order, kind, key, .. } => {
                let Some(first) = self.sent.insert((*order, kind.clone()), *key) else { return Ok(()) };
                Err(Violation::new(RULE, world, format!("order {order} was told {kind:?} twice"))
                    .expected("one message", format!("one under {first}, one under {key}"))
                    .about(*order))
            }
        }
    }

    fn at_end(&mut self, _end: &EndState, world: &World) -> Verdict {
        for (order, rows) in world.tables.stories() {
            let state = rows.order.as_ref().map(|order| &order.state);
            let payment = rows.payment.as_ref().map(|payment| &payment.state);
            let due = [
                ("confirmed", matches!(state, Some(OrderState::Confirmed { .. }))),
                ("cancelled", matches!(state, Some(OrderState::Cancelled { .. }))),
                ("refunded", matches!(payment, Some(PaymentState::Refunded { .. }))),
            ];
            for (kind, _) in due.into_iter().filter(|(_, due)| *due) {
                if !self.sent.contains_key(&(order, kind.to_owned())) && !world.is_silenced(order) {
                    return Err(Violation::new(
                        RULE,
                        world,
                        format!("order {order} is {kind}, and nobody was told"),
                    )
                    .expected("one message", "none")
                    .about(order));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{Tale, event},
        NotifiedOnce,
    };

    fn intended() -> Tale {
        let mut tale = Tale::of(NotifiedOnce::default());
        tale.append(0, event("order.confirmed", 1, "c"));
        tale.tx("w").take("notifications", 0).queue_call("notifications", 0, 1).commit().unwrap();
        tale.tx("w").order_row(1, "confirmed").commit().unwrap();
        tale
    }

    #[test]
    fn message_that_is_asked_for_twice_and_sent_once_is_fine() {
        let mut tale = intended();
        tale.notify(1, 7).unwrap();
        tale.notify_again(1, 7).unwrap();
        tale.end().unwrap();
    }

    #[test]
    fn two_messages_for_one_event_are_caught() {
        let mut tale = intended();
        tale.notify(1, 7).unwrap();
        assert!(tale.notify(1, 8).unwrap_err().subject.contains("twice"));
    }

    #[test]
    fn message_before_its_intent_is_committed_is_caught() {
        let mut tale = Tale::of(NotifiedOnce::default());
        assert!(tale.notify(1, 7).is_err());
    }

    #[test]
    fn order_that_nobody_is_told_of_is_caught() {
        assert!(intended().end().unwrap_err().subject.ends_with("is confirmed, and nobody was told"));
    }
}
