//! Three brokers in containers, which are their own controllers too, and the ways of each side of the system to them.
//!
//! A broker tells a client where to find the others by the listener that the client came through. So there is a listener
//! for each way, advertised as a port of this process, and whatever a side sends passes by here.

use std::time::Duration;

use futures::future::join_all;
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt,
    core::{ContainerPort, IntoContainerPort, WaitFor},
    runners::AsyncRunner,
};
use tokio::time::sleep;

use crate::{engine, plan::SIDES, way::Way};

const BROKERS: usize = 3;
/// One for each side, and the operator's, which is never cut.
const WAYS: usize = SIDES + 1;
const OPERATOR: usize = SIDES;
const FIRST_PORT: u16 = 19_000;

/// A running cluster, removed when this is dropped.
pub struct Brokers {
    containers: Vec<ContainerAsync<GenericImage>>,
    /// By broker, then by side; the operator's are last.
    ways: Vec<Vec<Way>>,
}

impl Brokers {
    /// Starts the cluster for `test`, in the network `name`.
    pub async fn start(name: &str, test: &str) -> Brokers {
        let mut ways = Vec::new();
        for _ in 0..BROKERS {
            ways.push(join_all((0..WAYS).map(|_| Way::open())).await);
        }
        let starting = ways.iter().enumerate().map(|(node, ways)| request((name, test), node, ways).start());
        let started = join_all(starting).await;
        let containers = started.into_iter().map(|broker| broker.expect("a broker starts")).collect();
        let brokers = Brokers { containers, ways };
        for node in 0..BROKERS {
            brokers.open(node).await;
        }
        brokers
    }

    /// `bootstrap.servers` as one side knows them.
    pub fn servers(&self, side: usize) -> String {
        let servers = self.ways.iter().map(|ways| format!("127.0.0.1:{}", ways[side].port));
        servers.collect::<Vec<_>>().join(",")
    }

    /// `bootstrap.servers` by ways that are never cut.
    pub fn operator(&self) -> String {
        self.servers(OPERATOR)
    }

    /// Kills a broker without a last word, and starts it again after `down`.
    pub async fn kill(&self, node: usize, down: Duration) {
        self.ways[node].iter().for_each(|way| way.lead_to(0));
        self.containers[node].stop_with_timeout(Some(0)).await.expect("a broker can be killed");
        sleep(down).await;
        self.containers[node].start().await.expect("a broker starts again");
        self.open(node).await;
    }

    /// Cuts one side of the system off from every broker, for a while.
    pub async fn cut(&self, side: usize, lasting: Duration) {
        let ways = || self.ways.iter().map(|ways| &ways[side]);
        ways().for_each(Way::cut);
        sleep(lasting).await;
        ways().for_each(Way::heal);
    }

    /// Finds a broker's ports, which change with every start.
    async fn open(&self, node: usize) {
        for (way, internal) in self.ways[node].iter().zip(FIRST_PORT..) {
            let port = self.containers[node].get_host_port_ipv4(ContainerPort::Tcp(internal)).await;
            way.lead_to(port.expect("the port of a container is mapped"));
        }
    }
}

/// What every broker is told. Records carry the time of their append: what a producer believed is no evidence.
const SETTINGS: [(&str, &str); 15] = [
    ("CLUSTER_ID", "5L6g3nShT-eMCtK--X86sw"),
    ("KAFKA_HEAP_OPTS", "-Xms128m -Xmx256m"),
    ("KAFKA_PROCESS_ROLES", "broker,controller"),
    ("KAFKA_LOG_DIRS", "/tmp/kraft-combined-logs"),
    ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
    ("KAFKA_INTER_BROKER_LISTENER_NAME", "INTERNAL"),
    ("KAFKA_BROKER_SESSION_TIMEOUT_MS", "3000"),
    ("KAFKA_BROKER_HEARTBEAT_INTERVAL_MS", "500"),
    ("KAFKA_REPLICA_LAG_TIME_MAX_MS", "3000"),
    ("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false"),
    ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "3"),
    ("KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS", "4"),
    ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
    ("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "1000"),
    ("KAFKA_LOG_MESSAGE_TIMESTAMP_TYPE", "LogAppendTime"),
];

fn request((name, test): (&str, &str), node: usize, ways: &[Way]) -> ContainerRequest<GenericImage> {
    let host = |node: usize| format!("{name}-broker-{}", node + 1);
    let all = |each: &dyn Fn(usize, u16, &Way) -> String| {
        let parts = ways.iter().zip(FIRST_PORT..).enumerate();
        parts.map(|(index, (way, internal))| each(index, internal, way)).collect::<Vec<_>>().join(",")
    };
    let listeners = all(&|index, internal, _| format!("WAY{index}://:{internal}"));
    let advertised = all(&|index, _, way| format!("WAY{index}://127.0.0.1:{}", way.port));
    let protocols = all(&|index, _, _| format!("WAY{index}:PLAINTEXT"));
    let voters: Vec<String> = (0..BROKERS).map(|node| format!("{}@{}:9093", node + 1, host(node))).collect();
    let ready = WaitFor::message_on_stdout("Kafka Server started");
    let mut image = GenericImage::new("apache/kafka", "4.1.1").with_wait_for(ready);
    for (_, internal) in ways.iter().zip(FIRST_PORT..) {
        image = image.with_exposed_port(internal.tcp());
    }
    let mut request = image
        .with_label(engine::LABEL, test)
        .with_network(name)
        .with_container_name(host(node))
        .with_startup_timeout(Duration::from_secs(900))
        .with_env_var("KAFKA_NODE_ID", (node + 1).to_string())
        .with_env_var("KAFKA_CONTROLLER_QUORUM_VOTERS", voters.join(","))
        .with_env_var("KAFKA_LISTENERS", format!("INTERNAL://:9092,CONTROLLER://:9093,{listeners}"))
        .with_env_var("KAFKA_ADVERTISED_LISTENERS", format!("INTERNAL://{}:9092,{advertised}", host(node)))
        .with_env_var(
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
            format!("CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,{protocols}"),
        );
    for (setting, value) in SETTINGS {
        request = request.with_env_var(setting, value);
    }
    request
}
