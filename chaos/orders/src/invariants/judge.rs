//! The judge: hears every witness in order, keeps the world, asks every checker, and tells the story of what broke.

use std::{collections::BTreeSet, time::Duration};

use stormglass_embedded::{broker, database};
use stormglass_orders::types::Money;
use stormglass_runtime::{Freshness, Timestamp};
use stormglass_sim::FaultClass;
use uuid::Uuid;

use super::{
    Commit, EndState, Evidence, Invariant, Setup, Verdict, Violation, World, accepted, accounted, attempts,
    effects, facts, freshness, key_order, legal, money, notified, outbox, positions, progress, saga, settles,
    stock, strikes,
};
use crate::{client, notifier, provider};

/// How often, in simulated time, checkers look for what does not happen.
const TICK: Duration = Duration::from_millis(250);

/// A story has at most so many steps; what lies in between is left out.
const CHAIN_MAX: usize = 10;

/// Every checker, fresh. Whoever has less evidence than a storm leaves out what that evidence cannot show.
pub fn checkers() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(accepted::AcceptedOrderKept::default()),
        Box::new(accepted::UnknownOrderWhole::default()),
        Box::new(effects::EffectOnce::default()),
        Box::new(key_order::KeyOrder::default()),
        Box::new(legal::LegalStates),
        Box::new(stock::StockConserved),
        Box::new(money::MoneyBalanced::default()),
        Box::new(outbox::PublishedIffWritten::default()),
        Box::new(accounted::Accounted),
        Box::new(positions::NoEarlyCommit::default()),
        Box::new(settles::Settles),
        Box::new(attempts::AttemptBudget::default()),
        Box::new(freshness::BoundedStaleness::default()),
        Box::new(progress::Progress::default()),
        Box::new(saga::SagaEndsOnce),
        Box::new(strikes::FaultFired),
        Box::new(notified::NotifiedOnce::default()),
    ]
}

/// Holds a run to every invariant.
pub struct Judge {
    world: World,
    checkers: Vec<Box<dyn Invariant>>,
    commits: Vec<Commit>,
    /// What those outside the system saw of orders, for their stories.
    outside: Vec<(Timestamp, Uuid, String)>,
    ticked: Timestamp,
}

impl Judge {
    /// A judge who has heard nothing yet.
    pub fn new(setup: Setup) -> Self {
        Self::with(setup, checkers())
    }

    /// A judge of some invariants only.
    pub fn with(setup: Setup, checkers: Vec<Box<dyn Invariant>>) -> Self {
        let (commits, outside) = (Vec::new(), Vec::new());
        Judge { world: World::new(setup), checkers, commits, outside, ticked: Timestamp::default() }
    }

