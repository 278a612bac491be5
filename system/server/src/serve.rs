//! `serve`: the roles of one process, from start to drained.
//!
//! Each role is the code that the storm torments, on whichever ports it is given. A part that ends by itself ends the
//! process: one that limped on would hold partitions that nobody reads.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use axum::Router;
use clap::ValueEnum;
use metrics_exporter_prometheus::PrometheusHandle;
use stormglass_orders::{
    Inventory, Notifications, Orders, Payments, Row,
    gateway::{Gateway, Health, Keyring},
};
use stormglass_runtime::{ConfigError, Relay, Service, Worker};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{health::Watch, host, http, settings::Settings, stack::Stack, stop::Stop};

/// What a process can be. Each scales out by starting more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Takes orders over HTTP.
    Gateway,
    /// The orders service.
    Orders,
    /// The payments service.
    Payments,
    /// The inventory service.
    Inventory,
    /// The notifications service.
    Notifications,
    /// Publishes the outbox; a second one stands by.
    Relay,
    /// All of them.
    All,
}

impl Role {
    /// What this role consists of.
    pub fn parts(self) -> BTreeSet<Role> {
        match self {
            Role::All => BTreeSet::from([
                Role::Gateway,
                Role::Orders,
                Role::Payments,
                Role::Inventory,
                Role::Notifications,
                Role::Relay,
            ]),
            part => BTreeSet::from([part]),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Gateway => "gateway",
            Role::Orders => "orders",
            Role::Payments => "payments",
            Role::Inventory => "inventory",
            Role::Notifications => "notifications",
            Role::Relay => "relay",
            Role::All => "all",
        })
    }
}

/// How long what is over after the grace period may still take: answers on the way, leaving the group.
const AFTER_GRACE: Duration = Duration::from_secs(5);

/// One process of roles.
pub struct Process {
    /// What it stands on.
    pub stack: Stack,
    /// Its settings, checked.
    pub settings: Settings,
    /// What it is.
    pub roles: BTreeSet<Role>,
    /// What signs receipts; a process without a gateway has none.
    pub keyring: Option<Keyring>,
    /// Names this incarnation.
    pub incarnation: Uuid,
}

impl Process {
    /// Works until `shutdown`, then drains.
    ///
    /// # Errors
    /// A part that could not be started, or ended by itself.
    pub async fn run(
        self,
        listener: TcpListener,
        metrics: Option<PrometheusHandle>,
        shutdown: CancellationToken,
    ) -> Result<(), Stop> {
        let watch = Arc::new(Watch::default());
        let mut parts: JoinSet<&'static str> = JoinSet::new();
        let helpers = shutdown.child_token();
        let watching = tokio::spawn(Arc::clone(&watch).keep(self.stack.clone(), helpers.clone()));
        for role in &self.roles {
            self.start(*role, &mut parts, &shutdown)?;
        }
        let router = self.router(&watch, metrics);
        parts.spawn(named("http", http::serve(listener, router, shutdown.clone().cancelled_owned())));
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            ended = parts.join_next() => Err(stopped(ended)),
        };
        if let Err(stop) = &ended {
            watch.give_up(&stop.to_string());
        }
        shutdown.cancel();
        info!("draining");
        let grace = Duration::from_millis(self.settings.worker.grace_ms) + AFTER_GRACE;
        if timeout(grace, async { while parts.join_next().await.is_some() {} }).await.is_err() {
            warn!(
                ?grace,
                "not everything could be finished in time: what is left is as safe as after a crash"
            );
        }
        watching.abort();
        ended
    }

    fn start(
        &self,
        role: Role,
        parts: &mut JoinSet<&'static str>,
        shutdown: &CancellationToken,
    ) -> Result<(), Stop> {
        let stack = &self.stack;
        match role {
            // It is a router, served with the rest of HTTP.
            Role::Gateway | Role::All => {}
            Role::Orders => {
                let deadline = Duration::from_millis(self.settings.orders.deadline_ms);
                parts.spawn(named("orders", self.worker(Orders::new(deadline))?.run(shutdown.clone())));
            }
            Role::Payments => {
                let payments = Payments::new(Arc::clone(&stack.provider));
                parts.spawn(named("payments", self.worker(payments)?.run(shutdown.clone())));
            }
            Role::Inventory => {
                parts.spawn(named("inventory", self.worker(Inventory)?.run(shutdown.clone())));
            }
            Role::Notifications => {
                let notifications = Notifications::new(Arc::clone(&stack.notifier));
                parts.spawn(named("notifications", self.worker(notifications)?.run(shutdown.clone())));
            }
            Role::Relay => {
                let (database, producer) = (Arc::clone(&stack.database), Arc::clone(&stack.producer));
                let relay =
                    Relay::<Row>::new(database, producer, self.settings.relay.clone(), self.incarnation);
                parts.spawn(named("relay", relay.map_err(refused)?.run(shutdown.clone())));
            }
        }
        info!(%role, "started");
        Ok(())
    }

    fn worker<S: Service<Row = Row>>(&self, service: S) -> Result<Worker<S>, Stop> {
        // Claims are derived from the member's name, and every service of the process counts its own.
        let consumer = service.name();
        let member = stormglass_runtime::derive_id(
            "member/v1",
            &[self.incarnation.as_bytes(), consumer.as_str().as_bytes()],
        );
        Worker::new(service, self.stack.ports(), self.settings.worker.clone(), member).map_err(refused)
    }

    fn router(&self, watch: &Arc<Watch>, metrics: Option<PrometheusHandle>) -> Router {
        let health = Arc::clone(watch) as Arc<dyn Health>;
        match &self.keyring {
            None => http::common(metrics).merge(http::livez(health)),
            Some(keyring) => {
                let gateway = Gateway {
                    producer: Arc::clone(&self.stack.intake),
                    reader: Arc::clone(&self.stack.reader),
                    clock: Arc::clone(&self.stack.clock),
                    keyring: Arc::new(keyring.clone()),
                    health,
                    limits: self.settings.limits(),
                };
                http::gateway(gateway, metrics)
            }
        }
    }
}

/// A new name for this process.
///
/// # Errors
/// If the machine has no randomness to give.
pub fn incarnation() -> Result<Uuid, Stop> {
    host::incarnation()
        .map_err(|error| Stop::Internal(format!("no randomness for a process's name: {error}")))
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

fn stopped(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> Stop {
    Stop::Internal(match ended {
        Some(Ok(part)) => format!("{part} ended by itself"),
        Some(Err(error)) => format!("a part of the process failed: {error}"),
        None => "the process has no part".to_owned(),
    })
}

fn refused(error: ConfigError) -> Stop {
    Stop::Usage(error.to_string())
}
