//! A payment provider and notifier with books of their own: the oracle for money and messages.
//!
//! The books know nothing of the services; they hold what a real provider would: an outcome per key, charges, refunds.
//! What a request meets is set beforehand, by the mood.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use stormglass_orders::{
    Subject,
    notifications::NoticeKind,
    ports::{Charge, Notice, Notifier, PaymentProvider, PaymentReply, Refund},
    types::Reference,
};
use stormglass_runtime::{ActError, IdempotencyKey};

use super::world::reference;

/// What the next request meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It works.
    #[default]
    Well,
    /// A charge is refused as a business answer.
    Declining,
    /// The request does not arrive.
    Away,
    /// It fails for good, and the failure is kept under its key.
    Failing,
    /// It works, and the answer is lost.
    Mute,
    /// It is held up on the way and arrives later, if its key is not closed by then.
    Slow,
    /// It will never be done.
    Refusing,
}

#[derive(Clone, Debug, PartialEq)]
enum Request {
    Charge(Charge),
    Refund(Refund),
    Send(Notice),
}

#[derive(Clone, Debug)]
enum Kept {
    Paid(PaymentReply),
    Sent(Reference),
    Failed,
}

#[derive(Default)]
struct Books {
    mood: Mood,
    kept: BTreeMap<IdempotencyKey, Kept>,
    on_the_way: Vec<(IdempotencyKey, Request)>,
    charges: BTreeMap<Name, (Subject, i64)>,
    refunds: BTreeMap<Name, i64>,
    sent: Vec<(Subject, NoticeKind)>,
}

/// What a charge is called.
type Name = String;

/// The provider and notifier.
#[derive(Default)]
pub struct Ledger(Mutex<Books>);

impl Ledger {
    pub fn set(&self, mood: Mood) {
        self.books().mood = mood;
    }

    /// A request that was held up arrives.
    pub fn arrive(&self) {
        let mut books = self.books();
        if let Some((key, request)) = books.on_the_way.pop() {
            books.perform(key, &request);
        }
    }

    /// (charges, sum captured, sum refunded) of an order.
    pub fn balance(&self, subject: &Subject) -> (usize, i64, i64) {
        let books = self.books();
        let charges = books.charges.iter().filter(|(_, (of, _))| of == subject);
        charges.fold((0, 0, 0), |(count, captured, refunded), (charge, (_, amount))| {
            (count + 1, captured + amount, refunded + books.refunds.get(charge).copied().unwrap_or(0))
        })
    }

    /// The messages of an order that were sent, in order.
    pub fn messages(&self, subject: &Subject) -> Vec<NoticeKind> {
        let books = self.books();
        books.sent.iter().filter(|(of, _)| of == subject).map(|(_, kind)| *kind).collect()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, key: IdempotencyKey, request: &Request) -> Result<Kept, ActError> {
        let mut books = self.books();
        match books.mood {
            Mood::Well | Mood::Declining => books.perform(key, request),
            Mood::Away => return Err(ActError::NotSent("away".to_owned())),
            Mood::Refusing if !books.kept.contains_key(&key) => {
                return Err(ActError::Rejected("no".to_owned()));
            }
            Mood::Refusing => {}
            Mood::Failing => {
                books.kept.entry(key).or_insert(Kept::Failed);
            }
            Mood::Mute => {
                books.perform(key, request);
                return Err(ActError::Unknown("no answer".to_owned()));
            }
            Mood::Slow => {
                books.on_the_way.push((key, request.clone()));
                return Err(ActError::Unknown("no answer yet".to_owned()));
            }
        }
        match books.kept.get(&key) {
            Some(Kept::Failed) | None => Err(ActError::Failed("kept under this key".to_owned())),
            Some(kept) => Ok(kept.clone()),
        }
    }

    fn close_key(&self, key: IdempotencyKey) -> Option<Kept> {
        match self.books().kept.entry(key).or_insert(Kept::Failed) {
            Kept::Failed => None,
            kept => Some(kept.clone()),
        }
    }
}

impl Books {
    fn perform(&mut self, key: IdempotencyKey, request: &Request) {
        if self.kept.contains_key(&key) {
            return;
        }
        let kept = match request {
            Request::Charge(_) if self.mood == Mood::Declining => Kept::Paid(PaymentReply::Declined),
            Request::Charge(charge) => {
                let name = format!("ch-{key}");
                self.charges.insert(name.clone(), (charge.subject.clone(), charge.amount.minor));
                Kept::Paid(PaymentReply::Captured(reference(&name)))
            }
            Request::Refund(refund) => {
                let charge = refund.charge.as_str().to_owned();
                let (_, captured) = self.charges.get(&charge).expect("a refund names a charge");
                assert_eq!(refund.amount.minor, *captured, "a refund is in full");
                let twice = self.refunds.insert(charge, refund.amount.minor);
                assert_eq!(twice, None, "{charge} was refunded twice", charge = refund.charge);
                Kept::Paid(PaymentReply::Refunded(reference(&format!("re-{key}"))))
            }
            Request::Send(notice) => {
                self.sent.push((notice.subject.clone(), notice.kind));
                Kept::Sent(reference(&format!("m-{key}")))
            }
        };
        self.kept.insert(key, kept);
    }
}

fn paid(kept: Kept) -> PaymentReply {
    match kept {
        Kept::Paid(reply) => reply,
        other => panic!("not a payment: {other:?}"),
    }
}

fn sent(kept: Kept) -> Reference {
    match kept {
        Kept::Sent(reference) => reference,
        other => panic!("not a message: {other:?}"),
    }
}

#[async_trait]
impl PaymentProvider for Ledger {
    async fn charge(&self, charge: Charge, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        self.ask(key, &Request::Charge(charge)).map(paid)
    }

    async fn refund(&self, refund: Refund, key: IdempotencyKey) -> Result<PaymentReply, ActError> {
        self.ask(key, &Request::Refund(refund)).map(paid)
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<PaymentReply>, ActError> {
        Ok(self.close_key(key).map(paid))
    }
}

#[async_trait]
impl Notifier for Ledger {
    async fn send(&self, notice: Notice, key: IdempotencyKey) -> Result<Reference, ActError> {
        self.ask(key, &Request::Send(notice)).map(sent)
    }

    async fn close(&self, key: IdempotencyKey) -> Result<Option<Reference>, ActError> {
        Ok(self.close_key(key).map(sent))
    }
}
