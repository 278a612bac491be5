//! I7 `money-balanced`: the provider's own ledger against what the orders became.
//!
//! The ledger is not rolled back with the database, so money is held to account across a failover too.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    Commit, EndState, Fact, Invariant, OrderState, Rule, Verdict, Violation, World,
    facts::{self, PaymentState},
    log::order_of,
};
use crate::provider::{Kind, Observed};

/// See the module.
#[derive(Default)]
pub struct MoneyBalanced {
    accounts: BTreeMap<Uuid, Account>,
}

#[derive(Default)]
struct Account {
    captures: Vec<(String, i64)>,
    refunded: i64,
    currency: String,
}

impl Account {
    fn captured(&self) -> i64 {
        self.captures.iter().map(|(_, minor)| minor).sum()
    }

    fn say(&self) -> String {
        let money = |minor| facts::money(minor, &self.currency);
        format!("{} captured, {} refunded", money(self.captured()), money(self.refunded))
    }
}

const RULE: Rule = Rule {
    id: "I7",
    name: "money-balanced",
    statement: "an order is charged once at most and only after the intent is committed; confirmed means paid, cancelled means not charged or refunded",
    evidence: "the provider's ledger against committed intents, and against the orders' rows",
};

impl Invariant for MoneyBalanced {
    fn rule(&self) -> Rule {
        RULE
    }

    fn provider(&mut self, seen: &Observed, world: &World) -> Verdict {
        match seen {
            Observed::Requested { order, kind, .. } => intended(*order, *kind, world),
            Observed::Captured { order, amount, charge, .. } => {
                let account = self.accounts.entry(*order).or_default();
                account.currency = amount.currency.to_string();
                account.captures.push((charge.to_string(), amount.minor));
                charged_once(*order, account, world)
            }
            Observed::Refunded { order, amount, .. } => {
                let account = self.accounts.entry(*order).or_default();
                account.refunded += amount.minor;
                refunded_rightly(*order, account, world)
            }
            Observed::Declined { .. }
            | Observed::Failed { .. }
            | Observed::Closed { .. }
            | Observed::TurnedAway { .. } => Ok(()),
        }
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        for change in &commit.rows {
            if let Fact::Order(order) = &*change.after
                && let OrderState::Confirmed { placed } = &order.state
            {
                let total = (placed.basket.total(), placed.basket.currency.as_str());
                self.confirmed_is_paid(order.subject.order, total, world)?;
            }
        }
        Ok(())
    }

    fn at_end(&mut self, _end: &EndState, world: &World) -> Verdict {
        for (order, rows) in world.tables.stories() {
            if rows.payment.as_ref().is_some_and(|payment| payment.state == given_up()) {
                self.given_up_is_not_taken(order, world)?;
            }
            match rows.order.as_ref().map(|order| &order.state) {
                Some(OrderState::Confirmed { placed }) => {
                    self.confirmed_is_paid(order, (placed.basket.total(), &placed.basket.currency), world)?;
                }
                Some(OrderState::Cancelled { .. }) => self.cancelled_is_refunded(order, world)?,
                Some(OrderState::Foretold(_) | OrderState::Open { .. }) | None => {}
            }
        }
        Ok(())
    }
}

impl MoneyBalanced {
    fn confirmed_is_paid(&self, order: Uuid, (total, currency): (i64, &str), world: &World) -> Verdict {
        let account = self.accounts.get(&order);
        let paid = account.map_or(0, |account| account.captured() - account.refunded);
        let same_currency = account.is_none_or(|account| account.currency == currency);
        if paid == total && same_currency {
            return Ok(());
        }
        if account.is_some_and(|account| account.captured() == account.refunded) && decided_anew(order, world)
        {
            return Ok(());
        }
        let got = account.map_or_else(|| "nothing captured".to_owned(), Account::say);
        Err(Violation::new(RULE, world, format!("order {order} is confirmed and not paid as it should be"))
            .expected(format!("{} at the provider", facts::money(total, currency)), got)
            .about(order))
    }

