//! I5 `legal-states`: every lifecycle moves only along its own edges, only for its reason, and tells whoever waits for it.
//!
//! What a state tells commits with it, also where a service gives up: or those who wait would do so until their deadline.

use stormglass_runtime::{OrderingKey, OutboxRow, Pending};
use uuid::Uuid;

use super::{
    Commit, Fact, Invariant, OrderState, Queued, RowChange, Rule, Verdict, Violation, World,
    facts::{PaymentState, ReservationState},
    log::order_of,
};

/// See the module.
#[derive(Default)]
pub struct LegalStates;

const RULE: Rule = Rule {
    id: "I5",
    name: "legal-states",
    statement: "orders, payments, reservations and messages move only as allowed, and tell where they have come to",
    evidence: "every committed row change against the lifecycles' edges, and against the events of its transaction",
};

/// The lifecycles, as edges between the names of states. A row that does not exist is `nothing`.
const ORDER: &[(&str, &[&str])] = &[
    (NOTHING, &["foretold", "open", "cancelled"]),
    ("foretold", &["foretold", "open", "confirmed", "cancelled"]),
    ("open", &["open", "confirmed", "cancelled"]),
    // Counters may still change.
    ("confirmed", &["confirmed"]),
    ("cancelled", &["cancelled"]),
];
const PAYMENT: &[(&str, &[&str])] = &[
    (NOTHING, &["void", "asked", "declined"]),
    // Void if the order is cancelled while the charge is a dead letter.
    ("asked", &["void", "declined", "captured"]),
    // A redriven charge that came through after all goes straight back.
    ("void", &["refund owed"]),
    ("declined", &["refund owed"]),
    ("captured", &["refund owed"]),
    ("refund owed", &["refunded"]),
];
const RESERVATION: &[(&str, &[&str])] =
    &[(NOTHING, &["barred", "rejected", "reserved"]), ("reserved", &["sold", "released"])];
const MESSAGE: &[(&str, &[&str])] = &[(NOTHING, &["sent", "undelivered"]), ("undelivered", &["sent"])];

const NOTHING: &str = "nothing";

impl Invariant for LegalStates {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        for change in &commit.rows {
            let found = moved(change, commit)
                .or_else(|| reason(&change.after, world))
                .or_else(|| untold(change, commit));
            let Some((expected, got)) = found else { continue };
            return Err(Violation::new(
                RULE,
                world,
                format!("{} changed against its lifecycle", change.name),
            )
            .expected(expected, got)
            .about(change.after.order()));
        }
        given_up_for_good(commit, world)
    }
}

type Broken = Option<(String, String)>;

/// Several events of one transaction change a row once, so an edge for each of them may lie between its states.
fn moved(change: &RowChange, commit: &Commit) -> Broken {
    let (edges, after) = match &*change.after {
        Fact::Order(row) => (ORDER, row.state.name()),
        Fact::Payment(row) => (PAYMENT, row.state.name()),
        Fact::Reservation(row) => (RESERVATION, row.state.name()),
        Fact::Message(row) => (MESSAGE, row.state.name()),
        Fact::Stock(_) => return None,
        Fact::Unreadable(error) => return Some(("a readable row".to_owned(), error.clone())),
    };
    let before = match change.before.as_deref() {
        None => NOTHING,
        Some(Fact::Order(row)) => row.state.name(),
        Some(Fact::Payment(row)) => row.state.name(),
        Some(Fact::Reservation(row)) => row.state.name(),
        Some(Fact::Message(row)) => row.state.name(),
        Some(Fact::Stock(_) | Fact::Unreadable(_)) => "another kind of row",
    };
    let allowed = leads(edges, (before, after), events_about(change.after.order(), commit).max(1));
    if allowed && change.before.as_deref().is_none_or(|before| keeps(before, &change.after)) {
        return None;
    }
    Some(("a legal transition that keeps what was decided".to_owned(), format!("{before} → {after}")))
}

/// Whether at most `steps` edges lead from one state to the other.
fn leads(edges: &[(&str, &[&str])], (from, to): (&str, &str), steps: usize) -> bool {
    let next = edges.iter().find(|(state, _)| *state == from).map_or(&[][..], |(_, next)| next);
    next.contains(&to)
        || (steps > 1 && next.iter().any(|state| *state != from && leads(edges, (state, to), steps - 1)))
}

/// How many events about the order took effect in the transaction, or died in it.
fn events_about(order: Option<Uuid>, commit: &Commit) -> usize {
    let effects = commit.effects.iter().filter(|effect| effect.timer || order_of(&effect.key) == order);
    let deaths = commit.queued.iter().filter(|queued| queued.died());
    effects.count() + deaths.count()
}

