//! A service and the rules it runs under: everything a plan needs that is neither row nor statement.
//!
//! This is where panics of the service end: whoever calls it gets a [`Refusal`] instead.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use crate::{
    AfterDeath, ConsumerName, Entropy, EventId, Record, Refusal, RowSet, Service, Topic, WorkerConfig,
    backoff::Backoff, config::ms, telemetry::Meters,
};

/// Longest error text kept with an event.
const ERROR_BYTES_MAX: usize = 1_000;

/// The service, its name, its rules and its jitter.
pub(crate) struct Logic<S: Service> {
    pub service: Arc<S>,
    pub consumer: ConsumerName,
    pub entropy: Arc<dyn Entropy>,
    pub attempts_max: u32,
    pub backoff: Backoff,
    pub after_death: AfterDeath,
    pub payload_limit: usize,
    /// How soon to look for a follower whose head may have gone while it was appended.
    pub orphan_after: Duration,
    pub meters: Meters,
}

/// What became of reading a record.
#[derive(Debug)]
pub(crate) enum Decoded<E> {
    /// An event.
    Event(E),
    /// A type that the service does not take. It has no effect, so a second copy has none either: it needs no mark
    /// in the inbox, and its position may move at leisure.
    Ignored,
    /// Not readable, now or ever.
    Unreadable(Refusal),
}

impl<S: Service> Logic<S> {
    pub fn new(service: Arc<S>, config: &WorkerConfig, entropy: Arc<dyn Entropy>) -> Self {
        let consumer = service.name();
        Self {
            meters: Meters::new(&consumer),
            service,
            consumer,
            entropy,
            attempts_max: config.attempts_max,
            backoff: config.backoff(),
            after_death: config.after_death,
            payload_limit: config.dlq_payload_limit as usize,
            orphan_after: ms(config.claim_poll_max_ms) / 4,
        }
    }

    /// Reads a record.
    pub fn decode(&self, record: &Record) -> Decoded<S::Event> {
        match self.guarded(|| self.service.decode(record)) {
            Ok(Some(event)) => Decoded::Event(event),
            Ok(None) => Decoded::Ignored,
            Err(refusal) => Decoded::Unreadable(refusal),
        }
    }

    /// The rows that the event wants locked; none if the service panics, which deciding will then do again.
    pub fn keys(&self, event: &S::Event) -> Vec<<S::Row as RowSet>::Key> {
        self.guarded(|| Ok(self.service.keys(event))).unwrap_or_default()
    }

    /// Runs a part of the service; a panic is a failed attempt.
    pub fn guarded<T>(&self, part: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        catch_unwind(AssertUnwindSafe(part)).unwrap_or_else(|panic| {
            self.meters.panics.increment(1);
            Err(Refusal::Later(format!("panicked: {}", panic_text(panic.as_ref()))))
        })
    }

    /// How long to wait after the `attempts`-th attempt at an event failed. `of` is what the jitter belongs to: the event,
    /// or the claim where it must be another one each time.
    pub fn delay(&self, of: Uuid, attempts: u32) -> Duration {
        self.backoff.delay(self.entropy.as_ref(), "retry-event", of.as_u128(), attempts)
    }
}

/// The topic of `consumer`'s dead letters.
pub(crate) fn dead_letter_topic(consumer: &ConsumerName) -> Topic {
    Topic::from(format!("{consumer}.dlq").as_str())
}

/// The id of the dead letter of an event: the same however often it dies, so that its readers can dedupe too.
pub(crate) fn dead_letter_id(consumer: &ConsumerName, event_id: EventId) -> Uuid {
    crate::derive_id("dead-letter/v1", &[consumer.as_str().as_bytes(), event_id.0.as_bytes()])
}

/// An error text that every store can hold: no NUL (PostgreSQL's text has none), not endless.
pub(crate) fn storable(text: &str) -> String {
    let mut clean: String = text.chars().filter(|&c| c != '\0').collect();
    let mut end = clean.len().min(ERROR_BYTES_MAX);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean.truncate(end);
    clean
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_storable_text_has_no_nul_and_an_end(text in "(\\PC|\0|é){0,900}") {
            let clean = storable(&text);
            prop_assert!(!clean.contains('\0') && clean.len() <= ERROR_BYTES_MAX);
        }
    }
}
