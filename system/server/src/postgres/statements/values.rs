//! Between the runtime's types and those that PostgreSQL has: numbers, moments, durations, headers, queue rows.

use std::time::Duration;

use sqlx::{
    Decode, Postgres, Type,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueRef},
};
use stormglass_runtime::{
    Cause, Failure, Headers, OrderingKey, Partition, Pending, PendingId, Position, Reason, Record, Timestamp,
};
use uuid::Uuid;

/// A `timestamptz`, in microseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Moment(Timestamp);

/// From the Unix epoch to PostgreSQL's, 2000-01-01 00:00:00 UTC.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl Decode<'_, Postgres> for Moment {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let since_postgres_epoch = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        Ok(Moment(Timestamp(since_postgres_epoch.saturating_add(POSTGRES_EPOCH_US))))
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Timestamp {
        moment.0
    }
}

/// A duration as the statements take it. What is longer than a century is a century: further on, timestamps end.
pub(super) fn micros(duration: Duration) -> i64 {
    const CENTURY_US: i64 = 100 * 365 * 86_400 * 1_000_000;
    i64::try_from(duration.as_micros()).map_or(CENTURY_US, |micros| micros.min(CENTURY_US))
}

/// A number as an `int` column holds it.
pub(super) fn int(number: u32, what: &str) -> Result<i32, Failure> {
    i32::try_from(number)
        .map_err(|_| Failure::Rejected(Reason::InvalidValue(format!("{what} {number} is too large"))))
}

/// The other way round. The schema lets no negative number in.
pub(super) fn number(int: i32) -> Result<u32, Failure> {
    u32::try_from(int).map_err(|_| Failure::NotDone(Cause::Protocol))
}

/// Partitions, or positions in them, as arrays.
#[derive(Default)]
pub(super) struct Places<'a> {
    pub(super) topics: Vec<&'a str>,
    pub(super) partitions: Vec<i32>,
    pub(super) offsets: Vec<i64>,
}

impl<'a> Places<'a> {
    pub(super) fn push(&mut self, partition: &'a Partition, offset: i64) -> Result<(), Failure> {
        self.topics.push(partition.topic.as_str());
        self.partitions.push(int(partition.index, "partition")?);
        self.offsets.push(offset);
        Ok(())
    }
}

/// The position that three columns hold.
pub(super) fn position(topic: &str, partition: i32, offset: i64) -> Result<Position, Failure> {
    Ok(Partition::new(&topic.into(), number(partition)?).at(offset))
}

/// Headers as the `headers` columns hold them: postcard, whose format is fixed.
pub(super) fn headers_to_bytes(headers: &Headers) -> Result<Vec<u8>, Failure> {
    postcard::to_stdvec(headers).map_err(|error| Failure::Rejected(Reason::InvalidValue(error.to_string())))
}

/// The other way round.
pub(super) fn headers(bytes: &[u8]) -> Result<Headers, Failure> {
    postcard::from_bytes(bytes).map_err(|_| Failure::NotDone(Cause::Protocol))
}

/// A row of `pending`, but for `consumer` and `leased_until`.
pub(super) struct PendingRow {
    pub(super) key: Vec<u8>,
    pub(super) seq: i64,
    pub(super) event_id: Uuid,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) record_topic: String,
    pub(super) record_key: Option<Vec<u8>>,
    pub(super) headers: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) call: Option<Vec<u8>>,
    pub(super) epoch: i32,
    pub(super) attempts: i32,
    pub(super) due: Moment,
    pub(super) claim: Option<Uuid>,
    pub(super) error: Option<String>,
    pub(super) dead_at: Option<Moment>,
}

impl PendingRow {
    pub(super) fn into_pending(self) -> Result<Pending, Failure> {
        Ok(Pending {
            id: PendingId { key: OrderingKey(self.key.into()), seq: self.seq },
            event_id: stormglass_runtime::EventId(self.event_id),
            origin: position(&self.topic, self.partition, self.offset)?,
            record: Record {
                topic: self.record_topic.as_str().into(),
                key: self.record_key.map(Into::into),
                headers: headers(&self.headers)?,
                value: self.value.into(),
            },
            call: self.call.map(Into::into),
            epoch: number(self.epoch)?,
            attempts: number(self.attempts)?,
            due: self.due.into(),
            claim: self.claim,
            error: self.error,
            dead_at: self.dead_at.map(Into::into),
        })
    }
}
