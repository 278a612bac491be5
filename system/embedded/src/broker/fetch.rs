//! Reading: long polls over several partitions, the readable range, and delivering old records once more.

use std::collections::BTreeSet;

use stormglass_runtime::{Partition, Position, Timestamp};

use super::{
    cluster::{Alarm, Cluster},
    request::{ErrorCode, Fetch, Fetched, Response},
};
use crate::machine::{Call, Effect, Node};

/// A fetch that waits for its first record.
pub(super) struct Waiting {
    pub(super) call: Call,
    fetch: Fetch,
}

impl Cluster {
    pub(super) fn fetch(&mut self, now: Timestamp, call: Call, fetch: Fetch) {
        let found = self.read(call.connection.node, &fetch);
        if !found.is_empty() || fetch.max_wait.is_zero() {
            return self.out.reply(call, Response::Fetched(found));
        }
        self.fetches_begun += 1;
        let number = self.fetches_begun;
        for position in &fetch.positions {
            if let Some(index) = self.find(&position.partition) {
                self.partitions[index].fetches.push(number);
            }
        }
        self.out.alarm(now.after(fetch.max_wait), Alarm::Fetch(number));
        self.fetches.insert(number, Waiting { call, fetch });
    }

    /// What there is to say now: records, or errors. At most `max_bytes`, but always the first record.
    fn read(&mut self, node: Node, fetch: &Fetch) -> Vec<Fetched> {
        let mut room = fetch.max_bytes;
        let mut found: Vec<Fetched> = Vec::new();
        for position in &fetch.positions {
            let something = !found.is_empty();
            if something && room == 0 {
                break;
            }
            let fetched = self.read_partition(node, position, &mut room, something);
            if fetched.records.as_ref().map_or(true, |records| !records.is_empty()) {
                found.push(fetched);
            }
        }
        found
    }

    fn read_partition(&mut self, node: Node, position: &Position, room: &mut usize, full: bool) -> Fetched {
        let answer = |watermarks, records| {
            let Position { partition, offset } = position.clone();
            Fetched { partition, asked: offset, watermarks, records }
        };
        let nothing = stormglass_runtime::Watermarks { start: 0, end: 0 };
        let Some(index) = self.find(&position.partition) else {
            return answer(nothing, Err(ErrorCode::UnknownTopicOrPartition));
        };
        let partition = &mut self.partitions[index];
        if partition.leader != Some(node) {
            return answer(nothing, Err(ErrorCode::NotLeader));
        }
        let watermarks = partition.watermarks();
        if position.offset < watermarks.start || position.offset > partition.log.end() {
            return answer(watermarks, Err(ErrorCode::OffsetOutOfRange));
        }
        let rewound = partition.rewind.map(|back| partition.log.rewound(position.offset, back));
        let from = rewound.unwrap_or(position.offset);
        let mut records = Vec::new();
        // The first record of the whole answer may be larger than the room (KIP-74).
        let mut must = !full;
        for (offset, record) in partition.log.read(from, watermarks.end) {
            if record.size() > *room && !must {
                break;
            }
            must = false;
            *room = room.saturating_sub(record.size());
            records.push((*offset, record.clone()));
        }
        if records.first().is_some_and(|(offset, _)| *offset < position.offset) {
            partition.rewind = None;
            self.redelivered += 1;
        }
        answer(watermarks, Ok(records))
    }

    /// Answers the fetches that waited for this partition and now have something to read.
    pub(super) fn wake_fetches(&mut self, index: usize) {
        for number in self.partitions[index].fetches.clone() {
            let Some(Waiting { call, fetch }) = self.fetches.remove(&number) else { continue };
            let found = self.read(call.connection.node, &fetch);
            self.fetches.insert(number, Waiting { call, fetch });
            if !found.is_empty() {
                self.forget_fetch(number);
                self.out.reply(call, Response::Fetched(found));
            }
        }
    }

    pub(super) fn fetch_timeout(&mut self, number: u64) {
        if let Some(waiting) = self.forget_fetch(number) {
            self.out.reply(waiting.call, Response::Fetched(Vec::new()));
        }
    }

    pub(super) fn forget_fetch(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.fetches.remove(&number)?;
        let partitions: BTreeSet<usize> =
            waiting.fetch.positions.iter().filter_map(|position| self.find(&position.partition)).collect();
        for index in partitions {
            self.partitions[index].fetches.retain(|waiting| *waiting != number);
        }
        Some(waiting)
    }

    pub(super) fn list_offsets(&mut self, call: Call, partitions: &[Partition]) {
        let node = call.connection.node;
        let range = |partition: &Partition| {
            let index = self.find(partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
            let partition = &self.partitions[index];
            if partition.leader == Some(node) {
                Ok(partition.watermarks())
            } else {
                Err(ErrorCode::NotLeader)
            }
        };
        let answer = partitions.iter().map(range).collect::<Result<Vec<_>, _>>();
        self.out.reply(call, answer.map_or_else(Response::Failed, Response::Watermarks));
    }

    /// Delivers old records once more (F20): the next fetch of `partition` that can goes back by `records`.
    /// [`Cluster::redelivered`] counts when one really did.
    pub fn redeliver(
        &mut self,
        _now: Timestamp,
        partition: &Partition,
        records: usize,
    ) -> Vec<Effect<Response>> {
        if let Some(index) = self.find(partition) {
            self.partitions[index].rewind = Some(records);
            self.wake_fetches(index);
        }
        self.out.effects()
    }
}
