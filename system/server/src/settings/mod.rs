//! Every setting of the binary, its default, and what must hold between settings.
//!
//! Durations are whole milliseconds and say so in their names. What a role does not use is not validated for it, so
//! a relay needs no payment provider. Secrets are hidden wherever settings are shown.

mod layers;
mod secret;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use stormglass_orders::{
    TOPIC,
    gateway::{self, Keyring, Limits},
};
use stormglass_runtime::{ConfigError, RelayConfig, Topic, WorkerConfig};
use toml::{Table, Value};

pub use self::{
    layers::{PREFIX, SettingsError, Sources},
    secret::{DatabaseUrl, PartyUrl, Secret},
};
use crate::{
    kafka::KafkaConfig,
    postgres::{self, SilentNodes},
};

/// All settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What is logged, and how.
    pub log: LogSettings,
    /// The address of the gateway, of `/metrics` and `/livez`.
    pub http: HttpSettings,
    /// Kafka's clients.
    pub kafka: KafkaConfig,
    /// The topics, as `stormglass topics create` makes them.
    pub topics: TopicSettings,
    /// PostgreSQL's nodes, and sessions on them.
    pub postgres: PostgresSettings,
    /// The gateway.
    pub gateway: GatewaySettings,
    /// Every worker.
    pub worker: WorkerConfig,
    /// The relay.
    pub relay: RelayConfig,
    /// The orders service.
    pub orders: OrdersSettings,
    /// The payment provider.
    pub payments: OutsideSettings,
    /// The notifier.
    pub notifications: OutsideSettings,
}

/// `log`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LogSettings {
    /// `pretty` or `json`.
    pub format: LogFormat,
    /// As `tracing_subscriber::EnvFilter` reads it: `info`, `warn,stormglass_runtime=debug`. Empty: what fits the command.
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// `http`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HttpSettings {
    /// `address:port`; port 0 takes a free one, which the log names.
    pub listen: SocketAddr,
}

/// `topics`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TopicSettings {
    /// Partitions of the topic of events. Adding some later remaps keys (SEMANTICS B4).
    pub partitions: u32,
    /// The replication factor.
    pub replicas: u32,
    /// `min.insync.replicas`.
    pub min_insync: u32,
    /// `retention.ms`.
    pub retention_ms: u64,
}

/// `postgres`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PostgresSettings {
    /// The primary and its replicas, in any order.
    pub urls: Vec<DatabaseUrl>,
    /// Takes the place of the URLs' own password unless it is empty.
    pub password: Secret,
    /// `refuse`: a process does not begin to write before every node has answered, as a silent one may have been
    /// promoted. `ignore`: it writes to the primary that answers.
    pub silent_nodes: SilentNodes,
    /// Transactions that are open at most.
    pub transactions_max: usize,
    /// Reads of one node that run at once at most.
    pub reads_per_node_max: usize,
    /// How long a transaction, or a read, waits for a connection to become free.
    pub acquire_timeout_ms: u64,
    /// How long connecting to one node may take.
    pub connect_timeout_ms: u64,
    /// `statement_timeout`. Above `worker.lock_timeout_ms`.
    pub statement_timeout_ms: u64,
    /// `idle_in_transaction_session_timeout`.
    pub idle_in_transaction_timeout_ms: u64,
    /// How long the client waits for an answer. Above `statement_timeout_ms`.
    pub answer_timeout_ms: u64,
    /// How long a replica may take to answer a read before the next node is asked.
    pub replica_timeout_ms: u64,
}

/// `gateway`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct GatewaySettings {
    /// What signs receipts: `id:secret`, the secret of 32 bytes or more. The first signs, all verify: a new key goes to
    /// the end of the list everywhere first, then to its front, then the old one goes.
    pub receipt_keys: Vec<Secret>,
    /// Largest request body, in bytes.
    pub body_bytes: usize,
    /// How long a client may take to send its body.
    pub body_time_ms: u64,
    /// How long all in-sync replicas may take to have an order before 503 is answered. 100 to 300,000.
    pub publish_time_ms: u64,
    /// How long a read may take.
    pub read_time_ms: u64,
    /// How long placing an order asks the read side for an early 422.
    pub early_read_time_ms: u64,
    /// What `Retry-After` says.
    pub retry_after_ms: u64,
    /// Most orders on a page.
    pub page_max: u32,
}

