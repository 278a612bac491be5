//! One run: a storm is raised from its case, rages, calms, settles and is judged.
//!
//! What is judged is what the hosts themselves have logged: brokers, database, payment provider, notifier, clients.
//! A tick's evidence is heard in that order, then what struck.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use stormglass_embedded::{broker, database, machine::Server};
use stormglass_orders::{Row, TOPIC};
use stormglass_runtime::{ConsumerName, Topic};
use stormglass_sim::{
    Fault, FaultClass, Keep, NodeHooks, PortFaults, Rates, World, WorldError, WorldOptions,
};

use crate::{
    certainty::certain_classes,
    client::ClientLog,
    duty::DutyLog,
    hosts::Wiring,
    invariants::{EndState, Evidence, Judge, OrderState, SETTLES, Setup, Strike, Violation},
    notifier::Notifier,
    operator::{ClusterOperator, broker_hooks, database_hooks},
    plan::STORM_MS,
    provider::{Outage, Provider},
    settings,
    shape::{BROKERS, CONSUMERS, DATABASES, NOTIFIER, OPERATOR, PROVIDER, Shape},
    stock,
    workload::Operation,
};

/// After the storm the system must have settled within this much simulated time, and [`CALM_PER_OPERATION`] more for
/// each operation of its workload: a storm of ten thousand leaves a backlog, not a standstill.
const CALM_MAX: Duration = Duration::from_secs(30);

/// Two members of two lanes finish an order in half of this; few operations are none.
const CALM_PER_OPERATION: Duration = Duration::from_millis(10);

/// How often a calm storm is asked whether it has settled.
const SETTLED_EVERY: Duration = Duration::from_millis(100);

/// Everything that a storm is raised from.
#[derive(Clone, Debug)]
pub struct Cause {
    /// What every draw of the run is keyed by.
    pub seed: u64,
    /// The cluster.
    pub shape: Shape,
    /// What clients do.
    pub operations: Vec<Operation>,
    /// The scheduled faults, by time.
    pub faults: Vec<Fault>,
    /// Op-level faults.
    pub rates: Rates,
}

/// Why a storm ended early.
#[derive(Debug)]
pub enum Ended {
    /// An invariant does not hold.
    Violated(Box<Violation>),
    /// It did not come to rest in time; what was still open.
    Unsettled(String),
    /// The world itself failed.
    Broken(WorldError),
    /// It was to be watched only until now.
    Stopped,
}

impl From<Box<Violation>> for Ended {
    fn from(violation: Box<Violation>) -> Self {
        Ended::Violated(violation)
    }
}

impl From<WorldError> for Ended {
    fn from(error: WorldError) -> Self {
        Ended::Broken(error)
    }
}

/// A storm over the order system.
pub struct Storm {
    world: World,
    machines: Machines,
    clients: ClientLog,
    /// What the operator has done, and how many duties it has.
    operator: (DutyLog, usize),
    judge: Judge,
    shape: Shape,
    faults: std::vec::IntoIter<Fault>,
    planned: Vec<FaultClass>,
    next: Option<Fault>,
    strikes_heard: usize,
    settled_asked: Duration,
    settled_by: Duration,
    until: Option<Duration>,
}

/// The state machines behind the hosts.
struct Machines {
    kafka: Server<broker::Cluster>,
    postgres: Server<database::Cluster>,
    provider: Server<Provider>,
    notifier: Server<Notifier>,
}

/// Runs `cause` to its end. The storm is handed back for its history and counts.
///
/// # Errors
/// Why it did not pass, beside the storm.
pub fn run(cause: Cause, keep: Keep, until: Option<Duration>) -> (Storm, Result<(), Ended>) {
    let mut storm = Storm::raise(cause, keep, until);
    let ended = storm.live();
    (storm, ended)
}

impl Storm {
    /// Raises the world: every host registered, the stock on its shelves, nothing begun.
    pub fn raise(cause: Cause, keep: Keep, until: Option<Duration>) -> Self {
        let Cause { seed, shape, operations, faults, rates } = cause;
        let count = u32::try_from(operations.len()).unwrap_or(u32::MAX);
        let settled_by = Duration::from_millis(STORM_MS) + CALM_MAX + CALM_PER_OPERATION * count;
        let mut world = World::raise(WorldOptions {
            port_faults: PortFaults::Rates(rates),
            keep,
            ..WorldOptions::new(seed)
        });
        let machines = Machines::new(&world, &shape);
        stock::fill(&machines.postgres, &shape, world.time().now());
        let wiring = machines.host(&mut world, &shape);
        let clients = ClientLog::default();
        let operator =
            (DutyLog::default(), operations.iter().filter(|operation| operation.is_duty()).count());
        register(&mut world, &wiring, &operations, (&clients, &operator.0));
        world.set_operator(ClusterOperator {
            kafka: machines.kafka.clone(),
            postgres: machines.postgres.clone(),
            partitions: shape.partitions,
        });
        let judge = Judge::new(setup(&shape));
        let planned = certain_classes(&faults);
        let mut faults = faults.into_iter();
        let next = faults.next();
        Self {
            world,
            machines,
            clients,
            operator,
            judge,
            shape,
            faults,
            planned,
            next,
            strikes_heard: 0,
            settled_asked: Duration::ZERO,
            settled_by,
            until,
        }
    }