    /// What is known so far.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Takes in one piece of evidence, heard at `at` of simulated wall time. See [`Evidence`] for the order.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn observe(&mut self, at: Timestamp, evidence: Evidence) -> Verdict {
        self.world.now = self.world.now.max(at);
        let verdict = match evidence {
            Evidence::Broker(seen) => self.broker(&seen),
            Evidence::Database(seen) => self.database(seen),
            Evidence::Provider(seen) => self.provider(&seen),
            Evidence::Notifier(seen) => self.notifier(&seen),
            Evidence::Client(seen) => self.client(&seen),
            Evidence::Strike(strike) => {
                self.world.strike(&strike);
                Ok(())
            }
        };
        verdict.map_err(|violation| self.tell(violation))
    }

    /// Lets time pass; to be called every simulated tick.
    ///
    /// # Errors
    /// An invariant that time itself breaks.
    pub fn tick(&mut self, now: Timestamp) -> Verdict {
        self.world.now = self.world.now.max(now);
        if self.world.now.since(self.ticked) < TICK {
            return Ok(());
        }
        self.ticked = self.world.now;
        let verdict = self.ask(|checker, world| checker.tick(world));
        verdict.map_err(|violation| self.tell(violation))
    }

    /// What still keeps the system from rest; `None` if nothing does. The calm ends then. It looks at every order, so
    /// ask every few dozen simulated milliseconds, not every tick.
    pub fn unsettled(&self) -> Option<String> {
        settles::unsettled(&self.world).map(|(what, _)| what)
    }

    /// The run is over.
    ///
    /// # Errors
    /// The first invariant that does not hold at the end.
    pub fn at_end(&mut self, end: &EndState) -> Verdict {
        let verdict = self.ask(|checker, world| checker.at_end(end, world));
        verdict.map_err(|violation| self.tell(violation))
    }

    fn ask(&mut self, mut question: impl FnMut(&mut dyn Invariant, &World) -> Verdict) -> Verdict {
        let world = &self.world;
        self.checkers.iter_mut().try_for_each(|checker| question(checker.as_mut(), world))
    }

    fn broker(&mut self, seen: &broker::Observed) -> Verdict {
        self.world.log.apply(seen);
        self.ask(|checker, world| checker.broker(seen, world))
    }

    fn client(&mut self, seen: &client::Observed) -> Verdict {
        if let client::Observed::Answered { answer: client::Answer::Accepted { order }, .. } = seen {
            self.outside.push((self.world.now, *order, "POST /v1/orders → 202".to_owned()));
        }
        self.ask(|checker, world| checker.client(seen, world))
    }

    fn provider(&mut self, seen: &provider::Observed) -> Verdict {
        match seen {
            provider::Observed::Captured { at, order, amount, charge, .. } => {
                self.outside.push((*at, *order, format!("provider took {} as {charge}", told(amount))));
            }
            provider::Observed::Refunded { at, order, amount, charge, .. } => {
                self.outside.push((*at, *order, format!("provider gave back {} of {charge}", told(amount))));
            }
            provider::Observed::Declined { at, order, .. } => {
                self.outside.push((*at, *order, "provider declined".to_owned()));
            }
            provider::Observed::Requested { .. }
            | provider::Observed::Failed { .. }
            | provider::Observed::Closed { .. }
            | provider::Observed::TurnedAway { .. } => {}
        }
        self.ask(|checker, world| checker.provider(seen, world))
    }

    fn notifier(&mut self, seen: &notifier::Observed) -> Verdict {
        if let notifier::Observed::Sent { at, order, kind, .. } = seen {
            self.outside.push((*at, *order, format!("notifier sent {kind}")));
        }
        self.ask(|checker, world| checker.notifier(seen, world))
    }

    fn database(&mut self, seen: database::Observed) -> Verdict {
        match seen {
            database::Observed::Committed { at, lsn, session, changes } => {
                let commit = Commit::sort((at, lsn, session), changes, &self.world.log, &self.world.tables);
                self.world.tables.apply(&commit);
                let verdict = self.ask(|checker, world| checker.committed(&commit, world));
                self.commits.push(commit);
                verdict
            }
            database::Observed::LostSuffix { lsn, .. } => self.lose(lsn),
            database::Observed::Read { .. } => self.ask(|checker, world| checker.database_read(&seen, world)),
        }
    }

    /// Takes back what the database lost, and shows the survivors to everyone again.
    fn lose(&mut self, survived: Freshness) -> Verdict {
        // A promotion goes on counting where the survivors ended, so the number alone tells.
        let kept = self.commits.iter().filter(|commit| commit.lsn.lsn <= survived.lsn).count();
        self.world.lost_suffix |= kept < self.commits.len();
        self.commits.retain(|commit| commit.lsn.lsn <= survived.lsn);
        self.world.tables = Default::default();
        self.checkers.iter_mut().for_each(|checker| checker.rewind());
        for commit in &self.commits {
            self.world.tables.apply(commit);
            for checker in &mut self.checkers {
                checker.committed(commit, &self.world)?;
            }
        }
        Ok(())
    }

    fn tell(&self, mut violation: Box<Violation>) -> Box<Violation> {
        if let Some(order) = violation.order {
            violation.chain = self.story(order, violation.at);
        }
        violation
    }

    /// What the witnesses say of an order, in the order of time, with the strikes in between.
    fn story(&self, order: Uuid, until: Timestamp) -> Vec<String> {
        let mut steps: Vec<(Timestamp, String)> = Vec::new();
        let outside = self.outside.iter().filter(|(_, of, _)| *of == order);
        steps.extend(outside.map(|(at, _, step)| (*at, step.clone())));
        let story = self.world.log.story(order).iter();
        steps.extend(story.map(|record| (record.appended, record.name())));
        for commit in &self.commits {
            steps.extend(tell_commit(commit, order).into_iter().map(|step| (commit.at, step)));
        }
        let first = steps.iter().map(|(at, _)| *at).min().unwrap_or(until);
        let struck = self.world.strikes.iter().filter(|(at, ..)| *at >= first && *at <= until);
        let mut told = BTreeSet::new();
        for (at, class, host) in struck {
            // Op-level faults strike all the time and everywhere; without their target they explain nothing.
            let explains =
                !matches!(class, FaultClass::PortError | FaultClass::LostAck | FaultClass::LateMessage);
            if explains && told.insert((*class, host)) {
                steps.push((*at, format!("[{} {class:?} {host}]", class.id()).replace(" ]", "]")));
            }
        }
        steps.sort_by_key(|(at, _)| *at);
        shorten(steps.into_iter().map(|(_, step)| step).collect())
    }
}

