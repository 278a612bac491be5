//! A payment provider and a notifier that only pretend, in memory: for `serve --embedded`, and served over HTTP for tests.
//!
//! They keep their half of the ports' contract: what was done under a key is told again, and a key that was closed takes
//! no request any more. They forget everything when they end, unless they keep a [`Ledger`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use stormglass_orders::{
    ports::{Charge, Notice, Notifier, PaymentProvider, PaymentReply, Refund},
    types::{OrderId, Reference},
};
use stormglass_runtime::{ActError, Clock, Entropy, IdempotencyKey, Timestamp};
use tokio::time::sleep;
use tracing::info;
use uuid::Uuid;

use super::ledger::{Ledger, Line};
use crate::host::SystemClock;

/// How well a stand-in behaves. Rates are probabilities, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Manners {
    /// Requests that fail: half of them before they had an effect, half of them after it.
    pub fail: f64,
    /// Charges that are refused as a business answer.
    pub decline: f64,
    /// How long every request takes.
    pub latency: Duration,
}

/// A stand-in for either.
pub struct StandIn {
    manners: Manners,
    entropy: Arc<dyn Entropy>,
    ledger: Option<Ledger>,
    payments: Mutex<Book<PaymentReply>>,
    messages: Mutex<Book<Reference>>,
}

/// What is known of each key.
struct Book<T> {
    entries: BTreeMap<IdempotencyKey, Entry<T>>,
}

struct Entry<T> {
    requests: u32,
    /// `None` as long as nothing was done under it.
    done: Option<T>,
    closed: bool,
}

impl<T> Default for Book<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<T: Clone> Book<T> {
    fn entry(&mut self, key: IdempotencyKey) -> &mut Entry<T> {
        self.entries.entry(key).or_insert(Entry { requests: 0, done: None, closed: false })
    }
}

impl StandIn {
    /// One that has not been asked anything yet.
    pub fn new(manners: Manners, entropy: Arc<dyn Entropy>) -> Self {
        Self { manners, entropy, ledger: None, payments: Mutex::default(), messages: Mutex::default() }
    }

    /// The same, writing down what it is asked and does, and remembering what is written already.
    ///
    /// # Errors
    /// A line that no stand-in wrote.
    pub fn keeping(mut self, (ledger, lines): (Ledger, Vec<Line>)) -> Result<Self, ActError> {
        for line in lines {
            self.remember(line)?;
        }
        self.ledger = Some(ledger);
        Ok(self)
    }

    fn remember(&self, line: Line) -> Result<(), ActError> {
        let paid = |key, reply| locked(&self.payments).entry(IdempotencyKey(key)).done = Some(reply);
        match line {
            Line::Requested { .. } => {}
            Line::Captured { key, charge, .. } => paid(key, PaymentReply::Captured(charge)),
            Line::Declined { key, .. } => paid(key, PaymentReply::Declined),
            Line::Refunded { key, .. } => {
                paid(key, PaymentReply::Refunded(reference("refund", IdempotencyKey(key))?));
            }
            Line::Sent { key, .. } => {
                let key = IdempotencyKey(key);
                locked(&self.messages).entry(key).done = Some(reference("message", key)?);
            }
            // Of which of the two it was is of no account: no key is both.
            Line::Closed { key, .. } => {
                locked(&self.payments).entry(IdempotencyKey(key)).closed = true;
                locked(&self.messages).entry(IdempotencyKey(key)).closed = true;
            }
        }
        Ok(())
    }

