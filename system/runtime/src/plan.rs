//! Planning a transaction: events are decided one after the other over a working copy, and what is to be written
//! adds up. No I/O, no waiting: lanes and settlements share it, and tests drive it by hand.
//!
//! A plan in which an event asked for rows that are not locked is void: it is rolled back and made again with the
//! union of keys, because locks that are added to an open transaction could deadlock. The other events of a void
//! plan are decided all the same, to learn what they need.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::error;
use uuid::Uuid;

use crate::{
    Context, Decision, Emission, EventId, NewPending, Next, OrderingKey, PendingChange, Position, Record,
    Refusal, RowSet, Rows, Service, TRACEPARENT, Timer, Timestamp, Verdict, dead, derive_id,
    logic::{Logic, storable},
};

/// Rounds of locking before an event that wants still more rows has failed.
pub(crate) const ROUNDS: u32 = 3;

/// The event that a decision is about.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub event_id: EventId,
    pub key: &'a OrderingKey,
    pub origin: &'a Position,
    pub record: &'a Record,
}

/// What deciding one event came to.
#[derive(Debug)]
pub(crate) enum Step<C> {
    /// Its changes are in the plan.
    Done,
    /// It wants this call made first; what its intent changes is in the plan.
    Ask(C),
    /// It failed.
    Refused(Refusal),
    /// The plan is void: more rows are needed.
    Needs,
}

/// How an event dies.
pub(crate) struct Death<'a, E> {
    /// Of what.
    pub error: &'a str,
    /// After how many attempts.
    pub attempts: u32,
    /// The event, if the service may give it up; `None` where it cannot be read, or where giving up would deny what
    /// has happened.
    pub give_up: Option<&'a E>,
}

/// Which decision about an event emitted something. Part of the emitted id: an event that was given up and then
/// redriven must not publish under ids that its giving-up has used, for every reader would drop them as duplicates.
/// `decide` and `conclude` share a turn: of one event only one of them ever emits.
#[derive(Clone, Copy)]
enum Turn {
    Decide = 0,
    GiveUp = 1,
}

/// All that one transaction will write.
pub(crate) struct Writes<R: RowSet> {
    /// The domain's rows.
    pub rows: Rows<R>,
    /// New rows of the queue, in order.
    pub enqueue: Vec<NewPending>,
    /// Changes of existing rows of the queue.
    pub change: Vec<PendingChange>,
    /// Records for the outbox, in order.
    pub emit: Vec<Record>,
    /// When the first head that is not claimed will be due: a hint to the executor.
    pub soonest: Option<Duration>,
    /// What to count once it has committed.
    pub tally: Tally,
}

/// What a plan will have done, for the meters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Events that died.
    pub dead: u64,
    /// Attempts that failed and will be repeated.
    pub retried: u64,
}

/// A plan in the making.
pub(crate) struct Planner<'a, S: Service> {
    logic: &'a Logic<S>,
    now: Timestamp,
    locked: &'a BTreeSet<<S::Row as RowSet>::Key>,
    round: u32,
    needs: BTreeSet<<S::Row as RowSet>::Key>,
    writes: Writes<S::Row>,
}

