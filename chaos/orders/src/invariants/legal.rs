//! I5 `legal-states`: every lifecycle moves only along its own edges, and only for its reason.

use uuid::Uuid;

use super::{
    Commit, Fact, Invariant, OrderState, Rule, Verdict, Violation, World,
    facts::{MessageState, PaymentState, ReservationState},
};

/// See the module.
#[derive(Default)]
pub struct LegalStates;

const RULE: Rule = Rule {
    id: "I5",
    name: "legal-states",
    statement: "orders, payments, reservations and messages move only as allowed",
    evidence: "every committed row change against the lifecycles' edges",
};

impl Invariant for LegalStates {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        for change in &commit.rows {
            let found = match (change.before.as_deref(), &*change.after) {
                (_, Fact::Unreadable(error)) => Some(("a readable row".to_owned(), error.clone())),
                (None, Fact::Order(row)) => order(None, &row.state),
                (Some(Fact::Order(before)), Fact::Order(row)) => order(Some(&before.state), &row.state),
                (None, Fact::Payment(row)) => payment(None, &row.state),
                (Some(Fact::Payment(before)), Fact::Payment(row)) => payment(Some(&before.state), &row.state),
                (None, Fact::Reservation(row)) => reservation(None, &row.state),
                (Some(Fact::Reservation(before)), Fact::Reservation(row)) => {
                    reservation(Some(&before.state), &row.state)
                }
                (Some(Fact::Message(before)), Fact::Message(row)) => message(&before.state, &row.state),
                (None, Fact::Message(_)) | (_, Fact::Stock(_)) => None,
                (Some(before), after) => {
                    Some((format!("{before:?} changes as what it is"), format!("{after:?}")))
                }
            };
            let found = found.or_else(|| reason(&change.after, world));
            let Some((expected, got)) = found else { continue };
            return Err(Violation::new(
                RULE,
                world,
                format!("{} changed against its lifecycle", change.name),
            )
            .expected(expected, got)
            .about(change.after.order()));
        }
        Ok(())
    }
}

type Broken = Option<(String, String)>;

fn broken(allowed: bool, before: &str, after: &str) -> Broken {
    (!allowed).then(|| ("a legal transition".to_owned(), format!("{before} → {after}")))
}

fn order(before: Option<&OrderState>, after: &OrderState) -> Broken {
    use OrderState::{Cancelled, Confirmed, Foretold, Open};
    let allowed = match (before, after) {
        (None, Foretold(_) | Open { .. } | Cancelled { .. }) => true,
        (Some(Foretold(_)), _) => true,
        (Some(Open { placed }), Open { placed: now } | Confirmed { placed: now }) => placed == now,
        (Some(Open { placed }), Cancelled { placed: now }) => now.as_ref() == Some(placed),
        // Counters may still change; what was decided may not.
        (Some(Confirmed { .. } | Cancelled { .. }), now) => before == Some(now),
        (None, Confirmed { .. }) | (Some(Open { .. }), Foretold(_)) => false,
    };
    broken(allowed, before.map_or("nothing", OrderState::name), after.name())
}

fn payment(before: Option<&PaymentState>, after: &PaymentState) -> Broken {
    use PaymentState::{Captured, Declined, RefundOwed, Refunded, Void};
    let allowed = match (before, after) {
        (None, Void | Declined(_) | Captured(_)) => true,
        // A redriven charge that came through after all goes straight back.
        (Some(Void | Declined(_)), RefundOwed(_)) => true,
        (Some(Captured(capture)), RefundOwed(now))
        | (Some(RefundOwed(capture)), Refunded { capture: now }) => capture == now,
        (None, RefundOwed(_) | Refunded { .. })
        | (Some(_), Void | Declined(_) | Captured(_))
        | (Some(RefundOwed(_) | Refunded { .. }), RefundOwed(_))
        | (Some(Void | Declined(_) | Captured(_) | Refunded { .. }), Refunded { .. }) => false,
    };
    broken(allowed, before.map_or("nothing", PaymentState::name), after.name())
}

fn reservation(before: Option<&ReservationState>, after: &ReservationState) -> Broken {
    use ReservationState::{Barred, Rejected, Released, Reserved, Sold};
    let allowed = match (before, after) {
        (None, Barred | Rejected(_) | Reserved(_)) => true,
        (Some(Reserved(items)), Sold(now) | Released(now)) => items == now,
        (None, Sold(_) | Released(_)) | (Some(_), _) => false,
    };
    broken(allowed, before.map_or("nothing", ReservationState::name), after.name())
}

fn message(before: &MessageState, after: &MessageState) -> Broken {
    let allowed = matches!((before, after), (MessageState::Undelivered, MessageState::Sent(_)));
    broken(allowed, &format!("{before:?}"), &format!("{after:?}"))
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
            PaymentState::Declined(_)
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

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::{
        super::testkit::{Tale, placed},
        LegalStates,
    };

    fn walk(table: &str, states: &[serde_json::Value]) -> super::Verdict {
        let mut tale = Tale::of(LegalStates);
        tale.append(0, placed(1));
        for state in states {
            tale.tx("w").row(table, 1, state.clone()).commit()?;
        }
        Ok(())
    }

    fn capture() -> serde_json::Value {
        json!({ "customer": "ann", "amount": { "minor": 4999, "currency": "EUR" }, "charge": "ch-1" })
    }

    #[test]
    fn payment_that_is_captured_owed_and_refunded_is_fine() {
        let refunded = json!({ "Refunded": { "capture": capture(), "refund": "re-1" } });
        walk("payments", &[json!({ "Captured": capture() }), json!({ "RefundOwed": capture() }), refunded])
            .unwrap();
    }

    #[rstest]
    #[case::refund_of_what_was_declined(&[json!({ "Declined": "refused" }), json!({ "Refunded": { "capture": capture() } })])]
    #[case::declined_after_capture(&[json!({ "Captured": capture() }), json!({ "Declined": "gave-up" })])]
    #[case::captured_again(&[json!({ "Captured": capture() }), json!({ "Captured": capture() })])]
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

    #[test]
    fn order_that_leaves_its_end_is_caught() {
        let mut tale = Tale::of(LegalStates);
        tale.tx("w").order_row(1, "open").commit().unwrap();
        tale.tx("w").order_row(1, "confirmed").commit().unwrap();
        let violation = tale.tx("w").order_row(1, "cancelled").commit().unwrap_err();
        assert_eq!(violation.got, "confirmed → cancelled");
    }

    #[test]
    fn unreadable_row_is_caught() {
        assert!(walk("payments", &[json!({ "Sideways": 1 })]).is_err());
    }
}
