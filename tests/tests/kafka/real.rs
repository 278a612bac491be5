//! The real cluster as a system under test: the operator's hands, with Kafka's own tools.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode as Code,
    metadata::Metadata,
    producer::{FutureProducer, FutureRecord},
};
use stormglass_embedded::{
    broker::{ErrorCode, Membership, OffsetReset as Reset},
    machine::Node,
};
use stormglass_runtime::{ConsumerName, Offset, Partition, Position};
use stormglass_server::kafka::{GroupProtocol, Kafka as RealClient, KafkaConfig, OffsetReset};
use tokio::time::{sleep, timeout};

use crate::{
    cases::sut::{Faults, Kafka, Kind, LONG, SESSION, Setup, Sut, Tuning, group, topic},
    cluster::{BROKERS, Cluster, OFFSETS_PARTITIONS},
    proxy::{HeldBack, deliver},
};

/// How long one question of the operator may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One cluster for all cases. Each begins with every broker up, an empty topic, and no group.
#[derive(Clone)]
pub struct Real(pub Arc<Cluster>, pub GroupProtocol);

#[async_trait]
impl Kind for Real {
    async fn start(&self, setup: Setup) -> Box<dyn Sut> {
        let asked = (setup.gap_every, setup.offsets_retention);
        assert_eq!(asked, (0, Setup::default().offsets_retention), "neither can be had of a real cluster");
        for node in 0..BROKERS {
            self.0.revive(node).await;
        }
        for node in 0..BROKERS {
            self.is_up(node).await;
        }
        self.offsets_are_in_sync().await;
        self.remove_group(&group()).await;
        self.create_topic(&setup).await;
        Box::new(self.clone())
    }
}

