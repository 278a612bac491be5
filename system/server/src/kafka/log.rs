//! librdkafka's own log and its errors, as `tracing` events. What an error means for a caller is decided elsewhere.
//!
//! librdkafka mends what it complains about, by trying again: its errors are this process's warnings. While a cluster is
//! away every connection of every client complains at every attempt, so what is said again within [`AGAIN`] is counted
//! instead, and the count is said with the next one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError};
use tokio::time::Instant;

use super::outcome::{code_of, is_grave};

/// How long the same thing is not said again.
const AGAIN: Duration = Duration::from_secs(10);

/// One for the process: all its clients complain of the same cluster.
static SAID: Limiter = Limiter(Mutex::new(BTreeMap::new()));

/// Writes one line of librdkafka's log.
pub(super) fn line(level: RDKafkaLogLevel, facility: &str, text: &str) {
    let due = || SAID.due(facility, Instant::now());
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{text}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            if let Some(unsaid) = due() {
                tracing::warn!(target: "librdkafka", facility, unsaid, "{text}");
            }
        }
        RDKafkaLogLevel::Notice => {
            if let Some(unsaid) = due() {
                tracing::info!(target: "librdkafka", facility, unsaid, "{text}");
            }
        }
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{text}");
        }
    }
}

/// Writes an error that librdkafka mends by itself, or reports again where it counts.
pub(super) fn error(error: &KafkaError, reason: &str) {
    let code = code_of(error);
    let Some(unsaid) = seldom(&format!("{code:?}")) else { return };
    if is_grave(code) {
        tracing::warn!(target: "librdkafka", %error, unsaid, "{reason}");
    } else {
        tracing::info!(target: "librdkafka", %error, unsaid, "{reason}");
    }
}

/// Whether `what` is to be said now. If so, how often it was not said since the last time.
pub(super) fn seldom(what: &str) -> Option<u64> {
    SAID.due(what, Instant::now())
}

/// When things were said last, and how often they were not since.
struct Limiter(Mutex<BTreeMap<String, (Instant, u64)>>);

impl Limiter {
    fn due(&self, what: &str, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said.get_mut(what) {
            Some((last, unsaid)) if now.saturating_duration_since(*last) < AGAIN => {
                *unsaid += 1;
                None
            }
            Some((last, unsaid)) => {
                *last = now;
                Some(std::mem::take(unsaid))
            }
            None => {
                said.insert(what.to_owned(), (now, 0));
                Some(0)
            }
        }
    }
}

/// The two methods of rdkafka's `ClientContext` that write to the log.
macro_rules! forwarded {
    () => {
        fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, text: &str) {
            $crate::kafka::log::line(level, facility, text);
        }

        fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
            $crate::kafka::log::error(&error, reason);
        }
    };
}
pub(super) use forwarded;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_is_counted_until_it_is_due() {
        let limiter = Limiter(Mutex::default());
        let start = Instant::now();
        assert_eq!(limiter.due("FAIL", start), Some(0));
        assert_eq!(limiter.due("FAIL", start + AGAIN / 3), None);
        assert_eq!(limiter.due("FAIL", start + AGAIN / 2), None);
        assert_eq!(limiter.due("REQTMOUT", start + AGAIN / 2), Some(0), "something else");
        assert_eq!(limiter.due("FAIL", start + AGAIN), Some(2));
        assert_eq!(limiter.due("FAIL", start + AGAIN * 2), Some(0));
    }
}
