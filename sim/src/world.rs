//! The world: hosts, clusters, network and time of one case, stepped by hand.
//!
//! All of it runs on one thread, and turmoil keeps thread-local state: one world per thread, on a fresh thread each,
//! is the caller's business. Everything that varies between two seeds is drawn from the seed given.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use stormglass_embedded::machine::{Machine, Node, Server};
use stormglass_runtime::Timestamp;
use thiserror::Error;
use turmoil::Sim;

use crate::{
    ClusterHandle, Dice, History, Host, Keep, NodeHooks, PortFaults, SimTime, Strike, Strikes,
    app::App,
    cluster::{Message, serve_node},
    faults::Weather,
    links::Links,
    process::{Boot, ProcessResult},
    storm::{Fate, Storm},
};

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// The step of time. Messages take whole ticks: shorter ones cost more and see more. 5 to 10 ms suit a storm
    /// whose timeouts are counted in hundreds of milliseconds.
    pub tick: Duration,
    /// Wall time at the start.
    pub epoch: Timestamp,
    /// Faults of port calls, and late messages.
    pub port_faults: PortFaults,
    /// How much history is kept.
    pub keep: Keep,
}

impl WorldOptions {
    /// A world of `seed` in fair weather.
    pub fn new(seed: u64) -> Self {
        /// 2026-01-01T00:00:00Z.
        const EPOCH: Timestamp = Timestamp(1_767_225_600_000_000);
        Self {
            seed,
            tick: Duration::from_millis(10),
            epoch: EPOCH,
            port_faults: PortFaults::default(),
            keep: Keep::default(),
        }
    }
}

