//! A notifier with its own memory: what the notifications service talks to in the storm.
//!
//! It sends one message per idempotency key, however often it is asked, and writes down every request. Two keys are
//! two messages: it prevents no double message by itself, so its log is the evidence for `notified-once`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stormglass_embedded::{
    machine::{Call, Connection, Effect, Machine},
    transport::Transport,
};
use stormglass_orders::{
    ports::{Notice, Notifier as NotifierPort},
    types::Reference,
};
use stormglass_runtime::{ActError, IdempotencyKey, Timestamp};
use stormglass_sim::Dice;
use uuid::Uuid;

use crate::provider::{Caller, Desk, Manners, Reception};

/// What is asked of the notifier, each under an idempotency key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Send a message.
    Send(Uuid, Notice),
    /// Let nothing more happen under the key, and say what has.
    Close(Uuid),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// Sent, now or by an earlier request with the key.
    Sent(Reference),
    /// Failed for good without effect; so will every repeat under the key.
    Failed,
    /// Turned away unread.
    Busy,
    /// The key is closed; what had been sent under it.
    Closed(Option<Reference>),
}

/// One line of the notifier's own log, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Observed {
    /// A request was accepted.
    Requested {
        /// When.
        at: Timestamp,
        /// Its idempotency key.
        key: Uuid,
        /// About which order.
        order: Uuid,
        /// What the message says: `confirmed`, `cancelled`, `refunded`.
        kind: String,
    },
    /// A message went out.
    Sent {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// About which order.
        order: Uuid,
        /// What it said.
        kind: String,
    },
}

#[derive(Clone, Debug)]
enum Outcome {
    Sent(Reference),
    Failed,
}

/// The notifier.
pub struct Notifier {
    desk: Desk<Request>,
    outcomes: BTreeMap<Uuid, Outcome>,
    observed: Vec<Observed>,
}

impl Notifier {
    /// A notifier that has sent nothing.
    pub fn new(manners: Manners, dice: Dice) -> Self {
        Notifier {
            desk: Desk::new(manners, dice.for_site("notifier")),
            outcomes: BTreeMap::new(),
            observed: Vec::new(),
        }
    }

    /// What has happened since the last call.
    pub fn drain_observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.observed)
    }

    fn work(&mut self, at: Timestamp, request: Request) -> Response {
        match request {
            Request::Send(key, notice) => self.send(at, key, &notice),
            Request::Close(key) => match self.outcomes.entry(key).or_insert(Outcome::Failed) {
                Outcome::Sent(reference) => Response::Closed(Some(reference.clone())),
                Outcome::Failed => Response::Closed(None),
            },
        }
    }

    fn send(&mut self, at: Timestamp, key: Uuid, notice: &Notice) -> Response {
        match self.outcomes.get(&key) {
            Some(Outcome::Sent(reference)) => return Response::Sent(reference.clone()),
            Some(Outcome::Failed) => return Response::Failed,
            None => {}
        }
        let name = Reference::new(&format!("msg-{}", key.simple()));
        let (false, Ok(name)) = (self.desk.fails(key), name) else {
            self.outcomes.insert(key, Outcome::Failed);
            return Response::Failed;
        };
        let (order, kind) = (notice.subject.order.0, notice.kind.as_str().to_owned());
        self.observed.push(Observed::Sent { at, key, order, kind });
        self.outcomes.insert(key, Outcome::Sent(name.clone()));
        Response::Sent(name)
    }
}

impl Machine for Notifier {
    type Request = Request;
    type Response = Response;

    fn handle(&mut self, now: Timestamp, call: Call, request: Request) -> Vec<Effect<Response>> {
        let key = match &request {
            Request::Send(key, _) | Request::Close(key) => *key,
        };
        match self.desk.receive(now, (call, key), request.clone()) {
            Reception::Accepted => {
                if let Request::Send(key, notice) = &request {
                    let (order, kind) = (notice.subject.order.0, notice.kind.as_str().to_owned());
                    self.observed.push(Observed::Requested { at: now, key: *key, order, kind });
                }
                self.tick(now)
            }
            Reception::TurnedAway { .. } => vec![Effect::Reply(call, Response::Busy)],
            Reception::Ignored => Vec::new(),
        }
    }

