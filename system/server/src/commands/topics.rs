//! `topics`: makes them, and checks them against what the guarantees need.

use std::time::Duration;

use stormglass_orders::TOPIC;
use stormglass_runtime::{DurabilityFacts, Topic};

use crate::{
    kafka::{Created, NewTopic},
    real,
    settings::{Settings, topics},
    stop::Stop,
};

/// Creates what is missing, then checks.
///
/// # Errors
/// If Kafka refuses, or a topic that was there is not as it must be.
pub async fn create(settings: &Settings) -> Result<(), Stop> {
    let kafka = real::kafka(settings)?;
    for topic in topics() {
        let new = wanted(topic, settings);
        let created = kafka.create_topic(&new).await;
        let created = created.map_err(|failure| {
            Stop::of(&format!("{}: topic {}", real::at_kafka(settings), new.topic), &failure)
        })?;
        match created {
            Created::Now => {
                println!("created {}: {} partitions, {} replicas", new.topic, new.partitions, new.replicas)
            }
            Created::Before => println!("{} was there before", new.topic),
        }
    }
    real::check_topics(&kafka, settings).await.map(|_| ())
}

/// Checks, and prints what each topic is.
///
/// # Errors
/// The first topic that is not as it must be.
pub async fn check(settings: &Settings) -> Result<(), Stop> {
    let kafka = real::kafka(settings)?;
    for facts in real::check_topics(&kafka, settings).await? {
        println!("{}", shown(&facts));
    }
    Ok(())
}

/// One line about a topic that is as it must be.
pub(super) fn shown(facts: &DurabilityFacts) -> String {
    let DurabilityFacts { topic, replicas, min_insync, unclean_election, compacted: _, retention } = facts;
    let kept =
        retention.map_or_else(|| "for ever".to_owned(), |kept| format!("for {} h", kept.as_secs() / 3_600));
    let election = if *unclean_election { "unclean" } else { "clean" };
    format!("{topic}: {replicas} replicas, {min_insync} in sync at least, {election} election, kept {kept}")
}

fn wanted(topic: Topic, settings: &Settings) -> NewTopic {
    let wanted = &settings.topics;
    // Dead letters are few, and read by people.
    let partitions = if topic.as_str() == TOPIC { wanted.partitions } else { 1 };
    NewTopic {
        topic,
        partitions,
        replicas: wanted.replicas,
        min_insync: wanted.min_insync,
        retention: Some(Duration::from_millis(wanted.retention_ms)),
    }
}
