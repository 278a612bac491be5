//! A bus that is small enough to believe: one log, one outbox, and per consumer an inbox and a queue.
//!
//! It keeps the runtime's promises (an event is taken once, a key's events in log order, a dead letter commits with
//! `give_up`, an unknown outcome is asked before giving up) by the shortest code that does, and takes any order of
//! steps that they allow. It shares no code with the runtime.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::Future,
    pin::pin,
    task::{Context as Poll, Poll as Polled, Waker},
};

use bytes::Bytes;
use stormglass_orders::{Row, RowKey};
use stormglass_runtime::{
    ActError, AfterDeath, Context, Decision, Delivered, EventId, IdempotencyKey, Next, OrderingKey,
    Partition, Record, Refusal, RowSet, Rows, Service, Timestamp, Topic, Versioned, derive_id,
};

/// Attempts before an event is given up.
const ATTEMPTS_MAX: u32 = 3;

/// What all consumers share.
#[derive(Default)]
pub struct Shared {
    pub rows: BTreeMap<RowKey, Row>,
    pub log: Vec<Delivered>,
    pub outbox: VecDeque<Record>,
}

impl Shared {
    pub fn publish(&mut self, record: Record) {
        let offset = i64::try_from(self.log.len()).expect("a short log");
        let at = Partition::new(&Topic::from("orders"), 0).at(offset);
        self.log.push(Delivered { at, record });
    }

    fn lock(&self, keys: &BTreeSet<RowKey>) -> Rows<Row> {
        let present = keys.iter().filter_map(|key| self.rows.get(key));
        Rows::read(present.map(|row| Versioned { row: row.clone(), version: 1 }))
    }
}

/// A consumer, whatever its service.
pub trait Consumer {
    /// Whether there is anything to read.
    fn lags(&self, shared: &Shared) -> bool;
    /// Reads the next record.
    fn take(&mut self, shared: &mut Shared, fate: Fate);
    /// The keys whose head may be worked on. `true` for timers that wait for their time.
    fn heads(&self) -> Vec<(OrderingKey, bool)>;
    /// Makes one attempt at the head of a key.
    fn work(&mut self, shared: &mut Shared, key: &OrderingKey, fate: Fate);
    /// Revives all dead letters.
    fn redrive(&mut self) -> usize;
}

/// Whether an attempt gets as far as the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It does.
    Runs,
    /// It fails before it, as by a panic.
    Fails,
    /// This version cannot read the event: a dead letter at once, and without `give_up`.
    Unread,
    /// The store rejects what is concluded from an answer.
    Rejected,
}

struct Waiting<S: Service> {
    id: EventId,
    record: Record,
    call: Option<S::Call>,
    epoch: u32,
    attempts: u32,
    unknown: bool,
    dead: bool,
    later: bool,
}

pub struct Member<S: Service> {
    service: S,
    after_death: AfterDeath,
    position: usize,
    inbox: BTreeSet<EventId>,
    queue: BTreeMap<OrderingKey, VecDeque<Waiting<S>>>,
}

/// What an attempt came to.
enum Outcome<S: Service> {
    Done(Decision<Row>, BTreeSet<RowKey>),
    Ask(S::Call, Decision<Row>, BTreeSet<RowKey>),
    Failed {
        permanent: bool,
    },
    Unread,
    /// The store took nothing of what was concluded: a dead letter, without `give_up` and with its call.
    Answered,
}

impl<S: Service<Row = Row>> Member<S> {
    pub fn new(service: S, after_death: AfterDeath) -> Self {
        Self { service, after_death, position: 0, inbox: BTreeSet::new(), queue: BTreeMap::new() }
    }

    fn blocks(&self, waiting: &Waiting<S>) -> bool {
        !waiting.dead || self.after_death == AfterDeath::Hold
    }

