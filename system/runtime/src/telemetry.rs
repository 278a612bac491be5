//! The names of everything the runtime measures, in one place, so that the storm and production show the same.
//!
//! Handles are made once per worker or relay: the hot path only adds to them.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{ConsumerName, plan::Tally};

/// What a worker measures. Every metric carries the label `consumer`.
pub(crate) struct Meters {
    /// Records handed out by the broker.
    pub received: Counter,
    /// Records of a type the service does not take.
    pub ignored: Counter,
    /// Events that the inbox already knew.
    pub duplicates: Counter,
    /// Events taken into account for the first time.
    pub taken: Counter,
    /// Transactions of lanes that committed.
    pub batches: Counter,
    /// Transactions of lanes that did not.
    pub batch_failures: Counter,
    /// Batches that found their position moved.
    pub moved: Counter,
    /// How long a lane's transaction took, in seconds.
    pub batch_seconds: Histogram,
    /// Events put into the queue by lanes.
    pub enqueued: Counter,
    /// Heads claimed from the queue, born claimed ones included.
    pub claimed: Counter,
    /// Queue rows done.
    pub settled: Counter,
    /// Attempts that failed and will be repeated.
    pub retried: Counter,
    /// Claims that someone else had taken over.
    pub fenced: Counter,
    /// Dead letters.
    pub dead: Counter,
    /// Panics caught in the service.
    pub panics: Counter,
    /// Times the provider's circuit opened.
    pub circuit_opened: Counter,
    /// How long a call took, in seconds.
    pub act_seconds: Histogram,
    /// Records held in memory.
    pub buffered_records: Gauge,
    /// Bytes held in memory.
    pub buffered_bytes: Gauge,
    /// Partitions owned.
    pub partitions: Gauge,
    /// Times that retention was found to have passed a position: records are gone unread.
    pub overtaken: Counter,
    /// Offsets that retention removed before they were read. Not all need have been records.
    pub lost: Counter,
    /// Partitions owned and not read, until an operator decides: their logs have lost records.
    pub closed: Gauge,
    /// Inbox rows pruned.
    pub pruned: Counter,
}

impl Meters {
    /// The meters of one consumer.
    pub fn new(consumer: &ConsumerName) -> Self {
        let count = |name: &'static str| counter!(name, "consumer" => consumer.to_string());
        let level = |name: &'static str| gauge!(name, "consumer" => consumer.to_string());
        let spread = |name: &'static str| histogram!(name, "consumer" => consumer.to_string());
        Self {
            received: count("stormglass_records_received_total"),
            ignored: count("stormglass_records_ignored_total"),
            duplicates: count("stormglass_events_duplicate_total"),
            taken: count("stormglass_events_taken_total"),
            batches: count("stormglass_batches_committed_total"),
            batch_failures: count("stormglass_batches_failed_total"),
            moved: count("stormglass_positions_moved_total"),
            batch_seconds: spread("stormglass_batch_seconds"),
            enqueued: count("stormglass_queue_enqueued_total"),
            claimed: count("stormglass_queue_claimed_total"),
            settled: count("stormglass_queue_settled_total"),
            retried: count("stormglass_queue_retried_total"),
            fenced: count("stormglass_queue_fenced_total"),
            dead: count("stormglass_dead_letters_total"),
            panics: count("stormglass_service_panics_total"),
            circuit_opened: count("stormglass_circuit_opened_total"),
            act_seconds: spread("stormglass_act_seconds"),
            buffered_records: level("stormglass_buffered_records"),
            buffered_bytes: level("stormglass_buffered_bytes"),
            partitions: level("stormglass_partitions_owned"),
            overtaken: count("stormglass_positions_overtaken_total"),
            lost: count("stormglass_offsets_lost_total"),
            closed: level("stormglass_partitions_closed"),
            pruned: count("stormglass_inbox_pruned_total"),
        }
    }

    /// Counts what a committed plan has done.
    pub fn count(&self, tally: Tally) {
        self.dead.increment(tally.dead);
        self.retried.increment(tally.retried);
    }
}

/// What a relay measures.
pub(crate) struct RelayMeters {
    /// Records acknowledged by the broker.
    pub published: Counter,
    /// Records that failed and stay in the outbox for now.
    pub failed: Counter,
    /// Records that the broker will not take as they are: somebody has to look.
    pub rejected: Counter,
    /// 1 while this relay holds the lease.
    pub active: Gauge,
    /// Keys held back because of a rejected record.
    pub held_keys: Gauge,
}

impl RelayMeters {
    /// The meters of the relay under the lease `name`.
    pub fn new(name: &str) -> Self {
        let count = |metric: &'static str| counter!(metric, "relay" => name.to_owned());
        let level = |metric: &'static str| gauge!(metric, "relay" => name.to_owned());
        Self {
            published: count("stormglass_relay_published_total"),
            failed: count("stormglass_relay_failed_total"),
            rejected: count("stormglass_relay_rejected_total"),
            active: level("stormglass_relay_active"),
            held_keys: level("stormglass_relay_held_keys"),
        }
    }
}
