//! Names of its own for each case, so that cases share a cluster without meeting: what a case calls `orders` and
//! `payments` is another topic and another group for each. The client is production's; only what goes in and out of its
//! ports is renamed. Groups of other names are a case's own anyway.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use stormglass_runtime::{
    Assignment, Broker, Consumer, ConsumerName, Delivery, Failure, Partition, Position, Producer, Record,
    Topic, Watermarks,
};

use crate::cases::sut;

/// How often a member tries to join before the case hears of it.
const SUBSCRIBE_TRIES: usize = 10;

/// What the topic and the group of one case are called in the cluster.
#[derive(Debug)]
pub struct Names {
    pub topic: Topic,
    pub group: ConsumerName,
}

impl Names {
    pub fn topic(&self, topic: &Topic) -> Topic {
        if *topic == sut::topic() { self.topic.clone() } else { topic.clone() }
    }

    pub fn group(&self, group: &ConsumerName) -> ConsumerName {
        if *group == sut::group() { self.group.clone() } else { group.clone() }
    }

    pub fn partition(&self, partition: &Partition) -> Partition {
        Partition::new(&self.topic(&partition.topic), partition.index)
    }

    fn position(&self, position: &Position) -> Position {
        self.partition(&position.partition).at(position.offset)
    }

    /// As the case calls it.
    fn back(&self, partition: &Partition) -> Partition {
        if partition.topic == self.topic { sut::partition(partition.index) } else { partition.clone() }
    }

    fn all_back(&self, partitions: &[Partition]) -> Vec<Partition> {
        partitions.iter().map(|partition| self.back(partition)).collect()
    }
}

/// A client under the names of one case.
pub struct Renamed<T: ?Sized> {
    pub names: Arc<Names>,
    pub inner: Box<T>,
}

#[async_trait]
impl<T: sut::Kafka + ?Sized> Broker for Renamed<T> {
    /// A topic that was made a moment ago is not known to every broker yet, and brokers are slow while all cases begin.
    async fn subscribe(&self, group: &ConsumerName, topics: &[Topic]) -> Result<Box<dyn Consumer>, Failure> {
        let topics: Vec<Topic> = topics.iter().map(|topic| self.names.topic(topic)).collect();
        let mut tries = SUBSCRIBE_TRIES;
        loop {
            tries -= 1;
            match self.inner.subscribe(&self.names.group(group), &topics).await {
                Ok(inner) => return Ok(Box::new(Renamed { names: Arc::clone(&self.names), inner })),
                Err(failure) if tries == 0 => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    async fn watermarks(&self, partition: &Partition) -> Result<Watermarks, Failure> {
        self.inner.watermarks(&self.names.partition(partition)).await
    }

    async fn partitions(&self, topic: &Topic) -> Result<u32, Failure> {
        self.inner.partitions(&self.names.topic(topic)).await
    }
}

#[async_trait]
impl<T: sut::Kafka + ?Sized> Producer for Renamed<T> {
    async fn publish(&self, mut records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        for record in &mut records {
            record.topic = self.names.topic(&record.topic);
        }
        let results = self.inner.publish(records).await.into_iter();
        results.map(|result| result.map(|at| self.names.back(&at.partition).at(at.offset))).collect()
    }
}

#[async_trait]
impl Consumer for Renamed<dyn Consumer> {
    async fn next(&mut self) -> Result<Delivery, Failure> {
        let names = &self.names;
        Ok(match self.inner.next().await? {
            Delivery::Records(mut records) => {
                for delivered in &mut records {
                    delivered.at.partition = names.back(&delivered.at.partition);
                    delivered.record.topic = delivered.at.partition.topic.clone();
                }
                Delivery::Records(records)
            }
            Delivery::Assigned(assigned) => {
                let renamed = assigned.into_iter().map(|assignment| Assignment {
                    partition: names.back(&assignment.partition),
                    watermarks: assignment.watermarks,
                });
                Delivery::Assigned(renamed.collect())
            }
            Delivery::Revoking(partitions, token) => Delivery::Revoking(names.all_back(&partitions), token),
            Delivery::Lost(partitions) => Delivery::Lost(names.all_back(&partitions)),
        })
    }

    async fn report(&mut self, positions: Vec<Position>) -> Result<(), Failure> {
        let positions = positions.iter().map(|position| self.names.position(position)).collect();
        self.inner.report(positions).await
    }

    fn seek(&mut self, position: Position) {
        self.inner.seek(self.names.position(&position));
    }

    fn pause(&mut self, partitions: &[Partition]) {
        let partitions: Vec<_> = partitions.iter().map(|partition| self.names.partition(partition)).collect();
        self.inner.pause(&partitions);
    }

    fn resume(&mut self, partitions: &[Partition]) {
        let partitions: Vec<_> = partitions.iter().map(|partition| self.names.partition(partition)).collect();
        self.inner.resume(&partitions);
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}
