//! Three brokers in containers, which are their own controllers too, and the ways of each side of the system to them.
//!
//! A broker tells a client where to find the others by the listener that the client came through. So there is a listener
//! for each way, advertised as a port of this process, and whatever a side sends passes by here.
//!
//! A broker is there when it answers and the cluster is whole by its own word, not when its log says so.

use std::time::Duration;

use futures::future::join_all;
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt,
    core::{ContainerPort, IntoContainerPort},
    runners::AsyncRunner,
};
use tokio::time::{Instant, sleep};

use crate::{engine, log, plan::SIDES, way::Way};

const BROKERS: usize = 3;
/// One for each side, and the operator's, which is never cut.
const WAYS: usize = SIDES + 1;
const OPERATOR: usize = SIDES;
const FIRST_PORT: u16 = 19_000;
/// Lines of a broker's log that are told when it does not start.
const LAST_WORDS: usize = 20;

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
        brokers.are_whole().await;
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

    /// Kills a broker without a last word, starts it again after `down`, and waits until it is in sync.
    pub async fn kill(&self, node: usize, down: Duration) {
        self.ways[node].iter().for_each(|way| way.lead_to(0));
        self.containers[node].stop_with_timeout(Some(0)).await.expect("a broker can be killed");
        sleep(down).await;
        self.containers[node].start().await.expect("a broker starts again");
        self.open(node).await;
        self.are_whole().await;
    }

    /// Cuts one side of the system off from every broker, for a while.
    pub async fn cut(&self, side: usize, lasting: Duration) {
        let ways = || self.ways.iter().map(|ways| &ways[side]);
        ways().for_each(Way::cut);
        sleep(lasting).await;
        ways().for_each(Way::heal);
    }

    /// Waits until every broker says that all are there and in sync. Each is asked: while one is down, the others may
    /// not have noticed yet, and one that comes back answers only after they have.
    async fn are_whole(&self) {
        let deadline = Instant::now() + engine::STARTS_WITHIN;
        for (container, ways) in self.containers.iter().zip(&self.ways) {
            let server = format!("127.0.0.1:{}", ways[OPERATOR].port);
            while let Some(lack) = log::lack(&server, BROKERS) {
                let is_running = container.is_running().await.expect("a container has a state");
                if !is_running || Instant::now() > deadline {
                    let said = container.stdout_to_vec().await.unwrap_or_default();
                    let said = String::from_utf8_lossy(&said);
                    let last: Vec<&str> = said.lines().rev().take(LAST_WORDS).collect();
                    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                    panic!("a broker is not there (it runs: {is_running}; {lack}). Its last words:\n{last}");
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
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
const SETTINGS: [(&str, &str); 19] = [
    ("CLUSTER_ID", "5L6g3nShT-eMCtK--X86sw"),
    // A broker lives for minutes here: what the second compiler would do costs more than it saves.
    ("KAFKA_HEAP_OPTS", "-Xms128m -Xmx256m -XX:TieredStopAtLevel=1"),
    // By default the log cleaner asks for 128 MiB in one piece when it starts, which half of the heap can or cannot give.
    ("KAFKA_LOG_CLEANER_DEDUPE_BUFFER_SIZE", "8388608"),
    // On a machine that is busy with other things a quorum of three may take more than the default minute, after which
    // a broker gives up and ends; and with the default second for an election it may never agree on a leader.
    ("KAFKA_INITIAL_BROKER_REGISTRATION_TIMEOUT_MS", "600000"),
    ("KAFKA_CONTROLLER_QUORUM_ELECTION_TIMEOUT_MS", "2000"),
    ("KAFKA_CONTROLLER_QUORUM_FETCH_TIMEOUT_MS", "4000"),
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
    let mut image = GenericImage::new("apache/kafka", "4.1.1");
    for (_, internal) in ways.iter().zip(FIRST_PORT..) {
        image = image.with_exposed_port(internal.tcp());
    }
    let mut request = image
        .with_label(engine::LABEL, test)
        .with_network(name)
        .with_container_name(host(node))
        .with_startup_timeout(engine::STARTS_WITHIN)
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
