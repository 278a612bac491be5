//! The broker's ports under storm.
//!
//! A record that fails takes those behind it of its key with it, unsent, as the contract of `publish` has it: what is
//! to fail is drawn before anything leaves. Records that were handed out are never lost here; a consumer's `next`
//! fails only before it has asked.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use stormglass_runtime::{
    Broker, Cause, Consumer, ConsumerName, Delivery, EventId, Failure, Partition, Position, Producer, Record,
    Topic, Watermarks,
};
use tokio::time::{Instant, sleep_until};

use super::{PortCall, digest, ids};
use crate::{Told, What, hash::Fingerprint, storm::Fate};

pub(super) struct StormyBroker {
    inner: Arc<dyn Broker>,
    fate: Fate,
}

impl StormyBroker {
    pub(super) fn new(inner: Arc<dyn Broker>, fate: Fate) -> Self {
        Self { inner, fate }
    }

    /// Asks something that has no effect.
    async fn ask<T>(
        &self,
        call: PortCall,
        question: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        call.linger().await;
        if call.fails_before() {
            return Err(Failure::NotDone(call.pick("cause", &UNREACHED)));
        }
        let answer = question.await?;
        if call.fails_after() { Err(Failure::NotDone(call.lost())) } else { Ok(answer) }
    }
}

/// What a request that did not reach its leader fails with.
const UNREACHED: [Cause; 3] = [Cause::Disconnected, Cause::TimedOut, Cause::NotLeader];

#[async_trait]
impl Broker for StormyBroker {
    async fn subscribe(&self, group: &ConsumerName, topics: &[Topic]) -> Result<Box<dyn Consumer>, Failure> {
        let call = PortCall::polling(&self.fate, "subscribe", digest(&(group, topics)));
        let inner = self.ask(call, self.inner.subscribe(group, topics)).await?;
        let group = digest(group);
        Ok(Box::new(StormyConsumer { inner, fate: self.fate.clone(), group, turn: None }))
    }

    async fn watermarks(&self, partition: &Partition) -> Result<Watermarks, Failure> {
        let call = PortCall::polling(&self.fate, "watermarks", digest(partition));
        self.ask(call, self.inner.watermarks(partition)).await
    }

    async fn partitions(&self, topic: &Topic) -> Result<u32, Failure> {
        let call = PortCall::polling(&self.fate, "partitions", digest(topic));
        self.ask(call, self.inner.partitions(topic)).await
    }
}

struct StormyConsumer {
    inner: Box<dyn Consumer>,
    fate: Fate,
    group: u64,
    /// The present turn of `next`: kept over cancelled calls, so that being cancelled often delays nothing for ever.
    turn: Option<Turn>,
}

struct Turn {
    begins: Instant,
    fails: Option<Failure>,
}

impl StormyConsumer {
    fn turn(&mut self) -> &mut Turn {
        self.turn.get_or_insert_with(|| {
            let call = PortCall::polling(&self.fate, "next", self.group);
            let begins = Instant::now() + call.wait().unwrap_or_default();
            let fails = call.fails_before().then(|| Failure::NotDone(call.pick("cause", &UNREACHED)));
            Turn { begins, fails }
        })
    }
}

impl StormyConsumer {
    fn note(&self, delivery: &Delivery) {
        let mut hash = Fingerprint::default();
        hash.word(self.group);
        if let Delivery::Records(records) = delivery {
            for delivered in records {
                hash.word(u64::from(delivered.at.partition.index));
                hash.word(delivered.at.offset.cast_unsigned());
            }
        }
        let what = What { host: &self.fate.host, kind: "next", digest: hash.finish() };
        self.fate.storm.history.record(what, || match delivery {
            Delivery::Records(records) => Told {
                causes: ids(records.iter().map(EventId::of)),
                detail: records.iter().map(|delivered| format!("{} ", delivered.at)).collect(),
            },
            Delivery::Assigned(assigned) => format!("assigned {assigned:?}").into(),
            Delivery::Revoking(partitions, _) => format!("revoking {partitions:?}").into(),
            Delivery::Lost(partitions) => format!("lost {partitions:?}").into(),
        });
    }
}

