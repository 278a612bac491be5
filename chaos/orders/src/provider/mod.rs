//! A payment provider with its own memory: what the payments service talks to in the storm.
//!
//! It behaves as the big ones do: a request is known by its idempotency key, a repeat gets the first one's outcome
//! (stored failures included), two keys are two charges. A key can be closed, after which nothing under it has an
//! effect any more. Its ledger is the evidence for `money-balanced`; it prevents no double charge by itself.
//!
//! Left out: authorisation apart from capture, partial refunds, disputes.

mod caller;
mod client;
mod desk;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stormglass_embedded::machine::{Call, Connection, Effect, Machine};
use stormglass_orders::{
    ports::{Charge, PaymentReply, Refund},
    types::{Money, Reference},
};
use stormglass_runtime::Timestamp;
use stormglass_sim::Dice;
use uuid::Uuid;

pub(crate) use caller::Caller;
pub use client::ProviderClient;
pub use desk::{Desk, Manners, Outage, Reception};

/// What is asked of the provider, each under an idempotency key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Take money.
    Charge(Uuid, Charge),
    /// Give it back.
    Refund(Uuid, Refund),
    /// Let nothing more happen under the key, and say what has.
    Close(Uuid),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// Done, now or by an earlier request with the key.
    Done(PaymentReply),
    /// Failed for good without effect; so will every repeat under the key.
    Failed,
    /// Turned away unread.
    Busy,
    /// Can never be done.
    Rejected(String),
    /// The key is closed; what had been done under it.
    Closed(Option<PaymentReply>),
}

/// A request of which the ledger keeps track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Taking money.
    Charge,
    /// Giving it back.
    Refund,
}

/// One line of the provider's own log, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Observed {
    /// A request was accepted; it will be worked on.
    Requested {
        /// When.
        at: Timestamp,
        /// Its idempotency key.
        key: Uuid,
        /// For which order.
        order: Uuid,
        /// To do what.
        kind: Kind,
    },
    /// Money was taken.
    Captured {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// For which order.
        order: Uuid,
        /// How much.
        amount: Money,
        /// The charge's own name.
        charge: Reference,
    },
    /// A charge was refused.
    Declined {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// For which order.
        order: Uuid,
    },
    /// Money was given back.
    Refunded {
        /// When.
        at: Timestamp,
        /// Under which idempotency key.
        key: Uuid,
        /// For which order.
        order: Uuid,
        /// How much.
        amount: Money,
        /// Of which charge.
        charge: Reference,
    },
    /// A key failed for good.
    Failed {
        /// When.
        at: Timestamp,
        /// Which.
        key: Uuid,
    },
    /// A key was closed.
    Closed {
        /// When.
        at: Timestamp,
        /// Which.
        key: Uuid,
    },
    /// A request was turned away, unread.
    TurnedAway {
        /// When.
        at: Timestamp,
        /// Whose: the number of its connection, which is one caller's for as long as it lasts.
        caller: u64,
        /// With how many before it, none of that caller accepted between them.
        in_a_row: u32,
    },
}

impl Observed {
    /// What an accepted request was for; `None` for everything else.
    pub fn request(&self) -> Option<(Uuid, Kind)> {
        match self {
            Observed::Requested { order, kind, .. } => Some((*order, *kind)),
            Observed::Captured { .. }
            | Observed::Declined { .. }
            | Observed::Refunded { .. }
            | Observed::Failed { .. }
            | Observed::Closed { .. }
            | Observed::TurnedAway { .. } => None,
        }
    }
}

/// What is remembered under a key.
#[derive(Clone, Debug)]
enum Outcome {
    Done(PaymentReply),
    Failed,
    Closed,
}

/// The provider.
pub struct Provider {
    desk: Desk<Request>,
    outcomes: BTreeMap<Uuid, Outcome>,
    /// What is left to refund of each charge.
    charges: BTreeMap<String, i64>,
    observed: Vec<Observed>,
}

impl Provider {
    /// A provider with an empty ledger.
    pub fn new(manners: Manners, dice: Dice) -> Self {
        let desk = Desk::new(manners, dice.for_site("provider"));
        Provider { desk, outcomes: BTreeMap::new(), charges: BTreeMap::new(), observed: Vec::new() }
    }

    /// Begins or ends an outage.
    pub fn set_outage(&mut self, outage: Outage) {
        self.desk.set_outage(outage);
    }

