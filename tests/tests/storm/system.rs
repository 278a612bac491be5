//! The whole system: three brokers, a primary and a replica, two stand-ins, two processes of each role.
//!
//! The processes of one side know Kafka and PostgreSQL by ways of their own, so that a side can be cut off from either.
//! Timeouts are shorter than production's, so that a storm of minutes sees what production sees in hours; what a timeout
//! guarantees is the same.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::join_all;
use sqlx::Row;
use stormglass_chaos::workload::{TENANTS, sku};
use stormglass_runtime::Clock;
use stormglass_server::{
    host::SystemClock,
    settings::{CONSUMERS, topics},
};
use tokio::time::{Instant, sleep};

use crate::{
    brokers::Brokers,
    engine,
    log::Log,
    plan::{ATTEMPTS_MAX, PARTITIONS, ROLES, SIDES, Shelves},
    postgres::Postgres,
    process::{Process, Recipe, binary, free_port},
    wal::Transaction,
};

/// Everything that runs.
pub struct System {
    pub brokers: Brokers,
    pub postgres: Postgres,
    pub log: Log,
    /// The system's own processes, by role and then by side.
    pub processes: Vec<Process>,
    /// The payment provider and the notifier.
    pub parties: Vec<Process>,
    /// The shelves at the beginning.
    pub shelves: Transaction,
    directory: PathBuf,
}

/// What is being waited for, and what shows whether anything still moves.
type Movement = (i64, i64, i64, i64, i64, i64);

/// A system of which nothing has moved for so long is at rest.
const AT_REST: Duration = Duration::from_secs(3);
/// One that is not done and does not move either is stuck; the judge will say where.
const STUCK: Duration = Duration::from_secs(25);

impl System {
    /// Brings all of it up, with so many units on each shelf. `None`: there is no engine, and the test is to return.
    pub async fn start(test: &str, shelves: &Shelves) -> Option<System> {
        let docker = engine::engine(test).await?;
        engine::remove_orphans(&docker).await;
        let binary = binary();
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("storm-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for logs can be made");
        let name = format!("stormglass-{}-{}", test.replace(' ', "-"), std::process::id());
        let (brokers, postgres) = tokio::join!(Brokers::start(&name, test), Postgres::start(&name, test));
        let log = Log::at(brokers.operator(), topics());
        let parties = parties(&binary, &directory).await;
        let mut configs = Vec::new();
        for side in 0..SIDES {
            let path = directory.join(format!("side-{}.toml", side + 1));
            let settings = settings(&brokers.servers(side), &postgres.urls(side), &parties);
            fs::write(&path, settings).expect("settings can be written");
            configs.push(path);
        }
        let shelves = prepare(&binary, &configs[0], (&postgres, shelves)).await;
        let mut processes = Vec::new();
        for role in ROLES {
            for (side, config) in (1..).zip(&configs) {
                processes.push(serve(&binary, config, &format!("{role}-{side}")).await);
            }
        }
        for process in &processes {
            process.is_ready().await;
        }
        Some(System { brokers, postgres, log, processes, parties, shelves, directory })
    }

    /// Where clients find the gateways.
    pub fn gateways(&self) -> Vec<String> {
        let gateways = self.processes.iter().take(SIDES);
        gateways.map(|process| format!("127.0.0.1:{}", process.recipe.port)).collect()
    }

    /// The ledger of a party, as the simulator's parties tell what they did; but for closed keys, of which its notifier
    /// says nothing.
    pub fn ledger<T: serde::de::DeserializeOwned>(&self, party: &str) -> Vec<T> {
        let text = fs::read_to_string(ledger(&self.directory, party)).expect("a ledger is kept");
        let told = text.lines().filter(|line| !line.starts_with("{\"Closed\""));
        told.map(|line| serde_json::from_str(line).expect("a line of the ledger")).collect()
    }

    /// Where the logs of the processes are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until nothing is left to do, or nothing moves any more. Answers with how long that took, `None` if it was
    /// still moving at `limit`.
    pub async fn quiet(&self, limit: Duration) -> Option<Duration> {
        let begun = Instant::now();
        let (mut last, mut since) = (None, begun);
        while begun.elapsed() < limit {
            let movement = self.movement().await;
            if last != Some(movement) {
                (last, since) = (Some(movement), Instant::now());
            }
            let (outbox, queue, open, ..) = movement;
            let still = since.elapsed();
            if (outbox + queue + open == 0 && still >= AT_REST) || still >= STUCK {
                return Some(begun.elapsed());
            }
            sleep(Duration::from_millis(500)).await;
        }
        None
    }