impl Real {
    /// A client set as the case wants it, with the timeouts that the machine's clients have in these cases.
    pub fn config(&self, servers: String, tuning: Tuning) -> KafkaConfig {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
        KafkaConfig {
            brokers: servers,
            client_id: "test".to_owned(),
            request_timeout_ms: 3_000,
            delivery_timeout_ms: ms(tuning.delivery_timeout),
            linger_ms: 0,
            queue_records: u32::try_from(tuning.queue_records).unwrap(),
            group_protocol: self.1,
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
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", self.0.operator()).create().unwrap()
    }

    fn consumer(&self, group: &str) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.0.operator()).set("group.id", group);
        config.set("enable.auto.commit", "false").create().unwrap()
    }

    /// What the cluster says of `name`, once it says what is waited for.
    async fn metadata(&self, name: &str, wanted: impl Fn(&Metadata) -> bool) -> Metadata {
        let consumer = self.consumer("operator");
        let asked = async {
            loop {
                let answer = consumer.fetch_metadata(Some(name), Duration::from_secs(1));
                if let Some(metadata) = answer.ok().filter(&wanted) {
                    return metadata;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(LONG, asked).await.unwrap_or_else(|_| panic!("{name} is not as it is waited for"))
    }

    /// Waits until every replica of the groups' own topic has caught up: until then each commit waits for it.
    async fn offsets_are_in_sync(&self) {
        self.metadata("__consumer_offsets", |metadata| {
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            partitions.into_iter().all(|partition| partition.leader() > 0 && partition.isr().len() == 3)
        })
        .await;
    }

    /// Waits until the cluster counts a broker in.
    async fn is_up(&self, node: Node) {
        let id = i32::try_from(node + 1).unwrap();
        let there = |metadata: &Metadata| metadata.brokers().iter().any(|broker| broker.id() == id);
        self.metadata(topic().as_str(), there).await;
    }

    async fn remove_group(&self, group: &ConsumerName) {
        let admin = self.admin();
        let mut last = None;
        let removed = async {
            loop {
                let answers = admin.delete_groups(&[group.as_str()], &AdminOptions::new()).await;
                match answers.as_deref() {
                    Ok([Ok(_) | Err((_, Code::GroupIdNotFound))]) => return,
                    // Members of the case before may still be there until their session ends.
                    _ => last = Some(answers),
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        let removed = timeout(LONG, removed).await;
        assert!(removed.is_ok(), "the group of the case before does not end: {last:?}");
    }

    async fn create_topic(&self, setup: &Setup) {
        let (admin, name) = (self.admin(), topic());
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let (bytes, unclean) = (setup.max_record_bytes.to_string(), setup.unclean.to_string());
        let partitions = i32::try_from(setup.partitions).unwrap();
        let wanted = NewTopic::new(name.as_str(), partitions, TopicReplication::Fixed(3))
            .set("min.insync.replicas", "2")
            .set("max.message.bytes", &bytes)
            .set("unclean.leader.election.enable", &unclean);
        let created = async {
            loop {
                match admin.create_topics([&wanted], &options).await.as_deref() {
                    Ok([Ok(_)]) => return,
                    Ok([Err((_, Code::TopicAlreadyExists))]) => {
                        admin.delete_topics(&[name.as_str()], &options).await.ok();
                    }
                    _ => {}
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        timeout(LONG, created).await.expect("a topic can be made");
        self.metadata(name.as_str(), |metadata| {
            let topic = metadata.topics().first();
            topic.is_some_and(|topic| {
                topic.partitions().len() == partitions as usize
                    && topic
                        .partitions()
                        .iter()
                        .all(|partition| partition.leader() > 0 && partition.isr().len() == 3)
            })
        })
        .await;
    }

    async fn leader_of(&self, topic: &str, index: u32) -> Option<Node> {
        let metadata = self.metadata(topic, |metadata| !metadata.topics().is_empty()).await;
        let partitions = metadata.topics()[0].partitions();
        let partition =
            partitions.iter().find(|partition| partition.id() == i32::try_from(index).unwrap())?;
        usize::try_from(partition.leader()).ok()?.checked_sub(1)
    }
}

#[async_trait]
impl Sut for Real {
    fn client(&self, tuning: Tuning) -> (Arc<dyn Kafka>, Arc<Faults>) {
        let (servers, faults) = self.0.client();
        (Arc::new(RealClient::start(self.config(servers, tuning)).unwrap()), faults)
    }

    async fn leader(&self, partition: &Partition) -> Option<Node> {
        self.leader_of(partition.topic.as_str(), partition.index).await
    }

    async fn coordinator(&self, group: &ConsumerName) -> Option<Node> {
        // A group's home is the partition of its name's hash (Java's `String.hashCode`, without the sign).
        let hash =
            group.as_str().bytes().fold(0i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let partitions: u32 = OFFSETS_PARTITIONS.parse().unwrap();
        self.leader_of("__consumer_offsets", (hash & i32::MAX).cast_unsigned() % partitions).await
    }

    async fn kill(&self, node: Node) {
        self.0.kill(node).await;
    }

    async fn start(&self, node: Node) {
        self.0.revive(node).await;
        self.is_up(node).await;
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
        list.add_partition_offset(partition.topic.as_str(), index, KafkaOffset::Offset(before)).unwrap();
        let deleted = self.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
        assert!(deleted.elements().iter().all(|element| element.error().is_ok()));
    }

    async fn produce_acks_leader(&self, partition: &Partition, value: &str) -> Result<Offset, ErrorCode> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.0.operator())
            .set("acks", "1")
            .set("message.timeout.ms", "10000");
        let producer: FutureProducer = config.create().unwrap();
        let record = FutureRecord::to(partition.topic.as_str()).key("acks=1").payload(value);
        let record = record.partition(i32::try_from(partition.index).unwrap());
        let sent = producer.send(record, PATIENCE).await;
        sent.map(|delivery| delivery.offset).map_err(|_| ErrorCode::RequestTimedOut)
    }

    async fn commit_as(&self, _: Membership, _: Position) -> Result<(), ErrorCode> {
        panic!("no client commits under another's name");
    }

    async fn committed(&self, group: &ConsumerName, partition: &Partition) -> Option<Offset> {
        let mut list = TopicPartitionList::new();
        list.add_partition(partition.topic.as_str(), i32::try_from(partition.index).unwrap());
        let list = self.consumer(group.as_str()).committed_offsets(list, PATIENCE).unwrap();
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
        self.0.requests()
    }

    /// librdkafka looks for messages whose time is up once a second.
    fn lateness(&self) -> Duration {
        Duration::from_millis(1_500)
    }
}
