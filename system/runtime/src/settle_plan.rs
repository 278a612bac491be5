//! What becomes of one key of the queue in a settlement. Pure: no I/O, driven by hand in tests.
//!
//! The rules of DESIGN section 5 live here. The epoch of the idempotency key grows only after the provider has
//! definitely not done it, since providers replay a stored failure for the same key; after anything unknown the key
//! stays. An event that has called never dies unasked: past the budget the provider says what became of its key, and
//! only its word that nothing happened lets the service give up.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    AfterDeath, Claim, EventId, Pending, PendingChange, PendingId, Refusal, Service, Verdict,
    act::Outcome,
    logic::{Decoded, Logic, storable},
    plan::{Death, Kept, Planner, Step, Subject, encode_call},
    shared::Job,
};

/// Followers decided in the transaction of their head at most; the next of them is then an ordinary head.
const FOLLOWERS_MAX: u32 = 100;

/// Rows of a key that a settlement has to see: its head, the followers, and whether there is one more.
pub(crate) const ROWS_MAX: u32 = FOLLOWERS_MAX + 2;

/// How careful to be, after the store rejected what was settled with less care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// The head, then its followers.
    Full,
    /// The head alone.
    HeadOnly,
    /// The head dies of this.
    Condemned(String),
    /// The head dies of this, without `give_up`.
    Bare(String),
}

impl Care {
    /// The next more careful way.
    pub fn lower(self, reason: String) -> Care {
        match self {
            Care::Full => Care::HeadOnly,
            Care::HeadOnly => Care::Condemned(reason),
            Care::Condemned(_) | Care::Bare(_) => Care::Bare(reason),
        }
    }

    /// Whether there is no more careful way.
    pub fn is_last(&self) -> bool {
        matches!(self, Care::Bare(_))
    }
}

/// A key whose head is ours: the rows to decide, head first, with what they say.
pub(crate) struct KeyPlan<'a, E> {
    pub job: &'a Job,
    pub rows: Vec<(&'a Pending, Decoded<E>)>,
    /// Whether rows are left for later.
    pub leaves: bool,
}

/// A row that was claimed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub id: PendingId,
    pub event_id: EventId,
    pub call: Bytes,
    pub epoch: u32,
    pub attempts: u32,
    /// The settled head whose place it takes.
    pub after: PendingId,
}

impl<'a, E> KeyPlan<'a, E> {
    /// The plan for the key of `job`, whose `rows` are locked; `None` if the head is not ours any more.
    pub fn of<S: Service<Event = E>>(
        job: &'a Job,
        rows: &'a [Pending],
        (logic, care): (&Logic<S>, &Care),
    ) -> Option<Self> {
        let skips = logic.after_death == AfterDeath::Skip;
        let mut alive = rows.iter().filter(|row| !(skips && row.dead_at.is_some()));
        let head = alive.next()?;
        if head.id != job.id || head.claim != Some(job.claim) || head.dead_at.is_some() {
            return None;
        }
        let followers = if *care == Care::Full { FOLLOWERS_MAX as usize } else { 0 };
        // A follower that has a call, was attempted before, or that somebody is at work on, is claimed when its time comes.
        let untouched = |row: &&Pending| {
            row.dead_at.is_none() && row.claim.is_none() && row.call.is_none() && row.attempts == 0
        };
        let all = 1 + alive.clone().count();
        let rows: Vec<_> = std::iter::once(head)
            .chain(alive.take_while(untouched).take(followers))
            .map(|row| (row, logic.decode(&row.record)))
            .collect();
        Some(Self { job, leaves: all > rows.len(), rows })
    }
}

/// Decides the rows of a key in order, until one asks or fails. Returns the one that was claimed anew.
pub(crate) fn plan_key<S: Service>(
    planner: &mut Planner<'_, S>,
    logic: &Logic<S>,
    (plan, outcome): (&KeyPlan<'_, S::Event>, &Outcome<S::Reply>),
    (care, claim): (&Care, Option<&Claim>),
) -> Option<Next> {
    let mut rows = plan.rows.iter();
    let (head, event) = rows.next()?;
    let mut row = RowPlan { planner, logic, pending: head, attempts: head.attempts, claim };
    let mut end = row.head(event, outcome.clone(), care);
    let mut last = *head;
    for (follower, event) in rows {
        if end != End::Free {
            break;
        }
        last = *follower;
        // Its attempt begins here: what it is refused counts.
        let mut row = RowPlan { planner, logic, pending: follower, attempts: follower.attempts + 1, claim };
        end = row.decide(event);
    }
    match end {
        End::Claimed { call, attempts } => Some(Next {
            id: last.id.clone(),
            event_id: last.event_id,
            call,
            epoch: last.epoch,
            attempts,
            after: plan.job.id.clone(),
        }),
        End::Free => {
            if plan.leaves {
                planner.due(Duration::ZERO);
            }
            None
        }
        End::Waits => None,
    }
}

/// What a row's fate means for the rows behind it.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// They may go on.
    Free,
    /// They wait.
    Waits,
    /// They wait for a call that is claimed.
    Claimed { call: Bytes, attempts: u32 },
}

