//! Two versions of the services side by side: the newer one writes and reads `order.placed.v2`, the older one cannot.
//!
//! The second version differs in its type alone. That is all a rolling deploy needs to go wrong: an old member that
//! meets the new type must neither lose the event nor block for good, and whoever knows it must apply it once.

use std::sync::Arc;

use async_trait::async_trait;
use stormglass_runtime::{
    ActError, ConsumerName, Context, Decision, Failure, Headers, IdempotencyKey, Next, Position, Producer,
    Record, Refusal, RowSet, Service,
};

const OLD: &str = "order.placed.v1";
const NEW: &str = "order.placed.v2";

/// A producer of the newer version.
pub struct NewerProducer(pub Arc<dyn Producer>);

#[async_trait]
impl Producer for NewerProducer {
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        self.0.publish(records.into_iter().map(|record| renamed(&record, OLD, NEW)).collect()).await
    }
}

/// A service as one of the two versions built it.
pub struct Built<S> {
    /// The service.
    pub service: S,
    /// Which version it is.
    pub version: Version,
}

/// Which version of the services runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Reads the old type only.
    Older,
    /// Reads both.
    Newer,
}

#[async_trait]
impl<S: Service> Service for Built<S> {
    type Row = S::Row;
    type Event = S::Event;
    type Call = S::Call;
    type Reply = S::Reply;

    fn name(&self) -> ConsumerName {
        self.service.name()
    }

    fn decode(&self, record: &Record) -> Result<Option<S::Event>, Refusal> {
        match self.version {
            Version::Older => self.service.decode(record),
            Version::Newer => self.service.decode(&renamed(record, NEW, OLD)),
        }
    }

    fn keys(&self, event: &S::Event) -> Vec<<S::Row as RowSet>::Key> {
        self.service.keys(event)
    }

    fn decide(&self, at: Context<'_, Self>) -> Result<Next<Self>, Refusal> {
        Ok(match self.service.decide(inner(&at))? {
            Next::Done(decision) => Next::Done(decision),
            Next::Need(keys) => Next::Need(keys),
            Next::Ask { call, rows } => Next::Ask { call, rows },
        })
    }

    async fn act(&self, call: S::Call, key: IdempotencyKey) -> Result<S::Reply, ActError> {
        self.service.act(call, key).await
    }

    async fn inquire(&self, call: S::Call, key: IdempotencyKey) -> Result<Option<S::Reply>, ActError> {
        self.service.inquire(call, key).await
    }

    fn conclude(&self, at: Context<'_, Self>, reply: S::Reply) -> Result<Decision<S::Row>, Refusal> {
        self.service.conclude(inner(&at), reply)
    }

    fn give_up(&self, at: Context<'_, Self>) -> Decision<S::Row> {
        self.service.give_up(inner(&at))
    }
}

fn inner<'a, S: Service>(at: &Context<'a, Built<S>>) -> Context<'a, S> {
    Context { event: at.event, event_id: at.event_id, rows: at.rows, now: at.now }
}

fn renamed(record: &Record, from: &str, to: &'static str) -> Record {
    let rename = |(name, value): &(String, bytes::Bytes)| {
        let is_type = name == "ce_type" && value.as_ref() == from.as_bytes();
        (name.clone(), if is_type { bytes::Bytes::from_static(to.as_bytes()) } else { value.clone() })
    };
    Record { headers: Headers(record.headers.0.iter().map(rename).collect()), ..record.clone() }
}
