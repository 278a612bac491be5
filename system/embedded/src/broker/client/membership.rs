//! Membership in a group, kept by a task of its own: joining, heartbeats, giving partitions up, being fenced.
//!
//! The task talks to its consumer through events in one direction and [`Shared`] in the other. It knows what the
//! member owns; the consumer knows what of it is read from where.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use stormglass_runtime::{Cause, ConsumerName, Failure, Partition, Revocation, Topic};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    super::request::{ErrorCode, Join, Membership, Request, Response},
    config::ClientConfig,
    connections::Connections,
    outcome::NoAnswer,
};

/// What the consumer is told, in this order.
pub(super) enum Event {
    /// These are its own from now on.
    Assigned(Vec<Partition>),
    /// These must be given up. The sender is to be used when the token is handed out.
    Revoking(Vec<Partition>, Revocation, oneshot::Sender<()>),
    /// These are gone.
    Lost(Vec<Partition>),
}

/// What the member's task and its consumer both see.
pub(super) struct Shared {
    pub(super) group: ConsumerName,
    state: Mutex<State>,
    polled: Notify,
}

struct State {
    member: String,
    generation: i32,
    coordinator: Option<usize>,
    polling: bool,
    last_poll: Instant,
}

impl Shared {
    pub(super) fn new(group: ConsumerName) -> Self {
        let state = State {
            member: String::new(),
            generation: -1,
            coordinator: None,
            polling: false,
            last_poll: Instant::now(),
        };
        Self { group, state: Mutex::new(state), polled: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity under which the consumer commits.
    pub(super) fn membership(&self) -> Membership {
        let state = self.state();
        Membership { group: self.group.clone(), member: state.member.clone(), generation: state.generation }
    }

    /// Marks the consumer as alive for as long as the guard lives, and from then on counts its silence.
    pub(super) fn poll(&self) -> Polling<'_> {
        let mut state = self.state();
        state.polling = true;
        state.last_poll = Instant::now();
        drop(state);
        self.polled.notify_one();
        Polling(self)
    }

    fn silence(&self) -> Duration {
        let state = self.state();
        if state.polling { Duration::ZERO } else { state.last_poll.elapsed() }
    }

    /// Sends a request to the group's coordinator. One that says it is not, or cannot be reached, is forgotten.
    pub(super) async fn ask(
        &self,
        connections: &Connections,
        request: Request,
        patience: Duration,
    ) -> Result<Response, Failure> {
        let known = self.state().coordinator;
        let node = match known {
            Some(node) => node,
            None => timeout(patience, connections.coordinator(&self.group))
                .await
                .unwrap_or(Err(Failure::NotDone(Cause::TimedOut)))?,
        };
        self.state().coordinator = Some(node);
        let answer = connections.ask_until(Instant::now() + patience, node, request).await;
        let moved = Response::Failed(ErrorCode::NotCoordinator);
        if answer.is_err() || answer == Ok(moved) {
            self.state().coordinator = None;
        }
        answer.map_err(NoAnswer::into_failure)
    }
}

/// See [`Shared::poll`].
pub(super) struct Polling<'a>(&'a Shared);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.polling = false;
        state.last_poll = Instant::now();
    }
}

/// The member's task.
pub(super) struct Member {
    pub(super) connections: Arc<Connections>,
    pub(super) config: ClientConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) topics: Vec<Topic>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) owned: BTreeSet<Partition>,
}

/// Why a member stops being content with its assignment.
enum Unrest {
    /// The group rebalances.
    Rejoin,
    /// It is out: UNKNOWN_MEMBER_ID, or its session has certainly ended.
    Fenced,
    /// Its generation is over without it.
    Outdated,
    /// Its consumer does not poll (B20).
    Silent,
}

impl Member {
    /// Keeps the membership until the consumer is gone.
    pub(super) async fn run(mut self) {
        while !self.events.is_closed() {
            let joined = self.join().await;
            let unrest = match joined {
                Ok(assignment) => match self.take_over(assignment).await {
                    Some(unrest) => unrest,
                    None => self.heartbeats(Rebalances::Followed).await,
                },
                Err(unrest) => unrest,
            };
            match unrest {
                Unrest::Rejoin => {}
                Unrest::Outdated => self.lose(),
                Unrest::Fenced => {
                    self.shared.state().member.clear();
                    self.lose();
                }
                Unrest::Silent => {
                    self.leave().await;
                    self.lose();
                    while self.shared.silence() > self.config.max_poll_interval {
                        self.shared.polled.notified().await;
                    }
                }
            }
        }
    }

