//! Kafka's nouns: topic, partition, offset, position, record, headers, ordering key.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of a topic.
    Topic
}
name_type! {
    /// The name of a consumer: its consumer group, and its half of the inbox key.
    ConsumerName
}

/// An offset in a partition's log. Offsets are sparse (SEMANTICS B2): a gap means nothing.
pub type Offset = i64;

/// One partition of one topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// Its topic.
    pub topic: Topic,
    /// Its number, from 0.
    pub index: u32,
}

impl Partition {
    /// Partition `index` of `topic`.
    pub fn new(topic: &Topic, index: u32) -> Self {
        Self { topic: topic.clone(), index }
    }

    /// The position at `offset` of this partition.
    pub fn at(&self, offset: Offset) -> Position {
        Position { partition: self.clone(), offset }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.topic, self.index)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place in a log. As a *reading* position it is the **next** offset to read; of a record, the record's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which log.
    pub partition: Partition,
    /// Where in it.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The header that carries a trace (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// No `traceparent` is longer: the first version of it takes 55 bytes, and later ones may append.
const TRACEPARENT_BYTES_MAX: usize = 256;

/// A record's headers, in order. Names may repeat; [`Headers::get`] gives the last one, as Kafka's clients do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers(pub Vec<(String, Bytes)>);

impl Headers {
    /// The last value under `name`.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The last value under `name`, if it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Adds a header at the end.
    pub fn push(&mut self, name: &str, value: impl Into<Bytes>) {
        self.0.push((name.to_owned(), value.into()));
    }

    /// Carries the trace of the cause on, unless it is too long to be one: a header from outside must not make a record
    /// too large to be published or buried.
    pub fn carry_trace(&mut self, trace: Option<&Bytes>) {
        if let Some(trace) = trace.filter(|trace| trace.len() <= TRACEPARENT_BYTES_MAX) {
            self.push(TRACEPARENT, trace.clone());
        }
    }

    /// Bytes that the headers occupy on the wire, framing left out.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// A record to publish, or one that was read. The partition follows from the key (murmur2, as Java's client does).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it goes.
    pub topic: Topic,
    /// What orders it; records of one key share a partition.
    pub key: Option<Bytes>,
    /// CloudEvents attributes in binary mode, and whatever else travels along.
    pub headers: Headers,
    /// The payload.
    pub value: Bytes,
}

impl Record {
    /// Bytes of key, headers and value: what size limits are measured against.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.headers.size() + self.value.len()
    }
}

/// A record as a consumer received it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// The record's own position.
    pub at: Position,
    /// The record.
    pub record: Record,
}

/// What orders an event within a consumer: the record key or, without one, the event id (DESIGN G2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderingKey(pub Bytes);

impl fmt::Debug for OrderingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
