//! The broker port: publishing, and being a member of a consumer group.
//!
//! Ordering, durability and cancellation are promised here and held by one contract suite over every adapter.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::{ConsumerName, Delivered, Failure, Offset, Partition, Position, Record, Topic};

/// A Kafka cluster.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Joins `group` and consumes `topics` with cooperative rebalancing (KIP-429).
    ///
    /// Returns at once; the first [`Delivery::Assigned`] tells when the group has let this member in. A dropped
    /// future leaves nothing behind.
    ///
    /// # Errors
    /// `Rejected` if a topic does not exist, `NotDone` if no broker answers.
    async fn subscribe(&self, group: &ConsumerName, topics: &[Topic]) -> Result<Box<dyn Consumer>, Failure>;

    /// The readable range of a partition.
    ///
    /// # Errors
    /// `Rejected` for an unknown partition, `NotDone` otherwise.
    async fn watermarks(&self, partition: &Partition) -> Result<Watermarks, Failure>;

    /// How many partitions `topic` has.
    ///
    /// # Errors
    /// `Rejected` for an unknown topic, `NotDone` otherwise.
    async fn partitions(&self, topic: &Topic) -> Result<u32, Failure>;
}

/// The publishing half. One producer may be shared by any number of tasks.
#[async_trait]
pub trait Producer: Send + Sync {
    /// Publishes `records`, each to the partition of its key, and waits for *all in-sync replicas* (acks=all).
    ///
    /// One result per record, in the order given; a position is the record's own. Records of one key reach the log
    /// in the order given or not at all: a record leaves only after the report of the one before it of its key, and
    /// after one that failed, those behind it fail with [`Cause::Predecessor`](crate::Cause::Predecessor) unsent.
    /// The producer is idempotent: its own retries neither duplicate nor reorder (KIP-98), a caller's repeat after
    /// `Unknown` is a new record.
    ///
    /// Dropping the future leaves every record that was not yet reported in an unknown state.
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Position, Failure>>;
}

/// Membership in a consumer group.
///
/// Heartbeats go out by themselves; a member that does not call [`Consumer::next`] within the poll interval loses
/// its partitions all the same (SEMANTICS B20).
#[async_trait]
pub trait Consumer: Send {
    /// Waits for what comes next: records, or a change of assignment.
    ///
    /// Cancel safe: nothing is lost with a dropped future.
    ///
    /// # Errors
    /// `NotDone` while the cluster is out of reach; calling again goes on. Partitions keep what they had.
    async fn next(&mut self) -> Result<Delivery, Failure>;

    /// Commits reading positions (next offsets) to the group. They report lag, nothing reads them back to start.
    ///
    /// # Errors
    /// `NotDone(Fenced)` if the member is no longer part of the generation; `Unknown` if the answer was lost.
    async fn report(&mut self, positions: Vec<Position>) -> Result<(), Failure>;

    /// Reads `position.partition` from `position.offset` on, dropping what was fetched before and not yet handed out.
    /// The partition is resumed. Without effect if the partition is not assigned.
    fn seek(&mut self, position: Position);

    /// Stops handing out records of `partitions` until [`Consumer::resume`]; membership goes on.
    fn pause(&mut self, partitions: &[Partition]);

    /// Undoes [`Consumer::pause`].
    fn resume(&mut self, partitions: &[Partition]);

    /// Leaves the group, so that its partitions move at once.
    async fn close(self: Box<Self>);
}

/// What a consumer hands out.
#[derive(Debug)]
pub enum Delivery {
    /// Records, in offset order per partition. Only of partitions that are assigned, sought and not paused.
    Records(Vec<Delivered>),
    /// Partitions that are this member's from now on. Nothing of them is handed out before [`Consumer::seek`].
    Assigned(Vec<Assignment>),
    /// Partitions that must be given up. The rebalance goes on when the token is dropped or its deadline passes.
    Revoking(Vec<Partition>, Revocation),
    /// Partitions that were taken away: another member may already be at work on them.
    Lost(Vec<Partition>),
}

/// A newly assigned partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which one.
    pub partition: Partition,
    /// Its readable range at the time.
    pub watermarks: Watermarks,
}

/// The readable range of a log: offsets in `[start, end)` may exist. "Caught up" is a position at `end`; it is never
/// derived from the last record seen, since offsets have gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Watermarks {
    /// The oldest offset that retention has left (log start offset).
    pub start: Offset,
    /// The high watermark: what lies at or above it is not readable yet.
    pub end: Offset,
}

/// Holds a rebalance open while a worker finishes what it began. Dropping it lets the rebalance go on.
#[derive(Debug)]
pub struct Revocation {
    grace: Duration,
    _released: oneshot::Sender<()>,
}

impl Revocation {
    /// A token that holds for `grace` at most, and the receiver that resolves (with an error) once it is dropped.
    pub fn new(grace: Duration) -> (Revocation, oneshot::Receiver<()>) {
        let (released, waiting) = oneshot::channel();
        (Revocation { grace, _released: released }, waiting)
    }

    /// How long the group waits at most, counted from the hand-out.
    pub fn grace(&self) -> Duration {
        self.grace
    }
}
