//! The state machine as a system under test: inside this process, or wherever a transport leads.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stormglass_embedded::{
    database::{
        Client, ClientConfig, Cluster, Config, Disk, NODES, Promotion, Replication, Request, Response,
        Schema, Snapshot, embedded,
    },
    machine::{Effect, Server},
    transport::{Local, TokioClock, Transport},
};
use stormglass_runtime::{Clock, Session, Timestamp};

use super::cases::{
    domain::Row,
    sut::{Both, Kind, Operator, Pace, Sut},
};

/// A state machine of its own for each case, inside this process.
pub struct Embedded;

#[async_trait]
impl Kind for Embedded {
    fn pace(&self) -> Pace {
        PACE
    }

    async fn start(&self, config: Config) -> Sut {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000_000)));
        let (server, _) = embedded(Schema::of::<Row>(), config, Arc::clone(&clock));
        let transport = Arc::new(Local::new(server.clone(), NODES, Arc::clone(&clock)));
        MachineOperator { server, transport, clock }.into_sut(PACE)
    }
}

/// Time is simulated: patience is for its wake-ups alone.
const PACE: Pace = Pace {
    patience: Duration::from_millis(20),
    limit: Duration::from_millis(500),
    lateness: Duration::from_millis(100),
};

/// The hands on a state machine, whichever way its clients reach it.
pub struct MachineOperator {
    pub server: Server<Cluster>,
    pub transport: Arc<dyn Transport<Request, Response>>,
    pub clock: Arc<dyn Clock>,
}

impl MachineOperator {
    /// A system with one client more than the operator's.
    pub fn into_sut(self, pace: Pace) -> Sut {
        let client = self.client(ClientConfig::default());
        Sut { pace, operator: Box::new(self), client }
    }

    fn affect(&self, reach: impl FnOnce(&mut Cluster) -> Vec<Effect<Response>>) {
        self.server.tick(self.clock.now());
        self.server.affect(reach);
    }
}

#[async_trait]
impl Operator for MachineOperator {
    fn client(&self, config: ClientConfig) -> Arc<dyn Both> {
        Arc::new(Client::new(Arc::clone(&self.transport), config))
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
