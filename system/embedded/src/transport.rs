//! How a client reaches a node: the one seam between in-process use and a simulated network.
//!
//! The clients of both machines are written once over [`Transport`]; [`Local`] is the transport without a network.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use stormglass_runtime::{Clock, Timestamp};
use thiserror::Error;

use crate::machine::{Call, Connection, Machine, Node, Server};

/// Ways for a client to reach the nodes of one cluster.
#[async_trait]
pub trait Transport<Q, A>: Send + Sync {
    /// Opens a connection to `node`.
    ///
    /// # Errors
    /// [`Unreachable`] if the node does not accept it.
    async fn connect(&self, node: Node) -> Result<Box<dyn Link<Q, A>>, Unreachable>;

    /// How many nodes the cluster has.
    fn nodes(&self) -> usize;
}

/// One connection. Requests are answered in any order; dropping the link closes the connection.
#[async_trait]
pub trait Link<Q, A>: Send + Sync {
    /// Sends a request and waits for its answer. Dropping the future forgets the answer, not the request.
    ///
    /// # Errors
    /// [`Unreachable`] if the connection ends first: whether the request arrived is unknown. A link that failed once
    /// fails for ever.
    async fn request(&self, request: Q) -> Result<A, Unreachable>;
}

/// The peer cannot be reached (any more).
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("peer unreachable")]
pub struct Unreachable;

/// A transport inside the process: every node is always reachable, unless the machine hangs up.
pub struct Local<M: Machine> {
    server: Server<M>,
    nodes: usize,
    clock: Arc<dyn Clock>,
}

impl<M: Machine> Local<M> {
    /// A transport to `server`'s nodes on the time of `clock`.
    pub fn new(server: Server<M>, nodes: usize, clock: Arc<dyn Clock>) -> Self {
        Self { server, nodes, clock }
    }
}

struct LocalLink<M: Machine> {
    server: Server<M>,
    connection: Connection,
    clock: Arc<dyn Clock>,
    calls: AtomicU64,
}

#[async_trait]
impl<M: Machine> Transport<M::Request, M::Response> for Local<M> {
    async fn connect(&self, node: Node) -> Result<Box<dyn Link<M::Request, M::Response>>, Unreachable> {
        if node >= self.nodes {
            return Err(Unreachable);
        }
        Ok(Box::new(LocalLink {
            connection: self.server.connect(node),
            server: self.server.clone(),
            clock: Arc::clone(&self.clock),
            calls: AtomicU64::new(0),
        }))
    }

    fn nodes(&self) -> usize {
        self.nodes
    }
}

#[async_trait]
impl<M: Machine> Link<M::Request, M::Response> for LocalLink<M> {
    async fn request(&self, request: M::Request) -> Result<M::Response, Unreachable> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let call = Call { connection: self.connection, number };
        self.server.call(self.clock.now(), call, request).await.map_err(|_| Unreachable)
    }
}

impl<M: Machine> Drop for LocalLink<M> {
    fn drop(&mut self) {
        self.server.disconnect(self.clock.now(), self.connection);
    }
}

/// Wall time that follows tokio's clock from a fixed start, so that paused time works for it too.
pub struct TokioClock {
    start: tokio::time::Instant,
    epoch: Timestamp,
}

impl TokioClock {
    /// A clock that shows `epoch` now.
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self { start: tokio::time::Instant::now(), epoch }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.epoch.after(self.start.elapsed())
    }
}

/// Ticks `server` whenever its machine is due. Runs until dropped; an embedded cluster spawns it once.
pub async fn keep_time<M: Machine>(server: Server<M>, clock: Arc<dyn Clock>) {
    /// Deadlines may appear while this sleeps, so it never sleeps longer than this.
    const LONGEST_SLEEP: std::time::Duration = std::time::Duration::from_millis(5);
    loop {
        let now = clock.now();
        let due = server.with(|machine| machine.deadline());
        if due.is_some_and(|due| due <= now) {
            server.tick(now);
        }
        let sleep = due.map_or(LONGEST_SLEEP, |due| due.since(now).min(LONGEST_SLEEP));
        tokio::time::sleep(sleep.max(std::time::Duration::from_millis(1))).await;
    }
}
