//! The whole backend in this process: a gateway, a relay, and members of every consumer, each with clients of its own.

use std::{collections::BTreeMap, collections::BTreeSet, net::SocketAddr, sync::Arc};

use stormglass_benches::Agreeable;
use stormglass_orders::gateway::{Keyring, Secret};
use stormglass_server::{
    host::{Jitter, SystemClock},
    kafka::Kafka,
    postgres::{self, Client},
    serve::{Process, Role, incarnation},
    stack::Stack,
    stop::Stop,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Fallible, bed::Bed};

/// Roles of production that run, as `stormglass serve` runs them.
pub struct Members {
    /// Where orders are placed.
    pub gateway: SocketAddr,
    tasks: JoinSet<Result<(), Stop>>,
    shutdown: CancellationToken,
}

impl Members {
    /// A gateway alone.
    pub async fn gateway(bed: &Bed) -> Fallible<Self> {
        let mut members = Self::none();
        members.gateway = members.join(bed, BTreeSet::from([Role::Gateway])).await?;
        Ok(members)
    }

    /// A gateway, a relay, and so many members of each consumer.
    pub async fn all(bed: &Bed, count: u32) -> Fallible<Self> {
        let mut members = Self::none();
        members.gateway = members.join(bed, Role::All.parts()).await?;
        for _ in 1..count {
            let consumers = [Role::Orders, Role::Payments, Role::Inventory, Role::Notifications];
            members.join(bed, BTreeSet::from(consumers)).await?;
        }
        Ok(members)
    }

    fn none() -> Self {
        let (tasks, shutdown) = (JoinSet::new(), CancellationToken::new());
        Self { gateway: SocketAddr::from(([127, 0, 0, 1], 0)), tasks, shutdown }
    }

    async fn join(&mut self, bed: &Bed, roles: BTreeSet<Role>) -> Fallible<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let keyring = roles.contains(&Role::Gateway).then(keyring).transpose()?;
        let incarnation = incarnation()?;
        let settings = bed.settings.clone();
        let process = Process { stack: stack(bed, incarnation)?, settings, roles, keyring, incarnation };
        self.tasks.spawn(process.run(listener, None, self.shutdown.clone()));
        Ok(address)
    }

    /// Drains them.
    pub async fn stop(mut self) -> Fallible<()> {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended?.map_err(|stop| stop.to_string())?;
        }
        Ok(())
    }
}

/// Clients of the real servers; the parties outside answer at once.
fn stack(bed: &Bed, incarnation: uuid::Uuid) -> Fallible<Stack> {
    let settings = &bed.settings;
    let kafka = Arc::new(Kafka::start(settings.kafka.clone())?);
    // As production's gateway has it: a client that gives up while whoever placed the order still waits.
    let mut intake = settings.kafka.clone();
    intake.delivery_timeout_ms = settings.gateway.publish_time_ms;
    intake.request_timeout_ms = intake.request_timeout_ms.min(settings.gateway.publish_time_ms);
    let database = Arc::new(Client::new(&settings.database(), postgres::orders::tables()));
    let parties = Arc::new(Agreeable::default());
    Ok(Stack {
        broker: Arc::clone(&kafka) as _,
        producer: kafka,
        intake: Arc::new(Kafka::start(intake)?),
        database: Arc::clone(&database) as _,
        reader: database,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(Jitter::of(incarnation)),
        provider: Arc::clone(&parties) as _,
        notifier: parties,
    })
}

fn keyring() -> Fallible<Keyring> {
    let key = Secret::new(&[7; 32])?;
    Ok(Keyring::new(BTreeMap::from([("bench".to_owned(), key)]), "bench")?)
}
