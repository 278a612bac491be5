//! Events: CloudEvents 1.0 in Kafka's binary mode, and ids that a replay derives again.
//!
//! Ids are SHA-256 over length-prefixed parts, cut to a UUIDv8, so that nothing here draws a random number and a
//! replayed decision emits the same ids.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{ConsumerName, Delivered, Headers, OrderingKey, Record, Timestamp, Topic};

/// The longest record key that orders events as it is. The queue is indexed by (consumer, ordering key, number), and
/// PostgreSQL refuses an index entry above 2,704 bytes (54000); the name of a consumer, which is also that of its topic
/// `<consumer>.dlq`, takes up to 245 of them. Kafka takes keys of any length.
pub const ORDERING_KEY_BYTES_MAX: usize = 1 << 10;

/// The identity of an event for deduplication: a hash of (`ce_source`, `ce_id`), or of where and what it was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId(pub Uuid);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl EventId {
    /// The id under which the inbox remembers `delivered`.
    ///
    /// Two copies of one event share (`ce_source`, `ce_id`) wherever they lie in the log. A record without them is
    /// known by its place and content instead, so a broken producer's records are still each taken once.
    pub fn of(delivered: &Delivered) -> EventId {
        let Delivered { at, record } = delivered;
        EventId::named(record).unwrap_or_else(|| {
            let parts: [&[u8]; 5] = [
                at.partition.topic.as_str().as_bytes(),
                &at.partition.index.to_be_bytes(),
                &at.offset.to_be_bytes(),
                record.key.as_deref().unwrap_or_default(),
                &record.value,
            ];
            EventId(derive_id("record/v1", &parts))
        })
    }

    /// The id of the event that `record` carries, wherever it lies; `None` without `ce_source` and `ce_id`.
    pub fn named(record: &Record) -> Option<EventId> {
        let (source, id) = (record.headers.get("ce_source")?, record.headers.get("ce_id")?);
        Some(EventId(derive_id("event/v1", &[source, id])))
    }

    /// What orders an event with this id: its record's key, or a hash of a key longer than
    /// [`ORDERING_KEY_BYTES_MAX`]; the id itself where the record has none. Equal record keys give equal ordering keys.
    pub fn ordering_key(self, record: &Record) -> OrderingKey {
        OrderingKey(match &record.key {
            Some(key) if key.len() <= ORDERING_KEY_BYTES_MAX => key.clone(),
            Some(key) => Bytes::copy_from_slice(&digest("ordering-key/v1", &[key])),
            None => Bytes::copy_from_slice(self.0.as_bytes()),
        })
    }
}

/// A UUIDv8 from SHA-256 over `kind` and `parts`, each prefixed by its length, so that no two lists collide.
pub fn derive_id(kind: &str, parts: &[&[u8]]) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest(kind, parts)[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn digest(kind: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in std::iter::once(kind.as_bytes()).chain(parts.iter().copied()) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// An event that a decision asks to publish. The runtime gives it its id and writes it to the outbox with the effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emission {
    /// The topic to publish on.
    pub topic: Topic,
    /// The record key.
    pub key: Bytes,
    /// `ce_type`.
    pub kind: String,
    /// The JSON payload.
    pub data: Bytes,
}

impl Emission {
    /// The record of this event, in CloudEvents binary mode, as emitted by `source` under `id` at `time`.
    /// `trace` is the `traceparent` of the cause, carried on.
    pub fn into_record(
        self,
        source: &ConsumerName,
        id: Uuid,
        time: Timestamp,
        trace: Option<&Bytes>,
    ) -> Record {
        let mut headers = Headers::default();
        headers.push("ce_specversion", "1.0");
        headers.push("ce_id", id.to_string());
        headers.push("ce_source", format!("/stormglass/{source}"));
        headers.push("ce_type", self.kind);
        headers.push("ce_time", time.rfc3339());
        headers.push("content-type", "application/json");
        headers.carry_trace(trace);
        Record { topic: self.topic, key: Some(self.key), headers, value: self.data }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::TRACEPARENT;

    fn ordering_key(key: Vec<u8>) -> OrderingKey {
        let (topic, headers) = (Topic::from("events"), Headers::default());
        let record = Record { topic, key: Some(key.into()), headers, value: Bytes::new() };
        EventId(Uuid::nil()).ordering_key(&record)
    }

    #[rstest]
    #[case::of_todays_version(55, true)]
    #[case::longer_than_any(1 << 20, false)]
    fn a_trace_is_carried_on(#[case] bytes: usize, #[case] carried: bool) {
        let emission = Emission {
            topic: Topic::from("events"),
            key: Bytes::new(),
            kind: "kind".to_owned(),
            data: Bytes::new(),
        };
        let trace = Bytes::from(vec![b'0'; bytes]);
        let record =
            emission.into_record(&ConsumerName::from("test"), Uuid::nil(), Timestamp(0), Some(&trace));
        assert_eq!(record.headers.get(TRACEPARENT).is_some(), carried);
    }

    #[test]
    fn a_record_key_orders_as_it_is_up_to_the_limit_and_by_its_hash_above() {
        let longest = vec![b'k'; ORDERING_KEY_BYTES_MAX];
        assert_eq!(ordering_key(longest.clone()).0, longest);
        let longer = |end: u8| ordering_key([longest.as_slice(), &[end]].concat());
        assert_eq!(longer(1), longer(1));
        assert_ne!(longer(1), longer(2));
        assert!(longer(1).0.len() <= ORDERING_KEY_BYTES_MAX);
    }
}
