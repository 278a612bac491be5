//! What the brokers themselves know to have happened: the evidence that checkers read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stormglass_runtime::{ConsumerName, Offset, Partition, Position, Record, Timestamp};

/// One thing that happened in the cluster, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Observed {
    /// The leader appended a record.
    Appended {
        /// When.
        at: Timestamp,
        /// Where.
        position: Position,
        /// What.
        record: Arc<Record>,
    },
    /// A record became readable: the high watermark passed everything below `end`.
    Committed {
        /// When.
        at: Timestamp,
        /// The log.
        partition: Partition,
        /// The new high watermark.
        end: Offset,
    },
    /// Records at and above `end` are gone: a new leader never had them.
    Truncated {
        /// When.
        at: Timestamp,
        /// The log.
        partition: Partition,
        /// The new log end.
        end: Offset,
    },
    /// Retention removed everything below `start`.
    Trimmed {
        /// When.
        at: Timestamp,
        /// The log.
        partition: Partition,
        /// The new log start.
        start: Offset,
    },
    /// A group's committed offset was set.
    Reported {
        /// When.
        at: Timestamp,
        /// The group.
        group: ConsumerName,
        /// The next offset to read, as the member said.
        position: Position,
    },
    /// A member was given partitions of a new generation.
    Assigned {
        /// When.
        at: Timestamp,
        /// The group.
        group: ConsumerName,
        /// The member's id.
        member: String,
        /// The generation.
        generation: i32,
        /// All it now owns.
        partitions: Vec<Partition>,
    },
    /// A partition has a new leader.
    Elected {
        /// When.
        at: Timestamp,
        /// The log.
        partition: Partition,
        /// The node, if there is one.
        leader: Option<usize>,
    },
}
