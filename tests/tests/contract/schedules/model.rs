//! A program on the state machine: at once, on time that moves by hand.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use stormglass_embedded::{
    database::{Client, ClientConfig, Cluster, Config, NODES, Schema, Snapshot},
    machine::Server,
    transport::{Local, TokioClock},
};
use stormglass_runtime::{Clock, Timestamp};

use super::{
    program::{Program, SESSIONS},
    run::{Side, Statements, Transcript, run},
};
use crate::database::cases::{
    domain::Row,
    sut::{Both, consumer},
};

/// The time between two steps.
const STEP: Duration = Duration::from_millis(20);

/// Longer than all steps of a program, so that a deadlock ends only in a pause.
const DEADLOCK_TIMEOUT: Duration = Duration::from_secs(100);

const EPOCH: Timestamp = Timestamp(1_700_000_000_000_000);

/// What the model says of a program.
pub fn expected(program: &Program) -> Transcript {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime starts").block_on(async { run(&Model::start(), program, None).await })
}

struct Model {
    server: Server<Cluster>,
    clock: Arc<dyn Clock>,
    clients: Vec<Arc<dyn Both>>,
}

impl Model {
    fn start() -> Self {
        let config = Config { deadlock_timeout: DEADLOCK_TIMEOUT, ..Config::default() };
        let server = Server::new(Cluster::new(Schema::of::<Row>(), config));
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(EPOCH));
        let client = |session| {
            let local = Local::new(server.clone(), NODES, Arc::clone(&clock));
            // A statement that waits is never given up by its client.
            let config = ClientConfig {
                application: name(session),
                statement_deadline: Duration::from_secs(86_400),
                ..ClientConfig::default()
            };
            Arc::new(Client::new(Arc::new(local), config)) as Arc<dyn Both>
        };
        let clients = (0..SESSIONS).map(client).collect();
        Self { server, clock, clients }
    }
}

/// `application_name` of a session.
pub fn name(session: usize) -> String {
    format!("session {session}")
}

#[async_trait]
impl Side for Model {
    fn client(&self, session: usize) -> Arc<dyn Both> {
        Arc::clone(&self.clients[session])
    }

    async fn settle(&self, _: &Statements, _: Option<&BTreeSet<usize>>) {
        tokio::time::sleep(STEP).await;
    }

    async fn terminate(&self, session: usize) {
        self.server.tick(self.clock.now());
        for connection in self.server.with(|cluster| cluster.sessions_of(&name(session))) {
            self.server.affect(|cluster| cluster.terminate(connection));
        }
    }

    async fn is_gone(&self, _: usize) {}

    async fn pause(&self) {
        tokio::time::sleep(DEADLOCK_TIMEOUT + STEP).await;
        self.server.tick(self.clock.now());
    }

    fn noon(&self) -> Timestamp {
        EPOCH.after(Duration::from_secs(43_200))
    }

    async fn tables(&self) -> Snapshot {
        let (open, locked) = self.server.with(|cluster| (cluster.open_transactions(), cluster.held_locks()));
        assert_eq!((open, locked), (0, 0), "every transaction of {} has ended", consumer());
        self.server.with(|cluster| cluster.tables())
    }
}
