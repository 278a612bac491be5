//! What librdkafka calls back, for a member of a group: rebalances.
//!
//! The calls come while the member polls for events, and are only written down; the member takes them from here. None
//! waits for anybody: a rebalance is answered later, by the member, and librdkafka holds it open until then.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use stormglass_runtime::{Partition, Topic};
use tokio::sync::Notify;

/// What was called back.
pub(super) enum Heard {
    /// These are this member's from now on.
    Assigned(Vec<Partition>),
    /// These must be given up; the group waits.
    Revoking(Vec<Partition>),
    /// These are gone; nobody waits.
    Lost(Vec<Partition>),
}

/// Listens for one member.
#[derive(Default)]
pub(super) struct Ear {
    heard: Mutex<VecDeque<Heard>>,
    /// Whether the member is part of a generation.
    joined: AtomicBool,
    /// Calls of any kind: what was polled is not always an answer.
    calls: AtomicU64,
    closing: AtomicBool,
    /// Woken when there is something to poll.
    pub(super) woken: Arc<Notify>,
}

impl Ear {
    /// The oldest call that was not yet taken.
    pub(super) fn take(&self) -> Option<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// How many calls there were.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Acquire)
    }

    /// Whether the member is part of a generation, by what was heard so far.
    pub(super) fn joined(&self) -> bool {
        self.joined.load(Ordering::Acquire)
    }

    /// From now on nobody takes what is heard: partitions are given up at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    fn write(&self, heard: Heard) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push_back(heard);
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: Vec<Partition>) {
        self.joined.store(true, Ordering::Release);
        // The group may go on; a partition is fetched once it is sought (see `consumer.rs`).
        say(consumer.incremental_assign(&TopicPartitionList::new()), "the rebalance goes on");
        self.write(Heard::Assigned(partitions));
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: Vec<Partition>) {
        if self.closing.load(Ordering::Acquire) {
            let fetched = consumer.assignment().unwrap_or_default();
            say(consumer.incremental_unassign(&fetched), "the partitions are given up");
        } else if consumer.assignment_lost() {
            self.joined.store(false, Ordering::Release);
            self.write(Heard::Lost(partitions));
        } else {
            self.write(Heard::Revoking(partitions));
        }
    }
}

impl ClientContext for Ear {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, text: &str) {
        self.calls.fetch_add(1, Ordering::AcqRel);
        super::log::line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.calls.fetch_add(1, Ordering::AcqRel);
        super::log::error(&error, reason);
    }
}

impl ConsumerContext for Ear {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let partitions = partitions(list);
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, partitions),
            // An error takes everything away, as a revocation of it all does.
            _ => self.revoked(consumer, partitions),
        }
    }
}

/// Notes that librdkafka did not take on what it should. Nothing else can be done: it goes on by rejoining.
pub(super) fn say(result: KafkaResult<()>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, "not done: {what}");
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements().iter().filter_map(|element| partition(element.topic(), element.partition())).collect()
}

fn partition(topic: &str, index: i32) -> Option<Partition> {
    Some(Partition::new(&Topic::from(topic), u32::try_from(index).ok()?))
}
