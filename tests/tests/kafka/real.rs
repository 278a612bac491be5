//! The real cluster as a system under test: the operator's hands, with Kafka's own tools.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::join_all;
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    metadata::Metadata,
    producer::{FutureProducer, FutureRecord},
};
use stormglass_embedded::{
    broker::{ErrorCode, Membership, OffsetReset as Reset},
    machine::Node,
};
use stormglass_runtime::{ConsumerName, Offset, Partition, Position, Topic};
use stormglass_server::kafka::{GroupProtocol, Kafka as RealClient, KafkaConfig, OffsetReset};
use tokio::time::{sleep, timeout};

use crate::{
    cases::sut::{Faults, Kafka, Kind, SESSION, Setup, Sut, Tuning},
    cluster::{BROKERS, Cluster, OFFSETS_PARTITIONS},
    names::{Names, Renamed},
    outage::Outage,
    proxy::{HeldBack, deliver},
};

/// How long one question of the operator may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A broker that comes back may do so beside many others, on a machine that has no time for it.
const STARTS_WITHIN: Duration = Duration::from_secs(300);

/// A running cluster, and the operator's connection to it.
pub struct Site {
    pub cluster: Cluster,
    operator: BaseConsumer,
    clients: AtomicUsize,
}

impl Site {
    pub fn new(cluster: Cluster) -> Self {
        let operator = consumer(&cluster, "operator");
        Self { cluster, operator, clients: AtomicUsize::new(0) }
    }

    /// Starts what is down and waits until the cluster is as good as new.
    pub async fn mend(&self) {
        join_all((0..BROKERS).map(|node| self.cluster.revive(node))).await;
        for node in 0..BROKERS {
            self.is_up(node).await;
        }
        // Until every replica of the groups' own topic has caught up, each commit waits for it.
        self.metadata("__consumer_offsets", |metadata| {
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            partitions.into_iter().all(|partition| partition.leader() > 0 && partition.isr().len() == BROKERS)
        })
        .await;
    }