/// Whether the new row keeps what the old one had settled: what was ordered, taken or held.
fn keeps(before: &Fact, after: &Fact) -> bool {
    match (before, after) {
        (Fact::Order(before), Fact::Order(after)) => {
            let ended = before.state.is_final() && before.state != after.state;
            !ended && before.basket().is_none_or(|basket| after.basket() == Some(basket))
        }
        (Fact::Payment(before), Fact::Payment(after)) => {
            before.state.capture().is_none_or(|capture| after.state.capture() == Some(capture))
        }
        (Fact::Reservation(before), Fact::Reservation(after)) => {
            before.state.items().is_none_or(|items| after.state.items() == Some(items))
        }
        (Fact::Message(before), Fact::Message(after)) => before.kind == after.kind,
        _ => false,
    }
}

/// Goods and money move at an order's end only, and the right way. A lost suffix may have taken that end along.
fn reason(after: &Fact, world: &World) -> Broken {
    let needed = match after {
        Fact::Reservation(row) => match row.state {
            ReservationState::Sold(_) => "confirmed",
            ReservationState::Released(_) | ReservationState::Barred => "cancelled",
            ReservationState::Rejected(_) | ReservationState::Reserved(_) => return None,
        },
        Fact::Payment(row) => match row.state {
            PaymentState::Void => "cancelled",
            // RefundOwed may also follow a late capture of a payment that was given up.
            PaymentState::Asked(_)
            | PaymentState::Declined(_)
            | PaymentState::Captured(_)
            | PaymentState::RefundOwed(_)
            | PaymentState::Refunded { .. } => return None,
        },
        Fact::Order(_) | Fact::Stock(_) | Fact::Message(_) | Fact::Unreadable(_) => return None,
    };
    let order: Uuid = after.order()?;
    let state = world.order(order).map_or("unknown", |order| order.state.name());
    if state == needed || world.lost_suffix {
        return None;
    }
    Some((format!("an order that is {needed}"), format!("one that is {state}")))
}

/// What a state tells the other services, if it tells them anything.
fn tells(fact: &Fact) -> Option<&'static str> {
    match fact {
        Fact::Order(row) => match row.state {
            OrderState::Confirmed { .. } => Some("order.confirmed"),
            OrderState::Cancelled { .. } => Some("order.cancelled"),
            OrderState::Foretold(_) | OrderState::Open { .. } => None,
        },
        Fact::Payment(row) => match row.state {
            PaymentState::Captured(_) => Some("payment.captured"),
            PaymentState::Declined(_) => Some("payment.declined"),
            PaymentState::Refunded { .. } => Some("payment.refunded"),
            PaymentState::Void | PaymentState::Asked(_) | PaymentState::RefundOwed(_) => None,
        },
        Fact::Reservation(row) => match row.state {
            ReservationState::Reserved(_) => Some("stock.reserved"),
            ReservationState::Rejected(_) => Some("stock.rejected"),
            ReservationState::Released(_) => Some("stock.released"),
            ReservationState::Barred | ReservationState::Sold(_) => None,
        },
        Fact::Stock(_) | Fact::Message(_) | Fact::Unreadable(_) => None,
    }
}

fn untold(change: &RowChange, commit: &Commit) -> Broken {
    let kind = tells(&change.after)?;
    if change.before.as_deref().and_then(tells) == Some(kind) {
        return None;
    }
    let order = change.after.order()?;
    let is_told = |row: &OutboxRow| {
        let told = row.record.headers.text("ce_type").and_then(|told| told.strip_prefix(kind));
        told.is_some_and(|version| version.starts_with(".v"))
            && row.record.key.clone().and_then(|key| order_of(&OrderingKey(key))) == Some(order)
    };
    if commit.emitted.iter().any(|row| is_told(row)) {
        return None;
    }
    Some((format!("{kind} in the same transaction"), "nobody was told".to_owned()))
}

