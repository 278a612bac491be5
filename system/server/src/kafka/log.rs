//! librdkafka's own log and its errors, as `tracing` events. What an error means for a caller is decided elsewhere.

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError};

/// Writes one line of librdkafka's log.
pub(super) fn line(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::warn!(target: "librdkafka", facility, "{text}"),
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
            tracing::info!(target: "librdkafka", facility, "{text}");
        }
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{text}");
        }
    }
}

/// Writes an error that librdkafka mends by itself, or reports again where it counts.
pub(super) fn error(error: &KafkaError, reason: &str) {
    tracing::info!(target: "librdkafka", %error, "{reason}");
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