    /// What the cluster says of `name`, once it says what is waited for.
    async fn metadata(&self, name: &str, wanted: impl Fn(&Metadata) -> bool) -> Metadata {
        let asked = async {
            loop {
                let answer = blocking(|| self.operator.fetch_metadata(Some(name), Duration::from_secs(1)));
                if let Some(metadata) = answer.ok().filter(&wanted) {
                    return metadata;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(STARTS_WITHIN, asked).await.unwrap_or_else(|_| panic!("{name} is not as it is waited for"))
    }

    /// Waits until the cluster counts a broker in.
    async fn is_up(&self, node: Node) {
        let there = |metadata: &Metadata| metadata.brokers().iter().any(|broker| broker.id() == id_of(node));
        self.metadata("__consumer_offsets", there).await;
    }

    async fn leader_of(&self, topic: &str, index: u32) -> Option<Node> {
        let metadata = self.metadata(topic, |metadata| !metadata.topics().is_empty()).await;
        let mut partitions = metadata.topics()[0].partitions().iter();
        let partition = partitions.find(|partition| u32::try_from(partition.id()) == Ok(index))?;
        usize::try_from(partition.leader()).ok()?.checked_sub(1)
    }
}

/// One case's part of a cluster: a topic and a group of its own.
#[derive(Clone)]
pub struct Real {
    pub site: Arc<Site>,
    pub protocol: GroupProtocol,
    pub names: Arc<Names>,
    /// The broker that leads its first partition and is home of its group.
    home: Node,
    /// With whom it kills and starts brokers.
    pub outage: Arc<Outage>,
}

#[async_trait]
impl Kind for Real {
    async fn start(&self, setup: Setup) -> Box<dyn Sut> {
        let asked = (setup.gap_every, setup.offsets_retention);
        assert_eq!(asked, (0, Setup::default().offsets_retention), "neither can be had of a real cluster");
        self.create_topic(&setup, BROKERS).await;
        Box::new(self.clone())
    }
}

impl Real {
    /// The part of the `number`th case. Cases of one outage have their homes at the same broker.
    pub fn new(
        site: &Arc<Site>,
        protocol: GroupProtocol,
        number: usize,
        outage: (Node, Arc<Outage>),
    ) -> Self {
        let (home, outage) = outage;
        let mut groups = (0..).map(|suffix| format!("payments-{number}-{suffix}"));
        let group = groups.find(|name| home_of(name) == home % OFFSETS_PARTITIONS).unwrap();
        let names = Names {
            topic: Topic::from(format!("orders-{number}").as_str()),
            group: ConsumerName::from(group.as_str()),
        };
        Self { site: Arc::clone(site), protocol, names: Arc::new(names), home, outage }
    }

    /// A client set as the case wants it, with the timeouts that the machine's clients have in these cases, and what can
    /// go wrong for it. It knows nothing of the case's names.
    pub fn connect(
        &self,
        tuning: Tuning,
        adjust: impl FnOnce(KafkaConfig) -> KafkaConfig,
    ) -> (RealClient, Arc<Faults>) {
        let client_id = format!("client-{}", self.site.clients.fetch_add(1, Ordering::SeqCst));
        let (servers, faults) = self.site.cluster.named(&client_id);
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
        let config = KafkaConfig {
            brokers: servers,
            client_id,
            request_timeout_ms: 3_000,
            delivery_timeout_ms: ms(tuning.delivery_timeout),
            linger_ms: 0,
            queue_records: u32::try_from(tuning.queue_records).unwrap(),
            group_protocol: self.protocol,
            session_timeout_ms: ms(SESSION),
            heartbeat_interval_ms: 300,
            max_poll_interval_ms: ms(tuning.max_poll_interval),
            revocation_grace_ms: ms(tuning.revocation_grace),
            offset_reset: match tuning.reset {
                Reset::Earliest => OffsetReset::Earliest,
                Reset::Fail => OffsetReset::Fail,
                Reset::Latest => panic!("the adapter does not offer it"),
            },
            ..KafkaConfig::default()
        };
        (RealClient::start(adjust(config)).unwrap(), faults)
    }

    /// The same under the case's names.
    pub fn renamed(&self, client: RealClient) -> Arc<dyn Kafka> {
        Arc::new(Renamed { names: Arc::clone(&self.names), inner: Box::new(client) })
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", self.site.cluster.operator()).create().unwrap()
    }

    /// Creates the case's topic. Its partitions are led by one broker after the other, from its home on.
    pub async fn create_topic(&self, setup: &Setup, copies: usize) {
        let (admin, name) = (self.admin(), self.names.topic.as_str());
        let (bytes, unclean) = (setup.max_record_bytes.to_string(), setup.unclean.to_string());
        let partitions = setup.partitions as usize;
        let replicas = |index| (0..copies).map(move |next| id_of((self.home + index + next) % BROKERS));
        let replicas: Vec<Vec<i32>> = (0..partitions).map(|index| replicas(index).collect()).collect();
        let replicas: Vec<&[i32]> = replicas.iter().map(Vec::as_slice).collect();
        let wanted =
            NewTopic::new(name, i32::try_from(partitions).unwrap(), TopicReplication::Variable(&replicas))
                .set("min.insync.replicas", if copies == 1 { "1" } else { "2" })
                .set("max.message.bytes", &bytes)
                .set("unclean.leader.election.enable", &unclean);
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let created = admin.create_topics([&wanted], &options).await;
        assert!(matches!(created.as_deref(), Ok([Ok(_)])), "{created:?}");
        self.site
            .metadata(name, |metadata| {
                let topic = metadata.topics().first();
                let led = |topic: &rdkafka::metadata::MetadataTopic| {
                    let mut all = topic.partitions().iter();
                    all.all(|partition| partition.leader() > 0 && partition.isr().len() == copies)
                };
                topic.is_some_and(|topic| topic.partitions().len() == partitions && led(topic))
            })
            .await;
    }
}

fn consumer(cluster: &Cluster, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.operator()).set("group.id", group);
    config.set("reconnect.backoff.max.ms", "200").set("enable.auto.commit", "false").create().unwrap()
}

/// The number that the cluster gives a broker.
fn id_of(node: Node) -> i32 {
    i32::try_from(node + 1).unwrap()
}

/// The partition of the groups' topic that a group is kept in: that of its name's hash (Java's `String.hashCode`, without
/// the sign).
fn home_of(group: &str) -> usize {
    let hash = group.bytes().fold(0i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    (hash & i32::MAX) as usize % OFFSETS_PARTITIONS
}

/// Runs what blocks in librdkafka while other cases go on.
#[expect(clippy::disallowed_methods, reason = "librdkafka blocks; no time is simulated here")]
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

#[async_trait]
impl Sut for Real {
    fn client(&self, tuning: Tuning) -> (Arc<dyn Kafka>, Arc<Faults>) {
        let (client, faults) = self.connect(tuning, |config| config);
        (self.renamed(client), faults)
    }

    async fn leader(&self, partition: &Partition) -> Option<Node> {
        self.site.leader_of(self.names.topic(&partition.topic).as_str(), partition.index).await
    }

    async fn coordinator(&self, group: &ConsumerName) -> Option<Node> {
        let home = home_of(self.names.group(group).as_str());
        self.site.leader_of("__consumer_offsets", u32::try_from(home).unwrap()).await
    }

    async fn kill(&self, node: Node) {
        self.outage.step().await;
        self.site.cluster.kill(node).await;
    }

    async fn start(&self, node: Node) {
        self.outage.step().await;
        self.site.cluster.revive(node).await;
        self.site.is_up(node).await;
    }

    async fn cut_from_peers(&self, _: Node) {
        panic!("containers are not cut from each other here");
    }

    async fn heal(&self) {
        panic!("containers are not cut from each other here");
    }

    async fn delete_records(&self, partition: &Partition, before: Offset) {
        let mut list = TopicPartitionList::new();
        let index = i32::try_from(partition.index).unwrap();
        list.add_partition_offset(self.names.topic.as_str(), index, KafkaOffset::Offset(before)).unwrap();
        let deleted = self.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
        assert!(deleted.elements().iter().all(|element| element.error().is_ok()));
    }

    async fn produce_acks_leader(&self, partition: &Partition, value: &str) -> Result<Offset, ErrorCode> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.site.cluster.operator())
            .set("acks", "1")
            .set("message.timeout.ms", "10000");
        let producer: FutureProducer = config.create().unwrap();
        let record = FutureRecord::to(self.names.topic.as_str()).key("acks=1").payload(value);
        let record = record.partition(i32::try_from(partition.index).unwrap());
        let sent = producer.send(record, PATIENCE).await;
        sent.map(|delivery| delivery.offset).map_err(|_| ErrorCode::RequestTimedOut)
    }

    async fn commit_as(&self, _: Membership, _: Position) -> Result<(), ErrorCode> {
        panic!("no client commits under another's name");
    }

    async fn committed(&self, group: &ConsumerName, partition: &Partition) -> Option<Offset> {
        let Partition { topic, index } = self.names.partition(partition);
        let mut list = TopicPartitionList::new();
        list.add_partition(topic.as_str(), i32::try_from(index).unwrap());
        let group = self.names.group(group);
        let list = blocking(|| {
            consumer(&self.site.cluster, group.as_str()).committed_offsets(list, PATIENCE).unwrap()
        });
        match list.elements()[0].offset() {
            KafkaOffset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    async fn redeliver(&self, _: &Partition, _: usize) {
        panic!("a real broker does not go back by itself");
    }

    async fn redelivered(&self) -> u64 {
        panic!("a real broker does not go back by itself");
    }

    async fn deliver_held(&self, faults: &Faults) -> usize {
        let held = std::mem::take(&mut *faults.held.lock().unwrap());
        let count = held.len();
        for held in held {
            let held = *held.downcast::<HeldBack>().unwrap();
            timeout(Duration::from_secs(2), deliver(held)).await.ok();
        }
        count
    }

    fn requests(&self) -> u64 {
        panic!("the requests of this client are its own affair");
    }

    /// librdkafka looks for messages whose time is up once a second.
    fn lateness(&self) -> Duration {
        Duration::from_millis(1_500)
    }
}
