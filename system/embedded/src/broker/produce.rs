//! Appending: what is refused, what is a repeat, and when the producer is answered.

use std::{sync::Arc, time::Duration};

use stormglass_runtime::{Offset, Record, Timestamp};

use super::{
    cluster::{Alarm, Cluster},
    log::Sequence,
    observed::Observed,
    request::{Acks, ErrorCode, Produce, Response, Stamp},
};
use crate::machine::{Call, Node};

/// A produce request that waits until the high watermark has passed its batch.
pub(super) struct Pending {
    pub(super) call: Call,
    base: Offset,
    end: Offset,
}

impl Cluster {
    pub(super) fn produce(&mut self, now: Timestamp, call: Call, produce: Produce) {
        let Produce { partition, acks, stamp, records, timeout } = produce;
        let Some(index) = self.find(&partition) else {
            return self.out.fail(call, ErrorCode::UnknownTopicOrPartition);
        };
        let base = match self.admit(call.connection.node, index, acks, &records) {
            Ok(()) => self.append(now, index, stamp, &records),
            Err(code) => Err(code),
        };
        match (base, acks) {
            (Err(code), _) => self.out.fail(call, code),
            (Ok(base), Acks::Leader) => self.out.reply(call, Response::Produced(base)),
            (Ok(base), Acks::All) => {
                let end = base + Offset::try_from(records.len()).unwrap_or(Offset::MAX);
                self.wait_for_replicas(now, index, Pending { call, base, end }, timeout);
            }
        }
        if self.config.replication_delay.is_zero() {
            self.replicate(now, index);
        }
    }

    /// Whether the leader takes a batch at all; nothing is appended otherwise.
    fn admit(&self, node: Node, index: usize, acks: Acks, records: &[Arc<Record>]) -> Result<(), ErrorCode> {
        let partition = &self.partitions[index];
        let limit = partition.max_record_bytes;
        if records.is_empty() {
            Err(ErrorCode::InvalidRequest)
        } else if partition.leader != Some(node) {
            Err(ErrorCode::NotLeader)
        } else if records.iter().any(|record| record.size() > limit) {
            Err(ErrorCode::MessageTooLarge { limit })
        } else if acks == Acks::All && partition.in_sync.len() < self.config.min_insync_replicas {
            Err(ErrorCode::NotEnoughReplicas)
        } else {
            Ok(())
        }
    }

    /// The offset of the batch's first record, whether it is appended now or was before.
    fn append(
        &mut self,
        now: Timestamp,
        index: usize,
        stamp: Option<Stamp>,
        records: &[Arc<Record>],
    ) -> Result<Offset, ErrorCode> {
        let partition = &mut self.partitions[index];
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        match stamp.map_or(Sequence::Next, |stamp| partition.log.sequence(stamp, count)) {
            Sequence::Duplicate(base) => return Ok(base),
            Sequence::Fenced => return Err(ErrorCode::InvalidProducerEpoch),
            Sequence::OutOfOrder => return Err(ErrorCode::OutOfOrderSequence),
            Sequence::Next => {}
        }
        let base = partition.log.append(stamp, records, self.config.gap_every);
        let due = now.after(self.config.replication_delay);
        let new_mark = partition.appended(due);
        for (offset, record) in (base..).zip(records) {
            let event = || Observed::Appended {
                at: now,
                position: partition.name.at(offset),
                record: record.clone(),
            };
            self.out.observe(event);
        }
        if new_mark && !self.config.replication_delay.is_zero() {
            self.out.alarm(due, Alarm::Replicate(index));
        }
        Ok(base)
    }

    fn wait_for_replicas(&mut self, now: Timestamp, index: usize, pending: Pending, timeout: Duration) {
        let partition = &mut self.partitions[index];
        if pending.end <= partition.watermarks().end {
            return self.out.reply(pending.call, Response::Produced(pending.base));
        }
        self.out.alarm(now.after(timeout), Alarm::Produce(index, pending.call));
        partition.pending.push(pending);
    }

    /// Answers the produce requests whose batches the high watermark has passed.
    pub(super) fn acknowledge(&mut self, index: usize) {
        let partition = &mut self.partitions[index];
        let high_watermark = partition.watermarks().end;
        for done in partition.pending.extract_if(.., |pending| pending.end <= high_watermark) {
            self.out.reply(done.call, Response::Produced(done.base));
        }
    }

    /// The batch stays in the log: the producer does not know, and its repeat finds out.
    pub(super) fn produce_timeout(&mut self, index: usize, call: Call) {
        let partition = &mut self.partitions[index];
        for late in partition.pending.extract_if(.., |pending| pending.call == call) {
            self.out.fail(late.call, ErrorCode::RequestTimedOut);
        }
    }
}
