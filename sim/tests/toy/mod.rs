//! A toy cluster of two nodes that echo, and clients that ping them: what the tests of faults are run on.

#![allow(dead_code, reason = "each test binary uses its own part of the toy")]
#![allow(clippy::unwrap_used, reason = "a test that finds none here has failed")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use stormglass_embedded::{
    machine::{Call, Connection, Effect, Machine, Server},
    transport::Link,
};
use stormglass_runtime::Timestamp;
use stormglass_sim::{ClusterHandle, Host, NodeHooks, World, WorldOptions};
use uuid::Uuid;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ping {
    pub client: String,
    pub number: u64,
    /// Answer only after so long.
    pub after_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    pub client: String,
    pub number: u64,
}

/// Echoes, and remembers what it saw.
#[derive(Default)]
pub struct Echo {
    pub pings: BTreeMap<String, u64>,
    pub disconnected: Vec<(Timestamp, Connection)>,
    pub crashed: Vec<usize>,
    pub restarted: Vec<usize>,
    later: Vec<(Timestamp, Call, Pong)>,
}

impl Machine for Echo {
    type Request = Ping;
    type Response = Pong;

    fn handle(&mut self, now: Timestamp, call: Call, ping: Ping) -> Vec<Effect<Pong>> {
        *self.pings.entry(ping.client.clone()).or_default() += 1;
        let pong = Pong { client: ping.client, number: ping.number };
        if ping.after_ms == 0 {
            return vec![Effect::Reply(call, pong)];
        }
        self.later.push((now.after(Duration::from_millis(ping.after_ms)), call, pong));
        Vec::new()
    }

    fn disconnected(&mut self, now: Timestamp, connection: Connection) -> Vec<Effect<Pong>> {
        self.disconnected.push((now, connection));
        Vec::new()
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Effect<Pong>> {
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, ..)| *at <= now);
        self.later = later;
        let due: Vec<(Timestamp, Call, Pong)> = due;
        due.into_iter().map(|(_, call, pong)| Effect::Reply(call, pong)).collect()
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.later.iter().map(|(at, ..)| *at).min()
    }
}

/// What the clients saw.
#[derive(Default)]
pub struct Seen {
    pub answers: BTreeMap<String, u64>,
    pub failures: BTreeMap<String, u64>,
    pub slowest: BTreeMap<String, Duration>,
    pub identities: BTreeMap<String, Vec<Uuid>>,
}

pub struct Toy {
    pub world: World,
    pub server: Server<Echo>,
    pub seen: Arc<Mutex<Seen>>,
    pub clients: usize,
}

impl Toy {
    pub fn answers(&self) -> Vec<u64> {
        (0..self.clients).map(|n| self.answers_of(&format!("client-{n}"))).collect()
    }

    pub fn answers_of(&self, client: &str) -> u64 {
        self.seen.lock().unwrap().answers.get(client).copied().unwrap_or(0)
    }

    pub fn arrived_from(&self, client: &str) -> u64 {
        self.server.with(|echo| echo.pings.get(client).copied().unwrap_or(0))
    }

    pub fn slowest_of(&self, client: &str) -> Duration {
        self.seen.lock().unwrap().slowest.get(client).copied().unwrap_or_default()
    }

    pub fn identities(&self, client: &str) -> Vec<Uuid> {
        self.seen.lock().unwrap().identities.get(client).cloned().unwrap_or_default()
    }
}

/// A cluster of `echo-0` and `echo-1`, and clients `client-0`… that ping `echo-0` every 10 ms.
pub fn raise(options: WorldOptions, clients: usize) -> Toy {
    let mut world = World::raise(options);
    let server = Server::new(Echo::default());
    let (down, up) = (server.clone(), server.clone());
    let hooks = NodeHooks {
        crashed: Box::new(move |_, node| down.with(|echo| echo.crashed.push(node))),
        restarted: Box::new(move |_, node| up.with(|echo| echo.restarted.push(node))),
    };
    let cluster = world.cluster(&["echo-0", "echo-1"], server.clone(), hooks);
    let seen: Arc<Mutex<Seen>> = Arc::default();
    for n in 0..clients {
        let (cluster, seen) = (cluster.clone(), Arc::clone(&seen));
        world.host(&format!("client-{n}"), move |host| {
            ping_for_ever(host, cluster.clone(), Arc::clone(&seen))
        });
    }
    Toy { world, server, seen, clients }
}

async fn ping_for_ever(
    host: Host,
    cluster: ClusterHandle<Echo>,
    seen: Arc<Mutex<Seen>>,
) -> stormglass_sim::ProcessResult {
    let name = host.name().to_owned();
    seen.lock().unwrap().identities.entry(name.clone()).or_default().push(host.identity());
    let transport = host.transport(&cluster);
    let stop = host.shutdown();
    let mut number = 0;
    loop {
        let link = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            link = transport.connect(0) => link,
        };
        if let Ok(link) = link {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = ping(&*link, &name, &mut number, &seen) => {}
            }
        }
        *seen.lock().unwrap().failures.entry(name.clone()).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Longer than the cuts that must break no connection.
const TIMEOUT: Duration = Duration::from_millis(700);

async fn ping(link: &dyn Link<Ping, Pong>, name: &str, number: &mut u64, seen: &Mutex<Seen>) {
    loop {
        *number += 1;
        let asked = tokio::time::Instant::now();
        let request = Ping { client: name.to_owned(), number: *number, after_ms: 0 };
        // Without a timeout a client would wait for ever for a node that died with the answer.
        let answer = tokio::time::timeout(TIMEOUT, link.request(request)).await;
        let Ok(Ok(pong)) = answer else { return };
        assert_eq!(pong, Pong { client: name.to_owned(), number: *number });
        note_answer(&mut seen.lock().unwrap(), name, asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn note_answer(seen: &mut Seen, name: &str, took: Duration) {
    *seen.answers.entry(name.to_owned()).or_default() += 1;
    let slowest = seen.slowest.entry(name.to_owned()).or_default();
    *slowest = took.max(*slowest);
}

pub fn run_for(world: &mut World, sim_ms: u64) {
    let end = world.time().elapsed() + Duration::from_millis(sim_ms);
    while world.time().elapsed() < end {
        world.step().unwrap();
    }
}
