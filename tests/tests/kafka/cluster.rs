//! Three brokers and a controller in containers, and the ways of clients to them.
//!
//! A broker tells a client where to find the others by the listener that the client came through. So there is a
//! listener for each way, advertised as a port of this process, and whatever a client sends passes by here. Clients
//! whose `client.id` is known need no way of their own.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use testcontainers::{
    ContainerAsync, ContainerRequest, Image, ImageExt,
    core::{ContainerPort, WaitFor},
    runners::AsyncRunner,
};
use tokio::{net::TcpListener, sync::Mutex, task::AbortHandle};

use crate::{
    cases::sut::Faults,
    engine,
    proxy::{Way, serve},
};

pub const BROKERS: usize = 3;
/// Ways per broker: the operator's, and one for each side of a storm.
const WAYS: usize = 3;
/// The way that nothing goes wrong on, but for clients by name.
const OPERATOR: usize = 0;
const FIRST_PORT: u16 = 19_000;

/// A running cluster, removed when this is dropped.
pub struct Cluster {
    _controller: ContainerAsync<Kafka>,
    brokers: Vec<ContainerAsync<Kafka>>,
    /// By broker: held while it is killed or started.
    turns: Vec<Mutex<()>>,
    /// By broker, then by way.
    ways: Vec<Vec<Arc<Way>>>,
    ports: Vec<Vec<u16>>,
    serving: Vec<AbortHandle>,
    used: AtomicUsize,
}

/// Starts a cluster for `test`. `None`: there is no engine, and the test is to return.
pub async fn start(test: &str) -> Option<Cluster> {
    let docker = engine::engine(test).await?;
    engine::remove_orphans(&docker).await;
    let name = format!("stormglass-{}-{}", test.replace(' ', "-"), std::process::id());
    let (mut ways, mut ports, mut serving) = (vec![], vec![], vec![]);
    for _ in 0..BROKERS {
        let (mut of_broker, mut their_ports) = (vec![], vec![]);
        for _ in 0..WAYS {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            their_ports.push(listener.local_addr().expect("it is bound").port());
            let way = Arc::new(Way::default());
            serving.push(tokio::spawn(serve(listener, Arc::clone(&way))).abort_handle());
            of_broker.push(way);
        }
        ways.push(of_broker);
        ports.push(their_ports);
    }
    let controller = controller(&name, test).start();
    let brokers = ports.iter().enumerate().map(|(node, ports)| broker(&name, test, (node, ports)).start());
    let (controller, brokers) = futures::join!(controller, join_all(brokers));
    let brokers = brokers.into_iter().map(|broker| broker.expect("a broker starts")).collect();
    let controller = controller.expect("the controller starts");
    let used = AtomicUsize::new(0);
    let turns = (0..BROKERS).map(|_| Mutex::default()).collect();
    let cluster = Cluster { _controller: controller, brokers, turns, ways, ports, serving, used };
    for node in 0..BROKERS {
        cluster.open(node).await;
    }
    Some(cluster)
}

impl Cluster {
    /// `bootstrap.servers` of the way that nothing goes wrong on.
    pub fn operator(&self) -> String {
        self.servers(OPERATOR)
    }

    /// `bootstrap.servers` of the next client, and what can go wrong for it.
    pub fn client(&self) -> (String, Arc<Faults>) {
        let way = OPERATOR + 1 + self.used.fetch_add(1, Ordering::SeqCst) % (WAYS - 1);
        let faults = Arc::new(Faults::default());
        for ways in &self.ways {
            *ways[way].faults.lock().unwrap() = Arc::clone(&faults);
        }
        (self.servers(way), faults)
    }

    /// `bootstrap.servers` of the client that calls itself `client_id`, and what can go wrong for it.
    pub fn named(&self, client_id: &str) -> (String, Arc<Faults>) {
        let faults = Arc::new(Faults::default());
        for ways in &self.ways {
            let mut named = ways[OPERATOR].named.lock().unwrap();
            named.insert(client_id.to_owned(), Arc::clone(&faults));
        }
        (self.servers(OPERATOR), faults)
    }

    fn servers(&self, way: usize) -> String {
        let servers = self.ports.iter().map(|ports| format!("127.0.0.1:{}", ports[way]));
        servers.collect::<Vec<_>>().join(",")
    }

    /// Kills a broker, if it is up: no last words.
    pub async fn kill(&self, node: usize) {
        let _turn = self.turns[node].lock().await;
        for way in &self.ways[node] {
            way.port.store(0, Ordering::SeqCst);
        }
        if self.is_running(node).await {
            self.brokers[node].stop_with_timeout(Some(0)).await.expect("a broker can be killed");
        }
    }

    /// Starts a broker again, if it is down.
    pub async fn revive(&self, node: usize) {
        let _turn = self.turns[node].lock().await;
        if !self.is_running(node).await {
            self.brokers[node].start().await.expect("a broker starts again");
            self.open(node).await;
        }
    }