    fn live(&mut self) -> Result<(), Ended> {
        while self.rages() {
            self.strike()?;
            self.step()?;
            self.watch()?;
        }
        self.calm()?;
        while !self.settled()? {
            self.step()?;
            self.watch()?;
        }
        self.judge()
    }

    /// The world, for its history, time and strikes.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What the judge knows.
    pub fn judged(&self) -> &Judge {
        &self.judge
    }

    /// What the run reached, for sums over many: a fault-free idyll would show here.
    pub fn coverage(&self) -> BTreeMap<String, u64> {
        let world = self.judge.world();
        let count = |is: fn(&OrderState) -> bool| {
            let orders = world.tables.stories().filter_map(|(_, rows)| rows.order.as_ref());
            orders.filter(|order| is(&order.state)).count() as u64
        };
        let dead = world.tables.queued().filter(|(_, row)| row.pending.dead_at.is_some()).count() as u64;
        let reached = [
            ("redelivered records", self.machines.kafka.with(|cluster| cluster.redelivered())),
            ("confirmed orders", count(|state| matches!(state, OrderState::Confirmed { .. }))),
            ("cancelled orders", count(|state| matches!(state, OrderState::Cancelled { .. }))),
            ("dead letters at the end", dead),
            ("lost suffixes", u64::from(world.lost_suffix)),
            ("redriven dead letters", self.operator.0.done().redriven),
            ("discarded dead letters", self.operator.0.done().discarded),
        ];
        reached.into_iter().map(|(what, count)| (what.to_owned(), count)).collect()
    }

    fn elapsed(&self) -> Duration {
        self.world.time().elapsed()
    }

    fn rages(&self) -> bool {
        self.elapsed() < Duration::from_millis(STORM_MS)
    }

