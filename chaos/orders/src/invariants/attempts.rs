//! I12 `attempt-budget`: attempts are counted durably, stay within the budget, and wait for their time.
//!
//! A call whose outcome is unknown is *asked* about after its budget is used up, for as long as that takes; those
//! claims raise `attempts` too, so for rows with a call the budget is held at the provider's own door: it is the
//! number of requests that it accepted for one charge or refund.
//!
//! The budget is also what an event has a right to: dead letters excuse much, so one that gave up early is refused. In
//! these storms nothing is refused for good, except what follows from another dead letter or from a lost suffix. A
//! redrive begins a new budget.
//!
//! While the provider turns everything away no attempt may count (DESIGN G4): whoever was turned away often enough in a
//! row has opened its circuit, and comes with a probe now and then, but not with every event that is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use stormglass_runtime::{ConsumerName, EventId, Pending, Timestamp};
use uuid::Uuid;

use super::{Commit, Invariant, Queued, Rule, Verdict, Violation, World, log::order_of};
use crate::provider::{self, Kind};

/// See the module.
#[derive(Default)]
pub struct AttemptBudget {
    requests: BTreeMap<(Uuid, Kind), u32>,
    /// How often an event of payments was redriven, by its order.
    redriven: BTreeMap<Uuid, u32>,
    /// Orders of which some event has died, with those events.
    died: BTreeSet<(Uuid, ConsumerName, EventId)>,
    /// Since when a caller's circuit must be open.
    opened: BTreeMap<u64, Opened>,
}

/// A caller that was turned away often enough.
struct Opened {
    at: Timestamp,
    /// How often it came since, after [`HEARD_WITHIN`].
    probes: u32,
}

/// Until the circuit is open everywhere, calls that had begun before are on their way: what is slow, or was held up by
/// a cut, comes within this.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

const RULE: Rule = Rule {
    id: "I12",
    name: "attempt-budget",
    statement: "no event is attempted more often than its budget, before it is due, or uncounted, and none is given up before",
    evidence: "every change of a queue row, and the requests that the provider accepted",
};

impl Invariant for AttemptBudget {
    fn rule(&self) -> Rule {
        RULE
    }

    fn committed(&mut self, commit: &Commit, world: &World) -> Verdict {
        for queued in &commit.queued {
            let Some(after) = &queued.after else { continue };
            self.note(queued, after);
            let found = broken(queued, after, commit, world).or_else(|| self.unearned(queued, after, world));
            let Some((expected, got)) = found else { continue };
            let subject = format!("{} attempted {}", queued.consumer, after.origin);
            return Err(Violation::new(RULE, world, subject)
                .expected(expected, got)
                .about(order_of(&after.id.key)));
        }
        Ok(())
    }

    fn rewind(&mut self) {
        (self.redriven, self.died) = Default::default();
    }

    fn provider(&mut self, seen: &provider::Observed, world: &World) -> Verdict {
        if let provider::Observed::TurnedAway { at, caller, in_a_row } = seen {
            return self.turned_away(*at, (*caller, *in_a_row), world);
        }
        let Some((order, kind)) = seen.request() else { return Ok(()) };
        let requests = self.requests.entry((order, kind)).or_default();
        *requests += 1;
        let budgets = 1 + self.redriven.get(&order).copied().unwrap_or(0);
        let most = world.setup.attempts_max * budgets;
        // A lost suffix takes counted attempts along: they are made again.
        if *requests <= most || world.lost_suffix {
            return Ok(());
        }
        Err(Violation::new(RULE, world, format!("the provider was asked {requests} times for one {kind:?}"))
            .expected(format!("at most {most} attempts"), requests.to_string())
            .about(order))
    }
}

impl AttemptBudget {
    fn note(&mut self, queued: &Queued, after: &Pending) {
        let Some(order) = queued.order() else { return };
        if queued.redriven() && queued.consumer.as_str() == "payments" {
            *self.redriven.entry(order).or_default() += 1;
        }
        if queued.died() {
            self.died.insert((order, queued.consumer.clone(), after.event_id));
        }
    }