    fn decide(&self, shared: &Shared, event: &S::Event, id: EventId) -> Outcome<S> {
        let mut keys: BTreeSet<RowKey> = self.service.keys(event).into_iter().collect();
        for _ in 0..3 {
            let rows = shared.lock(&keys);
            match self.service.decide(Context { event, event_id: id, rows: &rows, now: Timestamp(0) }) {
                Ok(Next::Done(decision)) => return Outcome::Done(decision, keys),
                Ok(Next::Need(more)) => keys.extend(more),
                Ok(Next::Ask { call, rows }) => {
                    return Outcome::Ask(call, Decision { rows, ..Decision::default() }, keys);
                }
                Err(Refusal::Later(_)) => return Outcome::Failed { permanent: false },
                Err(Refusal::Never(why)) => panic!("{} refuses: {why}", self.service.name()),
            }
        }
        panic!("{} needs rows for ever", self.service.name())
    }

    fn attempt(&self, shared: &Shared, waiting: &mut Waiting<S>) -> Outcome<S> {
        let event = self.event(&waiting.record);
        let Some(call) = waiting.call.clone() else { return self.decide(shared, &event, waiting.id) };
        let key = IdempotencyKey::new(&self.service.name(), waiting.id, waiting.epoch);
        match now(self.service.act(call, key)) {
            Ok(reply) => self.conclude(shared, &event, waiting.id, reply),
            Err(ActError::Failed(_)) => {
                waiting.epoch += 1;
                waiting.unknown = false;
                Outcome::Failed { permanent: false }
            }
            Err(ActError::NotSent(_)) => Outcome::Failed { permanent: false },
            Err(ActError::Unknown(_)) => {
                waiting.unknown = true;
                Outcome::Failed { permanent: false }
            }
            Err(ActError::Rejected(_)) => Outcome::Failed { permanent: true },
        }
    }

    fn conclude(&self, shared: &Shared, event: &S::Event, id: EventId, reply: S::Reply) -> Outcome<S> {
        let keys = self.service.keys(event).into_iter().collect();
        let rows = shared.lock(&keys);
        let at = Context { event, event_id: id, rows: &rows, now: Timestamp(0) };
        Outcome::Done(self.service.conclude(at, reply).expect("a reply to this call"), keys)
    }

    /// The last word on an event: an unknown outcome is asked first.
    fn give_up(&self, shared: &Shared, waiting: &mut Waiting<S>) -> Outcome<S> {
        let event = self.event(&waiting.record);
        if let (true, Some(call)) = (waiting.unknown, waiting.call.clone()) {
            let key = IdempotencyKey::new(&self.service.name(), waiting.id, waiting.epoch);
            waiting.unknown = false;
            if let Some(reply) = now(self.service.inquire(call, key)).expect("the books are open") {
                return self.conclude(shared, &event, waiting.id, reply);
            }
        }
        (waiting.dead, waiting.call) = (true, None);
        waiting.epoch += 1;
        let keys = self.service.keys(&event).into_iter().collect();
        let rows = shared.lock(&keys);
        let at = Context { event: &event, event_id: waiting.id, rows: &rows, now: Timestamp(0) };
        Outcome::Done(self.service.give_up(at), keys)
    }

    fn event(&self, record: &Record) -> S::Event {
        self.service.decode(record).expect("it was decoded before").expect("it was taken before")
    }

    fn commit(
        &mut self,
        shared: &mut Shared,
        id: EventId,
        decision: Decision<Row>,
        locked: &BTreeSet<RowKey>,
    ) {
        let name = self.service.name();
        for row in decision.rows {
            assert!(locked.contains(&row.key()), "{name} writes what it did not lock: {row:?}");
            assert_eq!(row.check(), Ok(()), "{row:?}");
            shared.rows.insert(row.key(), row);
        }
        let derive = |what, ordinal: usize| {
            derive_id(what, &[name.as_str().as_bytes(), id.0.as_bytes(), &ordinal.to_be_bytes()])
        };
        for (ordinal, event) in decision.events.into_iter().enumerate() {
            shared.outbox.push_back(event.into_record(&name, derive("emit", ordinal), Timestamp(0), None));
        }
        for (ordinal, timer) in decision.timers.into_iter().enumerate() {
            let timer_id = derive("timer", ordinal);
            let key = OrderingKey(Bytes::copy_from_slice(timer_id.as_bytes()));
            let later = !timer.after.is_zero();
            let record = timer.event.into_record(&name, timer_id, Timestamp(0), None);
            let waiting = Waiting { later, ..Waiting::new(EventId(timer_id), record) };
            self.queue.entry(key).or_default().push_back(waiting);
        }
    }
}