    /// What has happened since the last call.
    pub fn drain_observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.observed)
    }

    fn work(&mut self, at: Timestamp, request: Request) -> Response {
        match request {
            Request::Charge(key, charge) => self.charge(at, key, charge),
            Request::Refund(key, refund) => self.refund(at, key, refund),
            Request::Close(key) => self.close(at, key),
        }
    }

    fn charge(&mut self, at: Timestamp, key: Uuid, charge: Charge) -> Response {
        if let Some(stored) = self.stored(key) {
            return stored;
        }
        if self.desk.fails(key) {
            return self.fail(at, key);
        }
        let order = charge.subject.order.0;
        if self.desk.declines(order) {
            self.observed.push(Observed::Declined { at, key, order });
            return self.done(key, PaymentReply::Declined);
        }
        let Ok(name) = Reference::new(&format!("ch-{}", key.simple())) else {
            return Response::Rejected("no reference".to_owned());
        };
        self.charges.insert(name.as_str().to_owned(), charge.amount.minor);
        self.observed.push(Observed::Captured {
            at,
            key,
            order,
            amount: charge.amount,
            charge: name.clone(),
        });
        self.done(key, PaymentReply::Captured(name))
    }

    fn refund(&mut self, at: Timestamp, key: Uuid, refund: Refund) -> Response {
        if let Some(stored) = self.stored(key) {
            return stored;
        }
        if self.desk.fails(key) {
            return self.fail(at, key);
        }
        let Refund { subject, charge, amount } = refund;
        let left = self.charges.get_mut(charge.as_str()).filter(|left| **left >= amount.minor);
        let (Some(left), Ok(name)) = (left, Reference::new(&format!("re-{}", key.simple()))) else {
            return Response::Rejected(format!("{charge} has not that much left to refund"));
        };
        *left -= amount.minor;
        self.observed.push(Observed::Refunded { at, key, order: subject.order.0, amount, charge });
        self.done(key, PaymentReply::Refunded(name))
    }

    fn close(&mut self, at: Timestamp, key: Uuid) -> Response {
        match self.outcomes.get(&key) {
            Some(Outcome::Done(reply)) => Response::Closed(Some(reply.clone())),
            Some(Outcome::Failed | Outcome::Closed) => Response::Closed(None),
            None => {
                self.outcomes.insert(key, Outcome::Closed);
                self.observed.push(Observed::Closed { at, key });
                Response::Closed(None)
            }
        }
    }

    fn stored(&self, key: Uuid) -> Option<Response> {
        Some(match self.outcomes.get(&key)? {
            Outcome::Done(reply) => Response::Done(reply.clone()),
            Outcome::Failed | Outcome::Closed => Response::Failed,
        })
    }

    fn done(&mut self, key: Uuid, reply: PaymentReply) -> Response {
        self.outcomes.insert(key, Outcome::Done(reply.clone()));
        Response::Done(reply)
    }

    fn fail(&mut self, at: Timestamp, key: Uuid) -> Response {
        self.outcomes.insert(key, Outcome::Failed);
        self.observed.push(Observed::Failed { at, key });
        Response::Failed
    }

    fn note(&mut self, at: Timestamp, request: &Request) {
        let (key, order, kind) = match request {
            Request::Charge(key, charge) => (*key, charge.subject.order.0, Kind::Charge),
            Request::Refund(key, refund) => (*key, refund.subject.order.0, Kind::Refund),
            Request::Close(_) => return,
        };
        self.observed.push(Observed::Requested { at, key, order, kind });
    }
}

impl Machine for Provider {
    type Request = Request;
    type Response = Response;

