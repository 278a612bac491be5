//! A service is a decision: pure functions from an event and locked rows to what changes.
//!
//! The runtime owns everything else: when an event is taken, in which transaction its effect commits, how it is
//! retried, when it is dead. A panic in any of these functions is a failed attempt.

use std::{collections::BTreeMap, fmt, fmt::Debug, time::Duration};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use uuid::Uuid;

use crate::{ConsumerName, Emission, EventId, Record, RowSet, Timestamp, Versioned};

/// A consumer's logic. See DESIGN section 5 for how its parts are driven.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// The rows it reads and writes.
    type Row: RowSet;
    /// What it takes.
    type Event: Debug + Send + Sync;
    /// What it asks of the world outside; [`std::convert::Infallible`] cannot be stored, so services that call nothing use `()`.
    type Call: Clone + Debug + Send + Sync + Serialize + DeserializeOwned;
    /// What the world answers. `Clone`, because a settlement that did not commit is decided again with the same reply.
    type Reply: Clone + Debug + Send + Sync;

    /// Its name: the consumer group, and its half of every idempotency key.
    fn name(&self) -> ConsumerName;

    /// Reads a record. `None`: a type this service does not take; it is counted and passed over.
    ///
    /// # Errors
    /// `Never` for a record that no version of this service can read; `Later` for a version that a rolling deploy
    /// may bring.
    fn decode(&self, record: &Record) -> Result<Option<Self::Event>, Refusal>;

    /// The rows to lock before deciding. Not the ordering key.
    fn keys(&self, event: &Self::Event) -> Vec<<Self::Row as RowSet>::Key>;

    /// Decides. Pure: the same context gives the same answer.
    ///
    /// # Errors
    /// `Later` to try again after a backoff, `Never` for a dead letter at once.
    fn decide(&self, at: Context<'_, Self>) -> Result<Next<Self>, Refusal>
    where
        Self: Sized;

    /// Makes a call, outside any transaction, after its intent was committed. Repeats of one call carry the same
    /// `idempotency_key` until the provider has definitely failed it.
    ///
    /// A dropped future (timeout, shutdown) counts as [`ActError::Unknown`].
    ///
    /// The provider must remember a key for as long as its call may be repeated: `attempts_max` attempts, each after at
    /// most `backoff_max_ms`, *and* the longest outage of this service, its database or the provider that comes between
    /// two of them. Nothing bounds the outage, so choose a provider that remembers for days, and stop the workers if
    /// one may last longer. A dead letter may wait for its redrive for any time: its call is never repeated.
    ///
    /// # Errors
    /// See [`ActError`].
    async fn act(&self, call: Self::Call, idempotency_key: IdempotencyKey) -> Result<Self::Reply, ActError>;

    /// Asks what became of a call whose outcome is unknown and whose attempts are used up, or that was answered and
    /// whose event was redriven. After `Ok(None)` no request with this key can have an effect any more, however late it
    /// arrives: the provider has closed the key. Every answer that [`Service::act`] may bring is brought again here, a
    /// refusal as a matter of business too; `Ok(None)` about a call that was answered tells that the key is forgotten,
    /// and the event is a dead letter again.
    ///
    /// # Errors
    /// Any error leaves the question open; it is asked again, for as long as it takes.
    async fn inquire(
        &self,
        call: Self::Call,
        idempotency_key: IdempotencyKey,
    ) -> Result<Option<Self::Reply>, ActError>;

    /// Decides with the reply. Pure. Rows may have changed since [`Service::decide`] asked.
    ///
    /// # Errors
    /// As [`Service::decide`]; after `Later` the call is repeated under the same key within the budget, after a redrive
    /// its answer is asked for.
    fn conclude(&self, at: Context<'_, Self>, reply: Self::Reply) -> Result<Decision<Self::Row>, Refusal>
    where
        Self: Sized;

    /// What commits together with the dead letter of this event, so that whoever waits for it need not wait for ever.
    /// Not called for records that could not be decoded.
    fn give_up(&self, at: Context<'_, Self>) -> Decision<Self::Row>
    where
        Self: Sized;
}

/// What a decision may look at.
pub struct Context<'a, S: Service> {
    /// The event.
    pub event: &'a S::Event,
    /// Its identity.
    pub event_id: EventId,
    /// The locked rows, with the changes that earlier events of this transaction made.
    pub rows: &'a Rows<S::Row>,
    /// Wall time of this attempt, from the [`Clock`](crate::Clock) port.
    pub now: Timestamp,
}

/// What follows from an event.
pub enum Next<S: Service> {
    /// These changes, now.
    Done(Decision<S::Row>),
    /// These rows are needed as well: roll back and decide again with all of them locked.
    Need(Vec<<S::Row as RowSet>::Key>),
    /// This call first; [`Service::conclude`] decides with the reply.
    Ask {
        /// What to ask.
        call: S::Call,
        /// What the intent itself changes; it commits with it. An event that is decided again, after a redrive or by
        /// a replay, may find these rows as its own intent left them.
        rows: Vec<S::Row>,
    },
}

/// Changes that commit together with the mark that the event was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<R> {
    /// Rows to insert or replace, at most one per key. Their keys were locked: [`Service::keys`] or [`Next::Need`].
    pub rows: Vec<R>,
    /// Events to publish, in order.
    pub events: Vec<Emission>,
    /// Events to this consumer itself, later.
    pub timers: Vec<Timer>,
}

