//! I6 `stock-conserved`: nothing is below zero, nothing appears or vanishes, and only reservations move items.

use std::collections::BTreeMap;

use super::{
    Commit, Fact, Invariant, Rule, Verdict, Violation, World,
    facts::{Item, Reservation, ReservationState, Stock},
};

/// See the module.
#[derive(Default)]
pub struct StockConserved;

const RULE: Rule = Rule {
    id: "I6",
    name: "stock-conserved",
    statement: "available + reserved + sold of a SKU is constant, none below zero, and each item moves with its reservation",
    evidence: "every committed change of stock against the reservations of the same transaction",
};

/// How many items moved into (reserved, sold).
type Moves = BTreeMap<String, (i64, i64)>;

impl Invariant for StockConserved {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        let (mut counted, mut reserved) = (Moves::new(), Moves::new());
        for change in &commit.rows {
            match (change.before.as_deref(), &*change.after) {
                (before, Fact::Stock(after)) => {
                    let before = match before {
                        Some(Fact::Stock(before)) => Some(before),
                        _ => None,
                    };
                    self.supply_is_constant(after, world)?;
                    let moves = counted.entry(name(after)).or_default();
                    moves.0 += after.reserved - before.map_or(0, |before| before.reserved);
                    moves.1 += after.sold - before.map_or(0, |before| before.sold);
                }
                (before, Fact::Reservation(after)) => note(before, after, &mut reserved),
                _ => {}
            }
        }
        reserved.retain(|_, moves| *moves != (0, 0));
        counted.retain(|_, moves| *moves != (0, 0));
        if counted == reserved {
            return Ok(());
        }
        let sku = counted.keys().chain(reserved.keys()).find(|sku| counted.get(*sku) != reserved.get(*sku));
        let Some(sku) = sku else { return Ok(()) };
        let say = |moves: &Moves| {
            let (held, sold) = moves.get(sku).copied().unwrap_or_default();
            format!("{held:+} reserved, {sold:+} sold")
        };
        let order = commit.rows.iter().find_map(|change| change.after.order());
        Err(Violation::new(RULE, world, format!("stock of {sku} moved apart from its reservation"))
            .expected(say(&reserved), say(&counted))
            .about(order))
    }
}

fn name(stock: &Stock) -> String {
    format!("{}/{}", stock.tenant, stock.sku)
}

fn note(before: Option<&Fact>, after: &Reservation, moves: &mut Moves) {
    if let Some(Fact::Reservation(before)) = before {
        add(before, -1, moves);
    }
    add(after, 1, moves);
}

fn add(reservation: &Reservation, sign: i64, moves: &mut Moves) {
    let (items, held): (&[Item], bool) = match &reservation.state {
        ReservationState::Reserved(items) => (items, true),
        ReservationState::Sold(items) => (items, false),
        ReservationState::Barred | ReservationState::Rejected(_) | ReservationState::Released(_) => return,
    };
    for Item { sku, quantity } in items {
        let moves = moves.entry(format!("{}/{sku}", reservation.subject.tenant)).or_default();
        *(if held { &mut moves.0 } else { &mut moves.1 }) += sign * quantity;
    }
}

impl StockConserved {
    fn supply_is_constant(&self, stock: &Stock, world: &World) -> Verdict {
        let sku = name(stock);
        let Stock { available, reserved, sold, .. } = stock;
        let got = format!("{available} available, {reserved} reserved, {sold} sold");
        let violation = |subject: String, expected: String| {
            Err(Violation::new(RULE, world, subject).expected(expected, got.clone()))
        };
        if *available < 0 || *reserved < 0 || *sold < 0 {
            return violation(format!("stock of {sku} fell below zero"), "no negative count".to_owned());
        }
        let shelves = &world.setup.stock;
        let supply = shelves.get(&sku).or_else(|| shelves.get(&stock.sku)).copied().unwrap_or(0);
        if available + reserved + sold == supply {
            return Ok(());
        }
        violation(format!("stock of {sku} is not conserved"), format!("{supply} in all"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::{super::testkit::Tale, StockConserved};

    /// Ten mugs, two of them held for order 1.
    fn two_held() -> Tale {
        let mut tale = Tale::of(StockConserved);
        tale.tx("setup").stock("mug", (10, 0, 0)).commit().unwrap();
        let held = json!({ "Reserved": [{ "sku": "mug", "quantity": 2 }] });
        tale.tx("w").stock("mug", (8, 2, 0)).row("reservations", 1, held).commit().unwrap();
        tale
    }

    #[test]
    fn items_that_are_held_and_sold_are_fine() {
        let sold = json!({ "Sold": [{ "sku": "mug", "quantity": 2 }] });
        two_held().tx("w").stock("mug", (8, 0, 2)).row("reservations", 1, sold).commit().unwrap();
    }

    #[rstest]
    #[case::below_zero((-1, 11, 0), "below zero")]
    #[case::vanished((7, 2, 0), "not conserved")]
    #[case::held_twice_by_one_reservation((6, 4, 0), "apart from its reservation")]
    fn lost_or_doubled_items_are_caught(#[case] stock: (i64, i64, i64), #[case] subject: &str) {
        let violation = two_held().tx("w").stock("mug", stock).commit().unwrap_err();
        assert!(violation.subject.contains(subject), "{violation}");
    }

    #[test]
    fn reservation_that_moves_no_stock_is_caught() {
        let released = json!({ "Released": [{ "sku": "mug", "quantity": 2 }] });
        let violation = two_held().tx("w").row("reservations", 1, released).commit().unwrap_err();
        assert_eq!(violation.expected, "-2 reserved, +0 sold");
    }
}
