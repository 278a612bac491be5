//! How the adapter reaches PostgreSQL, and what every one of its sessions is set to.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use stormglass_runtime::Topic;

use super::primary::SilentNodes;

/// Where the servers are and how sessions on them behave.
#[derive(Clone, Debug)]
pub struct Config {
    /// The primary and its replicas, in any order: which is which is asked, and asked again when it changes.
    pub nodes: Vec<PgConnectOptions>,
    /// What a node means that does not answer before any timeline was seen. Of one node alone nothing is asked.
    pub silent_nodes: SilentNodes,
    /// `application_name` of every session.
    pub application: String,
    /// Transactions that are open at most.
    pub transactions_max: usize,
    /// Reads of one node that run at once at most.
    pub reads_per_node_max: usize,
    /// How long a transaction, or a read, waits for a connection to become free (D19).
    pub acquire_timeout: Duration,
    /// How long connecting to one node may take, and BEGIN, which waits for nothing either.
    pub connect_timeout: Duration,
    /// `lock_timeout`: above lanes × batch time, as a hot row is held for one batch at a time.
    pub lock_timeout: Duration,
    /// `statement_timeout`.
    pub statement_timeout: Duration,
    /// `idle_in_transaction_session_timeout`: when the locks of a client end that vanished between two statements (D15).
    pub idle_in_transaction_timeout: Duration,
    /// How long the client waits for an answer. Longer than the server's own timeouts, so that those speak first.
    pub answer_timeout: Duration,
    /// How long a replica may take to answer a read before the next node is asked; and, once it was too slow, how long
    /// it is passed over.
    pub replica_timeout: Duration,
    /// The largest record that the outbox takes, in bytes: what the broker would refuse must not get stuck in it.
    pub record_bytes_max: usize,
    /// The topics that the outbox takes; `None` takes all.
    pub topics: Option<BTreeSet<Topic>>,
}

impl Config {
    /// Defaults for a cluster of these nodes.
    pub fn new(nodes: Vec<PgConnectOptions>) -> Self {
        Self {
            nodes,
            silent_nodes: SilentNodes::Refuse,
            application: "stormglass".to_owned(),
            transactions_max: 10,
            reads_per_node_max: 4,
            acquire_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            lock_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(20),
            idle_in_transaction_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(25),
            replica_timeout: Duration::from_millis(500),
            record_bytes_max: 1 << 20,
            topics: None,
        }
    }

    /// How to connect to each node: [`Config::nodes`] with the settings of every session.
    pub fn sessions(&self) -> Vec<PgConnectOptions> {
        self.nodes.iter().cloned().map(|node| self.session(node)).collect()
    }

    fn session(&self, node: PgConnectOptions) -> PgConnectOptions {
        let timeouts = [
            ("lock_timeout", self.lock_timeout),
            ("statement_timeout", self.statement_timeout),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction_timeout),
        ];
        node.application_name(&self.application)
            // Every statement stays prepared: some twenty, and five for each domain table.
            .statement_cache_capacity(500)
            // Errors are reported by whoever asked; logging each statement as well costs and repeats.
            .disable_statement_logging()
            .options(timeouts.map(|(name, limit)| (name, format!("{}ms", limit.as_millis()))))
            .options(LIVENESS)
            .options(PLANS)
    }
}

/// How soon the server notices that a client is gone: while it waits for one, and while it works for one (D15).
const LIVENESS: [(&str, &str); 5] = [
    ("tcp_keepalives_idle", "10s"),
    ("tcp_keepalives_interval", "5s"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "25s"),
    ("client_connection_check_interval", "1s"),
];

/// A statement that is prepared while its table is empty keeps its plan. So no plan may depend on what is in the tables:
/// one generic plan for each statement, by nested loops over indexes, as the statements are written for.
const PLANS: [(&str, &str); 7] = [
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // A page of a table comes in the order of its index, not sorted after all that matches was read.
    ("enable_sort", "off"),
    ("default_transaction_isolation", "read committed"),
];
