//! What a client of Kafka can be set to, and every librdkafka property that follows from it.
//!
//! Every property that a guarantee or a figure rests on is written here, also where it is the default today: defaults
//! have changed before (idempotence, the partitioner), and a guarantee must not. What cannot be set (acknowledgements,
//! idempotence, partitioner, committing) is what the ports promise.

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use serde::{Deserialize, Serialize};
use stormglass_runtime::{ConfigError, ConsumerName, within};

/// Where to read on when the wanted offset is no longer, or not yet, in the log (`auto.offset.reset`, SEMANTICS B23).
/// Kafka's own default, `latest`, skips records silently and is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OffsetReset {
    /// From the oldest record that is left.
    Earliest,
    /// `next` fails until the consumer seeks.
    Fail,
}

/// How a group shares out its partitions. Both are cooperative: only what moves is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupProtocol {
    /// A member does it, with the cooperative-sticky assignor (KIP-429).
    Classic,
    /// The coordinator does it (KIP-848). Needs Kafka 4.0; session and heartbeats are then set at the brokers
    /// (`group.consumer.session.timeout.ms`), and all members must use it.
    Consumer,
}

/// Settings of a [`Kafka`](super::Kafka) client, under Kafka's names where they have one. Durations are whole
/// milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `bootstrap.servers`: `host:port`, separated by commas. Not empty.
    pub brokers: String,
    /// `client.id`: what brokers log and count this process under.
    pub client_id: String,
    /// `request.timeout.ms`, `socket.timeout.ms`: how long one request may take. 100 to 300,000.
    pub request_timeout_ms: u64,
    /// `retry.backoff.ms`: the delay before a request is repeated; it doubles up to a second. 1 to 1,000.
    pub retry_backoff_ms: u64,
    /// `message.timeout.ms`: from publish to report, retries included. No less than `request_timeout_ms`.
    pub delivery_timeout_ms: u64,
    /// `linger.ms`: how long a batch waits for company. Up to 1,000.
    pub linger_ms: u64,
    /// `batch.size`: bytes of records in one batch. 1 to 1,000,000.
    pub batch_bytes: usize,
    /// `message.max.bytes`: what the client refuses to send (B14). 1,000 to 100,000,000.
    pub record_bytes_max: usize,
    /// `queue.buffering.max.messages`: what waits in the producer; a publish waits for room (B13). 1 to 10,000,000.
    pub queue_records: u32,
    /// `group.protocol`.
    pub group_protocol: GroupProtocol,
    /// `session.timeout.ms`: how long a member may be silent before its partitions move (B19). 1,000 to 1,800,000.
    pub session_timeout_ms: u64,
    /// `heartbeat.interval.ms`. 1 to a third of `session_timeout_ms`.
    pub heartbeat_interval_ms: u64,
    /// `max.poll.interval.ms` (B20), which is also how long a group waits for a member to rejoin. No less than
    /// `session_timeout_ms`, at most a day.
    pub max_poll_interval_ms: u64,
    /// How long a `Revocation` holds a rebalance open. Less than `max_poll_interval_ms`.
    pub revocation_grace_ms: u64,
    /// `fetch.wait.max.ms`: how long a broker waits for company for the first new record. 1 to 60,000.
    pub fetch_wait_ms: u64,
    /// `fetch.min.bytes`: what a broker waits for, `fetch_wait_ms` at most. 1 to 10,000,000.
    pub fetch_bytes_min: u32,
    /// What is read ahead of each assigned partition, in bytes: it counts into a process's memory. 10,000 to
    /// 1,000,000,000.
    pub prefetch_bytes: u32,
    /// Records in one delivery at most. 1 to 100,000.
    pub delivery_records: usize,
    /// `auto.offset.reset`.
    pub offset_reset: OffsetReset,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            client_id: "stormglass".to_owned(),
            request_timeout_ms: 10_000,
            retry_backoff_ms: 100,
            delivery_timeout_ms: 30_000,
            linger_ms: 5,
            batch_bytes: 1_000_000,
            record_bytes_max: 1_000_000,
            queue_records: 100_000,
            group_protocol: GroupProtocol::Classic,
            session_timeout_ms: 45_000,
            heartbeat_interval_ms: 3_000,
            max_poll_interval_ms: 300_000,
            revocation_grace_ms: 30_000,
            fetch_wait_ms: 100,
            fetch_bytes_min: 1,
            prefetch_bytes: 4_000_000,
            delivery_records: 2_000,
            offset_reset: OffsetReset::Earliest,
        }
    }
}

