//! A primary and its streaming replica, each in a container, and what an operator or a bad day does to them.
//!
//! A container outlives its server, so that a server can be killed and started again on its data. Commits wait for the
//! replica, so a promotion may lose none that was answered. Whichever node is the primary keeps the log of its commits
//! in a logical slot until [`Postgres::drain`] reads it; a promotion reads what is left on the old one first.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgSslMode},
};
use stormglass_runtime::Timestamp;
use testcontainers::{
    ContainerAsync, GenericImage, ImageExt,
    core::{CmdWaitFor, ContainerPort, ExecCommand, IntoContainerPort},
    runners::AsyncRunner,
};
use tokio::time::{Instant, sleep};

use crate::{
    engine,
    plan::SIDES,
    wal::{Columns, Decoder, RowChange, Transaction},
    way::Way,
};

const PORT: ContainerPort = ContainerPort::Tcp(5_432);
const DATA: &str = "/var/lib/postgresql/storm";
const BIN: &str = "/usr/lib/postgresql/15/bin";
/// Changes that one reading of the slot takes at least, unless there are fewer.
const CHANGES: i32 = 20_000;
/// How long anything may take that is no fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// Signals a whole server: its postmaster, found by its data directory and held still first, so that it starts no child
/// meanwhile, and all its children. What is killed is waited for: while one lives, no server starts on the same data.
const SIGNAL: &str = r#"
    family=$(head -n 1 "$1/postmaster.pid")
    kill -STOP "$family"
    for stat in /proc/[0-9]*/stat; do
        read -r pid _ _ parent _ < "$stat" 2> /dev/null || continue
        if [ "$parent" = "${family##* }" ]; then family="$pid $family"; fi
    done
    for pid in $family; do
        kill "-$2" "$pid" 2> /dev/null || true
    done
    for pid in $family; do
        while [ "$2" = KILL ] && kill -0 "$pid" 2> /dev/null; do sleep 0.05; done
    done
"#;

struct Node {
    host: String,
    container: ContainerAsync<GenericImage>,
    port: u16,
    ways: Vec<Way>,
}

/// Both nodes.
pub struct Postgres {
    nodes: Vec<Node>,
    primary: usize,
    timeline: u32,
    /// What earlier primaries told.
    told: Vec<Transaction>,
    /// Commits of an old primary that nobody was ever told of, and that its replica never had.
    pub unheard: usize,
}

impl Postgres {
    /// Starts both for `test`, in the network `name`.
    pub async fn start(name: &str, test: &str) -> Postgres {
        let (first, second) = tokio::join!(node(name, test, 1), node(name, test, 2));
        let postgres =
            Postgres { nodes: vec![first, second], primary: 0, timeline: 1, told: Vec::new(), unheard: 0 };
        let settings = [
            "listen_addresses = '*'",
            "wal_level = logical",
            "max_connections = 200",
            "wal_keep_size = '512MB'",
            "max_wal_size = '2GB'",
            "wal_receiver_status_interval = 1",
            "wal_retrieve_retry_interval = '500ms'",
        ];
        let settings = settings.join("\n");
        postgres.nodes[0]
            .shell(&format!(
                "su postgres -c '{BIN}/initdb -D {DATA} -U postgres --auth=trust > /dev/null' &&
                 echo \"{settings}\" >> {DATA}/postgresql.conf &&
                 printf 'host all all all trust\\nhost replication all all trust\\n' >> {DATA}/pg_hba.conf"
            ))
            .await;
        postgres.nodes[0].run_server("").await;
        postgres.follow(1).await;
        for node in &postgres.nodes {
            node.ways.iter().for_each(|way| way.lead_to(node.port));
        }
        postgres
    }

    /// The URLs that one side of the system knows.
    pub fn urls(&self, side: usize) -> Vec<String> {
        let url = |node: &Node| format!("postgres://postgres@127.0.0.1:{}/postgres", node.ways[side].port);
        self.nodes.iter().map(url).collect()
    }

    /// The operator's own connection to the primary, past all ways.
    pub async fn operator(&self) -> PgConnection {
        self.nodes[self.primary].connect().await
    }

