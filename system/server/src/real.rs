//! The real Kafka and PostgreSQL behind the ports, and what is checked of them before anything starts.

use std::sync::Arc;

use stormglass_orders::{Row, TOPIC};
use stormglass_runtime::{DurabilityFacts, Entropy, Failure, Reason, Topic};

use crate::{
    host::SystemClock,
    kafka::Kafka,
    migrations,
    outside::Outside,
    postgres::{self, Client},
    settings::{Settings, topics},
    stack::Stack,
    stop::Stop,
};

/// A client of the cluster that the settings name. It connects in the background.
///
/// # Errors
/// A setting that must not be used.
pub fn kafka(settings: &Settings) -> Result<Arc<Kafka>, Stop> {
    settings.check_kafka()?;
    let kafka = Kafka::start(settings.kafka.clone());
    kafka.map(Arc::new).map_err(|error| Stop::Usage(format!("settings: kafka: {error}")))
}

/// A client of the database that the settings name, whose login and migrations are as they must be.
///
/// # Errors
/// Why the primary cannot be used.
pub async fn database(settings: &Settings) -> Result<Arc<Client<Row>>, Stop> {
    settings.check_postgres()?;
    migrations::check(settings).await?;
    Ok(client(settings))
}

/// The same without asking anything: a gateway takes orders while PostgreSQL is away.
///
/// # Errors
/// A setting that must not be used, or a database that answers and is not as it must be.
pub async fn database_if_there(settings: &Settings) -> Result<Arc<Client<Row>>, Stop> {
    settings.check_postgres()?;
    match migrations::check(settings).await {
        Ok(()) => {}
        Err(Stop::Unreachable(line)) => tracing::warn!("orders are taken and cannot be shown: {line}"),
        Err(stop) => return Err(stop),
    }
    Ok(client(settings))
}

fn client(settings: &Settings) -> Arc<Client<Row>> {
    Arc::new(Client::new(&settings.database(), postgres::orders::tables()))
}

/// The parties outside, by their addresses. Nothing is connected to.
pub struct Parties {
    provider: Outside,
    notifier: Outside,
}

impl Parties {
    /// Those that the settings name.
    ///
    /// # Errors
    /// A setting that must not be used.
    pub fn new(settings: &Settings) -> Result<Self, Stop> {
        settings.check_outside("payments", &settings.payments)?;
        settings.check_outside("notifications", &settings.notifications)?;
        Ok(Self {
            provider: Outside::new("payments", &settings.payments)?,
            notifier: Outside::new("notifications", &settings.notifications)?,
        })
    }
}

/// Ports on all of them.
///
/// # Errors
/// A setting that must not be used.
pub fn stack(
    (kafka, database): (Arc<Kafka>, Arc<Client<Row>>),
    parties: Parties,
    settings: &Settings,
    entropy: Arc<dyn Entropy>,
) -> Result<Stack, Stop> {
    Ok(Stack {
        broker: Arc::clone(&kafka) as _,
        producer: kafka,
        intake: intake(settings)?,
        database: Arc::clone(&database) as _,
        reader: database,
        clock: Arc::new(SystemClock),
        entropy,
        provider: Arc::new(parties.provider),
        notifier: Arc::new(parties.notifier),
    })
}

/// A client for the gateway: one that gives up on a record while whoever placed the order still waits.
fn intake(settings: &Settings) -> Result<Arc<Kafka>, Stop> {
    let mut settings = settings.clone();
    settings.kafka.delivery_timeout_ms = settings.gateway.publish_time_ms;
    settings.kafka.request_timeout_ms =
        settings.kafka.request_timeout_ms.min(settings.gateway.publish_time_ms);
    kafka(&settings)
}

/// Whether every topic exists, and the one of events upholds G10 and G11. Answers with what each topic is.
///
/// # Errors
/// The first topic that is not as it must be.
pub async fn check_topics(kafka: &Kafka, settings: &Settings) -> Result<Vec<DurabilityFacts>, Stop> {
    let mut found = Vec::new();
    for topic in topics() {
        found.push(check_topic(kafka, &topic, settings).await?);
    }
    Ok(found)
}

/// The same of one topic.
///
/// # Errors
/// If it is not as it must be.
pub async fn check_topic(kafka: &Kafka, topic: &Topic, settings: &Settings) -> Result<DurabilityFacts, Stop> {
    let facts = describe(kafka, topic, settings).await?;
    if topic.as_str() == TOPIC {
        settings.worker.check_topic(&facts).map_err(|error| Stop::Unfit(error.to_string()))?;
        if let Some(bytes) =
            kafka.retention_bytes(topic).await.map_err(|failure| refused(failure, settings))?
        {
            return Err(Stop::Unfit(format!(
                "retention.bytes = {bytes} on topic {topic}: must be -1; a burst would push out what was not read yet, \
                 and the inbox forgets what is gone: limit the topic by retention.ms (G10)"
            )));
        }
    }
    Ok(facts)
}

async fn describe(kafka: &Kafka, topic: &Topic, settings: &Settings) -> Result<DurabilityFacts, Stop> {
    kafka.describe_topic(topic).await.map_err(|failure| refused(failure, settings))
}

fn refused(failure: Failure, settings: &Settings) -> Stop {
    match failure {
        Failure::Rejected(Reason::UnknownTopic(name)) => {
            Stop::Missing(format!("topic {name} does not exist; create it with `stormglass topics create`"))
        }
        Failure::NotDone(cause) => Stop::Unreachable(format!(
            "{} does not answer: {cause}; is it up, and is that its address?",
            at_kafka(settings)
        )),
        other => Stop::of(&at_kafka(settings), &other),
    }
}

/// Where Kafka is, for messages.
pub fn at_kafka(settings: &Settings) -> String {
    format!("Kafka at {} (kafka.brokers)", settings.kafka.brokers)
}
