//! The payment provider and the notifier under storm: F1 and F2 at the domain's own ports, as `sim` does at the runtime's.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use stormglass_orders::{
    ports::{Charge, Notice, Notifier, PaymentProvider, PaymentReply, Refund},
    types::Reference,
};
use stormglass_runtime::{ActError, IdempotencyKey};
use stormglass_sim::Host;

/// A third party's port, as the process on `host` calls it through the storm.
pub struct Stormy<P: ?Sized> {
    /// The port.
    pub port: Arc<P>,
    /// Where it is called.
    pub host: Host,
}

impl<P: ?Sized> Stormy<P> {
    /// Makes a call unless it fails before, and forgets its answer if it fails after. A close that failed is asked
    /// again, so it needs no more than an error.
    async fn call<T>(
        &self,
        site: &'static str,
        key: IdempotencyKey,
        call: impl Future<Output = Result<T, ActError>> + Send,
    ) -> Result<T, ActError> {
        let storm = self.host.port_call(site, &key.0);
        storm.linger().await;
        if storm.fails_before() {
            return Err(ActError::NotSent("the storm kept the request".to_owned()));
        }
        let answer = call.await;
        if storm.fails_after() {
            return Err(ActError::Unknown("the storm broke the connection".to_owned()));
        }
        if storm.loses_answer() {
            return Err(ActError::Unknown("the storm kept the answer".to_owned()));
        }
        answer
    }
}

#[async_trait]
impl PaymentProvider for Stormy<dyn PaymentProvider> {
    async fn charge(&self, charge: Charge, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        self.call("provider.charge", key, self.port.charge(charge, key)).await
    }

    async fn refund(&self, refund: Refund, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        self.call("provider.refund", key, self.port.refund(refund, key)).await
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        self.call("provider.close", key, self.port.close(key)).await
    }
}

#[async_trait]
impl Notifier for Stormy<dyn Notifier> {
    async fn send(&self, notice: Notice, key: IdempotencyKey) -> Result<Reference, ActError> {
        self.call("notifier.send", key, self.port.send(notice, key)).await
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        self.call("notifier.close", key, self.port.close(key)).await
    }
}