    /// Begins to keep the log of all commits.
    pub async fn witness(&self) {
        let mut operator = self.operator().await;
        let tables = sqlx::query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'");
        for table in tables.fetch_all(&mut operator).await.expect("tables are listed") {
            let table: String = table.get(0);
            run(&mut operator, &format!("ALTER TABLE {table} REPLICA IDENTITY FULL")).await;
        }
        run(&mut operator, "CREATE PUBLICATION storm FOR ALL TABLES").await;
        keep_log(&mut operator).await;
    }

    /// The shelves as they are, as if one transaction had filled them.
    pub async fn shelves(&self, at: Timestamp) -> Transaction {
        let mut operator = self.operator().await;
        let rows = sqlx::query("SELECT to_jsonb(stock)::text FROM stock").fetch_all(&mut operator).await;
        let changes = rows.expect("the shelves are read").into_iter().map(|row| {
            let columns: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(row.get(0)).expect("a row is an object");
            let text = |value: serde_json::Value| match value {
                serde_json::Value::Null => None,
                serde_json::Value::String(text) => Some(text),
                other => Some(other.to_string()),
            };
            let columns: Columns = columns.into_iter().map(|(name, value)| (name, text(value))).collect();
            RowChange { table: "stock".to_owned(), before: None, after: Some(columns) }
        });
        Transaction { at, timeline: 1, lsn: 0, changes: changes.collect() }
    }

    /// Everything that was ever committed since [`Postgres::witness`].
    pub async fn drain(&mut self) -> Vec<Transaction> {
        let mut operator = self.operator().await;
        self.told.extend(drain(&mut operator, self.timeline).await);
        std::mem::take(&mut self.told)
    }

    /// Kills every process of the primary, and starts it again after `down`.
    pub async fn kill_primary(&self, down: Duration) {
        let primary = &self.nodes[self.primary];
        primary.signal("KILL").await;
        sleep(down).await;
        primary.run_server("").await;
    }

    /// Ends sessions while they wait in their COMMIT: it has taken place, and they are not told. Answers with how many.
    ///
    /// The replica holds still meanwhile, so that commits wait for it.
    pub async fn terminate_commits(&self) -> usize {
        let replica = &self.nodes[1 - self.primary];
        let mut operator = self.operator().await;
        replica.signal("STOP").await;
        // Something commits all the time, but for what an earlier fault still holds up.
        let deadline = Instant::now() + Duration::from_secs(15);
        let mut ended = 0;
        while ended == 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(200)).await;
            let ending =
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            ended = sqlx::query(ending).fetch_all(&mut operator).await.expect("sessions can be ended").len();
        }
        replica.signal("CONT").await;
        ended
    }

    /// Kills the primary, makes the replica the primary, and the old primary its replica.
    pub async fn promote(&mut self) {
        let (old, new) = (self.primary, 1 - self.primary);
        self.nodes[old].signal("KILL").await;
        // Nobody may write to the new primary before its log is kept.
        self.nodes.iter().flat_map(|node| &node.ways).for_each(Way::cut);
        self.nodes[new].postgres(&format!("{BIN}/pg_ctl -D {DATA} -w promote > /dev/null")).await;
        let mut operator = self.nodes[new].connect().await;
        keep_log(&mut operator).await;
        let replayed = "SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint";
        let replayed: i64 =
            sqlx::query_scalar(replayed).fetch_one(&mut operator).await.expect("it was replayed");
        self.nodes[new].ways.iter().for_each(Way::heal);
        self.primary = new;
        // What the old primary still had to tell.
        self.nodes[old].run_server("-c synchronous_standby_names=").await;
        let mut last_words = drain(&mut self.nodes[old].connect().await, self.timeline).await;
        let count = last_words.len();
        last_words.retain(|transaction| i64::try_from(transaction.lsn).is_ok_and(|lsn| lsn <= replayed));
        self.unheard += count - last_words.len();
        self.told.extend(last_words);
        self.timeline += 1;
        self.nodes[old].postgres(&format!("{BIN}/pg_ctl -D {DATA} -m immediate -w stop > /dev/null")).await;
        self.follow(old).await;
        self.nodes[old].ways.iter().for_each(Way::heal);
    }

    /// Makes a node the replica of the primary, from nothing, and lets commits wait for it.
    async fn follow(&self, replica: usize) {
        let (primary, replica) = (&self.nodes[self.primary], &self.nodes[replica]);
        replica
            .postgres(&format!(
                "rm -rf {DATA} && {BIN}/pg_basebackup -h {} -U postgres -D {DATA} -R -X stream -c fast",
                primary.host
            ))
            .await;
        replica.run_server("").await;
        let mut operator = primary.connect().await;
        let deadline = Instant::now() + PATIENCE;
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = 'walreceiver'";
        while sqlx::query_scalar::<_, i64>(streaming).fetch_one(&mut operator).await.expect("it answers") == 0
        {
            assert!(Instant::now() < deadline, "the replica does not stream");
            sleep(Duration::from_millis(100)).await;
        }
        run(&mut operator, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        run(&mut operator, "SELECT pg_reload_conf()").await;
    }

    /// Cuts one side of the system off from every server, for a while.
    pub async fn cut(&self, side: usize, lasting: Duration) {
        let ways = || self.nodes.iter().map(|node| &node.ways[side]);
        ways().for_each(Way::cut);
        sleep(lasting).await;
        ways().for_each(Way::heal);
    }
}

