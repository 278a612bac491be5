//! What clients do in a storm: every operation with its time, explicit in the case file.
//!
//! Everything about an order is drawn by the order's number, so taking one operation out of a case changes no other.
//! Some orders are asked for again under the same Idempotency-Key, by another client, some of these with another body;
//! some are cancelled, looked at and listed. An operator looks after what has died meanwhile, in some storms.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use stormglass_sim::Dice;

use crate::{
    plan::STORM_MS,
    shape::{CONSUMERS, Shape},
};

/// Who orders. Each has shelves of its own.
pub const TENANTS: [&str; 2] = ["acme", "globex"];

/// Orders come in this part of the storm, in milliseconds since the start.
const PLACED_MS: std::ops::Range<u64> = 100..4_400;

/// The operator comes in this part of the storm: not before something can have died.
const DUTIES_MS: std::ops::Range<u64> = 1_200..4_900;

/// One thing that one client does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// When it begins, in milliseconds since the client's start.
    pub at_ms: u64,
    /// Who does it: the client's number, from 0. Of no account where it is the operator's duty.
    pub client: u32,
    /// What.
    pub action: Action,
}

impl Operation {
    /// Whether it is an order's first placing.
    pub fn places_order(&self) -> bool {
        matches!(self.action, Action::Place(_))
    }

    /// Whether the operator does it, and no client.
    pub fn is_duty(&self) -> bool {
        match self.action {
            Action::Redrive { .. } | Action::Discard { .. } => true,
            Action::Place(_)
            | Action::Repeat(_)
            | Action::Cancel(_)
            | Action::Read(_)
            | Action::List { .. } => false,
        }
    }
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Places an order, repeating the request until it is answered for good.
    Place(Basket),
    /// Places an order under an Idempotency-Key that some client has used already, or will.
    Repeat(Basket),
    /// Asks to cancel an order that this client was told is accepted.
    Cancel(OrderRef),
    /// Looks at an order that this client was told is accepted.
    Read(OrderRef),
    /// Lists the tenant's orders.
    List {
        /// Whose.
        tenant: String,
    },
    /// The operator puts all dead letters of a consumer back into its queue.
    Redrive {
        /// Whose.
        consumer: String,
    },
    /// The operator deletes the oldest dead letter of a consumer.
    Discard {
        /// Whose.
        consumer: String,
    },
}

/// An order to place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basket {
    /// For whom.
    pub tenant: String,
    /// The Idempotency-Key.
    pub key: String,
    /// Whom it is for.
    pub customer: String,
    /// ISO 4217.
    pub currency: String,
    /// How many times the client looks at the order afterwards.
    #[serde(default)]
    pub follow: u32,
    /// What is ordered.
    pub lines: Vec<Line>,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Of what.
    pub sku: String,
    /// How many.
    pub quantity: i64,
    /// Each, in minor units.
    pub unit_price_minor: i64,
}

impl Basket {
    /// What it costs, in minor units.
    pub fn total_minor(&self) -> i64 {
        self.lines.iter().map(|line| line.quantity * line.unit_price_minor).sum()
    }

    /// The same order by name.
    pub fn order(&self) -> OrderRef {
        OrderRef { tenant: self.tenant.clone(), key: self.key.clone() }
    }
}

/// Names an order as its client does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRef {
    /// Whose.
    pub tenant: String,
    /// The Idempotency-Key that it was placed under.
    pub key: String,
}

/// The name of a stock-keeping unit.
pub fn sku(number: u32) -> String {
    format!("sku-{number:02}")
}

/// Draws what the clients of `shape` do around `orders` orders, by time.
pub fn draw(shape: &Shape, orders: u64, seed: u64) -> Vec<Operation> {
    let dice = Dice::new(seed).for_site("workload");
    let mut operations: Vec<Operation> = (0..orders)
        .flat_map(|number| OrderDraw { shape, dice, number: u128::from(number) }.operations())
        .chain(duties(dice))
        .collect();
    operations.sort_by_key(|operation| (operation.at_ms, operation.client));
    operations
}

