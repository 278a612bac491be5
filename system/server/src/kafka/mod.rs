//! The `Broker`, `Producer` and `Consumer` ports on real Kafka, through librdkafka.
//!
//! What the ports promise is written there (`stormglass_runtime::Broker`); how it is kept stands in the files here:
//! the order of a key over failures in `producer.rs` and `call.rs`, membership and rebalances in `consumer.rs` and
//! `ear.rs`, `held.rs`, `reading.rs`, *did it happen?* in `outcome.rs` alone. Every setting is written down in `config.rs`.
//!
//! Left out: transactions (effects are made once by the inbox, DESIGN G1), committed offsets as a place to start from
//! (positions are rows, G3), and TLS, which librdkafka is built without here.

mod call;
mod config;
mod consumer;
mod ear;
mod held;
mod log;
mod outcome;
mod persistence;
mod producer;
mod questions;
mod reading;
mod topics;

use std::sync::Arc;

use async_trait::async_trait;
use rdkafka::error::KafkaError;
use stormglass_runtime::{
    Broker, Consumer, ConsumerName, Failure, Partition, Position, Producer, Reason, Record, Topic, Watermarks,
};
use thiserror::Error;

pub use config::{GroupProtocol, KafkaConfig, OffsetReset};
pub use topics::{Created, NewTopic};

use self::{consumer::Member, producer::ProducerCore, questions::Questions};

/// A client of one cluster: one producer, any number of consumers. Cheap to share behind an `Arc`.
///
/// Dropping it gives up what was published and not reported, and returns at once; threads end by themselves.
pub struct Kafka {
    config: KafkaConfig,
    producer: Arc<ProducerCore>,
    questions: Arc<Questions>,
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting must not be used.
    #[error(transparent)]
    Config(#[from] stormglass_runtime::ConfigError),
    /// librdkafka refuses to start.
    #[error("librdkafka: {0}")]
    Client(#[from] KafkaError),
}

impl Kafka {
    /// A client with these settings. Connecting goes on in the background: whoever asks first learns whether a broker
    /// answers.
    ///
    /// # Errors
    /// A setting that must not be used, or that librdkafka refuses.
    pub fn start(config: KafkaConfig) -> Result<Self, StartError> {
        config.validate()?;
        let questions = Arc::new(Questions::start(&config)?);
        let producer = ProducerCore::start(config.clone())?;
        Ok(Self { config, producer, questions })
    }
}

#[async_trait]
impl Broker for Kafka {
    async fn subscribe(&self, group: &ConsumerName, topics: &[Topic]) -> Result<Box<dyn Consumer>, Failure> {
        for topic in topics {
            self.questions.shape(topic).await?;
        }
        let member = Member::join(&self.config, Arc::clone(&self.questions), group, topics);
        let member = member.map_err(|error| Failure::Rejected(Reason::Invalid(error.to_string())))?;
        Ok(Box::new(member))
    }

    async fn watermarks(&self, partition: &Partition) -> Result<Watermarks, Failure> {
        let partitions = self.questions.shape(&partition.topic).await?.partitions;
        if partition.index >= partitions {
            let reason = format!("{} has {partitions} partitions, and no {partition}", partition.topic);
            return Err(Failure::Rejected(Reason::Invalid(reason)));
        }
        self.questions.watermarks(partition).await
    }

    async fn partitions(&self, topic: &Topic) -> Result<u32, Failure> {
        Ok(self.questions.shape(topic).await?.partitions)
    }
}

#[async_trait]
impl Producer for Kafka {
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        self.producer.publish(records).await
    }
}