    /// A caller that hangs up does not call off what it asked for.
    fn disconnected(&mut self, _now: Timestamp, _connection: Connection) -> Vec<Effect<Response>> {
        Vec::new()
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Effect<Response>> {
        let mut effects = Vec::new();
        while let Some((call, request)) = self.desk.next_due(now) {
            let response = self.work(now, request);
            effects.extend(self.desk.answer(call, response));
        }
        effects
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.desk.deadline()
    }
}

/// The notifications service's port, spoken to [`Notifier`] over any transport.
pub struct NotifierClient {
    caller: Caller<Request, Response>,
}

impl NotifierClient {
    /// A client that waits for `timeout` at most; it must be shorter than the lease on a queue row.
    pub fn new(transport: Arc<dyn Transport<Request, Response>>, timeout: Duration) -> Self {
        NotifierClient { caller: Caller::new(transport, timeout) }
    }
}

fn failure(response: Response) -> ActError {
    match response {
        Response::Failed => ActError::Failed("the notifier failed the key for good".to_owned()),
        // Turned away unread: this request certainly had no effect, an earlier one under the key may have had.
        Response::Busy => ActError::NotSent("the notifier is busy".to_owned()),
        Response::Sent(_) | Response::Closed(_) => {
            ActError::Unknown("an answer to another question".to_owned())
        }
    }
}

#[async_trait]
impl NotifierPort for NotifierClient {
    async fn send(&self, notice: Notice, key: IdempotencyKey) -> Result<Reference, ActError> {
        match self.caller.call(Request::Send(key.0, notice)).await? {
            Response::Sent(reference) => Ok(reference),
            other => Err(failure(other)),
        }
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        match self.caller.call(Request::Close(key.0)).await? {
            Response::Closed(found) => Ok(found),
            other => Err(failure(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use stormglass_orders::{
        Subject,
        notifications::NoticeKind,
        types::{OrderId, Tenant},
    };

    use super::*;

    fn send(key: u128) -> Request {
        let subject = Subject { tenant: Tenant::new("acme").unwrap(), order: OrderId(Uuid::from_u128(1)) };
        Request::Send(Uuid::from_u128(key), Notice { subject, kind: NoticeKind::Confirmed, customer: None })
    }

    fn ask(notifier: &mut Notifier, request: Request) -> Response {
        let call = Call { connection: Connection { node: 0, number: 0 }, number: 0 };
        match notifier.handle(Timestamp(0), call, request).pop() {
            Some(Effect::Reply(_, response)) => response,
            other => panic!("no reply: {other:?}"),
        }
    }

    fn sent(notifier: &mut Notifier) -> (usize, usize) {
        let seen = notifier.drain_observed();
        let sent = seen.iter().filter(|seen| matches!(seen, Observed::Sent { .. })).count();
        (seen.len() - sent, sent)
    }

    #[test]
    fn repeats_of_one_key_are_written_down_and_send_one_message() {
        let mut notifier = Notifier::new(Manners::perfect(), Dice::new(1));
        let first = ask(&mut notifier, send(7));
        assert_eq!(ask(&mut notifier, send(7)), first);
        assert_eq!(sent(&mut notifier), (2, 1));
    }

    #[test]
    fn closed_key_sends_nothing_however_late_it_is_used() {
        let mut notifier = Notifier::new(Manners::perfect(), Dice::new(1));
        assert_eq!(ask(&mut notifier, Request::Close(Uuid::from_u128(7))), Response::Closed(None));
        assert_eq!(ask(&mut notifier, send(7)), Response::Failed);
        assert_eq!(sent(&mut notifier), (1, 0));
    }
}
