//! The state machine inside this process, as a system under test.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stormglass_embedded::{
    database::{
        Client, ClientConfig, Cluster, Config, Disk, NODES, Promotion, Replication, Response, Schema,
        Snapshot, embedded,
    },
    machine::{Effect, Server},
    transport::{Local, TokioClock},
};
use stormglass_runtime::{Clock, Session, Timestamp};

use crate::{
    domain::Row,
    sut::{Both, Operator, Sut},
};

/// How long a statement that need not wait may take. Time is simulated: this is for its wake-ups alone.
pub const PATIENCE: Duration = Duration::from_millis(20);

/// The timeout of cases about timeouts.
pub const LIMIT: Duration = Duration::from_millis(500);

/// How late a timeout may be.
pub const LATENESS: Duration = Duration::from_millis(100);

/// A kind of PostgreSQL that the cases run on.
#[derive(Clone, Copy, Debug)]
pub enum Adapter {
    /// The state machine inside this process.
    Embedded,
}

impl Adapter {
    /// A fresh cluster with these settings.
    pub async fn start(self, config: Config) -> Sut {
        match self {
            Adapter::Embedded => {
                let clock: Arc<dyn Clock> =
                    Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000_000)));
                let (server, client) = embedded(Schema::of::<Row>(), config, Arc::clone(&clock));
                Sut { operator: Box::new(EmbeddedOperator { server, clock }), client }
            }
        }
    }
}

struct EmbeddedOperator {
    server: Server<Cluster>,
    clock: Arc<dyn Clock>,
}

impl EmbeddedOperator {
    fn affect(&self, reach: impl FnOnce(&mut Cluster) -> Vec<Effect<Response>>) {
        self.server.tick(self.clock.now());
        self.server.affect(reach);
    }
}

#[async_trait]
impl Operator for EmbeddedOperator {
    fn client(&self, config: ClientConfig) -> Arc<dyn Both> {
        let local = Local::new(self.server.clone(), NODES, Arc::clone(&self.clock));
        Arc::new(Client::new(Arc::new(local), config))
    }

    async fn crash(&self, node: usize) {
        self.affect(|cluster| cluster.crash(node));
    }

    async fn restart(&self, node: usize) {
        self.affect(|cluster| cluster.restart(node));
    }

    async fn kill_backend(&self) {
        self.affect(Cluster::kill_backend);
    }

    async fn terminate(&self, application: &str) {
        for session in self.server.with(|cluster| cluster.sessions_of(application)) {
            self.affect(|cluster| cluster.terminate(session));
        }
    }

    async fn promote(&self, promotion: Promotion) {
        self.affect(|cluster| cluster.promote(promotion));
    }

    async fn rejoin(&self, node: usize) {
        self.affect(|cluster| cluster.rejoin(node));
    }

    async fn set_disk(&self, disk: Disk) {
        self.server.with(|cluster| cluster.set_disk(disk));
    }

    async fn set_replication(&self, replication: Replication) {
        self.affect(|cluster| cluster.set_replication(replication));
    }

    async fn drop_after_commit(&self, application: &str) {
        self.server.with(|cluster| cluster.drop_after_commit(application));
    }

    async fn vanish(&self, session: Box<dyn Session<Row>>) {
        std::mem::forget(session);
    }

    async fn tables(&self) -> Snapshot {
        self.server.with(|cluster| cluster.tables())
    }

    async fn leftovers(&self) -> (usize, usize) {
        self.server.with(|cluster| (cluster.open_transactions(), cluster.held_locks()))
    }
}
