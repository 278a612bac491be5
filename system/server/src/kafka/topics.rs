//! Topics: creating them, and describing them as what G10 and G11 are checked against.

use std::time::Duration;

use rdkafka::{
    ClientContext,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic as KafkaTopic, ResourceSpecifier,
        TopicReplication,
    },
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use stormglass_runtime::{Cause, DurabilityFacts, Failure, Reason, Topic};

use super::{Kafka, log, outcome::of_read, questions::blocking};

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub topic: Topic,
    /// How many partitions. Adding some later remaps keys (SEMANTICS B4).
    pub partitions: u32,
    /// Its replication factor.
    pub replicas: u32,
    /// `min.insync.replicas`.
    pub min_insync: u32,
    /// `retention.ms`; `None` keeps everything.
    pub retention: Option<Duration>,
}

/// What came of a topic that was to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there now.
    Now,
    /// It had been there; whether as asked for, [`Kafka::describe_topic`] tells.
    Before,
}

impl Kafka {
    /// Creates a topic with unclean leader election off.
    ///
    /// # Errors
    /// `Rejected` if the cluster refuses it as asked (too few brokers, an invalid name), `Unknown` if no answer came.
    pub async fn create_topic(&self, new: &NewTopic) -> Result<Created, Failure> {
        let new = new.clone();
        let name = new.topic.clone();
        let results = self
            .administer(&new.topic, async |admin, options| {
                let (min_insync, retention) = (new.min_insync.to_string(), retention_ms(new.retention));
                let signed = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
                let topic = KafkaTopic::new(
                    new.topic.as_str(),
                    signed(new.partitions),
                    TopicReplication::Fixed(signed(new.replicas)),
                )
                .set("min.insync.replicas", &min_insync)
                .set("unclean.leader.election.enable", "false")
                .set("cleanup.policy", "delete")
                .set("retention.ms", &retention)
                .set("retention.bytes", "-1");
                admin.create_topics([&topic], options).await
            })
            .await
            // The request may have arrived, and a repeat finds the topic.
            .map_err(Failure::into_unknown)?;
        match results.into_iter().next() {
            Some(Ok(_)) => Ok(Created::Now),
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(Created::Before),
            Some(Err((_, code @ (Code::RequestTimedOut | Code::NotController)))) => {
                Err(of_read(&KafkaError::MetadataFetch(code), name.as_str()).into_unknown())
            }
            Some(Err((_, code))) => Err(Failure::Rejected(Reason::Invalid(format!("{name}: {code}")))),
            None => Err(Failure::Unknown(Cause::Protocol)),
        }
    }

    /// What a topic is, as the cluster says.
    ///
    /// # Errors
    /// `Rejected` for an unknown topic, `NotDone` otherwise.
    pub async fn describe_topic(&self, topic: &Topic) -> Result<DurabilityFacts, Failure> {
        let replicas = self.questions.shape(topic).await?.replicas;
        let resource = self.settings_of(topic).await?;
        facts(topic, replicas, &resource).ok_or(Failure::NotDone(Cause::Protocol))
    }

    /// `retention.bytes`: how much of each partition is kept, whatever its age; `None` keeps everything.
    ///
    /// # Errors
    /// `Rejected` for an unknown topic, `NotDone` otherwise.
    pub async fn retention_bytes(&self, topic: &Topic) -> Result<Option<u64>, Failure> {
        let resource = self.settings_of(topic).await?;
        let bytes =
            resource.get("retention.bytes").and_then(|entry| entry.value.as_deref()?.parse::<i64>().ok());
        bytes.map(|bytes| u64::try_from(bytes).ok()).ok_or(Failure::NotDone(Cause::Protocol))
    }

    async fn settings_of(&self, topic: &Topic) -> Result<ConfigResource, Failure> {
        let name = topic.clone();
        let described = self
            .administer(topic, async |admin, options| {
                admin.describe_configs([&ResourceSpecifier::Topic(name.as_str())], options).await
            })
            .await?;
        match described.into_iter().next() {
            Some(Ok(resource)) => Ok(resource),
            Some(Err(code)) => Err(of_read(&KafkaError::MetadataFetch(code), topic.as_str())),
            None => Err(Failure::NotDone(Cause::Protocol)),
        }
    }

    /// Asks the cluster through a client of its own, which is not needed often enough to be kept.
    async fn administer<T>(
        &self,
        topic: &Topic,
        ask: impl AsyncFnOnce(&AdminClient<Quiet>, &AdminOptions) -> Result<T, KafkaError>,
    ) -> Result<T, Failure> {
        let failed = |error: KafkaError| of_read(&error, topic.as_str());
        let admin =
            AdminClient::from_config_and_context(&self.config.administration(), Quiet).map_err(failed)?;
        let patience = Some(Duration::from_millis(self.config.request_timeout_ms));
        let options = AdminOptions::new().request_timeout(patience).operation_timeout(patience);
        let answer = ask(&admin, &options).await.map_err(failed);
        // Dropping it waits for its threads.
        blocking(move || {
            drop(admin);
            Ok(())
        })
        .await?;
        answer
    }
}

fn facts(topic: &Topic, replicas: u32, resource: &ConfigResource) -> Option<DurabilityFacts> {
    let value = |name: &str| resource.get(name)?.value.as_deref();
    let retention: i64 = value("retention.ms")?.parse().ok()?;
    let retention = u64::try_from(retention).ok().map(Duration::from_millis);
    Some(DurabilityFacts {
        topic: topic.clone(),
        replicas,
        min_insync: value("min.insync.replicas")?.parse().ok()?,
        unclean_election: value("unclean.leader.election.enable")? == "true",
        compacted: value("cleanup.policy")?.contains("compact"),
        retention,
    })
}

fn retention_ms(retention: Option<Duration>) -> String {
    retention.map_or_else(|| "-1".to_owned(), |retention| retention.as_millis().to_string())
}

/// Says nothing but to the log.
struct Quiet;

impl ClientContext for Quiet {
    log::forwarded!();
}
