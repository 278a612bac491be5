//! What is asked of Kafka: of each broker whether it is there and speaks what is needed, of each topic whether it keeps
//! what it is given and lets this process use it.

use futures::future::join_all;
use stormglass_runtime::Topic;
use tokio::time::Duration;

use super::{
    Report,
    wire::{self, Metadata, TopicMetadata},
};
use crate::{
    commands::topics::shown,
    kafka::GroupProtocol,
    real,
    settings::{Settings, topics},
};

/// `InitProducerId`: without it there are no idempotent producers.
const INIT_PRODUCER_ID: i16 = 22;
/// `ConsumerGroupHeartbeat`: KIP-848.
const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
/// Kafka's ACL operations, by their numbers.
const OPERATIONS: [(&str, u32); 3] = [("Read", 3), ("Write", 4), ("Describe", 8)];
/// Nothing else that is asked about takes a broker longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// All brokers of `kafka.brokers`, those that they name, and the topics.
pub(super) async fn check(settings: &Settings) -> Report {
    let mut report = Report::default();
    if let Err(refusal) = settings.check_kafka() {
        report.error(refusal.to_string());
        return report;
    }
    let named: Vec<&str> = settings.kafka.brokers.split(',').map(str::trim).collect();
    let answered = join_all(named.iter().map(|broker| broker_of(broker, settings))).await;
    let mut first = None;
    for (broker, (found, answers)) in named.iter().zip(answered) {
        report.0.extend(found.0);
        if answers && first.is_none() {
            first = Some(*broker);
        }
    }
    let Some(first) = first else {
        for topic in topics() {
            report.error(format!("topic {topic}: nobody to ask, as no broker of kafka.brokers answers"));
        }
        return report;
    };
    let topics = topics();
    let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    match wire::metadata(first, &names, PATIENCE).await {
        Ok(metadata) => {
            advertised(&mut report, &metadata, &named).await;
            for topic in &metadata.topics {
                use_of(&mut report, topic);
            }
        }
        Err(error) => report.error(format!("Kafka broker at {first}: what it knows of the topics: {error}")),
    }
    keeping(&mut report, settings).await;
    report
}

/// One broker that the settings name, and whether it answers.
async fn broker_of(broker: &str, settings: &Settings) -> (Report, bool) {
    let mut report = Report::default();
    let at = format!("Kafka broker at {broker}");
    let spoken = match wire::api_versions(broker, PATIENCE).await {
        Ok(spoken) => spoken,
        Err(error) => {
            report.error(format!(
                "{at}: {error}; is it up, and is that its plaintext listener? (kafka.brokers)"
            ));
            return (report, false);
        }
    };
    let needed = match settings.kafka.group_protocol {
        GroupProtocol::Classic => vec![INIT_PRODUCER_ID],
        GroupProtocol::Consumer => vec![INIT_PRODUCER_ID, CONSUMER_GROUP_HEARTBEAT],
    };
    match needed.iter().find(|api| !spoken.contains(api)) {
        None => report.fine(format!("{at}: speaks what is needed")),
        Some(&CONSUMER_GROUP_HEARTBEAT) => report.error(format!(
            "{at}: knows no consumer protocol; upgrade it to 4.0, or set kafka.group_protocol = \"classic\""
        )),
        Some(api) => report.error(format!("{at}: does not know request {api}; upgrade it")),
    }
    (report, true)
}

/// The brokers by the names that clients are told: a name that only the brokers know is a common mistake.
async fn advertised(report: &mut Report, metadata: &Metadata, named: &[&str]) {
    for (id, broker) in &metadata.brokers {
        if named.contains(&broker.as_str()) {
            continue;
        }
        match wire::api_versions(broker, PATIENCE).await {
            Ok(_) => report.fine(format!("Kafka broker {id} at {broker}: answers by its advertised name")),
            Err(error) => report.error(format!(
                "Kafka broker {id}: advertised as {broker}: {error}; mend its advertised.listeners"
            )),
        }
    }
}

/// Whether a topic is there, whole, and this process's to use.
fn use_of(report: &mut Report, topic: &TopicMetadata) {
    let name = &topic.name;
    match topic.error {
        0 => {}
        3 => {
            return report
                .error(format!("topic {name}: does not exist; create it with `stormglass topics create`"));
        }
        29 => {
            return report.error(format!("topic {name}: the principal may not even describe it; add an ACL"));
        }
        code => return report.error(format!("topic {name}: Kafka's error code {code}")),
    }
    let total = topic.partitions.len();
    let count = |lacks: &dyn Fn(&wire::PartitionMetadata) -> bool| {
        topic.partitions.iter().filter(|partition| lacks(partition)).count()
    };
    let leaderless = count(&|partition| !partition.has_leader);
    let behind = count(&|partition| partition.in_sync < partition.replicas);
    match (leaderless, behind) {
        (0, 0) => report.fine(format!("topic {name}: {total} partitions, every replica in sync")),
        (0, behind) => report.warning(format!(
            "topic {name}: {behind} of {total} partitions have replicas that are not in sync; is a broker down?"
        )),
        (leaderless, _) => report.error(format!(
            "topic {name}: {leaderless} of {total} partitions have no leader; start the brokers that hold them"
        )),
    }
    let may = |bit: u32| topic.operations.cast_unsigned() & (1 << bit) != 0;
    let lacking: Vec<&str> =
        OPERATIONS.iter().filter(|(_, bit)| !may(*bit)).map(|(operation, _)| *operation).collect();
    if lacking.is_empty() {
        report.fine(format!("topic {name}: the principal may read and write it"));
    } else {
        report.error(format!("topic {name}: the principal lacks {}; add an ACL", lacking.join(", ")));
    }
}

/// Whether the topics keep what the guarantees need.
async fn keeping(report: &mut Report, settings: &Settings) {
    let kafka = match real::kafka(settings) {
        Ok(kafka) => kafka,
        Err(stop) => return report.error(stop.to_string()),
    };
    for topic in topics() {
        let checked = real::check_topic(&kafka, &topic, settings).await;
        let fine = checked.as_ref().map(|facts| format!("topic {}", shown(facts))).unwrap_or_default();
        report.judge(checked.map(drop), fine);
    }
}