fn told(amount: &Money) -> String {
    facts::money(amount.minor, &amount.currency.to_string())
}

fn tell_commit(commit: &Commit, order: Uuid) -> Vec<String> {
    let mut steps = Vec::new();
    for taken in &commit.taken {
        if taken.record.as_ref().is_some_and(|record| record.order() == Some(order)) {
            steps.push(format!("{} took {}", commit.session, taken.entry.at));
        }
    }
    for change in commit.rows.iter().filter(|change| change.after.order() == Some(order)) {
        let table = change.name.split('/').next().unwrap_or_default();
        steps.push(format!("{} wrote {table} {}", commit.session, change.after.state()));
    }
    steps
}

/// Keeps the beginning and the end of a long story.
fn shorten(mut steps: Vec<String>) -> Vec<String> {
    if steps.len() > CHAIN_MAX {
        let (head, tail) = (CHAIN_MAX / 3, CHAIN_MAX - CHAIN_MAX / 3);
        let left_out = steps.len() - CHAIN_MAX;
        steps.splice(head..steps.len() - tail, [format!("… {left_out} more …")]);
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stormglass_runtime::derive_id;
    use uuid::Uuid;

    use super::super::testkit::{Tale, event_of, placed_as};
    use crate::client::{Answer, Asked};

    fn order() -> Uuid {
        derive_id("order/v1", &[b"acme", b"k1"])
    }

    fn accepted(tale: &mut Tale) {
        let (tenant, idempotency_key) = ("acme".to_owned(), "k1".to_owned());
        tale.append(0, placed_as(order()));
        let asked = Asked::Place { tenant, idempotency_key, total_minor: 4999 };
        tale.exchange(asked, Answer::Accepted { order: order() }).unwrap();
    }

    fn mug(state: &str) -> Value {
        json!({ state: [{ "sku": "mug", "quantity": 1 }] })
    }

    /// payments asks, the provider captures, payment.captured is published at offset 1.
    fn paid(tale: &mut Tale) {
        let capture =
            json!({ "customer": "ann", "amount": { "minor": 4999, "currency": "EUR" }, "charge": "ch-7" });
        let event = event_of("payment.captured", order(), "captured");
        tale.tx("payments-1")
            .take("payments", 0)
            .queue_call("payments", 0, 1)
            .row_of("payments", order(), json!({ "Asked": Uuid::nil() }))
            .at("payments", 1)
            .commit()
            .unwrap();
        tale.charge_of(order(), 7, 4999).unwrap();
        let settled = tale.tx("payments-1").dequeue("payments", 1).row_of(
            "payments",
            order(),
            json!({ "Captured": capture }),
        );
        settled.emit(1, "captured", event.clone()).commit().unwrap();
        tale.append(1, event);
        tale.tx("relay-1").delete_outbox(1).commit().unwrap();
    }

    /// inventory reserves, stock.reserved is published at offset 2.
    fn reserved(tale: &mut Tale) {
        let event = event_of("stock.reserved", order(), "reserved");
        let lane = tale.tx("inventory-1").take("inventory", 0).at("inventory", 2).stock("mug", (9, 1, 0));
        lane.row_of("reservations", order(), mug("Reserved"))
            .emit(2, "reserved", event.clone())
            .commit()
            .unwrap();
        tale.append(2, event);
        tale.tx("relay-1").delete_outbox(2).commit().unwrap();
    }

    /// orders confirms, order.confirmed is published at offset 3, inventory sells, notifications tells.
    fn confirmed(tale: &mut Tale) {
        let event = event_of("order.confirmed", order(), "confirmed");
        tale.tx("orders-1").take("orders", 0).order_row_of(order(), "open").at("orders", 1).commit().unwrap();
        let lane = tale.tx("orders-1").take("orders", 1).take("orders", 2).order_row_of(order(), "confirmed");
        lane.emit(3, "confirmed", event.clone()).at("orders", 3).commit().unwrap();
        tale.append(3, event);
        tale.tx("relay-1").delete_outbox(3).commit().unwrap();
        let lane = tale.tx("inventory-1").take("inventory", 3).at("inventory", 4).stock("mug", (9, 0, 1));
        lane.row_of("reservations", order(), mug("Sold")).commit().unwrap();
        let lane = tale.tx("notifications-1").take("notifications", 3).queue_call("notifications", 3, 2);
        lane.at("notifications", 4).commit().unwrap();
        tale.notify_of(order(), 8).unwrap();
        tale.tx("notifications-1").dequeue("notifications", 2).commit().unwrap();
    }

    #[test]
    fn order_that_goes_well_satisfies_every_checker() {
        let mut tale = Tale::of_all();
        tale.tx("shelves").stock("mug", (10, 0, 0)).commit().unwrap();
        accepted(&mut tale);
        assert!(tale.unsettled().is_some());
        paid(&mut tale);
        reserved(&mut tale);
        confirmed(&mut tale);
        tale.heal();
        tale.wait_ms(30_000).unwrap();
        assert_eq!(tale.unsettled(), None);
        tale.end().unwrap();
    }

    #[test]
    fn violation_tells_the_story_of_its_order() {
        let mut tale = Tale::of_all();
        accepted(&mut tale);
        tale.tx("payments-1").take("payments", 0).queue_call("payments", 0, 1).commit().unwrap();
        tale.charge_of(order(), 7, 4999).unwrap();
        let violation = tale.charge_of(order(), 9, 4999).unwrap_err();
        assert_eq!(
            violation.chain,
            [
                "order.placed at orders@0:0",
                "POST /v1/orders → 202",
                "payments-1 took orders@0:0",
                "provider took 49.99 EUR as ch-7",
                "provider took 49.99 EUR as ch-9",
            ]
        );
        assert!(
            violation.to_string().contains("expected at most one captured payment per order; got ch-7, ch-9")
        );
    }

    #[test]
    fn suffix_that_is_lost_and_replayed_satisfies_every_checker() {
        let mut tale = Tale::of_all();
        tale.tx("shelves").stock("mug", (10, 0, 0)).commit().unwrap();
        accepted(&mut tale);
        let before = tale.lsn();
        reserved_without_publishing(&mut tale);
        tale.lose_after(before).unwrap();
        reserved_without_publishing(&mut tale);
    }

    fn reserved_without_publishing(tale: &mut Tale) {
        let event = event_of("stock.reserved", order(), "reserved");
        let lane = tale.tx("inventory-1").take("inventory", 0).at("inventory", 1).stock("mug", (9, 1, 0));
        lane.row_of("reservations", order(), mug("Reserved")).emit(1, "reserved", event).commit().unwrap();
    }
}
