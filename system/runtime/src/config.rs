//! Configuration of workers and relays: documented defaults and ranges, refused at start-up where it breaks a guarantee.
//!
//! Durations are whole milliseconds, and say so in their names. What depends on the cluster (replicas, retention) is
//! not configuration but a fact: [`WorkerConfig::check_topic`] holds one against the other.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{AfterDeath, Topic, backoff::Backoff};

/// A setting that must not be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{field} = {value}: must be {range}; {advice}")]
pub struct ConfigError {
    /// The setting's name as it is written in the configuration.
    pub field: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it may be.
    pub range: String,
    /// What to do.
    pub advice: &'static str,
}

/// Settings of a [`Worker`](crate::Worker).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// The topics to consume. At least one.
    pub topics: Vec<String>,
    /// Tasks that apply events, each with its share of the partitions. 1 to 64. Services with hot rows want 1 or 2.
    pub lanes: u32,
    /// Events in one transaction at most. 1 to 10,000.
    pub batch_records: u32,
    /// Bytes of events in one transaction at most; one event always fits. 1 KiB to 64 MiB.
    pub batch_bytes: u32,
    /// Records that a worker holds in memory before it pauses partitions, shared out evenly to the lanes; what one
    /// fetch delivers comes on top. At least `batch_records` per lane, at most 10,000,000.
    pub buffer_records: u32,
    /// Bytes that a worker holds in memory before it pauses partitions. At least `batch_bytes` per lane.
    pub buffer_bytes: u64,
    /// How long a position may lag behind records that had no event of interest. 1 to 60,000.
    pub position_lazy_ms: u64,
    /// How often offsets are reported to the group (lag only, nothing starts from them). 10 to 600,000.
    pub report_interval_ms: u64,
    /// Attempts of one event before it is a dead letter. 2 to 1,000: an attempt counts when its claim commits, so a crash
    /// right after that commit, or a commit whose answer is lost, uses one up that nothing was tried in.
    pub attempts_max: u32,
    /// Ceiling of the delay after an event's first failed attempt; it doubles with each. 1 to `backoff_max_ms`.
    pub backoff_base_ms: u64,
    /// Ceiling of the delay after many failed attempts. Up to 86,400,000 (a day).
    pub backoff_max_ms: u64,
    /// Ceiling of the delay after a transaction's first failure. 1 to `retry_max_ms`.
    pub retry_base_ms: u64,
    /// Ceiling of the delay after a transaction failed many times in a row. Up to 60,000.
    pub retry_max_ms: u64,
    /// Heads claimed, and heads settled, in one transaction at most. 1 to 10,000.
    pub claim_limit: u32,
    /// How soon the queue is asked again after it had work. 1 to `claim_poll_max_ms`.
    pub claim_poll_min_ms: u64,
    /// How long the queue is left alone when nothing is known to be due. Up to 60,000.
    pub claim_poll_max_ms: u64,
    /// How long a claim keeps everybody else away. Longer than `act_timeout_ms` and `batch_time_ms` together.
    pub claim_lease_ms: u64,
    /// How long a call may take. 1 to 600,000.
    pub act_timeout_ms: u64,
    /// Claimed events in hand at most, and so calls at a time. 1 to 100,000.
    pub act_concurrency: u32,
    /// Failed calls in a row that open the provider's circuit. 1 to 10,000.
    pub circuit_failures: u32,
    /// How long the circuit stays open before a probe. 1 to 3,600,000.
    pub circuit_open_ms: u64,
    /// How long a worker that was asked to stop finishes what it began. Up to 600,000.
    pub grace_ms: u64,
    /// Whether a dead letter holds the later events of its key.
    pub after_death: AfterDeath,
    /// How often the inbox is pruned. 10 to 86,400,000.
    pub prune_interval_ms: u64,
    /// Inbox rows deleted in one transaction at most. 1 to 100,000.
    pub prune_limit: u32,
    /// Bytes of payload, again of headers, and twice of the key that a dead letter's record carries at most. 0 to
    /// 192 KiB, so that all four fit Kafka's default of 1 MiB: a letter that is too large could never be written.
    pub dlq_payload_limit: u32,
    /// What `lock_timeout` is set to on the database's connections. Longer than `lanes` × `batch_time_ms`: a hot row is
    /// held for one batch by each lane in turn.
    pub lock_timeout_ms: u64,
    /// How long one transaction is expected to take at most. 1 to 60,000.
    pub batch_time_ms: u64,
    /// How much later than the first another copy of an event may be appended to its topic: the longest time that a
    /// relay may be down, or a client repeats a request. No longer than the topic's retention (G10).
    pub copies_within_ms: u64,
    /// Start although accepted orders may be lost: fewer than three replicas, `min.insync.replicas` below two, or
    /// unclean leader election (G11). For development only.
    pub accepted_orders_may_be_lost: bool,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            lanes: 2,
            batch_records: 500,
            batch_bytes: 4 << 20,
            buffer_records: 20_000,
            buffer_bytes: 64 << 20,
            position_lazy_ms: 1_000,
            report_interval_ms: 2_000,
            attempts_max: 10,
            backoff_base_ms: 200,
            backoff_max_ms: 60_000,
            retry_base_ms: 20,
            retry_max_ms: 2_000,
            claim_limit: 100,
            claim_poll_min_ms: 10,
            claim_poll_max_ms: 1_000,
            claim_lease_ms: 60_000,
            act_timeout_ms: 10_000,
            act_concurrency: 256,
            circuit_failures: 10,
            circuit_open_ms: 5_000,
            grace_ms: 10_000,
            after_death: AfterDeath::Hold,
            prune_interval_ms: 60_000,
            prune_limit: 1_000,
            dlq_payload_limit: 64 << 10,
            lock_timeout_ms: 10_000,
            batch_time_ms: 1_000,
            copies_within_ms: 86_400_000,
            accepted_orders_may_be_lost: false,
        }
    }
}

