//! A round of the production worker: one member reads a whole log, until its counters say that all of it is done.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use stormglass_orders::Row;
use stormglass_runtime::{Clock, Ports, Service, Worker, WorkerConfig};
use stormglass_server::{host, serve::incarnation};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{Fallible, bed::Bed, table::Round};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// No round lasts longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// When a round is over.
pub struct Goal {
    /// The counter that says so.
    pub counter: &'static str,
    /// What it has to reach.
    pub count: u64,
}

/// A worker that runs.
pub struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    /// Drains it.
    pub async fn stop(self) -> Fallible<()> {
        self.shutdown.cancel();
        Ok(self.task.await?)
    }
}

/// Starts a member of `service` with the settings of this run, on the records of `topic`.
pub fn start<S: Service<Row = Row>>(bed: &Bed, service: S, topic: &str) -> Fallible<Running> {
    let incarnation = incarnation()?;
    let clock: Arc<dyn Clock> = Arc::new(host::SystemClock);
    let ports = Ports::<Row> {
        broker: Arc::clone(&bed.kafka) as _,
        database: Arc::clone(&bed.database) as _,
        clock,
        entropy: Arc::new(host::Jitter::of(incarnation)),
    };
    let config = WorkerConfig { topics: vec![topic.to_owned()], ..bed.settings.worker.clone() };
    let worker = Worker::new(service, ports, config, incarnation)?;
    let shutdown = CancellationToken::new();
    Ok(Running { task: tokio::spawn(worker.run(shutdown.clone())), shutdown })
}

/// Runs a member of `service` over the records of `topic`, from the first that it receives until `goal`.
pub async fn round<S: Service<Row = Row>>(bed: &Bed, service: S, topic: &str, goal: Goal) -> Fallible<Round> {
    let name = service.name();
    let counter = |counter: &str| bed.meters.counter(counter, name.as_str());
    let (received, done) = (counter("stormglass_records_received_total"), counter(goal.counter));
    let batches = counter("stormglass_batches_committed_total");
    let before = [&received, &done, &batches].map(|counter| counter.load(Ordering::Relaxed));
    let cpu = bed.servers.cpu()?;
    let worker = start(bed, service, topic)?;
    let reached = || done.load(Ordering::Relaxed) - before[1] >= goal.count;
    let seconds = between(|| received.load(Ordering::Relaxed) > before[0], reached).await?;
    worker.stop().await?;
    let transactions = batches.load(Ordering::Relaxed) - before[2];
    Ok(Round { events: goal.count, seconds, cpu: bed.servers.cpu()?.since(cpu), transactions })
}

/// Seconds from when `began` holds until `ended` does.
pub async fn between(began: impl Fn() -> bool, ended: impl Fn() -> bool) -> Fallible<f64> {
    let asked = Instant::now();
    until(&began, asked).await?;
    let start = Instant::now();
    until(&ended, asked).await?;
    Ok(start.elapsed().as_secs_f64())
}

async fn until(holds: impl Fn() -> bool, asked: Instant) -> Fallible<()> {
    while !holds() {
        if asked.elapsed() > PATIENCE {
            return Err("a round does not end".into());
        }
        sleep(LOOK).await;
    }
    Ok(())
}
