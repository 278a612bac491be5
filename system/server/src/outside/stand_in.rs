//! A payment provider and a notifier that only pretend, in memory: for `serve --embedded`, and served over HTTP for tests.
//!
//! They keep their half of the ports' contract: what was done under a key is told again, and a key that was closed takes
//! no request any more. They forget everything when they end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use stormglass_orders::{
    ports::{Charge, Notice, Notifier, PaymentProvider, PaymentReply, Refund},
    types::Reference,
};
use stormglass_runtime::{ActError, Entropy, IdempotencyKey};
use tokio::time::sleep;
use tracing::info;

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

    /// What was done under the key, which takes no further effect from now on.
    fn close(&mut self, key: IdempotencyKey) -> Option<T> {
        let entry = self.entry(key);
        entry.closed = true;
        entry.done.clone()
    }
}

impl StandIn {
    /// One that has not been asked anything yet.
    pub fn new(manners: Manners, entropy: Arc<dyn Entropy>) -> Self {
        Self { manners, entropy, payments: Mutex::default(), messages: Mutex::default() }
    }

    /// Does `effect` once for `key`, or fails as its manners have it.
    async fn perform<T: Clone>(
        &self,
        book: &Mutex<Book<T>>,
        key: IdempotencyKey,
        effect: impl FnOnce() -> Result<T, ActError>,
    ) -> Result<T, ActError> {
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
}

#[async_trait]
impl PaymentProvider for StandIn {
    async fn charge(&self, charge: Charge, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        let order = charge.subject.order;
        let reply = self.perform(&self.payments, key, || {
            if self.entropy.draw("decline", order.0.as_u128(), 0) < self.manners.decline {
                info!(%order, "declined");
                return Ok(PaymentReply::Declined);
            }
            info!(%order, amount = charge.amount.minor, currency = %charge.amount.currency.as_str(), "captured");
            reference("charge", key).map(PaymentReply::Captured)
        });
        reply.await
    }

    async fn refund(&self, refund: Refund, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        let reply = self.perform(&self.payments, key, || {
            info!(order = %refund.subject.order, "refunded");
            reference("refund", key).map(PaymentReply::Refunded)
        });
        reply.await
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        Ok(locked(&self.payments).close(key))
    }
}

#[async_trait]
impl Notifier for StandIn {
    async fn send(&self, notice: Notice, key: IdempotencyKey) -> Result<Reference, ActError> {
        let reply = self.perform(&self.messages, key, || {
            info!(order = %notice.subject.order, kind = notice.kind.as_str(), "told the customer");
            reference("message", key)
        });
        reply.await
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        Ok(locked(&self.messages).close(key))
    }
}

fn reference(kind: &str, key: IdempotencyKey) -> Result<Reference, ActError> {
    Reference::new(&format!("{kind}-{}", key.0.simple()))
        .map_err(|error| ActError::Rejected(error.to_string()))
}

fn locked<T>(book: &Mutex<Book<T>>) -> MutexGuard<'_, Book<T>> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