/// What the operator does: nothing in some storms, so that dead letters stay; else a few things in the storm, and in the
/// calm a redrive of everything that was not discarded.
fn duties(dice: Dice) -> Vec<Operation> {
    if !dice.chance("operator", 0, 0, 0.6) {
        return Vec::new();
    }
    let duty = |(site, number): (&str, usize), at_ms, discards| {
        let consumer = CONSUMERS[number % CONSUMERS.len()].to_owned();
        let action = if dice.chance(site, number as u128, 0, discards) {
            Action::Discard { consumer }
        } else {
            Action::Redrive { consumer }
        };
        Operation { at_ms, client: 0, action }
    };
    let duties = usize::try_from(dice.between("duties", 0, 0, 2..9)).unwrap_or(0);
    let stormy = (0..duties).map(|number| {
        let at_ms = dice.between("duty-at", number as u128, 0, DUTIES_MS);
        duty(("duty", number), at_ms, 0.3)
    });
    let calm_ms = STORM_MS + dice.between("duty-in-the-calm", 0, 0, 200..3_000);
    let all = 0..CONSUMERS.len();
    let calm = all.clone().map(|number| duty(("calm", number), calm_ms, 0.2));
    let rest = all.map(|number| duty(("rest", number), calm_ms + 100, 0.0));
    stormy.chain(calm).chain(rest).collect()
}

/// The draws around one order.
struct OrderDraw<'a> {
    shape: &'a Shape,
    dice: Dice,
    number: u128,
}