/// What a topic is, as the cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurabilityFacts {
    /// Which topic.
    pub topic: Topic,
    /// Its replication factor.
    pub replicas: u32,
    /// `min.insync.replicas`.
    pub min_insync: u32,
    /// `unclean.leader.election.enable`.
    pub unclean_election: bool,
    /// Whether `cleanup.policy` says `compact`.
    pub compacted: bool,
    /// `retention.ms`; `None` keeps everything.
    pub retention: Option<Duration>,
}

/// Settings of a [`Relay`](crate::Relay).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayConfig {
    /// The lease that makes one relay the active one.
    pub lease: String,
    /// How long the lease lasts. 100 to 600,000.
    pub lease_ttl_ms: u64,
    /// How long before the end of its lease a relay stops publishing. 1 to half of `lease_ttl_ms`.
    pub lease_margin_ms: u64,
    /// How often a standby asks for the lease. 1 to 60,000.
    pub standby_poll_ms: u64,
    /// Records published at once at most. 1 to 100,000.
    pub batch_records: u32,
    /// How soon the outbox is read again after it was found empty. 1 to `poll_max_ms`.
    pub poll_min_ms: u64,
    /// How long an outbox that stays empty is left alone at most. Up to 60,000.
    pub poll_max_ms: u64,
    /// Delay after a first failure; it doubles with each in a row. 1 to `retry_max_ms`.
    pub retry_base_ms: u64,
    /// Delay after many failures in a row. Up to 60,000.
    pub retry_max_ms: u64,
    /// How long the key of a record that the broker rejected is held before it is tried again. 1 to 86,400,000.
    pub rejected_retry_ms: u64,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            lease: "relay".to_owned(),
            lease_ttl_ms: 10_000,
            lease_margin_ms: 2_000,
            standby_poll_ms: 1_000,
            batch_records: 1_000,
            poll_min_ms: 5,
            poll_max_ms: 50,
            retry_base_ms: 20,
            retry_max_ms: 2_000,
            rejected_retry_ms: 30_000,
        }
    }
}

const DAY_MS: u64 = 86_400_000;

/// The largest `dlq_payload_limit`.
pub(crate) const DLQ_PAYLOAD_LIMIT_MAX: u64 = 192 << 10;

