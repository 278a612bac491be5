//! The state machine as a system under test, and the faults on a client's way to it: inside this process, or wherever
//! a transport leads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use stormglass_embedded::{
    broker::{
        Acks, Client, ClientConfig, Cluster, ClusterConfig, Embedded as Machines, ErrorCode, Membership,
        Produce, Request, Response, TopicConfig,
    },
    machine::{Node, Server},
    transport::{Link, Local, TokioClock, Transport, Unreachable},
};
use stormglass_runtime::{Clock, ConsumerName, Offset, Partition, Position, Timestamp};
use tokio::time::timeout;

use super::cases::sut::{Faults, Kafka, Kind, Setup, Sut, Tuning, record};

/// A state machine of its own for each case, inside this process.
pub struct Embedded;

#[async_trait]
impl Kind for Embedded {
    async fn start(&self, setup: Setup) -> Box<dyn Sut> {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000_000)));
        let machines = Machines::start(cluster(setup), Arc::clone(&clock));
        let server = machines.server.clone();
        let transport = Arc::new(Local::new(server.clone(), NODES, Arc::clone(&clock)));
        let lateness = Duration::from_millis(50);
        let requests = Arc::default();
        Box::new(MachineSut { server, transport, clock, requests, lateness, keeps_time: Some(machines) })
    }
}

/// How many brokers there are.
pub const NODES: usize = 3;

/// A cluster as a case wants it, its timeouts scaled for simulated time.
pub fn cluster(setup: Setup) -> ClusterConfig {
    let topic = TopicConfig {
        max_record_bytes: setup.max_record_bytes,
        ..TopicConfig::new("orders", setup.partitions)
    };
    let config = ClusterConfig {
        gap_every: setup.gap_every,
        unclean_leader_election: setup.unclean,
        ..ClusterConfig::new(vec![topic]).scaled_down(10)
    };
    ClusterConfig { offsets_retention: setup.offsets_retention, ..config }
}

/// A state machine, whichever way its clients reach it.
pub struct MachineSut {
    pub server: Server<Cluster>,
    pub transport: Arc<dyn Transport<Request, Response>>,
    pub clock: Arc<dyn Clock>,
    pub requests: Arc<AtomicU64>,
    pub lateness: Duration,
    /// What lets its time pass, where nobody else does.
    #[expect(dead_code, reason = "held, not read: time stops when it is dropped")]
    pub keeps_time: Option<Machines>,
}

impl MachineSut {
    async fn ask(&self, node: Node, request: Request) -> Response {
        let link =
            Local::new(self.server.clone(), NODES, Arc::clone(&self.clock)).connect(node).await.unwrap();
        link.request(request).await.unwrap_or(Response::Failed(ErrorCode::CoordinatorNotAvailable))
    }
}

#[async_trait]
impl Sut for MachineSut {
    fn client(&self, tuning: Tuning) -> (Arc<dyn Kafka>, Arc<Faults>) {
        let faults = Arc::new(Faults::default());
        let transport = Faulty {
            inner: Arc::clone(&self.transport),
            server: self.server.clone(),
            faults: Arc::clone(&faults),
            requests: Arc::clone(&self.requests),
        };
        let config = ClientConfig {
            delivery_timeout: tuning.delivery_timeout,
            max_poll_interval: tuning.max_poll_interval,
            revocation_grace: tuning.revocation_grace,
            queue_records: tuning.queue_records,
            offset_reset: tuning.reset,
            rebalance_timeout: Duration::from_secs(6),
            ..ClientConfig::new("test").scaled_down(10)
        };
        (Arc::new(Client::new(Arc::new(transport), config)), faults)
    }

    async fn leader(&self, partition: &Partition) -> Option<Node> {
        self.server.with(|cluster| cluster.leader(partition))
    }

    async fn coordinator(&self, group: &ConsumerName) -> Option<Node> {
        self.server.with(|cluster| cluster.coordinator(group))
    }

    async fn kill(&self, node: Node) {
        self.server.affect(|cluster| cluster.crash(self.clock.now(), node));
    }

    async fn start(&self, node: Node) {
        self.server.affect(|cluster| cluster.restart(self.clock.now(), node));
    }