    fn handle(&mut self, now: Timestamp, call: Call, request: Request) -> Vec<Effect<Response>> {
        let key = match &request {
            Request::Charge(key, _) | Request::Refund(key, _) | Request::Close(key) => *key,
        };
        match self.desk.receive(now, (call, key), request.clone()) {
            Reception::Accepted => {
                self.note(now, &request);
                self.tick(now)
            }
            Reception::TurnedAway { in_a_row } => {
                let caller = call.connection.number;
                self.observed.push(Observed::TurnedAway { at: now, caller, in_a_row });
                vec![Effect::Reply(call, Response::Busy)]
            }
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

#[cfg(test)]
mod tests {
    use stormglass_orders::{
        Subject,
        types::{Currency, Customer, OrderId, Tenant},
    };

    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn call() -> Call {
        Call { connection: Connection { node: 0, number: 0 }, number: 0 }
    }

    fn euros(minor: i64) -> Money {
        Money { minor, currency: Currency::new("EUR").unwrap() }
    }

    fn subject() -> Subject {
        Subject { tenant: Tenant::new("acme").unwrap(), order: OrderId(Uuid::from_u128(1)) }
    }

    fn charge(key: u128) -> Request {
        let customer = Customer::new("ann").unwrap();
        Request::Charge(Uuid::from_u128(key), Charge { subject: subject(), customer, amount: euros(4999) })
    }

    fn refund(key: u128, charge: &Reference) -> Request {
        let refund = Refund { subject: subject(), charge: charge.clone(), amount: euros(4999) };
        Request::Refund(Uuid::from_u128(key), refund)
    }

    fn perfect() -> Provider {
        Provider::new(Manners::perfect(), Dice::new(1))
    }

    #[track_caller]
    fn ask(provider: &mut Provider, request: Request) -> Response {
        match provider.handle(NOW, call(), request).pop() {
            Some(Effect::Reply(_, response)) => response,
            other => panic!("no reply: {other:?}"),
        }
    }

    fn captures(provider: &mut Provider) -> usize {
        provider.drain_observed().iter().filter(|seen| matches!(seen, Observed::Captured { .. })).count()
    }

    #[test]
    fn same_key_charges_once_and_is_told_the_same() {
        let mut provider = perfect();
        let first = ask(&mut provider, charge(7));
        assert_eq!(ask(&mut provider, charge(7)), first);
        assert_eq!(captures(&mut provider), 1);
    }

    #[test]
    fn two_keys_are_two_charges() {
        let mut provider = perfect();
        ask(&mut provider, charge(7));
        ask(&mut provider, charge(8));
        assert_eq!(captures(&mut provider), 2);
    }

    #[test]
    fn charge_is_refunded_once() {
        let mut provider = perfect();
        let Response::Done(PaymentReply::Captured(name)) = ask(&mut provider, charge(7)) else {
            panic!("captured")
        };
        assert!(matches!(ask(&mut provider, refund(8, &name)), Response::Done(PaymentReply::Refunded(_))));
        assert!(matches!(ask(&mut provider, refund(9, &name)), Response::Rejected(_)));
    }

    #[test]
    fn closed_key_has_no_effect_however_late_it_is_used() {
        let mut provider = perfect();
        assert_eq!(ask(&mut provider, Request::Close(Uuid::from_u128(7))), Response::Closed(None));
        assert_eq!(ask(&mut provider, charge(7)), Response::Failed);
        assert_eq!(captures(&mut provider), 0);
    }

    #[test]
    fn closing_a_used_key_tells_what_was_done() {
        let mut provider = perfect();
        let Response::Done(reply) = ask(&mut provider, charge(7)) else { panic!("done") };
        assert_eq!(ask(&mut provider, Request::Close(Uuid::from_u128(7))), Response::Closed(Some(reply)));
    }

    #[test]
    fn stored_failure_is_replayed() {
        let mut provider = Provider::new(Manners { failed: 1.0, ..Manners::perfect() }, Dice::new(1));
        assert_eq!(ask(&mut provider, charge(7)), Response::Failed);
        assert_eq!(ask(&mut provider, charge(7)), Response::Failed);
    }

    #[test]
    fn slow_charge_takes_effect_although_its_caller_has_left() {
        let slow = Manners { slow: 1.0, slow_ms: 800, ..Manners::perfect() };
        let mut provider = Provider::new(slow, Dice::new(1));
        assert!(provider.handle(NOW, call(), charge(7)).is_empty());
        provider.disconnected(NOW, call().connection);
        let due = provider.deadline().unwrap();
        assert_eq!(due.since(NOW).as_millis(), 800);
        assert_eq!(provider.tick(due).len(), 1);
        assert_eq!(captures(&mut provider), 1);
    }

    #[test]
    fn outage_has_no_effect() {
        let mut provider = perfect();
        provider.set_outage(Outage::Refuses);
        assert_eq!(ask(&mut provider, charge(7)), Response::Busy);
        provider.set_outage(Outage::Silent);
        assert!(provider.handle(NOW, call(), charge(7)).is_empty());
        provider.set_outage(Outage::None);
        assert_eq!(captures(&mut provider), 0);
    }

    #[test]
    fn mute_provider_does_what_it_is_asked() {
        let mut provider = perfect();
        provider.set_outage(Outage::Mute);
        assert!(provider.handle(NOW, call(), charge(7)).is_empty());
        assert_eq!(captures(&mut provider), 1);
    }
}