/// `orders`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OrdersSettings {
    /// How long an order may wait for payment and stock before it is cancelled.
    pub deadline_ms: u64,
}

/// `payments` and `notifications`: a party outside, over HTTP.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OutsideSettings {
    /// Where it is: no user, password or query, since it is shown.
    pub url: PartyUrl,
    /// How long one request may take. Below `worker.act_timeout_ms`.
    pub timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = Limits::default();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let outside = |port: u16| OutsideSettings { url: PartyUrl::local(port), timeout_ms: 8_000 };
        Self {
            log: LogSettings { format: LogFormat::Pretty, filter: String::new() },
            http: HttpSettings { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) },
            kafka: KafkaConfig::default(),
            topics: TopicSettings {
                partitions: 12,
                replicas: 3,
                min_insync: 2,
                retention_ms: 7 * 86_400_000,
            },
            postgres: PostgresSettings::default(),
            gateway: GatewaySettings {
                receipt_keys: Vec::new(),
                body_bytes: limits.body_bytes,
                body_time_ms: ms(limits.body_time),
                publish_time_ms: 5_000,
                read_time_ms: ms(limits.read_time),
                early_read_time_ms: ms(limits.early_read_time),
                retry_after_ms: ms(limits.retry_after),
                page_max: limits.page_max,
            },
            worker: WorkerConfig { topics: vec![TOPIC.to_owned()], ..WorkerConfig::default() },
            relay: RelayConfig::default(),
            orders: OrdersSettings { deadline_ms: 900_000 },
            payments: outside(8081),
            notifications: outside(8082),
        }
    }
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            password: Secret::default(),
            silent_nodes: SilentNodes::Refuse,
            transactions_max: 10,
            reads_per_node_max: 4,
            acquire_timeout_ms: 5_000,
            connect_timeout_ms: 2_000,
            statement_timeout_ms: 20_000,
            idle_in_transaction_timeout_ms: 10_000,
            answer_timeout_ms: 25_000,
            replica_timeout_ms: 500,
        }
    }
}

impl Settings {
    /// Reads the sources over the defaults. What a role needs is checked when it is known which one.
    ///
    /// # Errors
    /// The first setting that does not exist or cannot have its value.
    pub fn load(sources: &Sources<'_>) -> Result<Self, SettingsError> {
        let defaults = Self::default().table();
        let merged = layers::merge(&defaults, sources)?;
        Value::Table(merged.clone()).try_into().map_err(|error: toml::de::Error| {
            let (key, why) = blame(&merged, &defaults, &error);
            SettingsError::Value { origin: "settings".to_owned(), key, why }
        })
    }

    /// As TOML, secrets hidden.
    pub fn shown(&self) -> String {
        toml::to_string(&self.table()).unwrap_or_default()
    }

    fn table(&self) -> Table {
        // Every key is a text and every number fits, so there is nothing that TOML could not say.
        Table::try_from(self).unwrap_or_default()
    }

    /// What the roles that publish or consume need.
    ///
    /// # Errors
    /// The first setting that must not be used.
    pub fn check_kafka(&self) -> Result<(), SettingsError> {
        self.kafka.validate().map_err(|error| within("kafka", &error))
    }