/// A charge that was asked for and dies without an answer is a payment that is declined: DESIGN 5, so that the order need
/// not wait.
fn given_up_for_good(commit: &Commit, world: &World) -> Verdict {
    let is_charge = |queued: &&Queued| {
        let calls = |row: &Option<std::rc::Rc<Pending>>| row.as_ref().is_some_and(|row| row.call.is_some());
        queued.died()
            && queued.consumer.as_str() == "payments"
            && calls(&queued.before)
            && !calls(&queued.after)
    };
    for order in commit.queued.iter().filter(is_charge).filter_map(Queued::order) {
        let payment = world.tables.story(order).and_then(|rows| rows.payment.as_ref());
        if matches!(payment.map(|payment| &payment.state), None | Some(PaymentState::Asked(_))) {
            return Err(Violation::new(RULE, world, format!("the charge of order {order} was given up"))
                .expected("a payment that is declined", "one that waits for its charge")
                .about(order));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::{
        super::testkit::{Tale, event, placed},
        LegalStates,
    };

    /// Walks through `states`, telling of each what it is to tell.
    fn walk(table: &str, states: &[serde_json::Value]) -> super::Verdict {
        let mut tale = Tale::of(LegalStates);
        tale.append(0, placed(1));
        for (seq, state) in (1..).zip(states) {
            let told = match state.as_object().and_then(|state| state.keys().next()).map(String::as_str) {
                Some("Captured") => Some("payment.captured"),
                Some("Declined") => Some("payment.declined"),
                Some("Refunded") => Some("payment.refunded"),
                Some("Reserved") => Some("stock.reserved"),
                _ => None,
            };
            let tx = tale.tx("w").row(table, 1, state.clone());
            let tx = match told {
                Some(kind) => tx.emit(seq, kind, event(kind, 1, kind)),
                None => tx,
            };
            tx.commit()?;
        }
        Ok(())
    }

    fn capture() -> serde_json::Value {
        json!({ "customer": "ann", "amount": { "minor": 4999, "currency": "EUR" }, "charge": "ch-1" })
    }

    fn asked() -> serde_json::Value {
        json!({ "Asked": uuid::Uuid::nil() })
    }

    #[test]
    fn payment_that_is_captured_owed_and_refunded_is_fine() {
        let refunded = json!({ "Refunded": { "capture": capture(), "refund": "re-1" } });
        let owed = json!({ "RefundOwed": capture() });
        walk("payments", &[asked(), json!({ "Captured": capture() }), owed, refunded]).unwrap();
    }

    #[test]
    fn events_of_one_transaction_may_pass_through_several_states() {
        let mut tale = Tale::of(LegalStates);
        tale.append(0, placed(1)).append(1, event("order.cancelled", 1, "c"));
        tale.tx("w")
            .take("payments", 0)
            .queue_call("payments", 0, 1)
            .row("payments", 1, asked())
            .commit()
            .unwrap();
        let both = tale.tx("w").dequeue("payments", 1).take("payments", 1);
        both.row("payments", 1, json!({ "RefundOwed": capture() })).commit().unwrap();
    }

    #[test]
    fn one_event_passes_through_one_state_only() {
        let mut tale = charge_asked_for();
        let one = tale.tx("w").dequeue("payments", 1).row("payments", 1, json!({ "RefundOwed": capture() }));
        assert_eq!(one.commit().unwrap_err().got, "asked → refund owed");
    }

    #[rstest]
    #[case::refund_of_what_was_declined(&[json!({ "Declined": "refused" }), json!({ "Refunded": { "capture": capture() } })])]
    #[case::captured_without_an_intent(&[json!({ "Captured": capture() })])]
    #[case::declined_after_capture(&[asked(), json!({ "Captured": capture() }), json!({ "Declined": "gave-up" })])]
    #[case::captured_again(&[asked(), json!({ "Captured": capture() }), json!({ "Captured": capture() })])]
    #[case::void_without_a_cancellation(&[json!("Void")])]
    fn illegal_payment_is_caught(#[case] states: &[serde_json::Value]) {
        assert_eq!(walk("payments", states).unwrap_err().invariant, "legal-states");
    }

    #[rstest]
    #[case::sold_without_being_held(&[json!({ "Sold": [] })])]
    #[case::sold_for_an_unconfirmed_order(&[json!({ "Reserved": [] }), json!({ "Sold": [] })])]
    #[case::reserved_twice(&[json!({ "Reserved": [] }), json!({ "Reserved": [] })])]
    fn illegal_reservation_is_caught(#[case] states: &[serde_json::Value]) {
        assert_eq!(walk("reservations", states).unwrap_err().invariant, "legal-states");
    }

    /// An order whose charge waits in the queue.
    fn charge_asked_for() -> Tale {
        let mut tale = Tale::of(LegalStates);
        tale.append(0, placed(1));
        tale.tx("w")
            .take("payments", 0)
            .queue_call("payments", 0, 1)
            .row("payments", 1, asked())
            .commit()
            .unwrap();
        tale
    }

    #[test]
    fn payment_that_is_declined_without_a_word_is_caught() {
        let mut tale = charge_asked_for();
        let died = tale.tx("w").change("payments", 1, |row| (row.call, row.dead_at) = (None, Some(row.due)));
        let violation = died.row("payments", 1, json!({ "Declined": "gave-up" })).commit().unwrap_err();
        assert_eq!(violation.got, "nobody was told");
    }

    #[test]
    fn charge_that_dies_and_leaves_its_payment_waiting_is_caught() {
        let mut tale = charge_asked_for();
        let died = tale.tx("w").change("payments", 1, |row| (row.call, row.dead_at) = (None, Some(row.due)));
        assert!(died.commit().unwrap_err().subject.contains("was given up"));
    }

    #[test]
    fn order_that_leaves_its_end_is_caught() {
        let mut tale = Tale::of(LegalStates);
        tale.tx("w").order_row(1, "open").commit().unwrap();
        let end = tale.tx("w").order_row(1, "confirmed");
        end.emit(1, "end", event("order.confirmed", 1, "end")).commit().unwrap();
        let violation = tale.tx("w").order_row(1, "cancelled").commit().unwrap_err();
        assert_eq!(violation.got, "confirmed → cancelled");
    }

    #[test]
    fn unreadable_row_is_caught() {
        assert!(walk("payments", &[json!({ "Sideways": 1 })]).is_err());
    }
}
