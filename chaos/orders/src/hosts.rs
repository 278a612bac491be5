//! What runs on the application hosts: the production worker, relay and gateway, unchanged, on ports of the storm.

use std::{collections::BTreeMap, sync::Arc};

use stormglass_embedded::{broker, database};
use stormglass_orders::{
    Inventory, Notifications, Orders, Payments, Row,
    gateway::{Gateway, Keyring, Secret, Unwatched},
    ports::{self, PaymentProvider},
};
use stormglass_runtime::{Broker, Database, Ports, Producer, Reader, Relay, Service, Worker};
use stormglass_sim::{ClusterHandle, Host, ProcessResult};

use crate::{
    client::{self, Client, ClientLog, Habits},
    duty::{self, DutyLog},
    notifier::{Notifier, NotifierClient},
    outside::Stormy,
    provider::{Provider, ProviderClient},
    rollout::{Built, NewerProducer, Version},
    settings,
    shape::{Rollout, Shape},
    workload::Operation,
};

/// How application hosts reach everything else. Cloning shares it.
#[derive(Clone)]
pub struct Wiring {
    /// The cluster's shape.
    pub shape: Arc<Shape>,
    /// The brokers.
    pub kafka: ClusterHandle<broker::Cluster>,
    /// The database nodes.
    pub postgres: ClusterHandle<database::Cluster>,
    /// The payment provider.
    pub provider: ClusterHandle<Provider>,
    /// The notifier.
    pub notifier: ClusterHandle<Notifier>,
}

/// How long the services wait for the provider's or the notifier's answer before they say that they do not know.
const CALL_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(500);

impl Wiring {
    fn broker(&self, host: &Host) -> Arc<broker::Client> {
        let transport = host.transport(&self.kafka);
        Arc::new(broker::Client::new(transport, settings::broker_client(host.name())))
    }

    fn database(&self, host: &Host) -> Arc<database::Client> {
        let transport = host.transport(&self.postgres);
        Arc::new(database::Client::new(transport, settings::database_client(host.name())))
    }

    fn ports(&self, host: &Host) -> Ports<Row> {
        Ports {
            broker: host.stormy_broker(self.broker(host) as Arc<dyn Broker>),
            database: host.stormy_database(self.database(host) as Arc<dyn Database<Row>>),
            clock: host.clock(),
            entropy: host.entropy(),
        }
    }

    fn producer(&self, host: &Host) -> Arc<dyn Producer> {
        host.stormy_producer(self.broker(host) as Arc<dyn Producer>)
    }

    /// A gateway, until its host is stopped or killed.
    pub async fn gateway(self, host: Host) -> ProcessResult {
        let mut producer = self.producer(&host);
        if self.shape.rollout == Rollout::SideBySide && self.version(&host) == Version::Newer {
            producer = Arc::new(NewerProducer(producer));
        }
        let gateway = Gateway {
            producer,
            reader: host.stormy_reader(self.database(&host) as Arc<dyn Reader<Row>>),
            clock: host.clock(),
            keyring: Arc::new(keyring()?),
            health: Arc::new(Unwatched),
            limits: settings::limits(),
        };
        let listener = host.listen(client::HTTP).await?;
        client::serve(listener, gateway.router(), host.shutdown()).await;
        Ok(())
    }

    /// A client, until it has done its operations.
    pub async fn client(
        self,
        number: u32,
        operations: Vec<Operation>,
        log: ClientLog,
        host: Host,
    ) -> ProcessResult {
        let client = Client {
            number,
            gateways: self.shape.gateways(),
            clock: host.clock(),
            dice: host.dice(),
            network: host,
            log,
            habits: Habits::default(),
        };
        client.run(operations).await;
        Ok(())
    }

    /// The operator, until its duties are done.
    pub async fn operator(self, duties: Vec<Operation>, log: DutyLog, host: Host) -> ProcessResult {
        let database = host.stormy_database(self.database(&host) as Arc<dyn Database<Row>>);
        duty::run(duties, database, log, host).await;
        Ok(())
    }

    /// A member of the consumer that the host is named after, until its host is stopped or killed.
    pub async fn member(self, consumer: &'static str, host: Host) -> ProcessResult {
        match consumer {
            "orders" => {
                let deadline = std::time::Duration::from_millis(self.shape.deadline_ms);
                self.work(&host, Orders::new(deadline)).await
            }
            "payments" => {
                let port = Arc::new(ProviderClient::new(host.transport(&self.provider), CALL_TIMEOUT));
                let provider: Stormy<dyn PaymentProvider> = Stormy { port, host: host.clone() };
                self.work(&host, Payments::new(Arc::new(provider))).await
            }
            "inventory" => self.work(&host, Inventory).await,
            "notifications" => {
                let port = Arc::new(NotifierClient::new(host.transport(&self.notifier), CALL_TIMEOUT));
                let notifier: Stormy<dyn ports::Notifier> = Stormy { port, host: host.clone() };
                self.work(&host, Notifications::new(Arc::new(notifier))).await
            }
            other => Err(format!("no consumer is called {other}").into()),
        }
    }

    async fn work(&self, host: &Host, service: impl Service<Row = Row>) -> ProcessResult {
        let built = Built { service, version: self.version(host) };
        let config = settings::worker(&self.shape);
        Worker::new(built, self.ports(host), config, host.identity())?.run(host.shutdown()).await;
        Ok(())
    }

    /// A relay, until its host is stopped or killed.
    pub async fn relay(self, host: Host) -> ProcessResult {
        let database = host.stormy_database(self.database(&host) as Arc<dyn Database<Row>>);
        let relay = Relay::new(database, self.producer(&host), settings::relay(), host.identity())?;
        relay.run(host.shutdown()).await;
        Ok(())
    }

    /// During a rollout the first host of each kind runs the older version until it has been restarted once.
    fn version(&self, host: &Host) -> Version {
        let first = host.name().ends_with("-1") && host.incarnation() == 0;
        if self.shape.rollout == Rollout::SideBySide && first { Version::Older } else { Version::Newer }
    }
}

/// Two keys: one that every gateway signs with, and one that is distributed for verification only, as mid-rotation.
fn keyring() -> Result<Keyring, Box<dyn std::error::Error + Send + Sync>> {
    let secret = |byte: u8| Secret::new(&[byte; 32]);
    let keys = BTreeMap::from([("current".to_owned(), secret(1)?), ("next".to_owned(), secret(2)?)]);
    Ok(Keyring::new(keys, "current")?)
}
