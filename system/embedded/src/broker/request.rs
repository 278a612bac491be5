//! The protocol: Kafka's requests and error codes, cut down to what clients here use.
//!
//! Shapes follow Kafka's messages of the same names. Left out: versions, transactions, fetch sessions, and batching
//! of several partitions into one produce request.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use stormglass_runtime::{ConsumerName, Offset, Partition, Position, Record, Topic, Watermarks};
use thiserror::Error;

/// What a client asks one broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Who leads the partitions of these topics. Any broker answers.
    Metadata(Vec<Topic>),
    /// InitProducerId: a producer id of one's own. Any broker answers.
    InitProducer,
    /// Append one batch. The leader answers.
    Produce(Produce),
    /// Read. The leader of every partition in it answers, at once or when there is something to read.
    Fetch(Fetch),
    /// ListOffsets, both ends at once. The leader answers.
    Watermarks(Vec<Partition>),
    /// Which broker coordinates a group. Any broker answers.
    FindCoordinator(ConsumerName),
    /// JoinGroup; answered when the rebalance has all members.
    Join(Join),
    /// SyncGroup: fetches the assignment of the generation just joined.
    Sync(Membership),
    /// Heartbeat.
    Heartbeat(Membership),
    /// LeaveGroup.
    Leave(Membership),
    /// OffsetCommit. A generation of −1 and no member is a simple consumer.
    CommitOffsets(Membership, Vec<Position>),
    /// OffsetFetch.
    FetchOffsets(ConsumerName, Vec<Partition>),
}

/// When the leader answers a produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acks {
    /// Once it has appended itself (B7).
    Leader,
    /// Once every in-sync replica has.
    All,
}

/// Who sent a batch, and where in its own order for that partition (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The producer id.
    pub producer: u64,
    /// A later epoch fences batches of earlier ones.
    pub epoch: u32,
    /// Sequence number of the first record.
    pub sequence: u32,
}

/// A batch to append: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Produce {
    /// Where.
    pub partition: Partition,
    /// When to answer.
    pub acks: Acks,
    /// For idempotence; without it a repeat is a duplicate.
    pub stamp: Option<Stamp>,
    /// What; not empty.
    pub records: Vec<Arc<Record>>,
    /// How long in-sync replicas may take.
    pub timeout: Duration,
}

/// A read of several partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fetch {
    /// The next offset of each.
    pub positions: Vec<Position>,
    /// How long the broker may wait for the first record.
    pub max_wait: Duration,
    /// Limit over all partitions; the first record comes along whatever its size (KIP-74).
    pub max_bytes: usize,
}

/// A request to become, or stay, a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// The group.
    pub group: ConsumerName,
    /// The member id; empty to be given one (KIP-394).
    pub member: String,
    /// `client.id`, the readable part of a member id.
    pub client_id: String,
    /// The subscription.
    pub topics: Vec<Topic>,
    /// What the member holds and has not given up (KIP-429).
    pub owned: Vec<Partition>,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
    /// How long the group waits for it to rejoin.
    pub rebalance_timeout: Duration,
}

/// Who speaks for which member of which generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    pub group: ConsumerName,
    /// The member id.
    pub member: String,
    /// The generation it believes in.
    pub generation: i32,
}

/// What a broker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// The leaders of each topic's partitions; `None` for a topic that does not exist.
    Metadata(Vec<Option<Vec<Option<usize>>>>),
    /// A producer id.
    Producer(u64),
    /// The offset of the batch's first record; the others follow without a gap.
    Produced(Offset),
    /// Partitions that have something to say; the others are left out.
    Fetched(Vec<Fetched>),
    /// In the order asked for.
    Watermarks(Vec<Watermarks>),
    /// The coordinator's node.
    Coordinator(usize),
    /// MEMBER_ID_REQUIRED: join again with this id.
    MemberId(String),
    /// Part of this generation; ask for the assignment with Sync.
    Joined(i32),
    /// The assignment.
    Synced(Vec<Partition>),
    /// Committed offsets, in the order asked for.
    Offsets(Vec<Option<Offset>>),
    /// Done, with nothing to say.
    Done,
    /// Not done, or (for some codes of Produce) not known to be.
    Failed(ErrorCode),
}

/// What a fetch says of one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fetched {
    /// Which.
    pub partition: Partition,
    /// The offset asked for.
    pub asked: Offset,
    /// The readable range.
    pub watermarks: Watermarks,
    /// Records in offset order, or why there are none.
    pub records: Result<Vec<(Offset, Arc<Record>)>, ErrorCode>,
}

/// Kafka's error codes.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// UNKNOWN_TOPIC_OR_PARTITION.
    #[error("unknown topic or partition")]
    UnknownTopicOrPartition,
    /// NOT_LEADER_OR_FOLLOWER. In answer to a batch that waited for its replicas, it may be in the log.
    #[error("not the leader of the partition")]
    NotLeader,
    /// NOT_ENOUGH_REPLICAS: refused before the append.
    #[error("not enough in-sync replicas")]
    NotEnoughReplicas,
    /// REQUEST_TIMED_OUT: appended, but replicas did not follow in time.
    #[error("replication timed out")]
    RequestTimedOut,
    /// MESSAGE_TOO_LARGE, with the limit.
    #[error("a record is larger than {limit} bytes")]
    MessageTooLarge {
        /// The topic's limit.
        limit: usize,
    },
    /// OUT_OF_ORDER_SEQUENCE_NUMBER: neither the next batch nor one of the last five.
    #[error("sequence number out of order")]
    OutOfOrderSequence,
    /// INVALID_PRODUCER_EPOCH.
    #[error("producer fenced by a later epoch")]
    InvalidProducerEpoch,
    /// OFFSET_OUT_OF_RANGE.
    #[error("offset out of range")]
    OffsetOutOfRange,
    /// NOT_COORDINATOR.
    #[error("not the group's coordinator")]
    NotCoordinator,
    /// COORDINATOR_LOAD_IN_PROGRESS.
    #[error("coordinator is loading the group")]
    CoordinatorLoading,
    /// COORDINATOR_NOT_AVAILABLE.
    #[error("no coordinator available")]
    CoordinatorNotAvailable,
    /// UNKNOWN_MEMBER_ID.
    #[error("unknown member")]
    UnknownMember,
    /// ILLEGAL_GENERATION.
    #[error("illegal generation")]
    IllegalGeneration,
    /// REBALANCE_IN_PROGRESS.
    #[error("rebalance in progress")]
    RebalanceInProgress,
    /// INVALID_REQUEST.
    #[error("invalid request")]
    InvalidRequest,
}
