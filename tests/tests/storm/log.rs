//! Kafka's own side, past everything that goes wrong: who leads a partition, how long the log is, and all of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers as _,
};
use stormglass_orders::TOPIC;
use stormglass_runtime::{Headers, Partition, Record, Timestamp, Topic};

use crate::records::Logged;

/// How long one question may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one that is asked again may take.
const GLANCE: Duration = Duration::from_secs(5);

fn consumer(servers: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("group.id", "storm-witness");
    config.set("enable.auto.commit", "false").set("isolation.level", "read_uncommitted");
    config.create().expect("a consumer")
}

/// What a cluster of so many brokers still lacks, by the word of the one at `server`; `None` if it is whole.
pub fn lack(server: &str, brokers: usize) -> Option<String> {
    let metadata = match consumer(server).fetch_metadata(None, GLANCE) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("{server} does not answer: {error}")),
    };
    let there = metadata.brokers().len();
    if there < brokers {
        return Some(format!("{server} knows {there} of {brokers} brokers"));
    }
    metadata.topics().iter().find_map(|topic| {
        let behind = topic.partitions().iter().find(|found| found.isr().len() < found.replicas().len())?;
        Some(format!("{}-{} is in sync on brokers {:?} only", topic.name(), behind.id(), behind.isr()))
    })
}

/// The operator's look at the cluster, past everything that goes wrong.
pub struct Log {
    servers: String,
    topics: Vec<Topic>,
}

impl Log {
    pub fn at(servers: String, topics: Vec<Topic>) -> Self {
        Log { servers, topics }
    }

    fn consumer(&self) -> BaseConsumer {
        consumer(&self.servers)
    }

    /// The node, from 0, that leads a partition of the topic of events.
    pub fn leader(&self, partition: usize) -> Option<usize> {
        let metadata = self.consumer().fetch_metadata(Some(TOPIC), PATIENCE).ok()?;
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let leader = partitions.find(|found| usize::try_from(found.id()) == Ok(partition))?.leader();
        usize::try_from(leader).ok()?.checked_sub(1)
    }

    /// Every partition of every topic, with where its log ends.
    fn ends(&self, consumer: &BaseConsumer) -> Vec<(Partition, i64)> {
        let mut ends = Vec::new();
        for topic in &self.topics {
            let metadata = consumer.fetch_metadata(Some(topic.as_str()), PATIENCE).expect("topics are known");
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                let (start, end) = consumer
                    .fetch_watermarks(topic.as_str(), partition.id(), PATIENCE)
                    .expect("watermarks are known");
                assert_eq!(start, 0, "retention took evidence away");
                let index = u32::try_from(partition.id()).expect("partitions count from 0");
                ends.push((Partition::new(topic, index), end));
            }
        }
        ends
    }

    /// How many records there are.
    pub fn length(&self) -> i64 {
        self.ends(&self.consumer()).iter().map(|(_, end)| end).sum()
    }

    /// All of it.
    pub fn read(&self) -> Vec<Logged> {
        let consumer = self.consumer();
        let mut read = Vec::new();
        for (partition, end) in self.ends(&consumer) {
            let index = i32::try_from(partition.index).expect("partitions are few");
            let mut assignment = TopicPartitionList::new();
            assignment
                .add_partition_offset(partition.topic.as_str(), index, Offset::Beginning)
                .expect("valid");
            consumer.assign(&assignment).expect("it takes partitions");
            let mut next = 0;
            while next < end {
                let message = consumer.poll(PATIENCE).expect("the log goes on").expect("it can be read");
                next = message.offset() + 1;
                read.push(logged(&partition, &message));
            }
        }
        read
    }
}

fn logged(partition: &Partition, message: &impl Message) -> Logged {
    let mut headers = Headers::default();
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        headers.push(header.key, Bytes::copy_from_slice(header.value.unwrap_or_default()));
    }
    let appended_ms = message.timestamp().to_millis().expect("the brokers stamp it");
    Logged {
        at: Timestamp(appended_ms * 1_000),
        position: partition.at(message.offset()),
        record: Arc::new(Record {
            topic: partition.topic.clone(),
            key: message.key().map(Bytes::copy_from_slice),
            headers,
            value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        }),
    }
}
