//! One partition of a member: what librdkafka fetches of it, and records as the ports have them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError,
    message::{BorrowedMessage, Headers as _},
};
use stormglass_runtime::{Delivered, Headers, Offset, Partition, Position, Record};

use super::ear::{Ear, say};

/// How long a seek may take before it is tried again; it is answered by a thread of this process.
const SEEK: Duration = Duration::from_millis(200);

/// One partition of ours.
#[derive(Default)]
pub(super) struct Reading {
    /// There once it was sought.
    pub(super) queue: Option<PartitionQueue<Ear>>,
    /// Sought, and not yet taken on by librdkafka.
    pub(super) wanted: Option<Offset>,
    pub(super) paused: bool,
    /// librdkafka has stopped fetching it: its position is out of range, and is not to be reset.
    pub(super) stopped: bool,
}

impl Reading {
    /// Its queue, if records of it may be handed out.
    pub(super) fn readable(&self) -> Option<&PartitionQueue<Ear>> {
        self.queue.as_ref().filter(|_| !self.paused && self.wanted.is_none())
    }
}

/// Adds a partition at its first offset. `None`: not now.
pub(super) fn begin(
    client: &Arc<BaseConsumer<Ear>>,
    partition: &Partition,
    offset: Offset,
) -> Option<PartitionQueue<Ear>> {
    let index = i32::try_from(partition.index).ok()?;
    let mut queue = client.split_partition_queue(partition.topic.as_str(), index)?;
    let woken = Arc::clone(&client.context().woken);
    queue.set_nonempty_callback(move || woken.notify_one());
    let assigned = client.incremental_assign(&list([partition.at(offset)]));
    say_or(assigned, queue, "the partition is fetched")
}

/// Moves a partition that is being fetched. `None`: not now.
pub(super) fn seek(client: &BaseConsumer<Ear>, partition: &Partition, offset: Offset) -> Option<()> {
    let sought = client.seek_partitions(list([partition.at(offset)]), SEEK);
    let taken = sought.and_then(|answers| answers.elements().iter().try_for_each(|element| element.error()));
    say_or(taken, (), "the partition is sought")
}

/// Begins anew with a partition that is no longer fetched. `None`: not now.
pub(super) fn restart(client: &BaseConsumer<Ear>, partition: &Partition, offset: Offset) -> Option<()> {
    let place = list([partition.at(offset)]);
    let removed = client.incremental_unassign(&place);
    let added = removed.and_then(|()| client.incremental_assign(&place));
    say_or(added, (), "the partition is fetched again")
}

fn say_or<T>(result: Result<(), KafkaError>, value: T, what: &str) -> Option<T> {
    match result {
        Ok(()) => Some(value),
        Err(error) => {
            tracing::debug!(%error, "not now: {what}");
            None
        }
    }
}

/// Positions as librdkafka takes them.
pub(super) fn list(positions: impl IntoIterator<Item = Position>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for Position { partition, offset } in positions {
        let index = i32::try_from(partition.index).unwrap_or(i32::MAX);
        say(
            list.add_partition_offset(partition.topic.as_str(), index, KafkaOffset::Offset(offset)),
            "a position is added to a list",
        );
    }
    list
}

/// A record of ours. Key, headers and value share one buffer.
pub(super) fn delivered_of(partition: &Partition, message: &BorrowedMessage<'_>) -> Delivered {
    let (key, value) = (message.key(), message.payload().unwrap_or_default());
    let count = message.headers().map_or(0, |headers| headers.count());
    let headers = || message.headers().into_iter().flat_map(|headers| headers.iter());
    let bytes = headers().map(|header| header.value.map_or(0, <[u8]>::len)).sum::<usize>();
    let mut buffer = Vec::with_capacity(key.map_or(0, <[u8]>::len) + bytes + value.len());
    buffer.extend_from_slice(key.unwrap_or_default());
    headers().for_each(|header| buffer.extend_from_slice(header.value.unwrap_or_default()));
    buffer.extend_from_slice(value);
    let mut rest = Bytes::from(buffer);
    let key = key.map(|key| rest.split_to(key.len()));
    let mut named = Headers(Vec::with_capacity(count));
    for header in headers() {
        named.push(header.key, rest.split_to(header.value.map_or(0, <[u8]>::len)));
    }
    let record = Record { topic: partition.topic.clone(), key, headers: named, value: rest };
    Delivered { at: partition.at(message.offset()), record }
}
