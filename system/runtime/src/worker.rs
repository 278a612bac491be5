//! A worker: one member of one service's consumer group, with its lanes and its executor.

use std::{
    panic,
    sync::{Arc, atomic::AtomicBool},
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};
use uuid::Uuid;

use crate::{
    ConfigError, Consumer, Ports, Service, Topic, WorkerConfig,
    config::ms,
    executor::Executor,
    intake::{Intake, LaneHandle},
    lane::{Lane, LaneState},
    shared::{Desk, Shared},
    track::Amounts,
};

/// Runs a [`Service`] with the guarantees of DESIGN section 3.
pub struct Worker<S: Service> {
    shared: Arc<Shared<S>>,
}

impl<S: Service> Worker<S> {
    /// A worker of `service`. `member` names this incarnation of the process and must never be used by another:
    /// claims on queue rows are derived from it.
    ///
    /// # Errors
    /// A setting that is out of its range or breaks a guarantee.
    pub fn new(
        service: impl Into<Arc<S>>,
        ports: Ports<S::Row>,
        config: WorkerConfig,
        member: Uuid,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { shared: Arc::new(Shared::new(service.into(), ports, config, member)) })
    }

    /// Works until `shutdown` is cancelled, then drains: nothing new is taken, what was begun is finished or, after
    /// the grace period, abandoned, and the group is left.
    ///
    /// Dropping the future stops everything at once, which is as safe as a crash: open transactions roll back, claims
    /// wait out their lease.
    ///
    /// # Panics
    /// If a task of the worker itself panics; panics of the service are failed attempts. A worker that limped on
    /// would hold partitions that nobody reads.
    pub async fn run(self, shutdown: CancellationToken) {
        let consumer = self.shared.logic.consumer.clone();
        let span = info_span!("worker", %consumer, member = %self.shared.member);
        self.work(shutdown).instrument(span).await;
    }

    async fn work(self, shutdown: CancellationToken) {
        let Some(consumer) = self.subscribe(&shutdown).await else { return };
        let shared = self.shared;
        let (notices, notices_in) = mpsc::unbounded_channel();
        let (events, events_in) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(shared.config.act_concurrency as usize));
        let desk = Desk { room, open: Arc::new(AtomicBool::new(true)), notices };
        let mut lanes = JoinSet::new();
        let mut handles = Vec::new();
        for number in 0..shared.config.lanes as usize {
            let (messages, inbox) = mpsc::unbounded_channel();
            let lane = Lane {
                number,
                shared: Arc::clone(&shared),
                desk: desk.clone(),
                inbox,
                events: events.clone(),
                state: LaneState::new(shared.config.batch_records as usize),
            };
            lanes.spawn(lane.run().instrument(info_span!("lane", number)));
            handles.push(LaneHandle { messages, held: Amounts::default() });
        }
        let drain_executor = CancellationToken::new();
        let mut executor = JoinSet::new();
        let queue = Executor::new(Arc::clone(&shared), desk, notices_in);
        executor.spawn(queue.run(drain_executor.clone()).instrument(info_span!("executor")));
        let mut intake = Intake::new(Arc::clone(&shared), consumer, handles, events_in);
        tokio::select! {
            biased;
            () = failed(&mut lanes) => {}
            () = failed(&mut executor) => {}
            () = intake.run(&shutdown) => {}
        }
        let deadline = Instant::now() + ms(shared.config.grace_ms);
        info!("draining");
        intake.leave(finished(&mut lanes), deadline).await;
        drain_executor.cancel();
        if tokio::time::timeout_at(deadline, finished(&mut executor)).await.is_err() {
            warn!("calls were abandoned: their claims end with their leases");
        }
    }

    /// Joins the group, for as long as it takes. `None` if shut down before.
    async fn subscribe(&self, shutdown: &CancellationToken) -> Option<Box<dyn Consumer>> {
        let shared = &self.shared;
        let topics: Vec<Topic> =
            shared.config.topics.iter().map(|topic| Topic::from(topic.as_str())).collect();
        let mut failures = 0;
        loop {
            let subscribed = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                subscribed = shared.ports.broker.subscribe(&shared.logic.consumer, &topics) => subscribed,
            };
            let failure = match subscribed {
                Ok(consumer) => return Some(consumer),
                Err(failure) => failure,
            };
            failures += 1;
            let delay = shared.retry_delay("retry-subscribe", failures);
            warn!(%failure, ?delay, "the group cannot be joined");
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }
}

/// Waits until a task has panicked, and panics with it.
async fn failed(tasks: &mut JoinSet<()>) {
    while let Some(result) = tasks.join_next().await {
        propagate(result);
    }
    std::future::pending().await
}

/// Waits until all tasks have ended.
async fn finished(tasks: &mut JoinSet<()>) {
    while let Some(result) = tasks.join_next().await {
        propagate(result);
    }
}

fn propagate(result: Result<(), JoinError>) {
    if let Err(error) = result
        && error.is_panic()
    {
        panic::resume_unwind(error.into_panic());
    }
}