    async fn cut_from_peers(&self, node: Node) {
        for peer in (0..NODES).filter(|&peer| peer != node) {
            self.server.affect(|cluster| cluster.cut(self.clock.now(), node, peer));
        }
    }

    async fn heal(&self) {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            self.server.affect(|cluster| cluster.heal(self.clock.now(), a, b));
        }
    }

    async fn delete_records(&self, partition: &Partition, before: Offset) {
        self.server.affect(|cluster| cluster.trim(self.clock.now(), partition, before));
    }

    async fn produce_acks_leader(&self, partition: &Partition, value: &str) -> Result<Offset, ErrorCode> {
        let produce = Produce {
            partition: partition.clone(),
            acks: Acks::Leader,
            stamp: None,
            records: vec![Arc::new(record("acks=1", value))],
            timeout: Duration::from_secs(1),
        };
        let leader = self.leader(partition).await.unwrap();
        match self.ask(leader, Request::Produce(produce)).await {
            Response::Produced(offset) => Ok(offset),
            Response::Failed(code) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    async fn commit_as(&self, who: Membership, position: Position) -> Result<(), ErrorCode> {
        let node = self.coordinator(&who.group).await.unwrap();
        match self.ask(node, Request::CommitOffsets(who, vec![position])).await {
            Response::Done => Ok(()),
            Response::Failed(code) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    async fn committed(&self, group: &ConsumerName, partition: &Partition) -> Option<Offset> {
        let node = self.coordinator(group).await.unwrap();
        match self.ask(node, Request::FetchOffsets(group.clone(), vec![partition.clone()])).await {
            Response::Offsets(offsets) => offsets[0],
            other => panic!("{other:?}"),
        }
    }

    async fn redeliver(&self, partition: &Partition, records: usize) {
        self.server.affect(|cluster| cluster.redeliver(self.clock.now(), partition, records));
    }

    async fn redelivered(&self) -> u64 {
        self.server.with(|cluster| cluster.redelivered())
    }

    async fn deliver_held(&self, faults: &Faults) -> usize {
        let held = std::mem::take(&mut *faults.held.lock().unwrap());
        let count = held.len();
        for held in held {
            let (node, request) = *held.downcast::<(Node, Request)>().unwrap();
            // The answer reaches nobody: the client gave up long ago.
            timeout(Duration::from_millis(100), self.ask(node, request)).await.ok();
        }
        count
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    fn lateness(&self) -> Duration {
        self.lateness
    }
}

/// The way of one client to the brokers, with [`Faults`] on it. A broker that is down refuses connections.
struct Faulty {
    inner: Arc<dyn Transport<Request, Response>>,
    server: Server<Cluster>,
    faults: Arc<Faults>,
    requests: Arc<AtomicU64>,
}

struct FaultyLink {
    node: Node,
    link: Box<dyn Link<Request, Response>>,
    faults: Arc<Faults>,
    requests: Arc<AtomicU64>,
}

#[async_trait]
impl Transport<Request, Response> for Faulty {
    async fn connect(&self, node: Node) -> Result<Box<dyn Link<Request, Response>>, Unreachable> {
        if !self.server.with(|cluster| cluster.is_up(node)) || self.faults.mute.load(Ordering::SeqCst) {
            return Err(Unreachable);
        }
        let link = self.inner.connect(node).await?;
        Ok(Box::new(FaultyLink {
            node,
            link,
            faults: Arc::clone(&self.faults),
            requests: Arc::clone(&self.requests),
        }))
    }

    fn nodes(&self) -> usize {
        self.inner.nodes()
    }
}

#[async_trait]
impl Link<Request, Response> for FaultyLink {
    async fn request(&self, request: Request) -> Result<Response, Unreachable> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let produce = matches!(request, Request::Produce(_));
        if produce && self.faults.hold.load(Ordering::SeqCst) {
            self.faults.held.lock().unwrap().push(Box::new((self.node, request)));
            return std::future::pending().await;
        }
        if self.faults.mute.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let response = self.link.request(request).await;
        if self.faults.deaf.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let lose = |left: u64| left.checked_sub(1);
        if produce && self.faults.lose_acks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
            return Err(Unreachable);
        }
        response
    }
}
