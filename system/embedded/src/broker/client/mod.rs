//! A Kafka client over any [`Transport`]: the runtime's [`Broker`] and [`Producer`], as librdkafka would hold them.
//!
//! The same code runs inside one process and over the simulated network. It talks to one broker at a time through
//! `Connections`; what an answer means for the caller is decided in `outcome.rs` alone.

mod config;
mod connections;
mod consumer;
mod membership;
mod outcome;
mod partitioner;
mod producer;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use stormglass_runtime::{
    Broker, Consumer, ConsumerName, Failure, Partition, Position, Producer, Record, Topic, Watermarks,
};
use tokio::sync::mpsc;

pub use config::{ClientConfig, OffsetReset};
pub use partitioner::{murmur2, partition_of};

use self::{
    connections::Connections,
    consumer::GroupConsumer,
    membership::{Member, Shared},
    producer::ProducerCore,
};
use super::request::{Request, Response};
use crate::transport::Transport;

/// A client of one cluster: one producer, any number of consumers. Must be used within one tokio runtime.
pub struct Client {
    connections: Arc<Connections>,
    config: ClientConfig,
    producer: Arc<ProducerCore>,
}

impl Client {
    /// A client that reaches its brokers through `transport`. Connects when it has something to ask.
    pub fn new(transport: Arc<dyn Transport<Request, Response>>, config: ClientConfig) -> Self {
        let connections = Arc::new(Connections::new(transport, config.request_timeout));
        let producer = Arc::new(ProducerCore::new(Arc::clone(&connections), config.clone()));
        Self { connections, config, producer }
    }
}

#[async_trait]
impl Broker for Client {
    async fn subscribe(&self, group: &ConsumerName, topics: &[Topic]) -> Result<Box<dyn Consumer>, Failure> {
        self.connections.refresh(topics).await?;
        let (events, told) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(group.clone()));
        let member = Member {
            connections: Arc::clone(&self.connections),
            config: self.config.clone(),
            shared: Arc::clone(&shared),
            topics: topics.to_vec(),
            events,
            owned: BTreeSet::new(),
        };
        let member = (shared, told, tokio::spawn(member.run()).abort_handle());
        let connections = Arc::clone(&self.connections);
        Ok(Box::new(GroupConsumer::new(connections, self.config.clone(), topics.to_vec(), member)))
    }

    async fn watermarks(&self, partition: &Partition) -> Result<Watermarks, Failure> {
        consumer::watermarks(&self.connections, partition).await
    }

    async fn partitions(&self, topic: &Topic) -> Result<u32, Failure> {
        self.connections.partitions(topic).await
    }
}

#[async_trait]
impl Producer for Client {
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        self.producer.publish(records).await
    }
}
