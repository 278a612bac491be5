//! The client: the store port over any transport to the cluster's nodes.
//!
//! It owns its pool. A connection goes back to it only after the server has answered COMMIT or ROLLBACK; whatever
//! ends otherwise closes its connection, so no transaction is ever inherited. It finds the primary by asking nodes
//! what they are, as libpq does for `target_session_attrs=read-write`.

mod images;
mod pool;
mod reader;
mod session;

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use stormglass_runtime::{Cause, Database, Failure, Freshness, Reader, RowSet, Scan, Session, Versioned};

use self::{pool::Pool, reader::Replicas, session::ClientSession};
use super::request::{Request, Response};
use crate::{machine::Node, transport::Transport};

/// A client of one cluster, for any row set.
pub struct Client {
    pool: Arc<Pool>,
    replicas: Replicas,
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `application_name`.
    pub application: String,
    /// How many transactions it has open at most.
    pub pool_size: usize,
    /// How long `begin` waits for one of them to end (D19).
    pub acquire_timeout: Duration,
    /// How long it tries to connect to one node.
    pub connect_timeout: Duration,
    /// How long it waits for the answer to one statement, COMMIT or read. Longer than the server's own timeouts, so
    /// that those speak first.
    pub statement_deadline: Duration,
    /// Where transactions run.
    pub target: Target,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            application: "embedded".to_owned(),
            pool_size: 10,
            acquire_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            statement_deadline: Duration::from_secs(30),
            target: Target::Primary,
        }
    }
}

/// Where a client's transactions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// On whichever node is the primary.
    Primary,
    /// On this node, whatever it is.
    Node(Node),
}

/// How a client reaches the nodes.
pub(super) type Nodes = Arc<dyn Transport<Request, Response>>;

impl Client {
    /// A client that reaches its cluster through `transport`.
    pub fn new(transport: Nodes, config: ClientConfig) -> Self {
        let replicas = Replicas::new(Arc::clone(&transport), config.clone());
        Self { pool: Arc::new(Pool::new(transport, config)), replicas }
    }
}

#[async_trait]
impl<R: RowSet> Database<R> for Client {
    async fn begin(&self) -> Result<Box<dyn Session<R>>, Failure> {
        Ok(Box::new(ClientSession::new(self.pool.acquire().await?)))
    }
}

#[async_trait]
impl<R: RowSet> Reader<R> for Client {
    async fn read(
        &self,
        keys: Vec<R::Key>,
        at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<R>>, Freshness), Failure> {
        let keys = keys.iter().map(images::key::<R>).collect();
        images::typed(self.replicas.read(&Request::Read { keys, at_least }).await?)
    }

    async fn scan(
        &self,
        scan: Scan,
        at_least: Option<Freshness>,
    ) -> Result<(Vec<Versioned<R>>, Freshness), Failure> {
        images::typed(self.replicas.read(&Request::Scan { scan, at_least }).await?)
    }
}

/// Waits for `future` no longer than `limit`.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Cause> {
    tokio::time::timeout(limit, future).await.map_err(|_| Cause::TimedOut)
}