    /// A dead letter may hold up a refund that is known to be owed. It must not hide one that nobody knows of: what is
    /// not known to have failed is not a refusal (DESIGN 5). A payment that is void says less: under `skip` the charge
    /// may be a dead letter, and goes back once that is redriven.
    fn given_up_is_not_taken(&self, order: Uuid, world: &World) -> Verdict {
        let Some(account) = self.accounts.get(&order) else { return Ok(()) };
        if account.captured() == account.refunded || world.lost_suffix {
            return Ok(());
        }
        Err(Violation::new(RULE, world, format!("the payment of order {order} was given up and was taken"))
            .expected("nothing captured, or a refund that is owed", account.say())
            .about(order))
    }

    fn cancelled_is_refunded(&self, order: Uuid, world: &World) -> Verdict {
        let Some(account) = self.accounts.get(&order) else { return Ok(()) };
        if account.captured() == account.refunded || world.is_stuck(order) {
            return Ok(());
        }
        Err(Violation::new(RULE, world, format!("order {order} is cancelled and its money is not back"))
            .expected("as much refunded as was captured", account.say())
            .about(order))
    }
}

/// What payments say of a charge that they gave up.
fn given_up() -> PaymentState {
    PaymentState::Declined("gave-up".to_owned())
}

/// DESIGN 6's known limit, and no more: the order's cancellation was published and its refund made, then the decision
/// was lost with a suffix, and its repetition came out differently.
fn decided_anew(order: Uuid, world: &World) -> bool {
    world.lost_suffix && world.log.story(order).iter().any(|record| record.kind() == Some("order.cancelled"))
}

fn charged_once(order: Uuid, account: &Account, world: &World) -> Verdict {
    if account.captures.len() <= 1 {
        return Ok(());
    }
    let amounts: Vec<String> =
        account.captures.iter().map(|(_, minor)| facts::money(*minor, &account.currency)).collect();
    let charges: Vec<&str> = account.captures.iter().map(|(charge, _)| charge.as_str()).collect();
    Err(Violation::new(RULE, world, format!("order {order} charged twice: {}", amounts.join(" + ")))
        .expected("at most one captured payment per order", charges.join(", "))
        .about(order))
}

fn refunded_rightly(order: Uuid, account: &Account, world: &World) -> Verdict {
    let cancelled =
        matches!(world.order(order).map(|order| &order.state), Some(OrderState::Cancelled { .. }));
    let expected = if account.refunded > account.captured() {
        "at most as much as was captured"
    } else if !cancelled && !world.lost_suffix {
        "refunds of cancelled orders only"
    } else {
        return Ok(());
    };
    Err(Violation::new(RULE, world, format!("order {order} was refunded"))
        .expected(expected, account.say())
        .about(order))
}