impl<'a, S: Service> Planner<'a, S> {
    /// A plan over `rows`, which were read under locks on `locked`, in the `round`-th round, from 1.
    pub fn new(
        logic: &'a Logic<S>,
        now: Timestamp,
        (rows, locked): (Rows<S::Row>, &'a BTreeSet<<S::Row as RowSet>::Key>),
        round: u32,
    ) -> Self {
        let tally = Tally::default();
        let (enqueue, change, emit) = (Vec::new(), Vec::new(), Vec::new());
        let writes = Writes { rows, enqueue, change, emit, soonest: None, tally };
        Self { logic, now, locked, round, needs: BTreeSet::new(), writes }
    }

    /// What to write, or the keys without which nothing may be.
    pub fn finish(self) -> Result<Writes<S::Row>, BTreeSet<<S::Row as RowSet>::Key>> {
        if self.needs.is_empty() { Ok(self.writes) } else { Err(self.needs) }
    }

    /// Lets the service decide.
    pub fn decide(&mut self, subject: Subject<'_>, event: &S::Event) -> Step<S::Call> {
        let context = Context { event, event_id: subject.event_id, rows: &self.writes.rows, now: self.now };
        match self.logic.guarded(|| self.logic.service.decide(context)) {
            Ok(Next::Done(decision)) => self.accept(subject, Turn::Decide, decision),
            Ok(Next::Ask { call, rows }) => {
                match self.accept(subject, Turn::Decide, Decision { rows, ..Decision::default() }) {
                    Step::Done => Step::Ask(call),
                    void => void,
                }
            }
            Ok(Next::Need(keys)) => self.need(keys),
            Err(refusal) => Step::Refused(refusal),
        }
    }

    /// Lets the service decide with the reply to its call.
    pub fn conclude(&mut self, subject: Subject<'_>, event: &S::Event, reply: S::Reply) -> Step<S::Call> {
        let context = Context { event, event_id: subject.event_id, rows: &self.writes.rows, now: self.now };
        match self.logic.guarded(|| self.logic.service.conclude(context, reply)) {
            Ok(decision) => self.accept(subject, Turn::Decide, decision),
            Err(refusal) => Step::Refused(refusal),
        }
    }

    /// Writes the dead letter's record, and what the service does when it gives up. The queue row is the caller's.
    pub fn bury(&mut self, subject: Subject<'_>, death: Death<'_, S::Event>) {
        self.writes.tally.dead += 1;
        let letter = dead::Letter { subject, error: death.error, attempts: death.attempts, time: self.now };
        self.writes.emit.push(letter.record(&self.logic.consumer, self.logic.payload_limit));
        let Some(event) = death.give_up else { return };
        let context = Context { event, event_id: subject.event_id, rows: &self.writes.rows, now: self.now };
        let given_up = self.logic.guarded(|| Ok(self.logic.service.give_up(context)));
        let step = match given_up {
            Ok(decision) => self.accept(subject, Turn::GiveUp, decision),
            Err(refusal) => Step::Refused(refusal),
        };
        if let Step::Refused(refusal) = step {
            error!(event = %subject.event_id, %refusal, "dead letter without give_up: its changes cannot be made");
        }
    }

    /// Appends a row to the queue, and returns its place among those appended.
    pub fn enqueue(&mut self, row: NewPending) -> usize {
        self.writes.enqueue.push(row);
        self.writes.enqueue.len() - 1
    }

    /// Changes a row of the queue.
    pub fn change(&mut self, change: PendingChange) {
        self.writes.change.push(change);
    }

    /// Notes that an attempt failed and will be repeated.
    pub fn count_retry(&mut self) {
        self.writes.tally.retried += 1;
    }

    /// Notes that a head will be due so much later.
    pub fn due(&mut self, due_in: Duration) {
        let soonest = self.writes.soonest.map_or(due_in, |soonest| soonest.min(due_in));
        self.writes.soonest = Some(soonest);
    }

    fn need(&mut self, keys: Vec<<S::Row as RowSet>::Key>) -> Step<S::Call> {
        let missing: Vec<_> = keys.into_iter().filter(|key| !self.locked.contains(key)).collect();
        if missing.is_empty() {
            return Step::Refused(Refusal::Later("asked again for rows that are locked".to_owned()));
        }
        if self.round >= ROUNDS {
            return Step::Refused(Refusal::Later(format!("needs more rows after {ROUNDS} rounds")));
        }
        self.needs.extend(missing);
        Step::Needs
    }

    /// Takes a decision into the plan. One that writes rows it did not lock is not trusted: it could overwrite what
    /// it never read. It is treated as if it had asked for them.
    fn accept(&mut self, subject: Subject<'_>, turn: Turn, decision: Decision<S::Row>) -> Step<S::Call> {
        let unlocked: Vec<_> =
            decision.rows.iter().map(RowSet::key).filter(|key| !self.locked.contains(key)).collect();
        if !unlocked.is_empty() {
            return self.need(unlocked);
        }
        self.writes.rows.apply(decision.rows);
        for (ordinal, emission) in decision.events.into_iter().enumerate() {
            let record = self.emitted(subject, turn, ("emit/v1", ordinal), emission).1;
            self.writes.emit.push(record);
        }
        for (ordinal, timer) in decision.timers.into_iter().enumerate() {
            self.set(subject, turn, ordinal, timer);
        }
        Step::Done
    }

    /// The record of an emission. Its id follows from its cause, so a replay emits the same ids.
    fn emitted(
        &self,
        subject: Subject<'_>,
        turn: Turn,
        (kind, ordinal): (&str, usize),
        emission: Emission,
    ) -> (Uuid, Record) {
        let consumer = &self.logic.consumer;
        let ordinal = (ordinal as u64).to_be_bytes();
        let cause = subject.event_id.0;
        let id = derive_id(kind, &[consumer.as_str().as_bytes(), cause.as_bytes(), &[turn as u8], &ordinal]);
        let trace = subject.record.headers.get(TRACEPARENT);
        (id, emission.into_record(consumer, id, self.now, trace))
    }

    /// A timer is a row of the queue under a key of its own, so that it neither blocks nor waits. It never passes
    /// the inbox: it commits with the decision that set it, once.
    fn set(&mut self, subject: Subject<'_>, turn: Turn, ordinal: usize, timer: Timer) {
        let (id, record) = self.emitted(subject, turn, ("timer/v1", ordinal), timer.event);
        let delivered = crate::Delivered { at: subject.origin.clone(), record };
        self.due(timer.after);
        self.enqueue(NewPending {
            key: OrderingKey(Bytes::copy_from_slice(id.as_bytes())),
            event_id: EventId::of(&delivered),
            origin: delivered.at,
            record: delivered.record,
            call: None,
            attempts: 0,
            due_in: timer.after,
            error: None,
            verdict: Verdict::Waiting,
        });
    }
}

impl Subject<'_> {
    /// A row of the queue for this event: due now, never attempted, free. Callers change what differs.
    pub fn pending(&self) -> NewPending {
        NewPending {
            key: self.key.clone(),
            event_id: self.event_id,
            origin: self.origin.clone(),
            record: self.record.clone(),
            call: None,
            attempts: 0,
            due_in: Duration::ZERO,
            error: None,
            verdict: Verdict::Waiting,
        }
    }
}

/// A call as the queue keeps it, with what is known of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kept<C> {
    /// It may be made, and made again under its key.
    Asked(C),
    /// It was answered, and the event died because the answer could not be taken. It is never made again, however long
    /// the event was dead: a provider that has forgotten the key would do it twice.
    Answered(C),
}

/// A call as it is stored.
///
/// # Errors
/// `Never` if the service's call cannot be written as JSON.
pub(crate) fn encode_call<C: Serialize>(call: &Kept<C>) -> Result<Bytes, Refusal> {
    serde_json::to_vec(call)
        .map(Bytes::from)
        .map_err(|error| Refusal::Never(storable(&format!("the call cannot be stored: {error}"))))
}
