//! Reads outside transactions: a standby where one is fresh enough, else the primary.
//!
//! One connection per node, shared: a read never waits on the server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stormglass_runtime::{Cause, Failure, Freshness, Image, Versioned};

use super::{ClientConfig, Nodes, pool::open, within};
use crate::{
    database::request::{Request, Response, Role},
    machine::Node,
    transport::{Link, Unreachable},
};

type Shared = Arc<dyn Link<Request, Response>>;

pub(super) struct Replicas {
    transport: Nodes,
    config: ClientConfig,
    nodes: Mutex<Vec<Option<(Shared, Role)>>>,
}

impl Replicas {
    pub(super) fn new(transport: Nodes, config: ClientConfig) -> Self {
        let nodes = Mutex::new(vec![None; transport.nodes()]);
        Self { transport, config, nodes }
    }

    /// Reads from the first node that answers and is fresh enough, standbys before the primary.
    pub(super) async fn read(
        &self,
        request: &Request,
    ) -> Result<(Vec<Versioned<Image>>, Freshness), Failure> {
        let mut worst = Cause::Disconnected;
        let mut primaries = Vec::new();
        for node in 0..self.transport.nodes() {
            match self.connection(node).await {
                Ok((link, Role::Primary)) => primaries.push((node, link)),
                Ok((link, Role::Standby)) => match self.ask(node, &link, request).await {
                    Ok(answer) => return answer,
                    Err(cause) => worst = worst.max(cause),
                },
                Err(cause) => worst = worst.max(cause),
            }
        }
        for (node, link) in primaries {
            match self.ask(node, &link, request).await {
                Ok(answer) => return answer,
                Err(cause) => worst = worst.max(cause),
            }
        }
        Err(Failure::NotDone(worst))
    }

    /// The inner result is final; the outer error says why to try another node.
    async fn ask(
        &self,
        node: Node,
        link: &Shared,
        request: &Request,
    ) -> Result<Result<(Vec<Versioned<Image>>, Freshness), Failure>, Cause> {
        let answer = within(self.config.statement_deadline, link.request(request.clone())).await;
        match answer {
            Ok(Ok(Response::Rows(rows, lsn))) => Ok(Ok((rows, lsn))),
            Ok(Ok(Response::Error(error))) => Ok(Err(error.failure())),
            Ok(Ok(Response::NotFresh(_))) => Err(Cause::Busy),
            Ok(Ok(_)) => Err(Cause::Protocol),
            Ok(Err(Unreachable)) => {
                self.forget(node);
                Err(Cause::Disconnected)
            }
            Err(timed_out) => {
                self.forget(node);
                Err(timed_out)
            }
        }
    }

    async fn connection(&self, node: Node) -> Result<(Shared, Role), Cause> {
        let known = self.nodes()[node].clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let (link, role) = open(&self.transport, &self.config, node).await?;
        let opened: (Shared, Role) = (Arc::from(link), role);
        self.nodes()[node] = Some(opened.clone());
        Ok(opened)
    }

    fn forget(&self, node: Node) {
        self.nodes()[node] = None;
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Option<(Shared, Role)>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