/// The provider hears of an order only after the queue row that asks for it is committed. A lost suffix may have taken
/// the row along while the request was on its way.
fn intended(order: Uuid, kind: Kind, world: &World) -> Verdict {
    let on_log = world.log.story(order).iter().any(|record| order_of(&record.key) == Some(order));
    if (on_log && world.has_intended_call("payments", order)) || world.lost_suffix {
        return Ok(());
    }
    Err(Violation::new(
        RULE,
        world,
        format!("{kind:?} of order {order} was asked for without a committed intent"),
    )
    .expected("a queue row with the call, committed before", "none")
    .about(order))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{Tale, event, placed},
        MoneyBalanced,
    };

    fn intended() -> Tale {
        let mut tale = Tale::of(MoneyBalanced::default());
        tale.append(0, placed(1));
        tale.tx("payments-1").take("payments", 0).queue_call("payments", 0, 1).commit().unwrap();
        tale
    }

    #[test]
    fn order_that_is_charged_once_and_confirmed_is_fine() {
        let mut tale = intended();
        tale.charge(1, 7, 4999).unwrap();
        tale.tx("orders-1").order_row(1, "confirmed").commit().unwrap();
        tale.end().unwrap();
    }

    #[test]
    fn order_that_is_charged_twice_is_caught() {
        let mut tale = intended();
        tale.charge(1, 7, 4999).unwrap();
        let violation = tale.charge(1, 8, 4999).unwrap_err();
        assert!(violation.subject.ends_with("charged twice: 49.99 EUR + 49.99 EUR"), "{violation}");
    }

    #[test]
    fn charge_before_its_intent_is_committed_is_caught() {
        let mut tale = Tale::of(MoneyBalanced::default());
        tale.append(0, placed(1));
        assert!(tale.request(1, 7).unwrap_err().subject.contains("without a committed intent"));
    }

    #[test]
    fn confirmed_order_without_its_money_is_caught() {
        assert!(
            intended()
                .tx("orders-1")
                .order_row(1, "confirmed")
                .commit()
                .unwrap_err()
                .got
                .contains("nothing captured")
        );
    }

    #[test]
    fn confirmed_order_with_the_wrong_amount_is_caught() {
        let mut tale = intended();
        tale.charge(1, 7, 1).unwrap();
        assert!(tale.tx("orders-1").order_row(1, "confirmed").commit().is_err());
    }

    #[test]
    fn cancelled_order_that_keeps_the_money_is_caught() {
        let mut tale = intended();
        tale.charge(1, 7, 4999).unwrap();
        tale.tx("orders-1").order_row(1, "cancelled").commit().unwrap();
        assert!(tale.end().unwrap_err().subject.contains("its money is not back"));
        tale.refund(1, 8, 4999).unwrap();
        tale.end().unwrap();
    }

    #[test]
    fn dead_letter_does_not_excuse_giving_up_a_charge_that_was_made() {
        let mut tale = intended();
        tale.charge(1, 7, 4999).unwrap();
        let died = tale.tx("payments-1").bury("payments", 1);
        died.row("payments", 1, serde_json::json!({ "Declined": "gave-up" })).commit().unwrap();
        tale.tx("orders-1").order_row(1, "cancelled").commit().unwrap();
        assert!(tale.end().unwrap_err().subject.contains("was given up and was taken"));
    }

    #[test]
    fn dead_letter_excuses_a_refund_that_is_owed() {
        let mut tale = intended();
        tale.charge(1, 7, 4999).unwrap();
        let capture = serde_json::json!({ "customer": "ann", "amount": { "minor": 4999, "currency": "EUR" }, "charge": "ch-7" });
        let died = tale.tx("payments-1").bury("payments", 1);
        died.row("payments", 1, serde_json::json!({ "RefundOwed": capture })).commit().unwrap();
        tale.tx("orders-1").order_row(1, "cancelled").commit().unwrap();
        tale.end().unwrap();
    }

    #[test]
    fn refund_of_an_order_that_was_not_cancelled_is_caught() {
        let mut tale = intended();
        tale.charge(1, 7, 4999).unwrap();
        assert!(tale.refund(1, 8, 4999).is_err());
    }

    #[test]
    fn refund_beyond_the_capture_is_caught() {
        let mut tale = intended();
        tale.charge(1, 7, 4999).unwrap();
        tale.tx("orders-1").order_row(1, "cancelled").commit().unwrap();
        assert!(tale.refund(1, 8, 5000).unwrap_err().expected.contains("at most"));
    }

    #[test]
    fn refund_of_a_confirmed_order_is_excused_only_by_a_published_cancellation_that_was_lost() {
        let ends = |cancelled: bool| {
            let mut tale = intended();
            tale.charge(1, 7, 4999).unwrap();
            let before = tale.lsn();
            tale.tx("orders-1").order_row(1, "cancelled").commit().unwrap();
            tale.refund(1, 8, 4999).unwrap();
            if cancelled {
                tale.append(1, event("order.cancelled", 1, "lost"));
            }
            tale.lose_after(before).unwrap();
            tale.tx("orders-1").order_row(1, "confirmed").commit()?;
            tale.end()
        };
        ends(true).unwrap();
        assert!(ends(false).is_err());
    }
}
