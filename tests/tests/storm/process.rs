//! The production binary as OS processes, each looked after as a container engine would: what ends is started again.
//!
//! A process is killed and stopped by signals only, so nothing of it is in on the storm.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How soon an ended process is started again, unless a fault says otherwise.
const RESTART: Duration = Duration::from_millis(500);
/// How long a process may take to serve, on a machine that is busy with starting all of them.
const START: Duration = Duration::from_secs(120);
/// How long a process may take to drain.
const GRACE: Duration = Duration::from_secs(20);

/// Builds the binary of production with the profile that this test was built with, unless `STORM_BINARY` names one.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("STORM_BINARY") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("this test is a file");
    let profile = test.parent().and_then(Path::parent).expect("it lies in target/<profile>/deps");
    let name = profile.file_name().and_then(|name| name.to_str()).expect("a profile has a name");
    let name = if name == "debug" { "dev" } else { name };
    let done = std::process::Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--profile",
            name,
            "--package",
            "stormglass-server",
            "--bin",
            "stormglass",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(done.success(), "the binary of production does not build");
    profile.join("stormglass")
}

/// What a process is started from.
#[derive(Clone)]
pub struct Recipe {
    pub name: String,
    pub binary: PathBuf,
    pub arguments: Vec<String>,
    /// Where its log goes.
    pub log: PathBuf,
    /// Where it serves HTTP.
    pub port: u16,
}

/// A process that is kept running.
pub struct Process {
    pub recipe: Recipe,
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    pid: AtomicU32,
    /// How long it stays down after it ended, in milliseconds.
    down_ms: AtomicU64,
    over: AtomicBool,
    starts: AtomicU32,
    /// Ends that no fault caused, with what they were.
    ends: Mutex<Vec<String>>,
    is_expected: AtomicBool,
    metrics: Mutex<Metrics>,
}

/// Counters of all incarnations, by name; those of the present one apart, since it counts from zero.
#[derive(Default)]
struct Metrics {
    past: BTreeMap<String, f64>,
    present: BTreeMap<String, f64>,
}

/// Ports that the kernel hands out to nobody by itself: a process that is down keeps its own.
const PORTS: std::ops::Range<u32> = 20_000..32_000;
/// How many of them were looked at.
static LOOKED_AT: AtomicU32 = AtomicU32::new(0);

/// A port that nobody uses at the moment, and that was not named before.
pub async fn free_port() -> u16 {
    loop {
        // Storms that run side by side begin to look in different places.
        let number = std::process::id().wrapping_add(LOOKED_AT.fetch_add(1, Ordering::SeqCst));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).expect("they are ports");
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}

impl Process {
    pub fn start(recipe: Recipe) -> Process {
        let shared = Arc::new(Shared::default());
        let keeper = tokio::spawn(keep(recipe.clone(), Arc::clone(&shared)));
        Process { recipe, shared, keeper }
    }

    /// Waits until it answers HTTP.
    pub async fn is_ready(&self) {
        let ready = async {
            while TcpStream::connect(("127.0.0.1", self.recipe.port)).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let name = &self.recipe.name;
        timeout(START, ready).await.unwrap_or_else(|_| panic!("{name} does not start"));
    }

    /// kill −9; it comes back after `down`.
    pub async fn kill(&self, down: Duration) {
        self.is_ready().await;
        self.scrape().await;
        self.shared.down_ms.store(u64::try_from(down.as_millis()).unwrap_or(0), Ordering::SeqCst);
        self.shared.is_expected.store(true, Ordering::SeqCst);
        self.signal("KILL");
        sleep(down).await;
        self.is_ready().await;
    }

    /// SIGSTOP, and SIGCONT after `lasting`.
    pub async fn pause(&self, lasting: Duration) {
        self.is_ready().await;
        self.signal("STOP");
        sleep(lasting).await;
        self.signal("CONT");
    }

    /// SIGTERM; waits until it has drained.
    pub async fn stop(&mut self) {
        self.scrape().await;
        self.shared.over.store(true, Ordering::SeqCst);
        self.signal("TERM");
        if timeout(GRACE, &mut self.keeper).await.is_err() {
            self.shared.ends.lock().unwrap().push("did not drain in time".to_owned());
            self.signal("KILL");
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.shared.pid.load(Ordering::SeqCst);
        if pid != 0 {
            let sent =
                std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).output();
            sent.expect("kill runs");
        }
    }

    pub fn starts(&self) -> u32 {
        self.shared.starts.load(Ordering::SeqCst)
    }

    /// Ends that no fault caused.
    pub fn ends(&self) -> Vec<String> {
        self.shared.ends.lock().unwrap().clone()
    }

    /// Asks it what it has counted. What it counted after the last question before a kill is lost.
    pub async fn scrape(&self) {
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.recipe.port)).await.ok()?;
            let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        if let Ok(Some(answer)) = timeout(Duration::from_millis(500), asked).await {
            self.shared.metrics.lock().unwrap().present = counters(&answer);
        }
    }

    /// The sum of a counter over all labels and incarnations, at least.
    pub fn counted(&self, name: &str) -> f64 {
        let metrics = self.shared.metrics.lock().unwrap();
        metrics.past.get(name).unwrap_or(&0.0) + metrics.present.get(name).unwrap_or(&0.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.signal("CONT");
        self.keeper.abort();
    }
}

fn counters(answer: &str) -> BTreeMap<String, f64> {
    let mut counters = BTreeMap::new();
    for line in answer.lines().filter(|line| line.starts_with("stormglass_")) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let value: f64 = line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0.0);
        *counters.entry(name.to_owned()).or_default() += value;
    }
    counters
}

async fn keep(recipe: Recipe, shared: Arc<Shared>) {
    while !shared.over.load(Ordering::SeqCst) {
        let mut child = spawn(&recipe);
        shared.starts.fetch_add(1, Ordering::SeqCst);
        shared.pid.store(child.id().unwrap_or(0), Ordering::SeqCst);
        let status = child.wait().await.expect("a child can be waited for");
        shared.pid.store(0, Ordering::SeqCst);
        shared.metrics.lock().unwrap().turn_over();
        let expected = shared.is_expected.swap(false, Ordering::SeqCst);
        if !expected && !shared.over.load(Ordering::SeqCst) {
            shared.ends.lock().unwrap().push(status.to_string());
        }
        let down = match shared.down_ms.swap(0, Ordering::SeqCst) {
            0 => RESTART,
            ms => Duration::from_millis(ms),
        };
        if !shared.over.load(Ordering::SeqCst) {
            sleep(down).await;
        }
    }
}

fn spawn(recipe: &Recipe) -> Child {
    let log = File::options().create(true).append(true).open(&recipe.log).expect("its log can be written");
    Command::new(&recipe.binary)
        .args(&recipe.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", recipe.name))
}

impl Metrics {
    fn turn_over(&mut self) {
        for (name, value) in std::mem::take(&mut self.present) {
            *self.past.entry(name).or_default() += value;
        }
    }
}
