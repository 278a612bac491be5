//! What a state machine is here: `handle(now, call, request) -> effects`, and nothing else.
//!
//! A machine reads no clock, draws no randomness and does no I/O. [`Server`] puts one behind async calls: directly
//! inside a process, or behind a simulated network where each node is a host. A server has one machine for a whole
//! cluster (three brokers; a primary and its replica), because what the nodes tell each other is the machine's own
//! business, while every request arrives at one node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use stormglass_runtime::Timestamp;
use tokio::sync::oneshot;

/// A node of a cluster, from 0.
pub type Node = usize;

/// Names a connection to one node: unique within a server, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// The node it leads to.
    pub node: Node,
    /// Its number.
    pub number: u64,
}

/// Names one request: its connection, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// Where it came in and where the reply goes out.
    pub connection: Connection,
    /// The client's number for it.
    pub number: u64,
}

/// What a machine wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<R> {
    /// Answer a call; each call is answered once at most.
    Reply(Call, R),
    /// Close a connection: calls on it that were not answered never will be.
    Hangup(Connection),
}

/// A sans-I/O state machine of a cluster.
pub trait Machine: Send + 'static {
    /// What clients send.
    type Request: Send;
    /// What they get.
    type Response: Send;

    /// Takes a request that arrived at `call.connection.node`. The reply may come with a later effect.
    fn handle(&mut self, now: Timestamp, call: Call, request: Self::Request) -> Vec<Effect<Self::Response>>;

    /// A connection is gone *and the node knows it* (FIN seen). A client that vanished silently does not cause this.
    fn disconnected(&mut self, now: Timestamp, connection: Connection) -> Vec<Effect<Self::Response>>;

    /// Time has passed. Called at least once per simulated tick, and often enough for [`Machine::deadline`].
    fn tick(&mut self, now: Timestamp) -> Vec<Effect<Self::Response>>;

    /// When `tick` has something to do next, if nothing else happens before.
    fn deadline(&self) -> Option<Timestamp>;
}

/// A machine behind async calls. Cloning shares it.
pub struct Server<M: Machine> {
    inner: Arc<Mutex<Inner<M>>>,
}

impl<M: Machine> Clone for Server<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<M: Machine> {
    machine: M,
    waiting: BTreeMap<Call, oneshot::Sender<M::Response>>,
    connections: u64,
}

impl<M: Machine> Server<M> {
    /// Serves `machine`.
    pub fn new(machine: M) -> Self {
        let inner = Inner { machine, waiting: BTreeMap::new(), connections: 0 };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// A new connection to `node`.
    pub fn connect(&self, node: Node) -> Connection {
        let mut inner = self.lock();
        inner.connections += 1;
        Connection { node, number: inner.connections }
    }

    /// Hands a request to the machine. The receiver fails if the connection is hung up before the reply.
    pub fn call(&self, now: Timestamp, call: Call, request: M::Request) -> oneshot::Receiver<M::Response> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        inner.waiting.insert(call, sender);
        let effects = inner.machine.handle(now, call, request);
        inner.perform(effects);
        receiver
    }

    /// Tells the machine that a connection has ended.
    pub fn disconnect(&self, now: Timestamp, connection: Connection) {
        let mut inner = self.lock();
        inner.hang_up(connection);
        let effects = inner.machine.disconnected(now, connection);
        inner.perform(effects);
    }

    /// Lets time pass for the machine.
    pub fn tick(&self, now: Timestamp) {
        let mut inner = self.lock();
        let effects = inner.machine.tick(now);
        inner.perform(effects);
    }

    /// Looks at the machine, or reaches into it: what an operator or a fault does.
    pub fn with<T>(&self, reach: impl FnOnce(&mut M) -> T) -> T {
        reach(&mut self.lock().machine)
    }

    /// Reaches into the machine where that has effects on clients: a crash, a promotion.
    pub fn affect(&self, reach: impl FnOnce(&mut M) -> Vec<Effect<M::Response>>) {
        let mut inner = self.lock();
        let effects = reach(&mut inner.machine);
        inner.perform(effects);
    }

    /// A panic inside a machine must fail the test that caused it, not every later lock: poisoning is passed over.
    fn lock(&self) -> MutexGuard<'_, Inner<M>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Machine> Inner<M> {
    fn perform(&mut self, effects: Vec<Effect<M::Response>>) {
        for effect in effects {
            match effect {
                Effect::Reply(call, response) => {
                    // A caller that stopped waiting has dropped its receiver; the reply is then lost, as on a wire.
                    let _ = self.waiting.remove(&call).map(|waiting| waiting.send(response));
                }
                Effect::Hangup(connection) => self.hang_up(connection),
            }
        }
    }

    fn hang_up(&mut self, connection: Connection) {
        self.waiting.retain(|call, _| call.connection != connection);
    }
}
