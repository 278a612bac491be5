//! The same cases where the storm runs: each node a host of a simulated network, the case a process on another host.
//!
//! What lies between a case and a state machine here is all that a storm puts there: client, network card, framed
//! protocol, node. The operator's hands reach the machine itself, as the storm's scheduled faults do.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stormglass_embedded::{broker, database, machine::Server};
use stormglass_sim::{ClusterHandle, Host, NodeHooks, World, WorldOptions};

use crate::{
    broker::{
        cases::sut as kafka,
        machines::{MachineSut, NODES, cluster},
    },
    database::{
        cases::{
            domain::Row,
            sut::{Kind, Pace, Sut},
        },
        machines::MachineOperator,
    },
    suite::{Case, Running, Verdicts, is_wanted, on_a_thread},
};

/// A message takes whole ticks: a question and its answer two at least, and rarely six.
const TICK: Duration = Duration::from_millis(5);

/// A question may be on its way for a while.
const PACE: Pace = Pace {
    patience: Duration::from_millis(100),
    limit: Duration::from_millis(500),
    lateness: Duration::from_millis(200),
};

/// How long a case may take, in simulated time.
const LONGEST: Duration = Duration::from_secs(900);

struct Database {
    host: Host,
    cluster: ClusterHandle<database::Cluster>,
    server: Server<database::Cluster>,
}

#[async_trait]
impl Kind for Database {
    fn pace(&self) -> Pace {
        PACE
    }

    /// The hosts are there from the first tick, so it is the machine behind them that is made anew.
    async fn start(&self, config: database::Config) -> Sut {
        self.server.with(|machine| *machine = database::Cluster::new(database::Schema::of::<Row>(), config));
        let (server, transport) = (self.server.clone(), self.host.transport(&self.cluster));
        MachineOperator { server, transport, clock: self.host.clock() }.into_sut(PACE)
    }
}

struct Broker {
    host: Host,
    cluster: ClusterHandle<broker::Cluster>,
    server: Server<broker::Cluster>,
}

#[async_trait]
impl kafka::Kind for Broker {
    async fn start(&self, setup: kafka::Setup) -> Box<dyn kafka::Sut> {
        self.server.with(|machine| *machine = broker::Cluster::new(cluster(setup)));
        Box::new(MachineSut {
            server: self.server.clone(),
            transport: self.host.transport(&self.cluster),
            clock: self.host.clock(),
            requests: Arc::default(),
            lateness: Duration::from_millis(150),
            keeps_time: None,
        })
    }
}

/// Runs every case of the database.
pub fn database(cases: &[Case<Arc<dyn Kind>>]) -> Verdicts {
    each(cases, |case| {
        let server =
            Server::new(database::Cluster::new(database::Schema::of::<Row>(), database::Config::default()));
        let mut world = raise();
        let cluster = world.cluster(&["primary", "replica"], server.clone(), NodeHooks::default());
        run(world, move |host| {
            (case.run)(Arc::new(Database { host, cluster: cluster.clone(), server: server.clone() }))
        });
    })
}

/// Runs every case of the broker.
pub fn broker(cases: &[Case<Arc<dyn kafka::Kind>>]) -> Verdicts {
    each(cases, |case| {
        let server = Server::new(broker::Cluster::new(cluster(kafka::Setup::default())));
        let mut world = raise();
        let names = ["kafka-0", "kafka-1", "kafka-2"];
        assert_eq!(names.len(), NODES);
        let cluster = world.cluster(&names, server.clone(), NodeHooks::default());
        run(world, move |host| {
            (case.run)(Arc::new(Broker { host, cluster: cluster.clone(), server: server.clone() }))
        });
    })
}

fn raise() -> World {
    World::raise(WorldOptions { tick: TICK, ..WorldOptions::new(1) })
}

fn each<K: 'static>(cases: &[Case<K>], run: fn(Case<K>)) -> Verdicts {
    let wanted = cases.iter().copied().filter(|case| is_wanted(case.name));
    wanted.map(|case| (case.name, on_a_thread(move || run(case)))).collect()
}

/// Steps the world until the case is over; its panic is this one's.
fn run(mut world: World, case: impl Fn(Host) -> Running + 'static) {
    world.host("client", move |host| {
        let running = case(host);
        async move {
            running.await;
            Ok(())
        }
    });
    for _ in 0..LONGEST.as_millis() / TICK.as_millis() {
        if let Err(error) = world.step() {
            panic!("{error}");
        }
        if !world.is_running("client").expect("it is a host of this world") {
            return;
        }
    }
    panic!("the case does not end");
}
