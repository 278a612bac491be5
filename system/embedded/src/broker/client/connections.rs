//! Connections to the brokers, one per node, and what is known of leaders.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use stormglass_runtime::{Cause, ConsumerName, Failure, Partition, Reason, Topic};
use tokio::time::{Instant, timeout_at};

use super::{
    super::request::{Request, Response},
    outcome::{NoAnswer, failure_of},
};
use crate::transport::{Link, Transport};

type BrokerLink = Arc<dyn Link<Request, Response>>;

/// A client's way to all brokers, shared by its producer and its consumers.
pub(super) struct Connections {
    transport: Arc<dyn Transport<Request, Response>>,
    links: Vec<tokio::sync::Mutex<Option<BrokerLink>>>,
    leaders: Mutex<BTreeMap<Topic, Vec<Option<usize>>>>,
    /// The broker that answered last what any broker can answer.
    bootstrap: AtomicUsize,
    timeout: Duration,
}

impl Connections {
    pub(super) fn new(transport: Arc<dyn Transport<Request, Response>>, timeout: Duration) -> Self {
        let links = (0..transport.nodes()).map(|_| tokio::sync::Mutex::default()).collect();
        Self { transport, links, leaders: Mutex::default(), bootstrap: AtomicUsize::new(0), timeout }
    }

    /// Asks `node` within the request timeout.
    pub(super) async fn ask(&self, node: usize, request: Request) -> Result<Response, NoAnswer> {
        self.ask_until(Instant::now() + self.timeout, node, request).await
    }

    /// Asks `node` and waits until `deadline`. A connection without an answer in time is given up, as Kafka's clients
    /// do: the answer would be taken for that of a later request.
    pub(super) async fn ask_until(
        &self,
        deadline: Instant,
        node: usize,
        request: Request,
    ) -> Result<Response, NoAnswer> {
        let link = timeout_at(deadline, self.link(node)).await;
        let link = link.map_err(|_| NoAnswer::NotSent(Cause::TimedOut))??;
        let cause = match timeout_at(deadline, link.request(request)).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(_)) => Cause::Disconnected,
            Err(_) => Cause::TimedOut,
        };
        let mut current = self.links[node].lock().await;
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &link)) {
            *current = None;
        }
        Err(NoAnswer::Lost(cause))
    }

    async fn link(&self, node: usize) -> Result<BrokerLink, NoAnswer> {
        let refused = NoAnswer::NotSent(Cause::Disconnected);
        let mut link = self.links.get(node).ok_or(refused)?.lock().await;
        if let Some(link) = &*link {
            return Ok(Arc::clone(link));
        }
        let fresh: BrokerLink = self.transport.connect(node).await.map_err(|_| refused)?.into();
        *link = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Asks what any broker can answer, one after the other, beginning with the one that answered last. Each gets a
    /// share of the request timeout, so that one that is cut off does not use it all up.
    pub(super) async fn ask_any(&self, request: Request) -> Result<Response, NoAnswer> {
        let nodes = self.links.len().max(1);
        let share = self.timeout / u32::try_from(nodes).unwrap_or(1);
        let first = self.bootstrap.load(Ordering::Relaxed);
        let mut last = NoAnswer::NotSent(Cause::Disconnected);
        for node in (0..nodes).map(|step| (first + step) % nodes) {
            match self.ask_until(Instant::now() + share, node, request.clone()).await {
                Ok(response) => {
                    self.bootstrap.store(node, Ordering::Relaxed);
                    return Ok(response);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Asks who leads `topics` now.
    pub(super) async fn refresh(&self, topics: &[Topic]) -> Result<(), Failure> {
        let answer = self.ask_any(Request::Metadata(topics.to_vec())).await.map_err(NoAnswer::of_read)?;
        let Response::Metadata(answers) = answer else { return Err(protocol_violation(&answer)) };
        let mut unknown = None;
        let mut leaders = self.known();
        for (topic, answer) in topics.iter().zip(answers) {
            match answer {
                Some(answer) => {
                    leaders.insert(topic.clone(), answer);
                }
                None => unknown = Some(Failure::Rejected(Reason::UnknownTopic(topic.as_str().to_owned()))),
            }
        }
        unknown.map_or(Ok(()), Err)
    }

    /// How many partitions `topic` has; that never changes here.
    pub(super) async fn partitions(&self, topic: &Topic) -> Result<u32, Failure> {
        let known = self.known().get(topic).map(Vec::len);
        let count = match known {
            Some(count) => count,
            None => {
                self.refresh(std::slice::from_ref(topic)).await?;
                self.known().get(topic).map_or(0, Vec::len)
            }
        };
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Who led `partition` when it was last asked for.
    pub(super) fn leader(&self, partition: &Partition) -> Option<usize> {
        let index = usize::try_from(partition.index).ok()?;
        self.known().get(&partition.topic)?.get(index).copied().flatten()
    }

    /// Who coordinates `group`.
    pub(super) async fn coordinator(&self, group: &ConsumerName) -> Result<usize, Failure> {
        match self.ask_any(Request::FindCoordinator(group.clone())).await.map_err(NoAnswer::of_read)? {
            Response::Coordinator(node) => Ok(node),
            other => Err(protocol_violation(&other)),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Topic, Vec<Option<usize>>>> {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The failure that `response` is, where none of the expected answers came.
pub(super) fn protocol_violation(response: &Response) -> Failure {
    match response {
        Response::Failed(code) => failure_of(*code),
        _ => Failure::NotDone(Cause::Protocol),
    }
}