impl<R> Default for Decision<R> {
    fn default() -> Self {
        Self { rows: Vec::new(), events: Vec::new(), timers: Vec::new() }
    }
}

/// An event to oneself at a later time: a durable row of the queue with a key of its own, so it blocks nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Timer {
    /// How much later, by the database's clock.
    pub after: Duration,
    /// What [`Service::decode`] will then be given; its topic is not used.
    pub event: Emission,
}

/// Why a service does not take an event now.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// It may work later.
    #[error("{0}")]
    Later(String),
    /// It never will.
    #[error("{0}")]
    Never(String),
}

/// What became of an external call, by what is known of its effect.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ActError {
    /// The provider failed this key for good, without effect, and would replay the failure: the next attempt uses a
    /// new key.
    #[error("failed: {0}")]
    Failed(String),
    /// This request did not reach the provider. An earlier one under the same key may have: the key stays.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have happened: the key stays.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The provider will never do this: a dead letter at once.
    #[error("rejected: {0}")]
    Rejected(String),
}

/// (consumer, event id, epoch) as a UUID: what a provider deduplicates by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(pub Uuid);

impl IdempotencyKey {
    /// The key of the `epoch`-th try of `consumer` for the event.
    pub fn new(consumer: &ConsumerName, event_id: EventId, epoch: u32) -> Self {
        Self(crate::derive_id(
            "call/v1",
            &[consumer.as_str().as_bytes(), event_id.0.as_bytes(), &epoch.to_be_bytes()],
        ))
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Locked rows, and the working copy that the events of one transaction change one after the other.
#[derive(Clone, Debug)]
pub struct Rows<R: RowSet> {
    present: BTreeMap<R::Key, Versioned<R>>,
    changed: BTreeMap<R::Key, R>,
}

impl<R: RowSet> Default for Rows<R> {
    fn default() -> Self {
        Self { present: BTreeMap::new(), changed: BTreeMap::new() }
    }
}

impl<R: RowSet> Rows<R> {
    /// Rows as they were read under lock.
    pub fn read(rows: impl IntoIterator<Item = Versioned<R>>) -> Self {
        let present = rows.into_iter().map(|versioned| (versioned.row.key(), versioned)).collect();
        Self { present, changed: BTreeMap::new() }
    }

    /// The row as the events before this one in the transaction left it; `None` if it does not exist.
    pub fn get(&self, key: &R::Key) -> Option<&R> {
        self.changed.get(key).or_else(|| self.present.get(key).map(|versioned| &versioned.row))
    }

    /// Replaces or adds rows in the working copy.
    pub fn apply(&mut self, rows: impl IntoIterator<Item = R>) {
        self.changed.extend(rows.into_iter().map(|row| (row.key(), row)));
    }

    /// What differs from what was read, in the order of keys: rows to insert, and rows to update with the version
    /// that was read. A row that was set to what it already was is in neither.
    pub fn changes(&self) -> (Vec<R>, Vec<Versioned<R>>) {
        let (mut inserts, mut updates) = (Vec::new(), Vec::new());
        for (key, row) in &self.changed {
            match self.present.get(key) {
                None => inserts.push(row.clone()),
                Some(old) if old.row != *row => {
                    updates.push(Versioned { row: row.clone(), version: old.version });
                }
                Some(_) => {}
            }
        }
        (inserts, updates)
    }
}
