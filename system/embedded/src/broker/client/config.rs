//! What a client can set, under Kafka's names. Defaults are Kafka's.

use std::time::Duration;

/// Where to read on when the wanted offset is no longer, or not yet, in the log (`auto.offset.reset`, B23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetReset {
    /// From the oldest record that is left.
    Earliest,
    /// From what comes next: skips, silently.
    Latest,
    /// `next` fails until the consumer seeks.
    Fail,
}

/// Settings of a [`Client`](super::Client).
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `client.id`: the readable part of member ids.
    pub client_id: String,
    /// `request.timeout.ms`: how long one request may take before its connection is given up.
    pub request_timeout: Duration,
    /// `retry.backoff.ms`.
    pub retry_backoff: Duration,
    /// `message.timeout.ms` (librdkafka), `delivery.timeout.ms` (Java): from publish to report, retries included.
    pub delivery_timeout: Duration,
    /// `linger.ms`: how long a batch waits for company.
    pub linger: Duration,
    /// `batch.size`: bytes of records in one batch.
    pub batch_bytes: usize,
    /// `message.max.bytes`: what the client refuses to send (B14).
    pub max_record_bytes: usize,
    /// `queue.buffering.max.messages`: more are refused (B13).
    pub queue_records: usize,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
    /// `heartbeat.interval.ms`.
    pub heartbeat_interval: Duration,
    /// `max.poll.interval.ms` (B20).
    pub max_poll_interval: Duration,
    /// How long the group waits for this member to rejoin. Kafka's clients take `max.poll.interval.ms`.
    pub rebalance_timeout: Duration,
    /// How long a [`Revocation`](stormglass_runtime::Revocation) holds; shorter than `rebalance_timeout`.
    pub revocation_grace: Duration,
    /// `fetch.max.wait.ms`.
    pub fetch_max_wait: Duration,
    /// `fetch.max.bytes`: also the most that one delivery holds.
    pub fetch_max_bytes: usize,
    /// `auto.offset.reset`. Kafka's default is `latest`, which loses records silently; here it is `earliest`.
    pub offset_reset: OffsetReset,
}

impl ClientConfig {
    /// Kafka's defaults.
    pub fn new(client_id: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(100),
            delivery_timeout: Duration::from_secs(120),
            linger: Duration::ZERO,
            batch_bytes: 1_000_000,
            max_record_bytes: 1_000_000,
            queue_records: 100_000,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            rebalance_timeout: Duration::from_secs(300),
            revocation_grace: Duration::from_secs(30),
            fetch_max_wait: Duration::from_millis(500),
            fetch_max_bytes: 1_000_000,
            offset_reset: OffsetReset::Earliest,
        }
    }

    /// The same client with every timeout divided by `factor`; `fetch_max_wait`, `retry_backoff` and `linger` stay.
    #[must_use]
    pub fn scaled_down(mut self, factor: u32) -> Self {
        for timeout in [
            &mut self.request_timeout,
            &mut self.delivery_timeout,
            &mut self.session_timeout,
            &mut self.heartbeat_interval,
            &mut self.max_poll_interval,
            &mut self.rebalance_timeout,
            &mut self.revocation_grace,
        ] {
            *timeout /= factor;
        }
        self
    }
}
