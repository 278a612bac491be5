//! Dead letters: the record that tells of one, and what an operator may do about it.
//!
//! A dead letter is its row in the queue; the record on `<consumer>.dlq` goes through the outbox of the same
//! transaction, so the two never disagree (DESIGN G5). Redriving keeps the row's place in its key; discarding deletes
//! it and leaves a record of who did it and why.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tracing::info;

use crate::{
    Cause, ConsumerName, Database, Failure, Headers, Pending, PendingChange, PendingId, Record, RowSet,
    Session, Statement, TRACEPARENT, Timestamp, Verdict, derive_id,
    logic::{dead_letter_id, dead_letter_topic, storable},
    plan::Subject,
};

/// `ce_type` of the record of a dead letter.
pub const DEAD_LETTER: &str = "stormglass.dead-letter";
/// `ce_type` of the record that says that a dead letter was discarded.
pub const DISCARDED: &str = "stormglass.dead-letter-discarded";

/// What the record of a dead letter says.
pub(crate) struct Letter<'a> {
    pub subject: Subject<'a>,
    pub error: &'a str,
    pub attempts: u32,
    pub time: Timestamp,
}

impl Letter<'_> {
    /// The record. Payload and original headers are cut to `limit` bytes each, so that it fits its topic whatever
    /// the original was.
    pub fn record(&self, consumer: &ConsumerName, limit: usize) -> Record {
        let Subject { event_id, origin, record, .. } = self.subject;
        let mut headers = envelope(consumer, DEAD_LETTER, self.time);
        headers.push("ce_id", dead_letter_id(consumer, event_id).to_string());
        headers.push("content-type", "application/octet-stream");
        headers.push("event-id", event_id.to_string());
        headers.push("origin-topic", origin.partition.topic.to_string());
        headers.push("origin-partition", origin.partition.index.to_string());
        headers.push("origin-offset", origin.offset.to_string());
        headers.push("origin-bytes", record.value.len().to_string());
        headers.push("error", storable(self.error));
        headers.push("attempts", self.attempts.to_string());
        headers.carry_trace(record.headers.get(TRACEPARENT));
        let mut room = limit;
        for (name, value) in &record.headers.0 {
            let name = format!("origin.{name}");
            let Some(left) = room.checked_sub(name.len() + value.len()) else { break };
            room = left;
            headers.push(&name, value.clone());
        }
        if let Some(key) = &record.key {
            headers.push("origin-key", key.slice(..key.len().min(limit)));
        }
        Record {
            topic: dead_letter_topic(consumer),
            key: Some(self.subject.key.0.slice(..self.subject.key.0.len().min(limit))),
            headers,
            value: record.value.slice(..record.value.len().min(limit)),
        }
    }
}

/// The attributes that both kinds of record share.
fn envelope(consumer: &ConsumerName, kind: &str, time: Timestamp) -> Headers {
    let mut headers = Headers::default();
    headers.push("ce_specversion", "1.0");
    headers.push("ce_source", format!("/stormglass/{consumer}"));
    headers.push("ce_type", kind.to_owned());
    headers.push("ce_time", time.rfc3339());
    headers
}

/// What an operator may do with the dead letters of one consumer.
pub struct DeadLetters<R: RowSet> {
    database: Arc<dyn Database<R>>,
    consumer: ConsumerName,
}

/// Who decided, and why: what an audit asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// A person or a system.
    pub by: String,
    /// Their reason.
    pub reason: String,
    /// When, as their host believes.
    pub at: Timestamp,
}

impl<R: RowSet> DeadLetters<R> {
    /// The dead letters of `consumer` in `database`.
    pub fn new(database: Arc<dyn Database<R>>, consumer: ConsumerName) -> Self {
        Self { database, consumer }
    }