    /// Writes down what is about to be answered. What cannot be written down is not done.
    fn note(&self, line: impl FnOnce(Timestamp) -> Line) -> Result<(), ActError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        ledger
            .write(&line(SystemClock.now()))
            .map_err(|error| ActError::NotSent(format!("the ledger cannot be written: {error}")))
    }

    /// Does `effect` once for the request's key, or fails as its manners have it.
    async fn perform<T: Clone>(
        &self,
        book: &Mutex<Book<T>>,
        request: Request,
        effect: impl FnOnce() -> Result<T, ActError>,
    ) -> Result<T, ActError> {
        let Request { key, order, kind } = request;
        self.note(|at| Line::Requested { at, key: key.0, order, kind: kind.to_owned() })?;
        sleep(self.manners.latency).await;
        let mut book = locked(book);
        let entry = book.entry(key);
        entry.requests += 1;
        let luck = self.entropy.draw("stand-in", key.0.as_u128(), entry.requests);
        if luck < self.manners.fail / 2.0 {
            return Err(ActError::Unknown("the stand-in failed, as it was told to".to_owned()));
        }
        let done = match (&entry.done, entry.closed) {
            (Some(done), _) => done.clone(),
            (None, true) => return Err(ActError::Failed("the key is closed".to_owned())),
            (None, false) => effect()?,
        };
        entry.done = Some(done.clone());
        if luck < self.manners.fail {
            return Err(ActError::Unknown("the stand-in did it, and failed to say so".to_owned()));
        }
        Ok(done)
    }

    /// What was done under the key, which takes no further effect from now on.
    fn close_in<T: Clone>(&self, book: &Mutex<Book<T>>, key: Uuid) -> Result<Option<T>, ActError> {
        let mut book = locked(book);
        let entry = book.entry(IdempotencyKey(key));
        if !entry.closed && entry.done.is_none() {
            self.note(|at| Line::Closed { at, key })?;
        }
        entry.closed = true;
        Ok(entry.done.clone())
    }
}

/// What a stand-in is asked.
struct Request {
    key: IdempotencyKey,
    order: OrderId,
    kind: &'static str,
}

#[async_trait]
impl PaymentProvider for StandIn {
    async fn charge(&self, charge: Charge, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        let Charge { subject, amount, .. } = charge;
        let order = subject.order;
        let reply = self.perform(&self.payments, Request { key, order, kind: "Charge" }, || {
            if self.entropy.draw("decline", order.0.as_u128(), 0) < self.manners.decline {
                self.note(|at| Line::Declined { at, key: key.0, order })?;
                info!(%order, "declined");
                return Ok(PaymentReply::Declined);
            }
            info!(%order, amount = amount.minor, currency = %amount.currency.as_str(), "captured");
            let charge = reference("charge", key)?;
            self.note(|at| Line::Captured { at, key: key.0, order, amount, charge: charge.clone() })?;
            Ok(PaymentReply::Captured(charge))
        });
        reply.await
    }

    async fn refund(&self, refund: Refund, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        let Refund { subject, charge, amount } = refund;
        let order = subject.order;
        let reply = self.perform(&self.payments, Request { key, order, kind: "Refund" }, || {
            self.note(|at| Line::Refunded { at, key: key.0, order, amount, charge })?;
            info!(%order, "refunded");
            reference("refund", key).map(PaymentReply::Refunded)
        });
        reply.await
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        self.close_in(&self.payments, key.0)
    }
}

#[async_trait]
impl Notifier for StandIn {
    async fn send(&self, notice: Notice, key: IdempotencyKey) -> Result<Reference, ActError> {
        let (order, kind) = (notice.subject.order, notice.kind.as_str());
        let reply = self.perform(&self.messages, Request { key, order, kind }, || {
            self.note(|at| Line::Sent { at, key: key.0, order, kind: kind.to_owned() })?;
            info!(%order, kind, "told the customer");
            reference("message", key)
        });
        reply.await
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        self.close_in(&self.messages, key.0)
    }
}

fn reference(kind: &str, key: IdempotencyKey) -> Result<Reference, ActError> {
    Reference::new(&format!("{kind}-{}", key.0.simple()))
        .map_err(|error| ActError::Rejected(error.to_string()))
}

fn locked<T>(book: &Mutex<Book<T>>) -> MutexGuard<'_, Book<T>> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