/// Why a world cannot go on.
#[derive(Debug, Error)]
pub enum WorldError {
    /// A process ended with an error or a panic.
    #[error("process on {host} failed: {error}")]
    Process {
        /// Its host.
        host: String,
        /// What it said.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A host of the network failed.
    #[error("simulated network failed: {0}")]
    Network(String),
    /// The operating system refused a runtime.
    #[error("cannot start a process: {0}")]
    Start(#[from] std::io::Error),
    /// No host has this name.
    #[error("no host is called {0}")]
    UnknownHost(String),
    /// A fault class that is drawn per port call was asked for at a time.
    #[error("{0} is drawn per port call and cannot be scheduled")]
    NotScheduled(&'static str),
}

/// A node of a cluster: a host without a process of its own.
pub(crate) struct NodeHost {
    pub(crate) name: Arc<str>,
    pub(crate) node: Node,
    pub(crate) cluster: usize,
}

type Register = Box<dyn Fn(&mut Sim<'static>)>;

/// The world. See the module.
pub struct World {
    pub(crate) sim: Sim<'static>,
    pub(crate) storm: Storm,
    pub(crate) links: Links,
    pub(crate) apps: Vec<App>,
    pub(crate) nodes: Vec<NodeHost>,
    pub(crate) hooks: Vec<NodeHooks>,
    pub(crate) weather: Weather,
    tickers: Vec<Box<dyn Fn(Timestamp)>>,
    /// Registrations that wait for the first step: the application hosts must come before the nodes they call, so
    /// that a question and its answer take two ticks, not three.
    unregistered: Vec<Register>,
    started: bool,
}

impl World {
    /// Raises an empty world. The storm rages from the start until [`World::calm`].
    pub fn raise(options: WorldOptions) -> Self {
        let time = SimTime::new(options.epoch, options.tick);
        let epoch = Duration::from_micros(u64::try_from(options.epoch.0).unwrap_or(0));
        let sim = turmoil::Builder::new()
            .rng_seed(options.seed)
            .epoch(UNIX_EPOCH + epoch)
            .tick_duration(options.tick)
            .simulation_duration(Duration::MAX)
            .min_message_latency(Duration::ZERO)
            .max_message_latency(Duration::ZERO)
            .tcp_capacity(SEGMENTS_IN_FLIGHT)
            .build();
        let history = History::new(time.clone(), options.keep);
        Self {
            sim,
            storm: Storm::new(Dice::new(options.seed), options.port_faults, history, time),
            links: Links::default(),
            apps: Vec::new(),
            nodes: Vec::new(),
            hooks: Vec::new(),
            weather: Weather::default(),
            tickers: Vec::new(),
            unregistered: Vec::new(),
            started: false,
        }
    }

    /// Adds a cluster: a host for each of `names`, which is the machine's node of that index.
    ///
    /// # Panics
    /// After the first step: turmoil draws for each host as it is registered.
    pub fn cluster<M>(&mut self, names: &[&str], server: Server<M>, hooks: NodeHooks) -> ClusterHandle<M>
    where
        M: Machine<Request: Message, Response: Message>,
    {
        assert!(!self.started, "hosts are added before the first step");
        let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        for (node, name) in names.iter().enumerate() {
            self.nodes.push(NodeHost { name: Arc::clone(name), node, cluster: self.hooks.len() });
            let (name, server) = (Arc::clone(name), server.clone());
            let fate = Fate::new(&self.storm, &name);
            self.unregistered.push(Box::new(move |sim| {
                let (server, fate) = (server.clone(), fate.clone());
                sim.host(&*name, move || serve_node(server.clone(), node, fate.clone()));
            }));
        }
        self.hooks.push(hooks);
        self.tickers.push(Box::new(move |now| server.tick(now)));
        ClusterHandle::new(&names)
    }

    /// Adds an application host. `boot` starts its process, and starts it again after each kill or stop.
    ///
    /// # Panics
    /// After the first step, as [`World::cluster`].
    pub fn host<F>(&mut self, name: &str, boot: impl Fn(Host) -> F + 'static)
    where
        F: Future<Output = ProcessResult> + Send + 'static,
    {
        assert!(!self.started, "hosts are added before the first step");
        let boot: Boot = Box::new(move |host| Box::pin(boot(host)));
        self.apps.push(App::new(Fate::new(&self.storm, &name.into()), boot));
    }

    /// Lets one tick pass.
    ///
    /// # Errors
    /// If a process fails. One that ends well is over until [`World::start`].
    ///
    /// # Panics
    /// If a state machine panics.
    pub fn step(&mut self) -> Result<(), WorldError> {
        self.open()?;
        self.change_weather()?;
        let tick = self.storm.time.tick();
        for app in &mut self.apps {
            if let Some(Err(error)) = app.tick(tick) {
                return Err(WorldError::Process { host: app.name.to_string(), error });
            }
        }
        for ticker in &self.tickers {
            ticker(self.storm.time.now());
        }
        self.links.pass_on(&self.sim);
        self.step_network()
    }

    /// Registers and starts all hosts, once.
    pub(crate) fn open(&mut self) -> Result<(), WorldError> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        for app in &self.apps {
            app.register(&mut self.sim);
        }
        for register in std::mem::take(&mut self.unregistered) {
            register(&mut self.sim);
        }
        // The nodes listen before anybody calls.
        self.step_network()?;
        for app in &mut self.apps {
            app.start()?;
        }
        Ok(())
    }

    fn step_network(&mut self) -> Result<(), WorldError> {
        self.sim.step().map_err(|error| WorldError::Network(error.to_string()))?;
        self.storm.time.advance();
        Ok(())
    }

    /// The world's time.
    pub fn time(&self) -> SimTime {
        self.storm.time.clone()
    }

    /// The world's history.
    pub fn history(&self) -> History {
        self.storm.history.clone()
    }

    /// The seed's draws.
    pub fn dice(&self) -> Dice {
        self.storm.dice
    }

    /// How often each fault class has struck.
    pub fn strikes(&self) -> Strikes {
        self.storm.counts()
    }

    /// What has struck, in order, without the first `known`.
    pub fn strikes_since(&self, known: usize) -> Vec<Strike> {
        self.storm.list_since(known)
    }

    /// Asks a host's process to leave politely; whether there was one to ask.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn stop(&mut self, host: &str) -> Result<bool, WorldError> {
        Ok(self.app(host)?.stop())
    }

    /// Starts the next incarnation of a process that has ended, or that is leaving once it has. One that was killed
    /// comes back when its kill heals.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn start(&mut self, host: &str) -> Result<(), WorldError> {
        Ok(self.app(host)?.come_back()?)
    }

    /// Whether a host is up: its process runs, or its node does.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn is_running(&mut self, host: &str) -> Result<bool, WorldError> {
        if self.nodes.iter().any(|node| &*node.name == host) {
            return Ok(self.started && self.sim.is_host_running(host));
        }
        Ok(self.app(host)?.is_running())
    }

    pub(crate) fn app(&mut self, host: &str) -> Result<&mut App, WorldError> {
        let app = self.apps.iter_mut().find(|app| &*app.name == host);
        app.ok_or_else(|| WorldError::UnknownHost(host.to_owned()))
    }

    /// All hosts, application hosts first.
    pub fn hosts(&self) -> Vec<Arc<str>> {
        let apps = self.apps.iter().map(|app| &app.name);
        apps.chain(self.nodes.iter().map(|node| &node.name)).map(Arc::clone).collect()
    }
}

/// turmoil panics when a listener's queue is full and stalls writers when a stream is: a cut must do neither.
const SEGMENTS_IN_FLIGHT: usize = 1 << 14;