    /// What everything that touches the database needs.
    ///
    /// # Errors
    /// The first setting that must not be used.
    pub fn check_postgres(&self) -> Result<(), SettingsError> {
        let postgres = &self.postgres;
        ensure(
            !postgres.urls.is_empty(),
            "postgres.urls",
            "names no server; set the primary's URL, and its replicas'",
        )?;
        ensure(postgres.transactions_max > 0, "postgres.transactions_max", "must be at least 1")?;
        ensure(postgres.reads_per_node_max > 0, "postgres.reads_per_node_max", "must be at least 1")?;
        ensure(
            postgres.statement_timeout_ms > self.worker.lock_timeout_ms,
            "postgres.statement_timeout_ms",
            "must be above worker.lock_timeout_ms, so that a lock that is not granted is told apart",
        )?;
        ensure(
            postgres.answer_timeout_ms > postgres.statement_timeout_ms,
            "postgres.answer_timeout_ms",
            "must be above postgres.statement_timeout_ms, so that the server speaks first",
        )
    }

    /// What workers and the relay need.
    ///
    /// # Errors
    /// The first setting that must not be used.
    pub fn check_work(&self) -> Result<(), SettingsError> {
        self.worker.validate().map_err(|error| within("worker", &error))?;
        ensure(self.worker.topics == [TOPIC], "worker.topics", "must be [\"orders\"]: all events are on it")?;
        self.relay.validate().map_err(|error| within("relay", &error))?;
        self.check_letters()?;
        ensure(self.orders.deadline_ms > 0, "orders.deadline_ms", "must be at least 1")
    }

    /// Whether the largest dead letter fits a record: one that does not could never be written, and its key would stand
    /// still for ever.
    fn check_letters(&self) -> Result<(), SettingsError> {
        let payload = usize::try_from(self.worker.dlq_payload_limit).unwrap_or(usize::MAX);
        let least = payload.saturating_mul(LETTER_PARTS).saturating_add(LETTER_BYTES);
        ensure(
            self.kafka.record_bytes_max >= least,
            "kafka.record_bytes_max",
            &format!(
                "must be at least {least}: {LETTER_PARTS} times worker.dlq_payload_limit and {LETTER_BYTES}, \
                      or a dead letter might not fit a record"
            ),
        )
    }

    /// What the gateway needs beside its keys.
    ///
    /// # Errors
    /// The first setting that must not be used.
    pub fn check_gateway(&self) -> Result<(), SettingsError> {
        let (gateway, record_bytes) = (&self.gateway, self.kafka.record_bytes_max);
        ensure(
            (100..=300_000).contains(&gateway.publish_time_ms),
            "gateway.publish_time_ms",
            "must be between 100 and 300000",
        )?;
        ensure(
            (1..=record_bytes / 2).contains(&gateway.body_bytes),
            "gateway.body_bytes",
            "must be at most half of kafka.record_bytes_max: what is accepted has to fit a record",
        )?;
        ensure(gateway.page_max > 0, "gateway.page_max", "must be at least 1")
    }

    /// What a worker needs that asks `outside`, the section `name`.
    ///
    /// # Errors
    /// The first setting that must not be used.
    pub fn check_outside(&self, name: &str, outside: &OutsideSettings) -> Result<(), SettingsError> {
        ensure(
            outside.timeout_ms > 0 && outside.timeout_ms < self.worker.act_timeout_ms,
            &format!("{name}.timeout_ms"),
            "must be between 1 and below worker.act_timeout_ms, whose end says less",
        )
    }

    /// The key ring of receipts.
    ///
    /// # Errors
    /// A key that is too short, or none at all.
    pub fn keyring(&self) -> Result<Keyring, SettingsError> {
        const KEY: &str = "gateway.receipt_keys";
        let refuse = |why: &str| Err(refused(KEY, why));
        let mut keys = BTreeMap::new();
        let mut signer = None;
        for key in &self.gateway.receipt_keys {
            let Some((id, secret)) = key.reveal().split_once(':') else {
                return refuse("must be id:secret each");
            };
            let secret = match gateway::Secret::new(secret.as_bytes()) {
                Ok(secret) => secret,
                Err(error) => return refuse(&error.to_string()),
            };
            signer.get_or_insert(id);
            keys.insert(id.to_owned(), secret);
        }
        let Some(signer) = signer else {
            return refuse("names no key; set one as id:secret, the secret of 32 bytes or more");
        };
        Keyring::new(keys, signer).map_err(|error| refused(KEY, &error.to_string()))
    }

