//! What roles stand on: every port, whatever is behind it.

use std::sync::Arc;

use stormglass_orders::{
    Row,
    ports::{Notifier, PaymentProvider},
};
use stormglass_runtime::{Broker, Clock, Database, Entropy, Ports, Producer, Reader};

/// The ports of one process.
#[derive(Clone)]
pub struct Stack {
    /// Kafka, for consumers.
    pub broker: Arc<dyn Broker>,
    /// Kafka, for the relay.
    pub producer: Arc<dyn Producer>,
    /// Kafka, for the gateway, whose clients do not wait as long as a relay may.
    pub intake: Arc<dyn Producer>,
    /// PostgreSQL, for transactions.
    pub database: Arc<dyn Database<Row>>,
    /// PostgreSQL, for reads.
    pub reader: Arc<dyn Reader<Row>>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Who takes the money.
    pub provider: Arc<dyn PaymentProvider>,
    /// Who tells the customer.
    pub notifier: Arc<dyn Notifier>,
}

impl Stack {
    /// What a worker stands on.
    pub fn ports(&self) -> Ports<Row> {
        Ports {
            broker: Arc::clone(&self.broker),
            database: Arc::clone(&self.database),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
        }
    }
}