/// Starts to keep the log of what commits from now on. Whoever is in a transaction is waited for.
async fn keep_log(operator: &mut PgConnection) {
    run(operator, "SELECT pg_create_logical_replication_slot('storm', 'pgoutput')").await;
}

/// Reads the kept log to its end.
async fn drain(operator: &mut PgConnection, timeline: u32) -> Vec<Transaction> {
    const READ: &str = "SELECT data FROM pg_logical_slot_get_binary_changes('storm', NULL, $1,
                        'proto_version', '1', 'publication_names', 'storm')";
    let mut told: Vec<Transaction> = Vec::new();
    loop {
        let messages = sqlx::query(READ).bind(CHANGES).fetch_all(&mut *operator).await;
        let messages = messages.expect("the log is kept");
        if messages.is_empty() {
            return told;
        }
        let mut decoder = Decoder::new(timeline);
        for message in messages {
            decoder.message(message.get(0)).expect("the log is pgoutput's");
        }
        // After a crash a slot may tell again what it has told.
        let last = told.last().map_or(0, |transaction| transaction.lsn);
        told.extend(decoder.finish().into_iter().filter(|transaction| transaction.lsn > last));
    }
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect(sql);
}

async fn node(name: &str, test: &str, number: usize) -> Node {
    let host = format!("{name}-postgres-{number}");
    let container = GenericImage::new("postgres", "15")
        .with_exposed_port(5_432.tcp())
        .with_cmd(["sleep", "infinity"])
        .with_label(engine::LABEL, test)
        .with_network(name)
        .with_container_name(&host)
        .with_startup_timeout(engine::STARTS_WITHIN)
        // What a killed server leaves behind has to be reaped by somebody.
        .with_host_config_modifier(|host| host.init = Some(true))
        .start()
        .await
        .expect("postgres:15 starts");
    let port = container.get_host_port_ipv4(PORT).await.expect("the port of a container is mapped");
    let mut ways = Vec::new();
    for _ in 0..SIDES {
        ways.push(Way::open().await);
    }
    Node { host, container, port, ways }
}

impl Node {
    async fn connect(&self) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username("postgres")
            .database("postgres")
            .application_name("operator")
            .ssl_mode(PgSslMode::Disable);
        let mut connection = options.connect().await.expect("a running server accepts connections");
        run(&mut connection, "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET bytea_output = 'hex'").await;
        connection.ping().await.expect("it answers");
        connection
    }

    async fn run_server(&self, options: &str) {
        self.postgres(&format!(
            "{BIN}/pg_ctl -D {DATA} -l {DATA}/log -w -t 120 -o \\\"{options}\\\" start > /dev/null"
        ))
        .await;
    }

    async fn signal(&self, signal: &str) {
        self.shell(&format!("sh -c '{SIGNAL}' sh {DATA} {signal}")).await;
    }

    /// Runs a command as the server's user.
    async fn postgres(&self, command: &str) {
        self.shell(&format!("cd /tmp && su postgres -c \"{command}\"")).await;
    }

    /// Runs a command in the container, as root.
    async fn shell(&self, command: &str) {
        let exec = ExecCommand::new(["sh", "-c", command]).with_cmd_ready_condition(CmdWaitFor::exit());
        let mut done = self.container.exec(exec).await.expect("the container runs");
        let code = done.exit_code().await.expect("it has ended");
        let said = done.stderr_to_vec().await.unwrap_or_default();
        assert_eq!(code, Some(0), "{command}: {}", String::from_utf8_lossy(&said));
    }
}
