//! The payments service's port, spoken to [`Provider`](super::Provider) over any transport.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stormglass_embedded::transport::Transport;
use stormglass_orders::ports::{Charge, PaymentProvider, PaymentReply, Refund};
use stormglass_runtime::{ActError, IdempotencyKey};

use super::{Caller, Request, Response};

/// A client of the provider. It never repeats anything by itself: attempts are the runtime's to count.
pub struct ProviderClient {
    caller: Caller<Request, Response>,
}

impl ProviderClient {
    /// A client that waits for `timeout` at most; it must be shorter than the lease on a queue row.
    pub fn new(transport: Arc<dyn Transport<Request, Response>>, timeout: Duration) -> Self {
        ProviderClient { caller: Caller::new(transport, timeout) }
    }

    async fn call(&self, request: Request) -> Result<PaymentReply, ActError> {
        match self.caller.call(request).await? {
            Response::Done(reply) => Ok(reply),
            other => Err(failure(other)),
        }
    }
}

fn failure(response: Response) -> ActError {
    match response {
        Response::Failed => ActError::Failed("the provider failed the key for good".to_owned()),
        // Turned away unread: this request certainly had no effect, an earlier one under the key may have had.
        Response::Busy => ActError::NotSent("the provider is busy".to_owned()),
        Response::Rejected(reason) => ActError::Rejected(reason),
        Response::Done(_) | Response::Closed(_) => {
            ActError::Unknown("an answer to another question".to_owned())
        }
    }
}

#[async_trait]
impl PaymentProvider for ProviderClient {
    async fn charge(&self, charge: Charge, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        self.call(Request::Charge(key.0, charge)).await
    }

    async fn refund(&self, refund: Refund, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        self.call(Request::Refund(key.0, refund)).await
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        match self.caller.call(Request::Close(key.0)).await? {
            Response::Closed(found) => Ok(found),
            other => Err(failure(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use stormglass_embedded::{
        machine::Server,
        transport::{Local, TokioClock, keep_time},
    };
    use stormglass_orders::{
        Subject,
        types::{Currency, Customer, Money, OrderId, Tenant},
    };
    use stormglass_runtime::{Clock, Timestamp};
    use stormglass_sim::Dice;
    use uuid::Uuid;

    use super::{
        super::{Manners, Outage, Provider},
        *,
    };

    fn world(manners: Manners) -> (Server<Provider>, ProviderClient) {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp(0)));
        let server = Server::new(Provider::new(manners, Dice::new(1)));
        drop(tokio::spawn(keep_time(server.clone(), Arc::clone(&clock))));
        let transport = Arc::new(Local::new(server.clone(), 1, clock));
        (server, ProviderClient::new(transport, Duration::from_millis(200)))
    }

    fn charge() -> Charge {
        Charge {
            subject: Subject { tenant: Tenant::new("acme").unwrap(), order: OrderId(Uuid::from_u128(1)) },
            customer: Customer::new("ann").unwrap(),
            amount: Money { minor: 4999, currency: Currency::new("EUR").unwrap() },
        }
    }

    const KEY: IdempotencyKey = IdempotencyKey(Uuid::from_u128(7));

    #[tokio::test(start_paused = true)]
    async fn slow_charge_is_unknown_and_its_repeat_finds_it_done() {
        let (_server, client) = world(Manners { slow: 1.0, slow_ms: 300, ..Manners::perfect() });
        assert!(matches!(client.charge(charge(), KEY).await, Err(ActError::Unknown(_))));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (_, patient) = (_server.clone(), &client);
        assert!(matches!(patient.close(KEY).await, Err(ActError::Unknown(_))), "closing is as slow");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(
            _server.with(|provider| provider.drain_observed()).len(),
            2,
            "requested and captured, once"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn provider_that_turns_requests_away_certainly_did_nothing() {
        let (server, client) = world(Manners::perfect());
        server.with(|provider| provider.set_outage(Outage::Refuses));
        assert!(matches!(client.charge(charge(), KEY).await, Err(ActError::NotSent(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn charge_is_captured_and_told_again_when_closed() {
        let (_server, client) = world(Manners::perfect());
        let reply = client.charge(charge(), KEY).await.unwrap();
        assert_eq!(client.close(KEY).await.unwrap(), Some(reply));
    }
}