    /// Joins and fetches the assignment, however long that takes.
    async fn join(&mut self) -> Result<BTreeSet<Partition>, Unrest> {
        // A join waits for the slowest member, but one that waits at a coordinator which is gone without a sign would
        // wait for ever. Joining again is harmless: it takes the place of the join that waits.
        let patience = self.config.session_timeout;
        loop {
            let join = Request::Join(Join {
                group: self.shared.group.clone(),
                member: self.shared.membership().member,
                client_id: self.config.client_id.clone(),
                topics: self.topics.clone(),
                owned: self.owned.iter().cloned().collect(),
                session_timeout: self.config.session_timeout,
                rebalance_timeout: self.config.rebalance_timeout,
            });
            match self.shared.ask(&self.connections, join, patience).await {
                Ok(Response::MemberId(member)) => self.shared.state().member = member,
                Ok(Response::Joined(generation)) => {
                    self.shared.state().generation = generation;
                    return self.sync().await;
                }
                Ok(Response::Failed(ErrorCode::UnknownMember)) => return Err(Unrest::Fenced),
                Ok(_) | Err(_) => sleep(self.config.retry_backoff).await,
            }
        }
    }

    async fn sync(&self) -> Result<BTreeSet<Partition>, Unrest> {
        let sync = Request::Sync(self.shared.membership());
        match self.shared.ask(&self.connections, sync, self.config.request_timeout).await {
            Ok(Response::Synced(assignment)) => Ok(assignment.into_iter().collect()),
            Ok(Response::Failed(ErrorCode::UnknownMember)) => Err(Unrest::Fenced),
            Ok(Response::Failed(ErrorCode::IllegalGeneration)) => Err(Unrest::Outdated),
            // Joining again asks the same question.
            Ok(_) | Err(_) => {
                sleep(self.config.retry_backoff).await;
                Err(Unrest::Rejoin)
            }
        }
    }

    /// Takes on the assignment. If it takes partitions away, waits until the consumer has given them up, then rejoins
    /// without them (KIP-429).
    async fn take_over(&mut self, assignment: BTreeSet<Partition>) -> Option<Unrest> {
        let added: Vec<Partition> = assignment.difference(&self.owned).cloned().collect();
        let revoked: Vec<Partition> = self.owned.difference(&assignment).cloned().collect();
        self.owned = assignment;
        let released = (!revoked.is_empty()).then(|| self.revoke(revoked));
        if !added.is_empty() {
            self.tell(Event::Assigned(added));
        }
        let (mut handed_out, mut released) = released?;
        let grace = self.config.revocation_grace;
        let give_up = async {
            // Either channel ends with an error as well, when the consumer drops what it was told.
            (&mut handed_out).await.unwrap_or(());
            timeout(grace, &mut released).await.unwrap_or(Ok(())).unwrap_or(());
        };
        tokio::select! { biased;
            () = give_up => Some(Unrest::Rejoin),
            unrest = self.heartbeats(Rebalances::Ignored) => Some(unrest),
        }
    }

    fn revoke(&self, partitions: Vec<Partition>) -> (oneshot::Receiver<()>, oneshot::Receiver<()>) {
        let (token, released) = Revocation::new(self.config.revocation_grace);
        let (hand_out, handed_out) = oneshot::channel();
        self.tell(Event::Revoking(partitions, token, hand_out));
        (handed_out, released)
    }

    /// Sends heartbeats until something is wrong.
    async fn heartbeats(&self, rebalances: Rebalances) -> Unrest {
        let mut heard = Instant::now();
        loop {
            sleep(self.config.heartbeat_interval).await;
            if self.shared.silence() > self.config.max_poll_interval {
                return Unrest::Silent;
            }
            let session = self.config.session_timeout;
            let patience = session.saturating_sub(heard.elapsed()).min(self.config.request_timeout);
            let heartbeat = Request::Heartbeat(self.shared.membership());
            match self.shared.ask(&self.connections, heartbeat, patience).await {
                Ok(Response::Done) => heard = Instant::now(),
                Ok(Response::Failed(ErrorCode::RebalanceInProgress)) => {
                    heard = Instant::now();
                    if rebalances == Rebalances::Followed {
                        return Unrest::Rejoin;
                    }
                }
                Ok(Response::Failed(ErrorCode::UnknownMember)) => return Unrest::Fenced,
                Ok(Response::Failed(ErrorCode::IllegalGeneration)) => return Unrest::Outdated,
                Ok(_) | Err(_) => {}
            }
            if heard.elapsed() >= session {
                return Unrest::Outdated;
            }
        }
    }

    /// Leaves the group; if that is not heard, the session timeout does it.
    async fn leave(&self) {
        let leave = Request::Leave(self.shared.membership());
        if self.shared.ask(&self.connections, leave, self.config.request_timeout).await.is_err() {
            tracing::debug!(group = %self.shared.group, "leaving was not heard");
        }
        self.shared.state().member.clear();
    }

    /// Everything it owned is another's, or will be.
    fn lose(&mut self) {
        self.shared.state().generation = -1;
        let lost: Vec<Partition> = std::mem::take(&mut self.owned).into_iter().collect();
        if !lost.is_empty() {
            self.tell(Event::Lost(lost));
        }
    }

    fn tell(&self, event: Event) {
        // A consumer that is gone needs to know nothing; `run` ends by the same sign.
        self.events.send(event).unwrap_or(());
    }
}

/// Whether a heartbeat's REBALANCE_IN_PROGRESS is followed at once, or after what is being given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rebalances {
    Followed,
    Ignored,
}