    /// Twice what the circuit lets through is let pass: a probe may cross another that was held up.
    fn turned_away(&mut self, at: Timestamp, (caller, in_a_row): (u64, u32), world: &World) -> Verdict {
        let (threshold, open_for) = world.setup.circuit;
        match in_a_row.cmp(&threshold) {
            std::cmp::Ordering::Less => return Ok(()),
            std::cmp::Ordering::Equal => drop(self.opened.insert(caller, Opened { at, probes: 0 })),
            std::cmp::Ordering::Greater => {}
        }
        let Some(opened) = self.opened.get_mut(&caller) else { return Ok(()) };
        let Some(since) = at.since(opened.at).checked_sub(HEARD_WITHIN) else { return Ok(()) };
        opened.probes += 1;
        let most = 2 * (since.div_duration_f64(open_for) as u32 + 1);
        if opened.probes <= most {
            return Ok(());
        }
        let subject =
            format!("a caller whom the provider turned away {in_a_row} times in a row came again and again");
        let said = |times| format!("{times} times in {} ms", since.as_millis());
        Err(Violation::new(RULE, world, subject)
            .expected(format!("at most {}", said(most)), said(opened.probes)))
    }

    /// Whether a row died before its attempts were used up, as (expected, got).
    fn unearned(&self, queued: &Queued, after: &Pending, world: &World) -> Option<(String, String)> {
        let budget = world.setup.attempts_max;
        if !queued.died() || after.attempts >= budget || world.lost_suffix {
            return None;
        }
        let order = queued.order()?;
        let is_other = |(of, consumer, event): &(Uuid, ConsumerName, EventId)| {
            *of == order && (*consumer != queued.consumer || *event != after.event_id)
        };
        if self.died.iter().any(is_other) {
            return None;
        }
        Some((
            format!("{budget} attempts before it is a dead letter"),
            format!("a dead letter after {}", after.attempts),
        ))
    }
}

/// What is wrong with a change of a queue row, as (expected, got).
fn broken(queued: &Queued, after: &Pending, commit: &Commit, world: &World) -> Option<(String, String)> {
    let budget = world.setup.attempts_max;
    let claimed_anew =
        after.claim.is_some() && queued.before.as_ref().is_none_or(|before| before.claim != after.claim);
    // A claim beyond the budget attempts nothing: it finds that all attempts ended in crashes, and buries the event. It
    // may crash as well and be followed by another, but nothing else may come of it.
    if after.call.is_none() && after.attempts > budget && after.dead_at.is_none() && !claimed_anew {
        return Some((format!("at most {budget} attempts"), after.attempts.to_string()));
    }
    let before = queued.before.as_ref()?;
    let counted = format!("{} after {}", after.attempts, before.attempts);
    if after.attempts < before.attempts && !may_fall(before, after, budget) {
        return Some(("attempts that survive".to_owned(), counted));
    }
    if after.attempts > before.attempts + 1 {
        return Some(("attempts counted one by one".to_owned(), counted));
    }
    let claimed = after.attempts > before.attempts && claimed_anew;
    if claimed && commit.at < before.due {
        let early = before.due.since(commit.at).as_millis();
        return Some(("no attempt before the event is due".to_owned(), format!("one {early} ms early")));
    }
    if claimed && before.dead_at.is_some() {
        return Some(("no attempt of a dead letter".to_owned(), "it was claimed".to_owned()));
    }
    None
}