impl WorkerConfig {
    /// Whether a worker may start with these settings.
    ///
    /// # Errors
    /// The first setting that is out of its range or contradicts another.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.topics.is_empty() {
            return Err(ConfigError {
                field: "topics",
                value: "[]".to_owned(),
                range: "at least one topic".to_owned(),
                advice: "name the topics that the service consumes",
            });
        }
        self.validate_batches()?;
        self.validate_retries()?;
        self.validate_queue()
    }

    fn validate_batches(&self) -> Result<(), ConfigError> {
        let lanes = u64::from(self.lanes);
        within("lanes", lanes, 1..=64, "one or two for hot rows, one per core at most")?;
        within("batch_records", self.batch_records.into(), 1..=10_000, "larger batches hold locks longer")?;
        within(
            "batch_bytes",
            self.batch_bytes.into(),
            1 << 10..=64 << 20,
            "larger batches hold locks longer",
        )?;
        let records = u64::from(self.batch_records) * lanes;
        within("buffer_records", self.buffer_records.into(), records..=10_000_000, "give each lane a batch")?;
        let bytes = u64::from(self.batch_bytes) * lanes;
        within("buffer_bytes", self.buffer_bytes, bytes..=1 << 40, "give each lane a batch")?;
        within("position_lazy_ms", self.position_lazy_ms, 1..=60_000, "longer replays more after a crash")?;
        within("report_interval_ms", self.report_interval_ms, 10..=600_000, "it only reports lag")?;
        within("grace_ms", self.grace_ms, 0..=600_000, "what is not finished is abandoned and repeated")?;
        within(
            "prune_interval_ms",
            self.prune_interval_ms,
            10..=DAY_MS,
            "pruning less often costs only disk",
        )?;
        within("prune_limit", self.prune_limit.into(), 1..=100_000, "larger transactions delay vacuum")?;
        within("batch_time_ms", self.batch_time_ms, 1..=60_000, "smaller batches take less time")?;
        let least = lanes * self.batch_time_ms + 1;
        within(
            "lock_timeout_ms",
            self.lock_timeout_ms,
            least..=600_000,
            "raise it above lanes × batch_time_ms",
        )
    }

    fn validate_retries(&self) -> Result<(), ConfigError> {
        within(
            "attempts_max",
            self.attempts_max.into(),
            2..=1_000,
            "a crash may use up one untried; an outage opens the circuit, not the grave",
        )?;
        within("backoff_max_ms", self.backoff_max_ms, 1..=DAY_MS, "later events of the key wait as long")?;
        let max = self.backoff_max_ms;
        within("backoff_base_ms", self.backoff_base_ms, 1..=max, "begin at or below backoff_max_ms")?;
        within("retry_max_ms", self.retry_max_ms, 1..=60_000, "partitions stand still as long")?;
        within("retry_base_ms", self.retry_base_ms, 1..=self.retry_max_ms, "begin at or below retry_max_ms")?;
        within("circuit_failures", self.circuit_failures.into(), 1..=10_000, "1 opens at the first failure")?;
        within("circuit_open_ms", self.circuit_open_ms, 1..=3_600_000, "recovery is noticed as much later")?;
        let limit = u64::from(self.dlq_payload_limit);
        within(
            "dlq_payload_limit",
            limit,
            0..=DLQ_PAYLOAD_LIMIT_MAX,
            "four times as much must fit the topic's max.message.bytes",
        )
    }

    fn validate_queue(&self) -> Result<(), ConfigError> {
        within("claim_limit", self.claim_limit.into(), 1..=10_000, "a settlement locks as many keys")?;
        within(
            "claim_poll_max_ms",
            self.claim_poll_max_ms,
            1..=60_000,
            "other members' rows are found so late",
        )?;
        let max = self.claim_poll_max_ms;
        within("claim_poll_min_ms", self.claim_poll_min_ms, 1..=max, "begin at or below claim_poll_max_ms")?;
        within("act_concurrency", self.act_concurrency.into(), 1..=100_000, "what the provider can stand")?;
        within("act_timeout_ms", self.act_timeout_ms, 1..=600_000, "a timeout is an unknown outcome")?;
        let least = self.act_timeout_ms + self.batch_time_ms + 1;
        within(
            "claim_lease_ms",
            self.claim_lease_ms,
            least..=DAY_MS,
            "a call and its settlement must fit the lease",
        )
    }

    /// Whether a topic as it is upholds G10 (dedupe outlives every copy) and G11 (an accepted order is never lost).
    ///
    /// # Errors
    /// What the topic or the configuration must change.
    pub fn check_topic(&self, facts: &DurabilityFacts) -> Result<(), ConfigError> {
        if let Some(retention) = facts.retention
            && ms(self.copies_within_ms) > retention
        {
            return Err(ConfigError {
                field: "copies_within_ms",
                value: self.copies_within_ms.to_string(),
                range: format!("at most the retention of {}, {} ms", facts.topic, retention.as_millis()),
                advice: "the inbox forgets what retention removed; lengthen retention.ms (G10)",
            });
        }
        let refuse = |field, value: String, range: &str, advice| {
            Err(ConfigError {
                field,
                value: format!("{value} on topic {}", facts.topic),
                range: range.to_owned(),
                advice,
            })
        };
        if facts.compacted {
            let advice = "all events of a key are its story, and compaction keeps the last alone (G3)";
            return refuse("cleanup.policy", "compact".to_owned(), "delete", advice);
        }
        if self.accepted_orders_may_be_lost {
            return Ok(());
        }
        const ADVICE: &str = "change the topic, or set accepted_orders_may_be_lost = true (G11)";
        if facts.replicas < 3 {
            return refuse("replication.factor", facts.replicas.to_string(), "at least 3", ADVICE);
        }
        if facts.min_insync < 2 {
            return refuse("min.insync.replicas", facts.min_insync.to_string(), "at least 2", ADVICE);
        }
        if facts.unclean_election {
            return refuse("unclean.leader.election.enable", "true".to_owned(), "false", ADVICE);
        }
        Ok(())
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff { base: ms(self.backoff_base_ms), max: ms(self.backoff_max_ms) }
    }

    pub(crate) fn retry(&self) -> Backoff {
        Backoff { base: ms(self.retry_base_ms), max: ms(self.retry_max_ms) }
    }
}

