//! The container engine: finding it, starting what a test needs, and leaving nothing behind.
//!
//! Without an engine a container test is skipped and says so on the real standard error, past libtest's capture; with
//! `CI` set it fails instead, so that a pipeline cannot be green by skipping. There are no statics: a static is never
//! dropped and would leave its container running. What a killed run left is found by its label at the next start.

use std::{borrow::Cow, io::Write, time::Duration};

use sqlx::{
    ConnectOptions, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use testcontainers::{
    ContainerAsync, Image, ImageExt,
    bollard::{
        Docker,
        query_parameters::{ListContainersOptions, RemoveContainerOptions},
    },
    core::{CmdWaitFor, ContainerPort, ExecCommand, WaitFor, client::docker_client_instance},
    runners::AsyncRunner,
};

/// On every container that a test starts.
pub const LABEL: &str = "stormglass.test";

/// No run of the tests lasts this long: what is older was left by one that was killed.
const ORPHANED_AFTER: Duration = Duration::from_secs(3_600);

/// How long anything may take to start, on a machine that is busy with other things.
pub const STARTS_WITHIN: Duration = Duration::from_secs(300);

/// A running PostgreSQL of a test's own, removed when this is dropped.
pub struct Postgres {
    container: ContainerAsync<PostgresImage>,
}

/// Starts PostgreSQL for `test`. `None`: there is no engine, and the test is to return.
pub async fn postgres(test: &str) -> Option<Postgres> {
    let docker = engine(test).await?;
    remove_orphans(&docker).await;
    let container = PostgresImage
        .with_label(LABEL, test)
        .with_startup_timeout(STARTS_WITHIN)
        // As the first process of a container the server could not be stopped from inside.
        .with_host_config_modifier(|host| host.init = Some(true))
        .start()
        .await
        .expect("postgres:15 starts");
    Some(Postgres { container })
}

impl Postgres {
    /// A connection to its first database, as its owner.
    pub async fn connect(&self) -> PgConnection {
        self.options().await.connect().await.expect("PostgreSQL accepts connections once it is ready")
    }

    /// How to connect to its first database, as its owner.
    pub async fn options(&self) -> PgConnectOptions {
        self.options_of(PORT).await
    }

    /// How to connect to the same on its replica.
    pub async fn replica_options(&self) -> PgConnectOptions {
        self.options_of(REPLICA_PORT).await
    }

    async fn options_of(&self, port: ContainerPort) -> PgConnectOptions {
        let host = self.container.get_host().await.expect("a container has a host");
        let port = self.container.get_host_port_ipv4(port).await.expect("the port of a container is mapped");
        PgConnectOptions::new_without_pgpass()
            .host(&host.to_string())
            .port(port)
            .username("postgres")
            .password(PASSWORD)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
    }
}

/// Where a replica keeps its data, in the container of its primary.
const REPLICA_DATA: &str = "/var/lib/postgresql/replica";

/// Signals a whole server: its postmaster, found by its data directory, and all its children.
const SIGNAL: &str = r#"
    postmaster=$(head -n 1 "$1/postmaster.pid")
    for stat in /proc/[0-9]*/stat; do
        read -r pid _ _ parent _ < "$stat" 2> /dev/null || continue
        [ "$parent" = "$postmaster" ] && kill "-$2" "$pid"
    done
    kill "-$2" "$postmaster"
"#;

impl Postgres {
    /// Starts a streaming replica beside the server, in the same container.
    pub async fn start_replica(&self) {
        let port = REPLICA_PORT.as_u16();
        self.shell(&format!(
            "cd /tmp && su postgres -c 'PATH=$PATH:/usr/lib/postgresql/15/bin
             pg_basebackup -h 127.0.0.1 -U postgres -D {REPLICA_DATA} -R -X stream &&
             pg_ctl -D {REPLICA_DATA} -o \"-p {port}\" -l {REPLICA_DATA}/log -w start'"
        ))
        .await;
    }

    /// Makes the replica a primary of its own.
    pub async fn promote_replica(&self) {
        self.shell(&format!(
            "cd /tmp && su postgres -c '/usr/lib/postgresql/15/bin/pg_ctl -D {REPLICA_DATA} -w promote'"
        ))
        .await;
    }

    /// Sends every process of the replica a signal.
    pub async fn signal_replica(&self, signal: &str) {
        self.shell(&format!("sh -c '{SIGNAL}' sh {REPLICA_DATA} {signal}")).await;
    }

    /// Sends every process of the primary a signal.
    pub async fn signal_primary(&self, signal: &str) {
        self.shell(&format!("sh -c '{SIGNAL}' sh \"$PGDATA\" {signal}")).await;
    }

    /// Runs a command in the container, as root.
    pub async fn shell(&self, command: &str) {
        let command = ExecCommand::new(["sh", "-c", command]).with_cmd_ready_condition(CmdWaitFor::exit());
        let mut done = self.container.exec(command).await.expect("the container runs");
        let code = done.exit_code().await.expect("it has ended");
        let said = done.stderr_to_vec().await.unwrap_or_default();
        assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&said));
    }
}

/// The engine, if one answers.
pub async fn engine(test: &str) -> Option<Docker> {
    let problem = match docker_client_instance().await {
        Ok(docker) => match docker.ping().await {
            Ok(_) => return Some(docker),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let required = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
    assert!(!required, "{test} needs a container engine (CI is set, so it may not be skipped): {problem}");
    let skipped = format!("SKIPPED {test}: no container engine ({problem})\n");
    std::io::stderr().write_all(skipped.as_bytes()).expect("standard error is open");
    None
}

pub async fn remove_orphans(docker: &Docker) {
    let filters = [("label".to_owned(), vec![LABEL.to_owned()])].into_iter().collect();
    let all = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
    let containers = docker.list_containers(Some(all)).await.expect("an engine lists its containers");
    for container in containers {
        let age = container.created.map(age_of);
        if let (Some(id), Some(age)) = (container.id, age)
            && age > ORPHANED_AFTER
        {
            let force = RemoveContainerOptions { force: true, v: true, ..Default::default() };
            // Another process of the tests may be removing it just now; gone is gone.
            drop(docker.remove_container(&id, Some(force)).await);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the age of a real container is real time")]
fn age_of(created_unix_s: i64) -> Duration {
    let created = Duration::from_secs(u64::try_from(created_unix_s).unwrap_or(0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(created);
    now.saturating_sub(created)
}

const PORT: ContainerPort = ContainerPort::Tcp(5_432);
const REPLICA_PORT: ContainerPort = ContainerPort::Tcp(5_433);
const PASSWORD: &str = "storm";

/// The official image, with nothing but a password.
struct PostgresImage;

impl Image for PostgresImage {
    fn name(&self) -> &str {
        "postgres"
    }

    fn tag(&self) -> &str {
        "15"
    }

    fn ready_conditions(&self) -> Vec<WaitFor> {
        // The image first runs a server for its set-up, without a network and logging to standard output.
        vec![
            WaitFor::message_on_stderr("listening on IPv4"),
            WaitFor::message_on_stderr("ready to accept connections"),
        ]
    }

    fn env_vars(&self) -> impl IntoIterator<Item = (impl Into<Cow<'_, str>>, impl Into<Cow<'_, str>>)> {
        [("POSTGRES_PASSWORD", PASSWORD)]
    }

    fn expose_ports(&self) -> &[ContainerPort] {
        &[PORT, REPLICA_PORT]
    }
}