    /// Begins the faults that are due, and the provider's bad hours.
    fn strike(&mut self) -> Result<(), Ended> {
        let now = self.elapsed();
        while let Some(fault) = self.next.take_if(|fault| Duration::from_millis(fault.at_ms) <= now) {
            self.world.strike(&fault)?;
            self.next = self.faults.next();
        }
        if let Some(away) = self.shape.away {
            let out =
                (away.from_ms..away.until_ms).contains(&u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
            let outage = if out { away.how } else { Outage::None };
            self.machines.provider.with(|provider| provider.set_outage(outage));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Ended> {
        if self.until.is_some_and(|until| self.elapsed() >= until) {
            return Err(Ended::Stopped);
        }
        Ok(self.world.step()?)
    }

    /// Shows the judge what the hosts have logged in this tick.
    fn watch(&mut self) -> Result<(), Ended> {
        let now = self.world.time().now();
        let machines = &self.machines;
        let heard = machines.kafka.with(|cluster| cluster.drain_observed()).into_iter().map(Evidence::Broker);
        let heard =
            heard.chain(machines.provider.with(Provider::drain_observed).into_iter().map(Evidence::Provider));
        let heard =
            heard.chain(machines.notifier.with(Notifier::drain_observed).into_iter().map(Evidence::Notifier));
        let database = machines.postgres.with(|cluster| cluster.drain_observed());
        let heard = heard.chain(database.into_iter().map(Evidence::Database));
        let heard = heard.chain(self.clients.drain_observed().into_iter().map(Evidence::Client));
        for evidence in heard {
            self.judge.observe(now, evidence)?;
        }
        for strike in self.world.strikes_since(self.strikes_heard) {
            self.strikes_heard += 1;
            let struck = Strike::Struck { class: strike.class, host: strike.draw.host, until: now };
            self.judge.observe(now, Evidence::Strike(struck))?;
        }
        Ok(self.judge.tick(now)?)
    }

    /// Heals every fault. From here on the system must come to rest.
    fn calm(&mut self) -> Result<(), Ended> {
        self.world.calm()?;
        self.machines.provider.with(|provider| provider.set_outage(Outage::None));
        let now = self.world.time().now();
        Ok(self.judge.observe(now, Evidence::Strike(Strike::Healed))?)
    }

    fn settled(&mut self) -> Result<bool, Ended> {
        let elapsed = self.elapsed();
        if elapsed < self.settled_asked + SETTLED_EVERY {
            return Ok(false);
        }
        self.settled_asked = elapsed;
        let Some(open) = self.open() else { return Ok(true) };
        if elapsed < self.settled_by {
            return Ok(false);
        }
        // Whoever knows better than "not settled" says so: money that is not back, a partition that stands still.
        match self.judge() {
            Err(Ended::Violated(violation)) if violation.invariant != SETTLES => {
                Err(Ended::Violated(violation))
            }
            Ok(()) | Err(_) => Err(Ended::Unsettled(open)),
        }
    }

    /// What still keeps the system from rest.
    fn open(&self) -> Option<String> {
        let idle = |open: usize, what: &str| (open > 0).then(|| format!("{open} {what}"));
        self.judge
            .unsettled()
            .or_else(|| self.machines.postgres.with(|db| idle(db.open_transactions(), "open transactions")))
            .or_else(|| {
                let (log, duties) = &self.operator;
                idle(duties.saturating_sub(log.done().duties), "duties of the operator")
            })
    }

    fn judge(&mut self) -> Result<(), Ended> {
        let (open_transactions, locks) =
            self.machines.postgres.with(|cluster| (cluster.open_transactions(), cluster.held_locks()));
        let end = EndState {
            strikes: self.world.strikes(),
            planned: self.planned.clone(),
            open_transactions,
            locks,
        };
        Ok(self.judge.at_end(&end)?)
    }
}

impl Machines {
    fn new(world: &World, shape: &Shape) -> Self {
        let schema = database::Schema::of::<Row>();
        Self {
            kafka: Server::new(broker::Cluster::new(settings::brokers(shape))),
            postgres: Server::new(database::Cluster::new(schema, settings::database(shape))),
            provider: Server::new(Provider::new(shape.manners, world.dice().for_site(PROVIDER))),
            notifier: Server::new(Notifier::new(shape.manners, world.dice().for_site(NOTIFIER))),
        }
    }

    fn host(&self, world: &mut World, shape: &Shape) -> Wiring {
        Wiring {
            shape: Arc::new(shape.clone()),
            kafka: world.cluster(&BROKERS, self.kafka.clone(), broker_hooks(self.kafka.clone())),
            postgres: world.cluster(&DATABASES, self.postgres.clone(), database_hooks(self.postgres.clone())),
            provider: world.cluster(&[PROVIDER], self.provider.clone(), NodeHooks::default()),
            notifier: world.cluster(&[NOTIFIER], self.notifier.clone(), NodeHooks::default()),
        }
    }
}

fn register(
    world: &mut World,
    wiring: &Wiring,
    operations: &[Operation],
    (log, duties): (&ClientLog, &DutyLog),
) {
    let shape = &wiring.shape;
    for name in shape.gateways() {
        let wiring = wiring.clone();
        world.host(&name, move |host| wiring.clone().gateway(host));
    }
    for consumer in CONSUMERS {
        for name in shape.members_of(consumer) {
            let wiring = wiring.clone();
            world.host(&name, move |host| wiring.clone().member(consumer, host));
        }
    }
    for name in shape.relays() {
        let wiring = wiring.clone();
        world.host(&name, move |host| wiring.clone().relay(host));
    }
    for (number, name) in (0..).zip(shape.clients()) {
        let (wiring, log) = (wiring.clone(), log.clone());
        let mine: Vec<Operation> =
            operations.iter().filter(|op| op.client == number && !op.is_duty()).cloned().collect();
        world.host(&name, move |host| wiring.clone().client(number, mine.clone(), log.clone(), host));
    }
    let mine: Vec<Operation> = operations.iter().filter(|op| op.is_duty()).cloned().collect();
    if !mine.is_empty() {
        let (wiring, log) = (wiring.clone(), duties.clone());
        world.host(OPERATOR, move |host| wiring.clone().operator(mine.clone(), log.clone(), host));
    }
}

fn setup(shape: &Shape) -> Setup {
    let worker = settings::worker(shape);
    let after_death: BTreeMap<ConsumerName, _> =
        CONSUMERS.iter().map(|consumer| (ConsumerName::from(*consumer), shape.after_death)).collect();
    Setup {
        after_death,
        attempts_max: worker.attempts_max,
        circuit: (worker.circuit_failures, Duration::from_millis(worker.circuit_open_ms)),
        ..Setup::new(Topic::from(TOPIC), stock::shelves(shape))
    }
}
