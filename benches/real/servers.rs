//! A broker and a database of a run's own, in containers, and what their processors have done.
//!
//! Ports are chosen here and not by the engine: the broker has to advertise its own, and a server that is stopped and
//! started again has to be found where it was. One broker is all there is, so acks=all is that one; replication is
//! measured nowhere in this program.

use std::{
    net::TcpListener,
    process::{Command, Output},
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep};

use crate::Fallible;

/// On every container of this program: what a killed run left is found by it.
const LABEL: &str = "stormglass.bench";
const PASSWORD: &str = "bench";
/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(300);

/// Both servers, removed when this is dropped.
pub struct Servers {
    kafka: Container,
    postgres: Container,
    kafka_port: u16,
    postgres_port: u16,
}

/// Processor time of a server so far, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub client: f64,
    pub postgres: f64,
    pub kafka: f64,
}

struct Container(String);

impl Servers {
    /// Starts both and waits until they answer.
    pub async fn start() -> Fallible<Self> {
        let (kafka_port, postgres_port) = (free_port()?, free_port()?);
        let kafka = kafka(kafka_port)?;
        let postgres = postgres(postgres_port)?;
        let servers = Self { kafka, postgres, kafka_port, postgres_port };
        servers.until_postgres_answers().await?;
        let until = Instant::now() + PATIENCE;
        while !servers.kafka.log()?.contains("Kafka Server started") {
            if Instant::now() > until {
                return Err("Kafka does not start".into());
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(servers)
    }

    /// `bootstrap.servers`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_port)
    }

    /// The database's URL.
    pub fn url(&self) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres?sslmode=disable", self.postgres_port)
    }

    /// A connection of the operator's.
    pub async fn connect(&self) -> Fallible<PgConnection> {
        Ok(self.url().parse::<PgConnectOptions>()?.disable_statement_logging().connect().await?)
    }

    /// Kills PostgreSQL.
    pub fn kill_postgres(&self) -> Fallible<()> {
        docker(&["kill", &self.postgres.0]).map(drop)
    }

    /// Starts it again, and waits until it answers.
    pub async fn revive_postgres(&self) -> Fallible<()> {
        docker(&["start", &self.postgres.0])?;
        self.until_postgres_answers().await
    }

    async fn until_postgres_answers(&self) -> Fallible<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = async { Ok::<_, crate::Error>(self.connect().await?.ping().await?) };
            match tokio::time::timeout(Duration::from_secs(1), answer).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if Instant::now() > until => return Err(error),
                Err(_) if Instant::now() > until => return Err("PostgreSQL does not answer".into()),
                Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// What everybody's processors have done so far.
    pub fn cpu(&self) -> Fallible<Cpu> {
        Ok(Cpu { client: client_cpu()?, postgres: self.postgres.cpu()?, kafka: self.kafka.cpu()? })
    }
}

impl Cpu {
    /// What was done since `before`.
    pub fn since(self, before: Cpu) -> Cpu {
        Cpu {
            client: self.client - before.client,
            postgres: self.postgres - before.postgres,
            kafka: self.kafka - before.kafka,
        }
    }
}

fn kafka(port: u16) -> Fallible<Container> {
    let advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let environment = [
        ("CLUSTER_ID", "c3Rvcm1nbGFzcy1iZW5jaA"),
        ("KAFKA_NODE_ID", "1"),
        ("KAFKA_PROCESS_ROLES", "broker,controller"),
        ("KAFKA_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093"),
        ("KAFKA_ADVERTISED_LISTENERS", &advertised),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "PLAINTEXT"),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093"),
        ("KAFKA_LOG_DIRS", "/tmp/kraft-combined-logs"),
        ("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false"),
        ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
        ("KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS", "4"),
        ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
        ("KAFKA_HEAP_OPTS", "-Xms512m -Xmx512m"),
    ];
    let published = format!("127.0.0.1:{port}:9092");
    let mut arguments: Vec<String> = ["-p", &published].map(str::to_owned).to_vec();
    for (name, value) in environment {
        arguments.extend(["-e".to_owned(), format!("{name}={value}")]);
    }
    arguments.push("apache/kafka:4.1.1".to_owned());
    Container::run(&arguments)
}

/// The defaults but for memory, the log's size, and statistics: a checkpoint in every round would measure the disk.
fn postgres(port: u16) -> Fallible<Container> {
    let published = format!("127.0.0.1:{port}:5432");
    let password = format!("POSTGRES_PASSWORD={PASSWORD}");
    let arguments = ["-p", &published, "--shm-size", "1g", "-e", &password, "postgres:15"];
    let settings = [
        "shared_buffers=512MB",
        "max_wal_size=8GB",
        "checkpoint_timeout=30min",
        "shared_preload_libraries=pg_stat_statements",
        "pg_stat_statements.track=top",
    ];
    let settings = settings.iter().flat_map(|setting| ["-c", setting]);
    Container::run(&arguments.into_iter().chain(settings).map(str::to_owned).collect::<Vec<_>>())
}

impl Container {
    fn run(arguments: &[String]) -> Fallible<Self> {
        let head = ["run", "--detach", "--label", LABEL].map(str::to_owned);
        let all: Vec<String> = head.into_iter().chain(arguments.iter().cloned()).collect();
        let output = docker(&all.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(Self(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }

    fn log(&self) -> Fallible<String> {
        let output = docker(&["logs", &self.0])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// By its control group, whose file differs between the versions of these.
    fn cpu(&self) -> Fallible<f64> {
        const READ: &str =
            "cat /sys/fs/cgroup/cpu.stat 2> /dev/null || cat /sys/fs/cgroup/cpuacct/cpuacct.usage";
        let output = docker(&["exec", &self.0, "sh", "-c", READ])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        match first.strip_prefix("usage_usec ") {
            Some(micros) => Ok(micros.trim().parse::<f64>()? / 1e6),
            None => Ok(first.trim().parse::<f64>()? / 1e9),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = docker(&["rm", "--force", "--volumes", &self.0]) {
            eprintln!("a container was left behind: {error}");
        }
    }
}

fn docker(arguments: &[&str]) -> Fallible<Output> {
    let output = Command::new("docker").args(arguments).output()?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("docker {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim()).into())
}

fn free_port() -> Fallible<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// User and system time of this process, in seconds (`man 5 proc`).
fn client_cpu() -> Fallible<f64> {
    /// `sysconf(_SC_CLK_TCK)` on every Linux of today.
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields = after_name.split(' ').skip(11).take(2).map(str::parse::<f64>);
    Ok(fields.sum::<Result<f64, _>>()? / TICKS_PER_S)
}

/// Resident memory of this process, in MB.
pub fn resident_mb() -> Fallible<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