impl RelayConfig {
    /// Whether a relay may start with these settings.
    ///
    /// # Errors
    /// The first setting that is out of its range or contradicts another.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("lease_ttl_ms", self.lease_ttl_ms, 100..=600_000, "a standby takes over so late")?;
        let half = self.lease_ttl_ms / 2;
        within("lease_margin_ms", self.lease_margin_ms, 1..=half, "leave half of the lease for work")?;
        within("standby_poll_ms", self.standby_poll_ms, 1..=60_000, "a standby takes over so much later")?;
        within("batch_records", self.batch_records.into(), 1..=100_000, "they are all held in memory")?;
        within("poll_max_ms", self.poll_max_ms, 1..=60_000, "events leave so much later")?;
        within("poll_min_ms", self.poll_min_ms, 1..=self.poll_max_ms, "begin at or below poll_max_ms")?;
        within("retry_max_ms", self.retry_max_ms, 1..=60_000, "events leave so much later")?;
        within("retry_base_ms", self.retry_base_ms, 1..=self.retry_max_ms, "begin at or below retry_max_ms")?;
        within("rejected_retry_ms", self.rejected_retry_ms, 1..=DAY_MS, "its key waits as long")
    }
}

/// Milliseconds as a duration.
pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Checks that the number that a setting was given lies in its range; `advice` says what to do if not.
///
/// # Errors
/// If it does not, by the setting's name.
pub fn within(
    field: &'static str,
    value: u64,
    range: std::ops::RangeInclusive<u64>,
    advice: &'static str,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let range = format!("between {} and {}", range.start(), range.end());
    Err(ConfigError { field, value: value.to_string(), range, advice })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn valid() -> WorkerConfig {
        WorkerConfig { topics: vec!["orders".to_owned()], ..WorkerConfig::default() }
    }

    fn facts() -> DurabilityFacts {
        DurabilityFacts {
            topic: Topic::from("orders"),
            replicas: 3,
            min_insync: 2,
            unclean_election: false,
            compacted: false,
            retention: Some(Duration::from_secs(7 * 86_400)),
        }
    }

    #[test]
    fn the_defaults_may_start() {
        assert_eq!(valid().validate(), Ok(()));
        assert_eq!(RelayConfig::default().validate(), Ok(()));
        assert_eq!(valid().check_topic(&facts()), Ok(()));
    }

    #[rstest]
    #[case::no_topic("topics", |c: &mut WorkerConfig| c.topics.clear())]
    #[case::no_lane("lanes", |c: &mut WorkerConfig| c.lanes = 0)]
    #[case::a_buffer_below_a_batch("buffer_records", |c: &mut WorkerConfig| c.buffer_records = 10)]
    #[case::a_lease_that_ends_during_the_call("claim_lease_ms", |c: &mut WorkerConfig| c.claim_lease_ms = c.act_timeout_ms)]
    #[case::a_lock_timeout_below_the_lanes_turns("lock_timeout_ms", |c: &mut WorkerConfig| c.lock_timeout_ms = 2_000)]
    #[case::a_backoff_that_shrinks("backoff_base_ms", |c: &mut WorkerConfig| c.backoff_base_ms = c.backoff_max_ms + 1)]
    #[case::an_attempt_that_a_crash_uses_up("attempts_max", |c: &mut WorkerConfig| c.attempts_max = 1)]
    #[case::a_poll_that_speeds_up_when_idle("claim_poll_min_ms", |c: &mut WorkerConfig| c.claim_poll_min_ms = 5_000)]
    #[case::dead_letters_too_large_for_kafka("dlq_payload_limit", |c: &mut WorkerConfig| c.dlq_payload_limit = 256 << 10)]
    fn a_setting_that_breaks_a_guarantee_is_refused_by_name(
        #[case] field: &str,
        #[case] spoil: fn(&mut WorkerConfig),
    ) {
        let mut config = valid();
        spoil(&mut config);
        assert_eq!(config.validate().map_err(|error| error.field), Err(field));
    }

    #[rstest]
    #[case::two_replicas("replication.factor", |f: &mut DurabilityFacts| f.replicas = 2)]
    #[case::one_in_sync("min.insync.replicas", |f: &mut DurabilityFacts| f.min_insync = 1)]
    #[case::unclean_election("unclean.leader.election.enable", |f: &mut DurabilityFacts| f.unclean_election = true)]
    fn a_topic_that_may_lose_orders_needs_plain_words(
        #[case] field: &str,
        #[case] spoil: fn(&mut DurabilityFacts),
    ) {
        let mut facts = facts();
        spoil(&mut facts);
        assert_eq!(valid().check_topic(&facts).map_err(|error| error.field), Err(field));
        let told = WorkerConfig { accepted_orders_may_be_lost: true, ..valid() };
        assert_eq!(told.check_topic(&facts), Ok(()));
    }

    #[test]
    fn retention_shorter_than_the_latest_copy_is_refused_even_when_loss_is_allowed() {
        let facts = DurabilityFacts { retention: Some(Duration::from_secs(3_600)), ..facts() };
        let config = WorkerConfig { accepted_orders_may_be_lost: true, ..valid() };
        assert_eq!(config.check_topic(&facts).map_err(|error| error.field), Err("copies_within_ms"));
    }

    #[test]
    fn compaction_is_refused_even_when_loss_is_allowed() {
        let facts = DurabilityFacts { compacted: true, ..facts() };
        let config = WorkerConfig { accepted_orders_may_be_lost: true, ..valid() };
        assert_eq!(config.check_topic(&facts).map_err(|error| error.field), Err("cleanup.policy"));
    }

    #[test]
    fn a_misspelt_setting_is_refused() {
        let config = serde_json::from_str::<WorkerConfig>(r#"{"topics": ["orders"], "lane": 3}"#);
        assert!(config.is_err_and(|error| error.to_string().contains("unknown field `lane`")));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let config = WorkerConfig { lanes: 65, ..valid() };
        let text = config.validate().map_err(|error| error.to_string());
        let expected = "lanes = 65: must be between 1 and 64; one or two for hot rows, one per core at most";
        assert_eq!(text, Err(expected.to_owned()));
    }
}