    /// The oldest dead letters, `limit` at most.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn list(&self, limit: u32) -> Result<Vec<Pending>, Failure> {
        let mut session = self.database.begin().await?;
        let statement = Statement::ReadDead { consumer: self.consumer.clone(), limit };
        let dead = session.pending(statement).await;
        session.rollback().await;
        dead
    }

    /// Puts dead letters back into the queue, in their place: attempts begin anew, and they are *decided* anew, since
    /// the call that has failed was given up, its key closed. Only a call that was answered is still there; it is never
    /// made again, for a provider that has forgotten its key would do it twice. The provider is asked for the answer,
    /// and an event of which it knows nothing any more is dead again. Ids that name no dead letter are passed over.
    /// Returns how many there were.
    ///
    /// # Errors
    /// As [`Session::execute`]; after `Unknown` repeat it: a row that is alive is passed over.
    pub async fn redrive(&self, ids: &[PendingId], audit: &Audit) -> Result<u64, Failure> {
        self.change(ids, audit, |_, row| {
            let change = PendingChange::Update {
                id: row.id.clone(),
                call: row.call.clone(),
                epoch: row.epoch,
                attempts: 0,
                due_in: Duration::ZERO,
                error: row.error.clone(),
                verdict: Verdict::Waiting,
            };
            (change, None)
        })
        .await
    }

    /// Deletes dead letters for good, and publishes who did it and why on `<consumer>.dlq`. Ids that name no dead
    /// letter are passed over. Returns how many there were.
    ///
    /// # Errors
    /// As [`Session::execute`]; after `Unknown` repeat it: a row that is gone is passed over.
    pub async fn discard(&self, ids: &[PendingId], audit: &Audit) -> Result<u64, Failure> {
        self.change(ids, audit, |consumer, row| {
            (PendingChange::Delete(row.id.clone()), Some(discarded(consumer, row, audit)))
        })
        .await
    }

    /// Locks what is still dead, and changes it. No settlement is at work on a dead row, and one that passes it over
    /// comes before this change or finds the row alive.
    async fn change(
        &self,
        ids: &[PendingId],
        audit: &Audit,
        fate: impl Fn(&ConsumerName, &Pending) -> (PendingChange, Option<Record>) + Send,
    ) -> Result<u64, Failure> {
        if ids.is_empty() {
            return Ok(0);
        }
        let mut session = self.database.begin().await?;
        let statement = Statement::LockDead { consumer: self.consumer.clone(), ids: ids.to_vec() };
        let dead = match session.pending(statement).await {
            Ok(dead) => dead,
            Err(failure) => return abandon(session, failure).await,
        };
        let (changes, records): (Vec<_>, Vec<_>) = dead.iter().map(|row| fate(&self.consumer, row)).unzip();
        let records: Vec<Record> = records.into_iter().flatten().collect();
        if changes.is_empty() {
            session.rollback().await;
            return Ok(0);
        }
        let statement = Statement::ChangePending { consumer: self.consumer.clone(), changes };
        match session.count(statement).await {
            Ok(count) if count == dead.len() as u64 => {}
            Ok(_) => return abandon(session, Failure::NotDone(Cause::Conflict)).await,
            Err(failure) => return abandon(session, failure).await,
        }
        if !records.is_empty()
            && let Err(failure) = session.execute(Statement::Emit { records }).await
        {
            return abandon(session, failure).await;
        }
        session.commit().await?;
        for row in &dead {
            info!(consumer = %self.consumer, event = %row.event_id, by = audit.by, reason = audit.reason,
                "dead letter redriven or discarded");
        }
        Ok(dead.len() as u64)
    }
}

async fn abandon<R: RowSet, T>(session: Box<dyn Session<R>>, failure: Failure) -> Result<T, Failure> {
    session.rollback().await;
    Err(failure)
}

fn discarded(consumer: &ConsumerName, row: &Pending, audit: &Audit) -> Record {
    let mut headers = envelope(consumer, DISCARDED, audit.at);
    let id = derive_id("discarded/v1", &[consumer.as_str().as_bytes(), row.event_id.0.as_bytes()]);
    headers.push("ce_id", id.to_string());
    headers.push("dead-letter-id", dead_letter_id(consumer, row.event_id).to_string());
    headers.push("event-id", row.event_id.to_string());
    headers.push("by", storable(&audit.by));
    headers.push("reason", storable(&audit.reason));
    Record {
        topic: dead_letter_topic(consumer),
        key: Some(row.id.key.0.clone()),
        headers,
        value: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{EventId, OrderingKey, Topic, config::DLQ_PAYLOAD_LIMIT_MAX};

    /// Kafka's default of `max.message.bytes`.
    const MESSAGE_BYTES_MAX: usize = 1 << 20;

    #[rstest]
    #[case::long_headers("name", 1 << 20)]
    #[case::many_headers("n", 1)]
    fn the_largest_letter_fits_its_topic(#[case] name: &str, #[case] bytes: usize) {
        let much = Bytes::from(vec![b'x'; 1 << 20]);
        let mut headers = Headers::default();
        for _ in 0..(1 << 20) / bytes {
            headers.push(name, much.slice(..bytes));
        }
        let topic = Topic::from("events");
        let origin = crate::Partition::new(&topic, 0).at(0);
        let record = Record { topic, key: Some(much.clone()), headers, value: much.clone() };
        let (event_id, key) = (EventId(uuid::Uuid::nil()), &OrderingKey(much));
        let subject = Subject { event_id, key, origin: &origin, record: &record };
        let error = "x".repeat(1 << 20);
        let letter = Letter { subject, error: &error, attempts: 1, time: Timestamp(0) };
        let limit = usize::try_from(DLQ_PAYLOAD_LIMIT_MAX).unwrap();
        let size = letter.record(&ConsumerName::from("ledger"), limit).size();
        assert!(size <= MESSAGE_BYTES_MAX, "{size} bytes");
    }
}