impl OrderDraw<'_> {
    fn operations(&self) -> Vec<Operation> {
        let placed_ms = self.between("at", PLACED_MS);
        let client = self.number_below("client", self.shape.clients);
        let at = |at_ms: u64, action| Operation { at_ms, client, action };
        let basket = self.basket();
        let order = basket.order();
        let mut operations = vec![at(placed_ms, Action::Place(basket.clone()))];
        operations.extend(self.repeat(placed_ms, client, &basket));
        if self.chance("cancel", 0.12) {
            operations
                .push(at(placed_ms + self.between("cancel-after", 50..2_500), Action::Cancel(order.clone())));
        }
        if self.chance("read", 0.25) {
            operations.push(at(placed_ms + self.between("read-after", 100..4_000), Action::Read(order)));
        }
        if self.chance("list", 0.08) {
            operations.push(at(
                placed_ms + self.between("list-after", 0..3_000),
                Action::List { tenant: basket.tenant },
            ));
        }
        operations
    }

    /// The same key again: a little earlier or later, by this client or another, with this body or another.
    fn repeat(&self, placed_ms: u64, client: u32, basket: &Basket) -> Option<Operation> {
        if !self.chance("repeat", 0.15) {
            return None;
        }
        let at_ms = (placed_ms + self.between("repeat-at", 0..1_500)).saturating_sub(300);
        let client = (client + self.number_below("repeat-by", 2)) % self.shape.clients;
        let mut basket = Basket { follow: 0, ..basket.clone() };
        if self.chance("other-body", 0.3) {
            basket.lines.iter_mut().for_each(|line| line.unit_price_minor += 1);
        }
        Some(Operation { at_ms, client, action: Action::Repeat(basket) })
    }

    fn basket(&self) -> Basket {
        let tenant = self.number_below("tenant", TENANTS.len() as u32) as usize;
        let lines = u64::from(self.shape.skus.min(2));
        let skus: BTreeSet<u32> = (0..self.between("lines", 1..lines + 1))
            .map(|line| {
                u32::try_from(self.dice.word("sku", self.number, line as u32) % u64::from(self.shape.skus))
                    .unwrap_or(0)
            })
            .collect();
        let line = |sku: u32| Line {
            sku: self::sku(sku),
            quantity: self.signed("quantity", sku, 1..4),
            unit_price_minor: self.signed("price", sku, 99..9_999),
        };
        Basket {
            tenant: TENANTS[tenant].to_owned(),
            key: format!("order-{}", self.number),
            customer: format!("customer-{}", self.between("customer", 0..40)),
            currency: if tenant == 0 { "EUR" } else { "JPY" }.to_owned(),
            follow: if self.chance("follow", 0.3) { self.number_below("follows", 8) + 1 } else { 0 },
            lines: skus.into_iter().map(line).collect(),
        }
    }

    fn chance(&self, site: &str, rate: f64) -> bool {
        self.dice.chance(site, self.number, 0, rate)
    }

    fn between(&self, site: &str, range: std::ops::Range<u64>) -> u64 {
        self.dice.between(site, self.number, 0, range)
    }

    fn signed(&self, site: &str, line: u32, range: std::ops::Range<u64>) -> i64 {
        i64::try_from(self.dice.between(site, self.number, line, range)).unwrap_or(1)
    }

    fn number_below(&self, site: &str, limit: u32) -> u32 {
        u32::try_from(self.between(site, 0..u64::from(limit))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use stormglass_orders::types;

    use super::*;

    fn shape() -> Shape {
        crate::plan::draw(crate::scenarios::find("checkout").unwrap(), 1).shape
    }

    #[test]
    fn operations_survive_the_case_file() {
        for operation in draw(&shape(), 50, 7) {
            let text = toml::to_string(&operation).unwrap();
            assert_eq!(toml::from_str::<Operation>(&text).unwrap(), operation, "{text}");
        }
    }

    #[test]
    fn orders_are_what_the_gateway_accepts() {
        for operation in draw(&shape(), 200, 7) {
            if let Action::Place(basket) | Action::Repeat(basket) = operation.action {
                let body = crate::client::body(&basket);
                let parts: types::BasketParts = serde_json::from_value(body).unwrap();
                assert_eq!(types::Basket::try_from(parts).unwrap().total().minor, basket.total_minor());
            }
        }
    }

    #[test]
    fn one_order_more_changes_no_other_order() {
        let of_first = |orders| {
            let mine = |operation: &Operation| match &operation.action {
                Action::Place(basket) | Action::Repeat(basket) => basket.key == "order-0",
                Action::Cancel(order) | Action::Read(order) => order.key == "order-0",
                Action::List { .. } | Action::Redrive { .. } | Action::Discard { .. } => false,
            };
            draw(&shape(), orders, 7).into_iter().filter(mine).collect::<Vec<_>>()
        };
        assert_eq!(of_first(1), of_first(100));
    }

    #[test]
    fn some_storms_have_an_operator_who_comes_again_in_the_calm() {
        let shape = shape();
        let duties = |seed| draw(&shape, 10, seed).into_iter().filter(Operation::is_duty).collect::<Vec<_>>();
        let (with, without): (Vec<_>, Vec<_>) = (0..40).map(duties).partition(|duties| !duties.is_empty());
        assert!(with.len() > 10 && without.len() > 5, "{} {}", with.len(), without.len());
        for duties in &with {
            assert!(duties.last().is_some_and(|duty| duty.at_ms > STORM_MS), "{duties:?}");
        }
        let discards = with.iter().flatten().filter(|duty| matches!(duty.action, Action::Discard { .. }));
        assert!(discards.count() > 3);
    }

    #[test]
    fn every_kind_of_operation_occurs() {
        let operations = draw(&shape(), 120, 7);
        let count =
            |is: fn(&Action) -> bool| operations.iter().filter(|operation| is(&operation.action)).count();
        assert_eq!(count(|action| matches!(action, Action::Place(_))), 120);
        assert!(count(|action| matches!(action, Action::Repeat(_))) > 5);
        assert!(count(|action| matches!(action, Action::Cancel(_))) > 5);
        assert!(count(|action| matches!(action, Action::Read(_))) > 10);
        assert!(count(|action| matches!(action, Action::List { .. })) > 2);
    }
}
