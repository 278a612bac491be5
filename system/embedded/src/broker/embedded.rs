//! A whole cluster inside the process: what tests, benches and a laptop use.

use std::sync::Arc;

use stormglass_runtime::Clock;
use tokio::task::AbortHandle;

use super::{Client, ClientConfig, Cluster, ClusterConfig};
use crate::{
    machine::Server,
    transport::{Local, keep_time},
};

/// A running cluster. Time stops for it when this is dropped; its clients then wait for ever.
pub struct Embedded {
    /// The cluster, for what operators and faults do.
    pub server: Server<Cluster>,
    clock: Arc<dyn Clock>,
    nodes: usize,
    timekeeper: AbortHandle,
}

impl Embedded {
    /// Starts a cluster on the time of `clock`. Must be called within a tokio runtime.
    pub fn start(config: ClusterConfig, clock: Arc<dyn Clock>) -> Self {
        let nodes = config.nodes;
        let server = Server::new(Cluster::new(config));
        let timekeeper = tokio::spawn(keep_time(server.clone(), Arc::clone(&clock))).abort_handle();
        Self { server, clock, nodes, timekeeper }
    }

    /// A new client with connections of its own.
    pub fn client(&self, config: ClientConfig) -> Arc<Client> {
        let transport = Local::new(self.server.clone(), self.nodes, Arc::clone(&self.clock));
        Arc::new(Client::new(Arc::new(transport), config))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.timekeeper.abort();
    }
}