impl<S: Service> Waiting<S> {
    fn new(id: EventId, record: Record) -> Self {
        Self { id, record, call: None, epoch: 0, attempts: 0, unknown: false, dead: false, later: false }
    }
}

impl<S: Service<Row = Row>> Consumer for Member<S> {
    fn lags(&self, shared: &Shared) -> bool {
        self.position < shared.log.len()
    }

    fn take(&mut self, shared: &mut Shared, fate: Fate) {
        let delivered = shared.log[self.position].clone();
        self.position += 1;
        let id = EventId::of(&delivered);
        let Some(event) = self.service.decode(&delivered.record).expect("only good records are sent") else {
            return;
        };
        if !self.inbox.insert(id) {
            return;
        }
        let key = id.ordering_key(&delivered.record);
        let mut waiting = Waiting::new(id, delivered.record);
        let blocked = self.queue.get(&key).is_some_and(|queue| queue.iter().any(|ahead| self.blocks(ahead)));
        if !blocked {
            let outcome = match fate {
                Fate::Runs | Fate::Rejected => self.decide(shared, &event, id),
                Fate::Fails => Outcome::Failed { permanent: false },
                Fate::Unread => Outcome::Unread,
            };
            match outcome {
                Outcome::Done(decision, locked) => return self.commit(shared, id, decision, &locked),
                Outcome::Ask(call, intent, locked) => {
                    waiting.call = Some(call);
                    self.commit(shared, id, intent, &locked);
                }
                Outcome::Failed { .. } => waiting.attempts = 1,
                Outcome::Unread | Outcome::Answered => waiting.dead = true,
            }
        }
        self.queue.entry(key).or_default().push_back(waiting);
    }

    fn heads(&self) -> Vec<(OrderingKey, bool)> {
        let head = |(key, queue): (&OrderingKey, &VecDeque<Waiting<S>>)| {
            let head = queue.iter().find(|waiting| self.blocks(waiting))?;
            (!head.dead).then(|| (key.clone(), head.later))
        };
        self.queue.iter().filter_map(head).collect()
    }

    fn work(&mut self, shared: &mut Shared, key: &OrderingKey, fate: Fate) {
        let mut queue = self.queue.remove(key).expect("a key with a head");
        let index = queue.iter().position(|waiting| self.blocks(waiting)).expect("a head");
        let waiting = &mut queue[index];
        waiting.attempts += 1;
        let outcome = match fate {
            Fate::Runs => self.attempt(shared, waiting),
            Fate::Rejected => match (waiting.call.is_some(), self.attempt(shared, waiting)) {
                (true, Outcome::Done(..)) => Outcome::Answered,
                (_, other) => other,
            },
            // What was read once has committed its intent to call, and is not dead before its outcome is known.
            Fate::Unread if waiting.call.is_none() => Outcome::Unread,
            Fate::Fails | Fate::Unread => Outcome::Failed { permanent: false },
        };
        let outcome = match outcome {
            Outcome::Failed { permanent } if permanent || waiting.attempts >= ATTEMPTS_MAX => {
                self.give_up(shared, waiting)
            }
            other => other,
        };
        waiting.dead |= matches!(outcome, Outcome::Unread | Outcome::Answered);
        let (id, dead) = (waiting.id, waiting.dead);
        match outcome {
            Outcome::Ask(call, intent, locked) => {
                waiting.call = Some(call);
                self.commit(shared, id, intent, &locked);
            }
            Outcome::Failed { .. } | Outcome::Unread | Outcome::Answered => {}
            Outcome::Done(decision, locked) => {
                if !dead {
                    queue.remove(index);
                }
                self.commit(shared, id, decision, &locked);
            }
        }
        if !queue.is_empty() {
            self.queue.insert(key.clone(), queue);
        }
    }

    fn redrive(&mut self) -> usize {
        let mut revived = 0;
        for waiting in self.queue.values_mut().flatten().filter(|waiting| waiting.dead) {
            (waiting.dead, waiting.attempts) = (false, 0);
            revived += 1;
        }
        revived
    }
}

/// The result of a future that waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Poll::from_waker(Waker::noop())) {
        Polled::Ready(value) => value,
        Polled::Pending => panic!("the ledger answers at once"),
    }
}