#[async_trait]
impl Consumer for StormyConsumer {
    async fn next(&mut self) -> Result<Delivery, Failure> {
        let begins = self.turn().begins;
        if begins > Instant::now() {
            sleep_until(begins).await;
        }
        if let Some(failure) = self.turn().fails.take() {
            self.turn = None;
            return Err(failure);
        }
        let delivery = self.inner.next().await;
        self.turn = None;
        if let Ok(delivery) = &delivery {
            self.note(delivery);
        }
        delivery
    }

    async fn report(&mut self, positions: Vec<Position>) -> Result<(), Failure> {
        let call = PortCall::new(&self.fate, "report", digest(&positions));
        call.linger().await;
        if call.fails_before() {
            return Err(Failure::NotDone(call.pick("cause", &UNREACHED)));
        }
        self.inner.report(positions).await?;
        if call.fails_after() || call.loses_answer() {
            return Err(Failure::Unknown(call.lost()));
        }
        Ok(())
    }

    fn seek(&mut self, position: Position) {
        self.inner.seek(position);
    }

    fn pause(&mut self, partitions: &[Partition]) {
        self.inner.pause(partitions);
    }

    fn resume(&mut self, partitions: &[Partition]) {
        self.inner.resume(partitions);
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}

pub(super) struct StormyProducer {
    inner: Arc<dyn Producer>,
    fate: Fate,
}

impl StormyProducer {
    pub(super) fn new(inner: Arc<dyn Producer>, fate: Fate) -> Self {
        Self { inner, fate }
    }

    /// Draws what becomes of each record, in order.
    fn plan(&self, records: &[Record]) -> Vec<(PortCall, Plan)> {
        let mut failed: BTreeSet<(&Topic, &Bytes)> = BTreeSet::new();
        let mut plans = Vec::with_capacity(records.len());
        for record in records {
            let key = record.key.as_ref().map(|key| (&record.topic, key));
            let call = PortCall::new(&self.fate, "publish", digest(record));
            let plan = if key.is_some_and(|key| failed.contains(&key)) {
                Plan::Withhold(Cause::Predecessor)
            } else if call.fails_before() {
                const UNSENT: [Cause; 4] =
                    [Cause::Disconnected, Cause::NotLeader, Cause::TooFewReplicas, Cause::Busy];
                Plan::Withhold(call.pick("cause", &UNSENT))
            } else if call.fails_after() || call.loses_answer() {
                Plan::Forget(call.lost())
            } else {
                Plan::Send
            };
            if !matches!(plan, Plan::Send) {
                failed.extend(key);
            }
            plans.push((call, plan));
        }
        plans
    }
}

/// What becomes of a record.
#[derive(Clone, Copy)]
enum Plan {
    Send,
    /// It is not sent.
    Withhold(Cause),
    /// It is sent, and its report is lost.
    Forget(Cause),
}

#[async_trait]
impl Producer for StormyProducer {
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Position, Failure>> {
        PortCall::new(&self.fate, "publish-batch", digest(&records)).linger().await;
        let plans = self.plan(&records);
        let kept = self.fate.storm.history.is_kept();
        let named: Vec<_> = if kept { records.iter().map(EventId::named).collect() } else { Vec::new() };
        let sent =
            records.into_iter().zip(&plans).filter(|(_, (_, plan))| !matches!(plan, Plan::Withhold(_)));
        let sent: Vec<Record> = sent.map(|(record, _)| record).collect();
        let mut reports =
            if sent.is_empty() { Vec::new() } else { self.inner.publish(sent).await }.into_iter();
        let mut report = || reports.next().unwrap_or(Err(Failure::Unknown(Cause::Protocol)));
        let mut outcome = |plan| match plan {
            Plan::Withhold(cause) => Err(Failure::NotDone(cause)),
            Plan::Send => report(),
            Plan::Forget(cause) => report().and(Err(Failure::Unknown(cause))),
        };
        let noted = |(nth, (call, plan)): (usize, (PortCall, Plan))| {
            let outcome = outcome(plan);
            call.note(if outcome.is_ok() { "ok" } else { "failed" }, || Told {
                causes: ids(named.get(nth).copied().flatten().into_iter()),
                detail: format!("{outcome:?}"),
            });
            outcome
        };
        plans.into_iter().enumerate().map(noted).collect()
    }
}
