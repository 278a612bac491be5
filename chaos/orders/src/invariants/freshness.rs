//! I14 `bounded-staleness`: what was read with a token is no older than the token, and is what the database had then.
//!
//! After a suffix was lost only the tokens are compared: what an answer of the lost timeline showed is gone.

use std::collections::BTreeMap;

use stormglass_embedded::database;
use stormglass_runtime::Freshness;
use uuid::Uuid;

use super::{Commit, Fact, Invariant, Rule, Verdict, Violation, World};
use crate::client::{Answer, Asked, ExchangeId, Observed};

/// See the module.
#[derive(Default)]
pub struct BoundedStaleness {
    /// What each order looked like, from which log sequence number on.
    history: BTreeMap<Uuid, Vec<(u64, &'static str)>>,
    asked: BTreeMap<ExchangeId, (Option<Uuid>, Option<Freshness>)>,
}

const RULE: Rule = Rule {
    id: "I14",
    name: "bounded-staleness",
    statement: "a read with a token is at least as fresh as the token, and shows what the database had at that point",
    evidence: "client answers and the database's reads against tokens and the rows at that point of its log",
};

/// As clients see it.
fn shown(fact: &Fact) -> Option<(Uuid, &'static str)> {
    let Fact::Order(order) = fact else { return None };
    let status = if order.state.is_final() { order.state.name() } else { "pending" };
    Some((order.subject.order, status))
}

impl Invariant for BoundedStaleness {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, _world: &World) -> Verdict {
        for (order, status) in commit.rows.iter().filter_map(|change| shown(&change.after)) {
            self.history.entry(order).or_default().push((commit.lsn.lsn, status));
        }
        Ok(())
    }

    fn rewind(&mut self) {
        self.history.clear();
    }

    fn database_read(&mut self, seen: &database::Observed, world: &World) -> Verdict {
        let database::Observed::Read { node, at_least: Some(at_least), lsn, .. } = seen else {
            return Ok(());
        };
        if lsn >= at_least || world.lost_suffix {
            return Ok(());
        }
        Err(Violation::new(RULE, world, format!("database node {node} answered a read with an older state"))
            .expected(format!("at least {}", say(*at_least)), say(*lsn)))
    }

    fn client(&mut self, seen: &Observed, world: &World) -> Verdict {
        match seen {
            Observed::Sent { exchange, asked, .. } => {
                match asked {
                    Asked::Read { order, at_least } => {
                        self.asked.insert(*exchange, (Some(*order), *at_least))
                    }
                    Asked::List { at_least, .. } => self.asked.insert(*exchange, (None, *at_least)),
                    Asked::Place { .. } | Asked::Cancel { .. } => None,
                };
                Ok(())
            }
            Observed::Answered { exchange, answer, .. } => {
                let Some((order, at_least)) = self.asked.remove(exchange) else { return Ok(()) };
                self.answered(order, at_least, (answer, world))
            }
        }
    }
}

impl BoundedStaleness {
    fn answered(&self, order: Option<Uuid>, at_least: Option<Freshness>, seen: (&Answer, &World)) -> Verdict {
        let (answer, world) = seen;
        match answer {
            Answer::Found { status, fresh, .. } => {
                not_older(order, at_least, *fresh, world)?;
                match (order, fresh) {
                    (Some(order), Some(fresh)) => self.as_stored(order, status, *fresh, world),
                    _ => Ok(()),
                }
            }
            Answer::Listed { orders, fresh } => {
                not_older(None, at_least, *fresh, world)?;
                let Some(fresh) = fresh else { return Ok(()) };
                orders.iter().try_for_each(|(order, status)| self.as_stored(*order, status, *fresh, world))
            }
            Answer::Absent => match (order, at_least) {
                (Some(order), Some(at_least)) => self.as_stored(order, "absent", at_least, world),
                _ => Ok(()),
            },
            Answer::Accepted { .. }
            | Answer::CancelAccepted
            | Answer::Refused { .. }
            | Answer::Unknown { .. } => Ok(()),
        }
    }