    /// Sizes and times of the gateway.
    pub fn limits(&self) -> Limits {
        let gateway = &self.gateway;
        Limits {
            body_bytes: gateway.body_bytes,
            body_time: Duration::from_millis(gateway.body_time_ms),
            // The producer's own timeout says more than giving up on it.
            publish_time: Duration::from_millis(gateway.publish_time_ms.saturating_add(1_000)),
            read_time: Duration::from_millis(gateway.read_time_ms),
            early_read_time: Duration::from_millis(gateway.early_read_time_ms),
            retry_after: Duration::from_millis(gateway.retry_after_ms),
            page_max: gateway.page_max,
        }
    }

    /// The database adapter's settings.
    pub fn database(&self) -> postgres::Config {
        let settings = &self.postgres;
        let nodes = settings.urls.iter().map(|url| url.options(&settings.password)).collect();
        postgres::Config {
            silent_nodes: settings.silent_nodes,
            transactions_max: settings.transactions_max,
            reads_per_node_max: settings.reads_per_node_max,
            acquire_timeout: Duration::from_millis(settings.acquire_timeout_ms),
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
            lock_timeout: Duration::from_millis(self.worker.lock_timeout_ms),
            statement_timeout: Duration::from_millis(settings.statement_timeout_ms),
            idle_in_transaction_timeout: Duration::from_millis(settings.idle_in_transaction_timeout_ms),
            answer_timeout: Duration::from_millis(settings.answer_timeout_ms),
            replica_timeout: Duration::from_millis(settings.replica_timeout_ms),
            record_bytes_max: self.kafka.record_bytes_max,
            topics: Some(topics().into_iter().collect()),
            ..postgres::Config::new(nodes)
        }
    }
}

/// What `worker.dlq_payload_limit` cuts in a dead letter, each for itself: payload, headers, and the key twice.
const LETTER_PARTS: usize = 4;
/// What else a dead letter says: an error of 1,000 bytes, ids, times, names and numbers; a third of this at most.
const LETTER_BYTES: usize = 4_096;

/// The services, and with it the consumer groups.
pub const CONSUMERS: [&str; 4] = ["orders", "payments", "inventory", "notifications"];

/// Every topic there is: the one of events, and the dead letters of each consumer.
pub fn topics() -> Vec<Topic> {
    let dead = CONSUMERS.map(|consumer| Topic::from(format!("{consumer}.dlq").as_str()));
    [Topic::from(TOPIC)].into_iter().chain(dead).collect()
}

fn ensure(holds: bool, key: &str, why: &str) -> Result<(), SettingsError> {
    if holds { Ok(()) } else { Err(refused(key, why)) }
}

fn refused(key: &str, why: &str) -> SettingsError {
    SettingsError::Value { origin: "settings".to_owned(), key: key.to_owned(), why: why.to_owned() }
}

fn within(section: &str, error: &ConfigError) -> SettingsError {
    let ConfigError { field, value, range, advice } = error;
    refused(&format!("{section}.{field}"), &format!("= {value}: must be {range}; {advice}"))
}

/// Which setting `error` is about: the one that, alone over the defaults, is refused as well.
fn blame(merged: &Table, defaults: &Table, error: &toml::de::Error) -> (String, String) {
    for (section, keys) in merged {
        for (key, value) in keys.as_table().into_iter().flatten() {
            let mut alone = defaults.clone();
            if let Some(table) = alone.get_mut(section).and_then(Value::as_table_mut) {
                table.insert(key.clone(), value.clone());
            }
            if let Err(error) = Value::Table(alone).try_into::<Settings>() {
                return (format!("{section}.{key}"), error.message().replace('\n', " "));
            }
        }
    }
    (String::new(), error.message().replace('\n', " "))
}
