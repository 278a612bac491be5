//! PostgreSQL as a state machine: sessions, row locks, row versions, a write-ahead log and a streaming replica.
//!
//! [`Cluster`] is the server; [`Client`] speaks the store port to it over any transport. The level is READ COMMITTED
//! and the vocabulary is the store port's: SQL itself, other levels, advisory locks and NOTIFY are left out.

mod client;
mod cluster;
mod config;
mod execution;
mod locks;
mod node;
mod observed;
mod operator;
mod replication;
mod request;
mod rows;
mod session;
mod statements;
mod store;
mod wal;

use std::sync::Arc;

pub use client::{Client, ClientConfig, Target};
pub use cluster::{Cluster, Disk, NODES};
pub use config::{Config, Replication, Schema, SynchronousCommit};
pub use observed::{Change, Observed};
pub use operator::{Promotion, Snapshot};
pub use request::{Request, Response, Role, SqlError, Transaction};
use stormglass_runtime::Clock;

use crate::{
    machine::Server,
    transport::{Local, keep_time},
};

/// A cluster inside this process, its time kept by a task of the current tokio runtime, and a client of it.
///
/// More clients: [`Client::new`] over [`Local::new`] on the same server.
pub fn embedded(schema: Schema, config: Config, clock: Arc<dyn Clock>) -> (Server<Cluster>, Arc<Client>) {
    let server = Server::new(Cluster::new(schema, config));
    tokio::spawn(keep_time(server.clone(), Arc::clone(&clock)));
    let transport = Local::new(server.clone(), NODES, clock);
    (server, Arc::new(Client::new(Arc::new(transport), ClientConfig::default())))
}