impl KafkaConfig {
    /// Whether a client may start with these settings. Nothing is connected to.
    ///
    /// # Errors
    /// The first setting that is out of its range or contradicts another.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.brokers.trim().is_empty() {
            return Err(ConfigError {
                field: "brokers",
                value: "\"\"".to_owned(),
                range: "host:port, separated by commas".to_owned(),
                advice: "name at least one broker; the others are found through it",
            });
        }
        self.validate_publishing()?;
        self.validate_membership()
    }

    fn validate_publishing(&self) -> Result<(), ConfigError> {
        let delivery = self.request_timeout_ms..=3_600_000;
        within(
            "request_timeout_ms",
            self.request_timeout_ms,
            100..=300_000,
            "brokers answer within seconds",
        )?;
        within("retry_backoff_ms", self.retry_backoff_ms, 1..=1_000, "it doubles up to a second")?;
        within(
            "delivery_timeout_ms",
            self.delivery_timeout_ms,
            delivery,
            "a report needs a request at least",
        )?;
        within("linger_ms", self.linger_ms, 0..=1_000, "every publish waits as long")?;
        within("batch_bytes", self.batch_bytes as u64, 1..=1_000_000, "brokers refuse more by default")?;
        within(
            "record_bytes_max",
            self.record_bytes_max as u64,
            1_000..=100_000_000,
            "the topic's max.message.bytes holds as well",
        )?;
        within("queue_records", self.queue_records.into(), 1..=10_000_000, "they are all held in memory")
    }

    fn validate_membership(&self) -> Result<(), ConfigError> {
        let session = self.session_timeout_ms;
        within("session_timeout_ms", session, 1_000..=1_800_000, "the brokers' group limits hold as well")?;
        within(
            "heartbeat_interval_ms",
            self.heartbeat_interval_ms,
            1..=session / 3,
            "leave room for two that get lost",
        )?;
        within(
            "max_poll_interval_ms",
            self.max_poll_interval_ms,
            session..=86_400_000,
            "no shorter than the session",
        )?;
        let grace = 0..=self.max_poll_interval_ms.saturating_sub(1);
        within(
            "revocation_grace_ms",
            self.revocation_grace_ms,
            grace,
            "the group waits no longer than max_poll_interval_ms",
        )?;
        within("fetch_wait_ms", self.fetch_wait_ms, 1..=60_000, "a record waits as long for company")?;
        within(
            "fetch_bytes_min",
            self.fetch_bytes_min.into(),
            1..=10_000_000,
            "1 waits for nothing but a record",
        )?;
        within(
            "prefetch_bytes",
            self.prefetch_bytes.into(),
            10_000..=1_000_000_000,
            "times the partitions of a member",
        )?;
        within("delivery_records", self.delivery_records as u64, 1..=100_000, "they are all held in memory")
    }

    /// What all clients have in common.
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("security.protocol", "plaintext")
            .set("allow.auto.create.topics", "false")
            .set("socket.timeout.ms", self.request_timeout_ms.to_string())
            .set("socket.connection.setup.timeout.ms", self.request_timeout_ms.max(1_000).to_string())
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", self.retry_backoff_ms.to_string())
            .set("reconnect.backoff.max.ms", "1000")
            .set("retry.backoff.ms", self.retry_backoff_ms.to_string())
            .set("retry.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "60000")
            .set("topic.metadata.refresh.fast.interval.ms", self.retry_backoff_ms.to_string())
            // A topic that nobody knows for so long does not exist.
            .set("topic.metadata.propagation.max.ms", self.delivery_timeout_ms.min(5_000).to_string())
            .set("enable.metrics.push", "false")
            .set_log_level(RDKafkaLogLevel::Info);
        client
    }

    /// For questions about topics and partitions.
    pub(super) fn questions(&self) -> ClientConfig {
        self.reader()
    }

    /// What readers have in common.
    fn reader(&self) -> ClientConfig {
        let mut reader = self.client();
        // A broker holds a fetch for as long as it was asked to; only then is it late.
        let patience = self.request_timeout_ms.max(self.fetch_wait_ms + 1_000);
        reader
            .set("socket.timeout.ms", patience.to_string())
            .set("fetch.wait.max.ms", self.fetch_wait_ms.to_string())
            .set("isolation.level", "read_committed");
        reader
    }

    /// For creating and describing topics.
    pub(super) fn administration(&self) -> ClientConfig {
        self.client()
    }

    /// For a producer whose batches hold `batch_records` at most.
    pub(super) fn producer(&self, batch_records: u32) -> ClientConfig {
        let mut producer = self.client();
        producer
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", "5")
            .set("message.send.max.retries", i32::MAX.to_string())
            .set("partitioner", "murmur2_random")
            .set("sticky.partitioning.linger.ms", "10")
            .set("compression.type", "none")
            .set("request.timeout.ms", self.request_timeout_ms.to_string())
            .set("message.timeout.ms", self.delivery_timeout_ms.to_string())
            .set("linger.ms", self.linger_ms.to_string())
            .set("batch.size", self.batch_bytes.to_string())
            .set("batch.num.messages", batch_records.to_string())
            .set("message.max.bytes", self.record_bytes_max.to_string())
            .set("queue.buffering.max.messages", self.queue_records.to_string())
            .set("queue.buffering.max.kbytes", "1048576")
            // Tells of leaders that were deposed (`persistence.rs`).
            .set("debug", "topic")
            .set_log_level(RDKafkaLogLevel::Debug);
        producer
    }

    /// For a member of `group`.
    pub(super) fn consumer(&self, group: &ConsumerName) -> ClientConfig {
        let reset = match self.offset_reset {
            OffsetReset::Earliest => "earliest",
            OffsetReset::Fail => "error",
        };
        let mut consumer = self.reader();
        consumer
            .set("group.id", group.as_str())
            .set("max.poll.interval.ms", self.max_poll_interval_ms.to_string())
            .set("coordinator.query.interval.ms", "1000")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", reset)
            .set("enable.partition.eof", "false")
            .set("check.crcs", "true")
            .set("fetch.min.bytes", self.fetch_bytes_min.to_string())
            .set("fetch.message.max.bytes", "1048576")
            .set("fetch.max.bytes", "52428800")
            .set("fetch.error.backoff.ms", self.retry_backoff_ms.to_string())
            .set("fetch.queue.backoff.ms", "10")
            // Of one partition each: every partition has a queue of its own here.
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", (self.prefetch_bytes / 1_000).max(1).to_string());
        match self.group_protocol {
            GroupProtocol::Classic => consumer
                .set("group.protocol", "classic")
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("session.timeout.ms", self.session_timeout_ms.to_string())
                .set("heartbeat.interval.ms", self.heartbeat_interval_ms.to_string()),
            // librdkafka refuses what is the brokers' to set.
            GroupProtocol::Consumer => {
                consumer.set("group.protocol", "consumer").set("group.remote.assignor", "uniform")
            }
        };
        consumer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rdkafka::{
        ClientContext,
        config::FromClientConfigAndContext,
        consumer::{BaseConsumer, Consumer as _, ConsumerContext},
        producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext},
    };
    use rstest::rstest;

    use super::*;

    fn valid() -> KafkaConfig {
        KafkaConfig { brokers: "localhost:9092".to_owned(), ..KafkaConfig::default() }
    }

    #[test]
    fn librdkafka_takes_every_property() {
        assert_eq!(valid().validate(), Ok(()));
        for config in
            [valid().questions(), valid().producer(1), valid().consumer(&ConsumerName::from("payments"))]
        {
            config.create_native_config().unwrap();
        }
    }

    /// Writes down the warnings that a client begins with.
    #[derive(Default)]
    struct Warnings(Mutex<Vec<String>>);

    impl ClientContext for Warnings {
        fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
            if facility == "CONFWARN" {
                self.0.lock().unwrap().push(text.to_owned());
            }
        }
    }

    impl ConsumerContext for Warnings {}

    impl ProducerContext for Warnings {
        type DeliveryOpaque = ();

        fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
    }

    #[rstest]
    #[case::by_default(valid())]
    #[case::requests_shorter_than_fetches(KafkaConfig { request_timeout_ms: 100, fetch_wait_ms: 60_000, ..valid() })]
    #[case::the_other_protocol(KafkaConfig { group_protocol: GroupProtocol::Consumer, ..valid() })]
    fn librdkafka_warns_of_no_setting(#[case] config: KafkaConfig) {
        let soon = std::time::Duration::from_millis(50);
        for reader in [config.questions(), config.consumer(&ConsumerName::from("payments"))] {
            let client: BaseConsumer<Warnings> =
                BaseConsumer::from_config_and_context(&reader, Warnings::default()).unwrap();
            client.poll(soon);
            assert_eq!(*client.client().context().0.lock().unwrap(), [""; 0]);
        }
        let client: BaseProducer<Warnings> =
            BaseProducer::from_config_and_context(&config.producer(1), Warnings::default()).unwrap();
        client.poll(soon);
        assert_eq!(*client.client().context().0.lock().unwrap(), [""; 0]);
    }

    #[rstest]
    #[case::no_broker("brokers", |c: &mut KafkaConfig| c.brokers.clear())]
    #[case::a_report_before_its_request("delivery_timeout_ms", |c: &mut KafkaConfig| c.delivery_timeout_ms = 5_000)]
    #[case::a_grace_that_outlasts_the_group("revocation_grace_ms", |c: &mut KafkaConfig| c.revocation_grace_ms = 300_000)]
    #[case::heartbeats_too_rare("heartbeat_interval_ms", |c: &mut KafkaConfig| c.heartbeat_interval_ms = 20_000)]
    fn a_setting_that_breaks_a_promise_is_refused_by_name(
        #[case] field: &str,
        #[case] spoil: fn(&mut KafkaConfig),
    ) {
        let mut config = valid();
        spoil(&mut config);
        assert_eq!(config.validate().map_err(|error| error.field), Err(field));
    }
}