    fn as_stored(&self, order: Uuid, status: &str, fresh: Freshness, world: &World) -> Verdict {
        if world.lost_suffix {
            return Ok(());
        }
        let history = self.history.get(&order).map_or(&[][..], Vec::as_slice);
        let stored = history.iter().rev().find(|(lsn, _)| *lsn <= fresh.lsn).map(|(_, status)| *status);
        let agrees = match (stored, status) {
            // A receipt stands for an order that the database does not have yet.
            (None, "pending" | "absent") => true,
            // What is absent at the token may have come since; not the other way round.
            (Some(_), "absent") => false,
            (stored, status) => stored == Some(status),
        };
        if agrees {
            return Ok(());
        }
        Err(Violation::new(RULE, world, format!("order {order} was shown as {status} at {}", say(fresh)))
            .expected(stored.unwrap_or("no such order"), status)
            .about(order))
    }
}

fn not_older(
    order: Option<Uuid>,
    at_least: Option<Freshness>,
    fresh: Option<Freshness>,
    world: &World,
) -> Verdict {
    let (Some(at_least), Some(fresh)) = (at_least, fresh) else { return Ok(()) };
    if fresh >= at_least || world.lost_suffix {
        return Ok(());
    }
    let what = order.map_or("a list of orders".to_owned(), |order| format!("order {order}"));
    Err(Violation::new(RULE, world, format!("{what} was shown as it was before"))
        .expected(format!("at least {}", say(at_least)), say(fresh))
        .about(order))
}

fn say(freshness: Freshness) -> String {
    format!("lsn {}/{}", freshness.timeline, freshness.lsn)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{Tale, order_id},
        BoundedStaleness,
    };
    use crate::client::{Answer, Asked};

    /// An order that was pending and then confirmed; the tokens of both.
    fn confirmed() -> (Tale, [stormglass_runtime::Freshness; 2]) {
        let mut tale = Tale::of(BoundedStaleness::default());
        tale.tx("w").order_row(1, "open").commit().unwrap();
        let open = tale.lsn();
        tale.tx("w").order_row(1, "confirmed").commit().unwrap();
        let confirmed = tale.lsn();
        (tale, [open, confirmed])
    }

    fn found(status: &str, fresh: stormglass_runtime::Freshness) -> Answer {
        Answer::Found { status: status.to_owned(), total_minor: None, fresh: Some(fresh) }
    }

    fn read(at_least: Option<stormglass_runtime::Freshness>) -> Asked {
        Asked::Read { order: order_id(1), at_least }
    }

    #[test]
    fn reads_that_show_what_was_stored_are_fine() {
        let (mut tale, [open, confirmed]) = confirmed();
        tale.exchange(read(None), found("pending", open)).unwrap();
        tale.exchange(read(Some(open)), found("confirmed", confirmed)).unwrap();
    }

    #[test]
    fn read_that_is_older_than_its_token_is_caught() {
        let (mut tale, [open, confirmed]) = confirmed();
        assert!(tale.exchange(read(Some(confirmed)), found("pending", open)).is_err());
    }

    #[test]
    fn read_that_shows_another_state_than_its_token_says_is_caught() {
        let (mut tale, [_, confirmed]) = confirmed();
        let violation = tale.exchange(read(None), found("pending", confirmed)).unwrap_err();
        assert_eq!((violation.expected.as_str(), violation.got.as_str()), ("confirmed", "pending"));
    }

    #[test]
    fn order_that_vanishes_is_caught() {
        let (mut tale, [open, _]) = confirmed();
        assert!(tale.exchange(read(Some(open)), Answer::Absent).is_err());
    }

    #[test]
    fn list_that_shows_a_stale_order_is_caught() {
        let (mut tale, [_, confirmed]) = confirmed();
        let list = Asked::List { tenant: "acme".to_owned(), at_least: None };
        let orders = vec![(order_id(1), "pending".to_owned())];
        assert!(tale.exchange(list, Answer::Listed { orders, fresh: Some(confirmed) }).is_err());
    }
}