struct RowPlan<'r, 'p, S: Service> {
    planner: &'r mut Planner<'p, S>,
    logic: &'r Logic<S>,
    pending: &'r Pending,
    attempts: u32,
    claim: Option<&'r Claim>,
}

/// What is known of the call of an event that dies. Whatever it is, it is known (DESIGN 5), so that a redrive may go by it.
#[derive(Clone, Copy)]
enum Last {
    /// None was made.
    Unasked,
    /// The provider has definitely not done it, and nothing more will come of its key.
    Failed,
    /// It was answered, and the answer could not be taken. The call stays, marked, so that a redrive asks for the answer
    /// again and never calls; giving up would deny what has happened.
    Answered,
}

/// A row's next state, where it is not deleted.
struct Fate {
    call: Option<Bytes>,
    epoch: u32,
    attempts: u32,
    due_in: Duration,
    error: Option<String>,
    verdict: Verdict,
}

impl<'r, S: Service> RowPlan<'r, '_, S> {
    /// The head, after its attempt.
    fn head(&mut self, event: &Decoded<S::Event>, outcome: Outcome<S::Reply>, care: &Care) -> End {
        let epoch = self.pending.epoch;
        let condemned = match care {
            Care::Full | Care::HeadOnly => None,
            Care::Condemned(reason) => Some((reason, readable(event))),
            Care::Bare(reason) => Some((reason, None)),
        };
        if let Some((reason, give_up)) = condemned {
            match &outcome {
                Outcome::Decide | Outcome::Spent => return self.die(reason, (give_up, Last::Unasked)),
                Outcome::Failed(_) | Outcome::Rejected(_) | Outcome::Closed => {
                    return self.die(reason, (give_up, Last::Failed));
                }
                Outcome::Replied(_) | Outcome::Forgotten => return self.die(reason, (None, Last::Answered)),
                // Not known is not dead, whatever the store says.
                Outcome::Unknown(_) | Outcome::Unanswered(_) | Outcome::Unread(_) | Outcome::Abandoned => {}
            }
        }
        match outcome {
            Outcome::Decide => self.decide(event),
            Outcome::Replied(reply) => self.conclude(event, reply),
            // The last attempt too: no event dies before the claim beyond the budget has asked.
            Outcome::Failed(error) => self.retry(&error, epoch + 1),
            Outcome::Unknown(error) => self.retry(&error, epoch),
            Outcome::Rejected(error) => self.die(&error, (readable(event), Last::Failed)),
            Outcome::Closed => {
                let error = self.pending.error.clone().unwrap_or_else(|| "attempts used up".to_owned());
                self.die(&error, (readable(event), Last::Failed))
            }
            Outcome::Forgotten => {
                self.die("the provider no longer knows what it has answered", (None, Last::Answered))
            }
            Outcome::Unanswered(error) => match self.attempts {
                attempts if attempts <= self.logic.attempts_max => self.retry(&error, epoch),
                _ => self.ask_later(&error),
            },
            Outcome::Unread(error) => self.leave_to_others(&error),
            Outcome::Spent => {
                let error =
                    self.pending.error.clone().unwrap_or_else(|| "attempts ended in crashes".to_owned());
                self.die(&error, (readable(event), Last::Unasked))
            }
            Outcome::Abandoned => {
                self.wait(Fate { attempts: self.attempts.saturating_sub(1), ..self.unchanged() })
            }
        }
    }

    /// A row without a call.
    fn decide(&mut self, event: &Decoded<S::Event>) -> End {
        let event = match event {
            Decoded::Event(event) => event,
            // This version no longer takes the type: it has no effect.
            Decoded::Ignored => return self.done(),
            Decoded::Unreadable(Refusal::Later(error)) if self.attempts < self.logic.attempts_max => {
                return self.leave_to_others(error);
            }
            Decoded::Unreadable(refusal) => return self.refused(refusal.clone(), (None, Last::Unasked)),
        };
        match self.planner.decide(subject(self.pending), event) {
            Step::Done | Step::Needs => self.done(),
            Step::Ask(call) => match encode_call(&Kept::Asked(call)) {
                Ok(call) => self.ask(call),
                Err(refusal) => self.refused(refusal, (Some(event), Last::Unasked)),
            },
            Step::Refused(refusal) => self.refused(refusal, (Some(event), Last::Unasked)),
        }
    }

    /// A row whose call was answered. If the service cannot take the answer, giving up would deny what has happened:
    /// such a dead letter is without `give_up`, and somebody has to look.
    fn conclude(&mut self, event: &Decoded<S::Event>, reply: S::Reply) -> End {
        let refusal = match event {
            Decoded::Event(event) => match self.planner.conclude(subject(self.pending), event, reply) {
                Step::Done | Step::Needs | Step::Ask(_) => return self.done(),
                Step::Refused(refusal) => refusal,
            },
            Decoded::Ignored => {
                Refusal::Later("this version does not take what it has called for".to_owned())
            }
            Decoded::Unreadable(refusal) => refusal.clone(),
        };
        self.refused(refusal, (None, Last::Answered))
    }

    fn refused(&mut self, refusal: Refusal, (give_up, last): (Option<&S::Event>, Last)) -> End {
        let epoch = self.pending.epoch;
        match refusal {
            Refusal::Later(error) if self.attempts < self.logic.attempts_max => self.retry(&error, epoch),
            Refusal::Later(error) | Refusal::Never(error) => self.die(&error, (give_up, last)),
        }
    }

    fn done(&mut self) -> End {
        self.planner.change(PendingChange::Delete(self.pending.id.clone()));
        End::Free
    }

    /// The intent to call commits here; the call is made at once if it may be, else when the row is claimed. Without a
    /// claim nothing was attempted, so nothing counts.
    fn ask(&mut self, call: Bytes) -> End {
        let Some(claim) = self.claim else {
            let attempts = self.attempts.saturating_sub(1);
            return self.wait(Fate { call: Some(call), attempts, ..self.unchanged() });
        };
        let verdict = Verdict::Claimed(claim.clone());
        self.update(Fate { call: Some(call.clone()), verdict, ..self.unchanged() });
        End::Claimed { call, attempts: self.attempts }
    }

    /// The attempt failed. Past the budget the next claim asks instead of calling, so this is right for it as well.
    fn retry(&mut self, error: &str, epoch: u32) -> End {
        self.planner.count_retry();
        let due_in = self.logic.delay(self.pending.event_id.0, self.attempts);
        self.wait(Fate { epoch, due_in, error: Some(storable(error)), ..self.unchanged() })
    }

    /// The question stays open. The count stays at the budget, so that the next claim asks again.
    fn ask_later(&mut self, error: &str) -> End {
        let attempts = self.logic.attempts_max;
        let due_in = self.logic.backoff.max;
        self.wait(Fate { attempts, due_in, error: Some(storable(error)), ..self.unchanged() })
    }

    /// Another version may be able to read it. This member does not wake for it: knowing when it is due, it would be
    /// there first each time, and whoever can read it only by chance. Each claim has a delay of its own, so that nobody
    /// comes second for ever by keeping time. The count stays at the budget.
    fn leave_to_others(&mut self, error: &str) -> End {
        self.planner.count_retry();
        let attempts = self.attempts.min(self.logic.attempts_max);
        let claim = self.pending.claim.unwrap_or(self.pending.event_id.0);
        let due_in = self.logic.delay(claim, attempts);
        self.update(Fate { attempts, due_in, error: Some(storable(error)), ..self.unchanged() });
        End::Waits
    }

    fn wait(&mut self, fate: Fate) -> End {
        self.planner.due(fate.due_in);
        self.update(fate);
        End::Waits
    }

    fn die(&mut self, error: &str, (give_up, last): (Option<&S::Event>, Last)) -> End {
        let death = Death { error, attempts: self.attempts, give_up };
        self.planner.bury(subject(self.pending), death);
        let (call, epoch) = match last {
            Last::Unasked => (None, self.pending.epoch),
            // Its key and the next one are closed.
            Last::Failed => (None, self.pending.epoch + 2),
            Last::Answered => (self.answered_call(), self.pending.epoch),
        };
        let error = Some(storable(error));
        self.update(Fate { call, epoch, error, verdict: Verdict::Dead, ..self.unchanged() });
        match self.logic.after_death {
            AfterDeath::Hold => End::Waits,
            AfterDeath::Skip => End::Free,
        }
    }

    /// The call, marked as one that was answered.
    fn answered_call(&self) -> Option<Bytes> {
        let call = self.pending.call.as_ref()?;
        let marked = match serde_json::from_slice(call) {
            Ok(Kept::<S::Call>::Asked(call)) => encode_call(&Kept::Answered(call)).ok(),
            // It cannot be written again: it was read to be asked.
            Ok(Kept::Answered(_)) | Err(_) => None,
        };
        Some(marked.unwrap_or_else(|| call.clone()))
    }

    fn unchanged(&self) -> Fate {
        Fate {
            call: self.pending.call.clone(),
            epoch: self.pending.epoch,
            attempts: self.attempts,
            due_in: Duration::ZERO,
            error: self.pending.error.clone(),
            verdict: Verdict::Waiting,
        }
    }

    fn update(&mut self, fate: Fate) {
        let Fate { call, epoch, attempts, due_in, error, verdict } = fate;
        let id = self.pending.id.clone();
        self.planner.change(PendingChange::Update { id, call, epoch, attempts, due_in, error, verdict });
    }
}

fn subject(pending: &Pending) -> Subject<'_> {
    Subject {
        event_id: pending.event_id,
        key: &pending.id.key,
        origin: &pending.origin,
        record: &pending.record,
    }
}

fn readable<E>(event: &Decoded<E>) -> Option<&E> {
    match event {
        Decoded::Event(event) => Some(event),
        Decoded::Ignored | Decoded::Unreadable(_) => None,
    }
}
