//! The pool of connections to the primary.
//!
//! A permit per transaction bounds it (D19). A connection that fails takes the idle ones with it: they lead to the
//! same server, which has most likely ended them all.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use stormglass_runtime::{Cause, Failure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ClientConfig, Nodes, Target, within};
use crate::{
    database::request::{Request, Response, Role},
    machine::Node,
    transport::{Link, Unreachable},
};

type Connection = Box<dyn Link<Request, Response>>;

pub(super) struct Pool {
    transport: Nodes,
    config: ClientConfig,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// Where the primary was last: only where to look first.
    hint: AtomicUsize,
}

/// A connection out of the pool. Dropping it closes it.
pub(super) struct Pooled {
    pool: Arc<Pool>,
    connection: Connection,
    permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(transport: Nodes, config: ClientConfig) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(config.pool_size)),
            transport,
            config,
            idle: Mutex::new(Vec::new()),
            hint: AtomicUsize::new(0),
        }
    }

    /// A connection of one's own to the primary.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Pooled, Failure> {
        let permits = Arc::clone(&self.permits).acquire_owned();
        let permit = within(self.config.acquire_timeout, permits).await.map_err(Failure::NotDone)?;
        // The semaphore is never closed.
        let permit = permit.map_err(|_| Failure::NotDone(Cause::Busy))?;
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await.map_err(Failure::NotDone)?,
        };
        Ok(Pooled { pool: Arc::clone(self), connection, permit })
    }

    async fn connect(&self) -> Result<Connection, Cause> {
        let nodes = self.transport.nodes();
        let first = self.hint.load(Ordering::Relaxed);
        let candidates: Vec<Node> = match self.config.target {
            Target::Node(node) => vec![node],
            Target::Primary => (0..nodes).map(|step| (first + step) % nodes).collect(),
        };
        let mut worst = None;
        for node in candidates {
            match open(&self.transport, &self.config, node).await {
                Ok((connection, role)) if role == Role::Primary || self.config.target != Target::Primary => {
                    self.hint.store(node, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(_) => {}
                Err(cause) => worst = worst.max(Some(cause)),
            }
        }
        Err(worst.unwrap_or(Cause::ReadOnly))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a session on one node.
pub(super) async fn open(
    transport: &Nodes,
    config: &ClientConfig,
    node: Node,
) -> Result<(Connection, Role), Cause> {
    let application = config.application.clone();
    let opening = async {
        let connection = transport.connect(node).await?;
        let response = connection.request(Request::Connect { application }).await?;
        Ok::<_, Unreachable>((connection, response))
    };
    match within(config.connect_timeout, opening).await? {
        Ok((connection, Response::Connected(role))) => Ok((connection, role)),
        Ok((_, Response::Error(error))) => Err(cause_of(error.failure())),
        Ok(_) => Err(Cause::Protocol),
        Err(Unreachable) => Err(Cause::Disconnected),
    }
}

/// No session was opened: whatever the reason, nothing is done.
fn cause_of(failure: Failure) -> Cause {
    match failure {
        Failure::NotDone(cause) | Failure::Unknown(cause) => cause,
        Failure::Rejected(_) => Cause::Protocol,
    }
}

impl Pooled {
    /// Sends a request. After an error the connection is to be dropped.
    pub(super) async fn request(&self, request: Request) -> Result<Response, Cause> {
        let answer = within(self.pool.config.statement_deadline, self.connection.request(request)).await?;
        answer.map_err(|Unreachable| {
            self.pool.idle().clear();
            Cause::Disconnected
        })
    }

    /// Puts the connection back: no transaction is open on it.
    pub(super) fn give_back(self) {
        let Pooled { pool, connection, permit } = self;
        pool.idle().push(connection);
        drop(permit);
    }
}
