//! Questions about topics and partitions. librdkafka answers them by blocking, so they run on threads that may wait.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientContext,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    metadata::Metadata,
    types::RDKafkaRespErr,
};
use stormglass_runtime::{Cause, Failure, Partition, Reason, Topic, Watermarks};

use super::{config::KafkaConfig, log, outcome::of_read, producer::spawn_thread};

/// How often the client's log is fetched.
const POLL: Duration = Duration::from_secs(1);

/// A client that asks and neither publishes nor consumes.
pub(super) struct Questions {
    client: Arc<BaseConsumer<Quiet>>,
    patience: Duration,
}

/// What one topic consists of.
pub(super) struct TopicShape {
    /// How many partitions it has.
    pub(super) partitions: u32,
    /// The replicas of the partition that has the fewest.
    pub(super) replicas: u32,
}

impl Questions {
    /// A client, which connects at once.
    pub(super) fn start(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let client = Arc::new(BaseConsumer::from_config_and_context(&config.questions(), Quiet)?);
        let polled = Arc::downgrade(&client);
        // Events that nobody fetches pile up. The thread also drops the client, which waits for its connections.
        spawn_thread("kafka-questions", move || {
            while let Some(client) = polled.upgrade() {
                if let Some(Err(error)) = client.poll(POLL) {
                    log::error(&error, "asked nothing");
                }
            }
        })?;
        Ok(Self { client, patience: Duration::from_millis(config.request_timeout_ms) })
    }

    /// What `topic` consists of. `Rejected` if it does not exist.
    pub(super) async fn shape(&self, topic: &Topic) -> Result<TopicShape, Failure> {
        let name = topic.clone();
        let patience = self.patience;
        self.ask(move |client| {
            let metadata = client.fetch_metadata(Some(name.as_str()), patience);
            shape_in(&metadata.map_err(|error| of_read(&error, name.as_str()))?, &name)
        })
        .await
    }

    /// The readable range of a partition.
    pub(super) async fn watermarks(&self, partition: &Partition) -> Result<Watermarks, Failure> {
        let Partition { topic, index } = partition.clone();
        let patience = self.patience;
        self.ask(move |client| {
            let index = i32::try_from(index).unwrap_or(i32::MAX);
            let range = client.fetch_watermarks(topic.as_str(), index, patience);
            let (start, end) = range.map_err(|error| of_read(&error, topic.as_str()))?;
            Ok(Watermarks { start, end })
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer<Quiet>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let client = Arc::clone(&self.client);
        blocking(move || question(&client)).await
    }
}

/// Runs what blocks in librdkafka beside the tasks of the runtime.
#[expect(clippy::disallowed_methods, reason = "librdkafka blocks; nothing of this crate runs in a storm")]
pub(super) async fn blocking<T: Send + 'static>(
    question: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    // The thread is only lost with its runtime.
    tokio::task::spawn_blocking(question).await.unwrap_or(Err(Failure::NotDone(Cause::Disconnected)))
}

fn shape_in(metadata: &Metadata, name: &Topic) -> Result<TopicShape, Failure> {
    let found = metadata.topics().iter().find(|topic| topic.name() == name.as_str());
    let topic = found.ok_or(Failure::NotDone(Cause::Protocol))?;
    if let Some(error) = topic.error() {
        return Err(of_read(&KafkaError::MetadataFetch(error.into()), name.as_str()));
    }
    let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min();
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match topic.partitions().len() {
        0 => Err(Failure::Rejected(Reason::UnknownTopic(name.as_str().to_owned()))),
        partitions => {
            Ok(TopicShape { partitions: count(partitions), replicas: count(replicas.unwrap_or(0)) })
        }
    }
}

/// Says nothing but to the log.
struct Quiet;

impl ClientContext for Quiet {
    log::forwarded!();
}

impl ConsumerContext for Quiet {
    fn rebalance(&self, _: &BaseConsumer<Self>, error: RDKafkaRespErr, _: &mut rdkafka::TopicPartitionList) {
        tracing::error!(?error, "a rebalance without a group");
    }
}