    async fn is_running(&self, node: usize) -> bool {
        self.brokers[node].is_running().await.expect("a container has a state")
    }

    /// Finds a broker's ports, which change with every start.
    async fn open(&self, node: usize) {
        for (way, internal) in self.ways[node].iter().zip(FIRST_PORT..) {
            let port = self.brokers[node].get_host_port_ipv4(ContainerPort::Tcp(internal)).await;
            way.port.store(port.expect("the port of a container is mapped"), Ordering::SeqCst);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.serving.iter().for_each(AbortHandle::abort);
    }
}

/// The official image.
struct Kafka {
    ports: Vec<ContainerPort>,
}

impl Image for Kafka {
    fn name(&self) -> &str {
        "apache/kafka"
    }

    fn tag(&self) -> &str {
        "4.1.1"
    }

    fn ready_conditions(&self) -> Vec<WaitFor> {
        vec![WaitFor::message_on_stdout("Kafka Server started")]
    }

    fn env_vars(&self) -> impl IntoIterator<Item = (impl Into<Cow<'_, str>>, impl Into<Cow<'_, str>>)> {
        [
            ("CLUSTER_ID", "5L6g3nShT-eMCtK--X86sw"),
            // A broker lives for a minute or two here: what the second compiler would do costs more than it saves.
            ("KAFKA_HEAP_OPTS", "-Xms96m -Xmx320m -XX:TieredStopAtLevel=1"),
            // By default the log cleaner asks for 128 MiB in one piece when it starts, and a small heap may not have them.
            ("KAFKA_LOG_CLEANER_DEDUPE_BUFFER_SIZE", "8388608"),
            ("KAFKA_LOG_DIRS", "/tmp/kraft-combined-logs"),
            ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
            ("KAFKA_INTER_BROKER_LISTENER_NAME", "INTERNAL"),
            ("KAFKA_BROKER_SESSION_TIMEOUT_MS", "2000"),
            ("KAFKA_BROKER_HEARTBEAT_INTERVAL_MS", "300"),
            ("KAFKA_REPLICA_LAG_TIME_MAX_MS", "2000"),
            ("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false"),
            ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "3"),
            ("KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS", "3"),
            ("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "3"),
            ("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1"),
            ("KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS", "3"),
            // Back in sync soon after a restart.
            ("KAFKA_REPLICA_FETCH_BACKOFF_MS", "200"),
            ("KAFKA_REPLICA_FETCH_WAIT_MAX_MS", "100"),
            ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
            ("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "1000"),
            ("KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS", "4500"),
            ("KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", "300"),
            ("KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS", "1000"),
            ("KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS", "100"),
        ]
    }

    fn expose_ports(&self) -> &[ContainerPort] {
        &self.ports
    }
}

/// `offsets.topic.num.partitions`.
pub const OFFSETS_PARTITIONS: usize = 3;

fn controller(name: &str, test: &str) -> ContainerRequest<Kafka> {
    node(name, test, "controller", Kafka { ports: vec![] })
        .with_env_var("KAFKA_NODE_ID", "100")
        .with_env_var("KAFKA_PROCESS_ROLES", "controller")
        .with_env_var("KAFKA_LISTENERS", "CONTROLLER://:9093")
        .with_env_var("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT")
}

fn broker(name: &str, test: &str, (index, ports): (usize, &Vec<u16>)) -> ContainerRequest<Kafka> {
    let host = format!("broker-{}", index + 1);
    let join = |parts: Vec<String>| parts.join(",");
    let ways = || ports.iter().zip(FIRST_PORT..).enumerate();
    let listeners = join(ways().map(|(way, (_, internal))| format!("WAY{way}://:{internal}")).collect());
    let advertised = join(ways().map(|(way, (port, _))| format!("WAY{way}://127.0.0.1:{port}")).collect());
    let protocols = join(ways().map(|(way, _)| format!("WAY{way}:PLAINTEXT")).collect());
    let exposed = ways().map(|(_, (_, internal))| ContainerPort::Tcp(internal)).collect();
    node(name, test, &host, Kafka { ports: exposed })
        .with_env_var("KAFKA_NODE_ID", (index + 1).to_string())
        .with_env_var("KAFKA_PROCESS_ROLES", "broker")
        .with_env_var("KAFKA_LISTENERS", format!("INTERNAL://:9092,{listeners}"))
        .with_env_var("KAFKA_ADVERTISED_LISTENERS", format!("INTERNAL://{name}-{host}:9092,{advertised}"))
        .with_env_var(
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
            format!("CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,{protocols}"),
        )
}

fn node(name: &str, test: &str, host: &str, image: Kafka) -> ContainerRequest<Kafka> {
    image
        .with_label(engine::LABEL, test)
        .with_network(name)
        .with_container_name(format!("{name}-{host}"))
        .with_startup_timeout(Duration::from_secs(300))
        .with_env_var("KAFKA_CONTROLLER_QUORUM_VOTERS", format!("100@{name}-controller:9093"))
}