/// A redrive begins anew. A claim that attempted nothing gives its one attempt back, and has nothing to report; those that
/// only asked what had become of a call were no attempts either, and leave the count at the budget.
fn may_fall(before: &Pending, after: &Pending, budget: u32) -> bool {
    let redriven = before.dead_at.is_some() && after.dead_at.is_none() && after.attempts == 0;
    let same_key = before.claim.is_some() && after.epoch == before.epoch;
    let unused = after.attempts + 1 == before.attempts && after.error == before.error;
    let asked = after.call.is_some() && after.attempts == budget;
    redriven || (same_key && (unused || asked))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use stormglass_runtime::{Pending, Timestamp};
    use uuid::Uuid;

    use super::{
        super::testkit::{Tale, placed},
        AttemptBudget,
    };

    fn queued_once() -> Tale {
        let mut tale = Tale::of(AttemptBudget::default());
        tale.append(0, placed(1));
        tale.tx("w").take("payments", 0).queue("payments", 0, 1).commit().unwrap();
        tale
    }

    fn claim(row: &mut Pending) {
        row.attempts += 1;
        row.claim = Some(Uuid::from_u128(u128::from(row.attempts)));
    }

    #[test]
    fn attempts_up_to_the_budget_are_fine() {
        let mut tale = queued_once();
        for _ in 0..8 {
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
    }

    #[rstest]
    #[case::more_than_the_budget(|row: &mut Pending| { claim(row); claim(row) })]
    #[case::attempts_forgotten(|row: &mut Pending| row.attempts = 0)]
    #[case::failure_that_is_not_counted(|row: &mut Pending| { row.attempts -= 1; row.error = Some("again".to_owned()) })]
    #[case::attempts_jump(|row: &mut Pending| row.attempts += 3)]
    fn broken_count_is_caught(#[case] change: impl Fn(&mut Pending)) {
        let mut tale = queued_once();
        for _ in 0..8 {
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
        assert_eq!(
            tale.tx("w").change("payments", 1, change).commit().unwrap_err().invariant,
            "attempt-budget"
        );
    }

    #[test]
    fn inquiry_gives_its_claim_back() {
        let mut tale = queued_once();
        tale.tx("w").change("payments", 1, |row| row.call = Some("charge".into())).commit().unwrap();
        for _ in 0..9 {
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
        let inquired = |row: &mut Pending| (row.attempts, row.error) = (8, Some("no answer".to_owned()));
        tale.tx("w").change("payments", 1, inquired).commit().unwrap();
    }

    #[test]
    fn question_about_a_call_is_no_attempt() {
        let mut tale = Tale::of(AttemptBudget::default());
        tale.append(0, placed(1));
        tale.tx("w").take("payments", 0).queue_call("payments", 0, 1).commit().unwrap();
        for _ in 0..9 {
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
        let ask = |row: &mut Pending| {
            row.attempts = 8;
            row.error = Some("no answer".to_owned());
        };
        tale.tx("w").change("payments", 1, ask).commit().unwrap();
    }

    #[test]
    fn claims_beyond_the_budget_may_crash_but_only_bury() {
        let mut tale = queued_once();
        for _ in 0..11 {
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
        let retried = |row: &mut Pending| (row.claim, row.error) = (None, Some("again".to_owned()));
        assert!(tale.tx("w").change("payments", 1, retried).commit().is_err());
        let buried = |row: &mut Pending| (row.claim, row.dead_at) = (None, Some(Timestamp(1)));
        let mut tale = queued_once();
        for _ in 0..11 {
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
        tale.tx("w").change("payments", 1, buried).commit().unwrap();
    }

    #[test]
    fn claim_before_the_due_time_is_caught() {
        let mut tale = queued_once();
        tale.tx("w").change("payments", 1, |row| row.due = Timestamp(i64::MAX)).commit().unwrap();
        assert!(tale.tx("w").change("payments", 1, claim).commit().unwrap_err().got.contains("early"));
    }

    #[test]
    fn claim_of_a_dead_letter_is_caught() {
        let mut tale = queued_once();
        for _ in 0..8 {
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
        tale.tx("w").bury("payments", 1).commit().unwrap();
        assert!(tale.tx("w").change("payments", 1, claim).commit().is_err());
    }

    #[test]
    fn dead_letter_before_the_budget_is_used_up_is_caught() {
        let mut tale = queued_once();
        tale.tx("w").change("payments", 1, claim).commit().unwrap();
        let violation = tale.tx("w").bury("payments", 1).commit().unwrap_err();
        assert_eq!(violation.got, "a dead letter after 1");
    }

    #[test]
    fn dead_letter_that_follows_from_another_is_fine() {
        let mut tale = queued_once();
        for _ in 0..8 {
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
        tale.tx("w").bury("payments", 1).commit().unwrap();
        tale.tx("w").take("inventory", 0).queue("inventory", 0, 2).commit().unwrap();
        tale.tx("w").bury("inventory", 2).commit().unwrap();
    }

    #[test]
    fn redrive_begins_a_new_budget() {
        let mut tale = queued_once();
        for _ in 0..8 {
            tale.charge(1, 7, 4999).unwrap();
            tale.tx("w").change("payments", 1, claim).commit().unwrap();
        }
        tale.tx("w").bury("payments", 1).commit().unwrap();
        let redriven = |row: &mut Pending| (row.dead_at, row.claim, row.attempts) = (None, None, 0);
        tale.tx("w").change("payments", 1, redriven).commit().unwrap();
        tale.tx("w").change("payments", 1, claim).commit().unwrap();
        tale.charge(1, 7, 4999).unwrap();
    }

    #[test]
    fn caller_that_is_turned_away_may_probe_but_not_insist() {
        let turned_away = |every_ms: u64| {
            let mut tale = Tale::of(AttemptBudget::default());
            for in_a_row in 1..40 {
                tale.wait_ms(every_ms)?;
                tale.turn_away(in_a_row)?;
            }
            Ok::<_, Box<super::Violation>>(())
        };
        turned_away(400).unwrap();
        assert!(turned_away(50).unwrap_err().subject.contains("again and again"));
    }

    #[test]
    fn provider_that_is_asked_more_often_than_the_budget_is_caught() {
        let mut tale = queued_once();
        for _ in 0..8 {
            tale.charge(1, 7, 4999).unwrap();
        }
        assert!(tale.charge(1, 7, 4999).unwrap_err().subject.contains("asked 9 times"));
    }
}