    async fn movement(&self) -> Movement {
        // Timers that are due much later are at rest, and so is what waits behind a dead letter.
        const LEFT: &str = "
            SELECT (SELECT count(*) FROM outbox),
                   (SELECT count(*) FROM pending AS row
                     WHERE dead_at IS NULL AND due < now() + interval '60 s'
                       AND NOT EXISTS (SELECT FROM pending AS head
                                        WHERE head.consumer = row.consumer AND head.key = row.key
                                          AND head.seq < row.seq AND head.dead_at IS NOT NULL)),
                   (SELECT count(*) FROM orders WHERE state IN ('foretold', 'open')),
                   (SELECT coalesce(sum(next), 0)::bigint FROM positions),
                   (SELECT count(*) FROM inbox)";
        let mut operator = self.postgres.operator().await;
        let row = sqlx::query(LEFT).fetch_one(&mut operator).await.expect("the tables are there");
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), self.log.length())
    }

    /// Stops every process as an operator would, and answers with what was left open at the database.
    pub async fn stop(&mut self) -> (usize, usize) {
        join_all(self.processes.iter_mut().map(Process::stop)).await;
        join_all(self.parties.iter_mut().map(Process::stop)).await;
        const LEFT: &str = "
            SELECT (SELECT count(*) FROM pg_stat_activity
                     WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()),
                   (SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                     WHERE backend_type = 'client backend' AND locktype = 'transactionid' AND pid <> pg_backend_pid())";
        let mut operator = self.postgres.operator().await;
        let row = sqlx::query(LEFT).fetch_one(&mut operator).await.expect("the server tells");
        let count = |index: usize| usize::try_from(row.get::<i64, _>(index)).unwrap_or(0);
        (count(0), count(1))
    }
}

/// A process of the role that its name begins with.
async fn serve(binary: &Path, config: &Path, name: &str) -> Process {
    let port = free_port().await;
    let role = name.split('-').next().unwrap_or(name);
    let listen = format!("127.0.0.1:{port}");
    let arguments = ["--config", &path_text(config), "--listen", &listen, "serve", "--role", role];
    let arguments = arguments.map(str::to_owned).to_vec();
    let log = config.with_file_name(format!("{name}.log"));
    Process::start(Recipe { name: name.to_owned(), binary: binary.to_owned(), arguments, log, port })
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("paths of the build are UTF-8").to_owned()
}

fn ledger(directory: &Path, party: &str) -> PathBuf {
    directory.join(format!("{party}.ledger"))
}

/// The payment provider and the notifier, which fail and decline a little, and write everything down.
async fn parties(binary: &Path, directory: &Path) -> Vec<Process> {
    let mut parties = Vec::new();
    for party in ["payments", "notifications"] {
        let port = free_port().await;
        let arguments = [
            "--listen",
            &format!("127.0.0.1:{port}"),
            "stand-in",
            party,
            "--fail",
            "4%",
            "--decline",
            "4%",
            "--latency-ms",
            "10",
            "--ledger",
            &path_text(&ledger(directory, party)),
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        let (name, log) = (format!("stand-in-{party}"), directory.join(format!("stand-in-{party}.log")));
        parties.push(Process::start(Recipe { name, binary: binary.to_owned(), arguments, log, port }));
    }
    for party in &parties {
        party.is_ready().await;
    }
    parties
}

/// The schema, the shelves, and a witness for everything after that.
async fn prepare(binary: &Path, config: &Path, (postgres, units): (&Postgres, &Shelves)) -> Transaction {
    let run = |arguments: &[&str]| {
        let done = std::process::Command::new(binary).arg("--config").arg(config).args(arguments).output();
        let done = done.expect("the binary runs");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["migrate"]);
    run(&["topics", "create"]);
    for (shelf, units) in units {
        let (tenant, sku) = shelf.split_once('/').expect("a shelf is a tenant's");
        run(&["stock", "add", "--tenant", tenant, "--sku", sku, "--units", &units.to_string()]);
    }
    let shelves = postgres.shelves(SystemClock.now()).await;
    postgres.witness().await;
    shelves
}

/// Units on each shelf: every tenant has the same.
pub fn shelves(skus: u32, units: i64) -> Shelves {
    let names =
        TENANTS.iter().flat_map(|tenant| (0..skus).map(move |number| format!("{tenant}/{}", sku(number))));
    names.map(|name| (name, units)).collect::<BTreeMap<_, _>>()
}

fn settings(brokers: &str, urls: &[String], parties: &[Process]) -> String {
    let url = |party: usize| format!("http://127.0.0.1:{}", parties[party].recipe.port);
    format!(
        r#"
[log]
filter = "info,librdkafka=error"
[kafka]
brokers = "{brokers}"
request_timeout_ms = 4000
delivery_timeout_ms = 8000
session_timeout_ms = 6000
heartbeat_interval_ms = 1000
max_poll_interval_ms = 20000
revocation_grace_ms = 3000
[postgres]
urls = {urls:?}
statement_timeout_ms = 8000
answer_timeout_ms = 10000
idle_in_transaction_timeout_ms = 8000
[gateway]
receipt_keys = ["storm:0123456789abcdef0123456789abcdef"]
publish_time_ms = 4000
[topics]
partitions = {PARTITIONS}
[worker]
attempts_max = {ATTEMPTS_MAX}
backoff_max_ms = 5000
claim_lease_ms = 8000
act_timeout_ms = 4000
circuit_failures = 5
circuit_open_ms = 1000
lock_timeout_ms = 5000
grace_ms = 5000
[relay]
lease_ttl_ms = 4000
lease_margin_ms = 1000
standby_poll_ms = 500
[payments]
url = "{}"
timeout_ms = 3000
[notifications]
url = "{}"
timeout_ms = 3000
"#,
        url(0),
        url(1)
    )
}

/// The consumers whose positions can be reset.
pub const RESETTABLE: [&str; 4] = CONSUMERS;
