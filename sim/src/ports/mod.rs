//! Port decorators: between the production code of a host and its adapters, at every call, the storm has its say.
//!
//! A call may fail before or after its effect (F1), lose its answer (F2), or take its time; each outcome is one that
//! the port's contract allows, so a service may never be surprised by anything but its own mistake. Every boundary
//! is also a place to yield or wait, by the seed, which is what makes one seed one schedule and another another: the
//! order of the tasks within a host never varies by itself.

mod broker;
mod database;

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use stormglass_runtime::{Broker, Cause, Database, EventId, Producer, Reader, RowSet};

use crate::{
    Host, Told, What,
    hash::{Digest, Fingerprint},
    storm::{Chance, Fate, Question},
};

impl Host {
    /// `database` under storm.
    pub fn stormy_database<R: RowSet>(&self, database: Arc<dyn Database<R>>) -> Arc<dyn Database<R>> {
        Arc::new(database::StormyDatabase::new(database, self.fate.clone()))
    }

    /// `reader` under storm.
    pub fn stormy_reader<R: RowSet>(&self, reader: Arc<dyn Reader<R>>) -> Arc<dyn Reader<R>> {
        Arc::new(database::StormyReader::new(reader, self.fate.clone()))
    }

    /// `broker` under storm, and with it the consumers that it lets in.
    pub fn stormy_broker(&self, broker: Arc<dyn Broker>) -> Arc<dyn Broker> {
        Arc::new(broker::StormyBroker::new(broker, self.fate.clone()))
    }

    /// `producer` under storm.
    pub fn stormy_producer(&self, producer: Arc<dyn Producer>) -> Arc<dyn Producer> {
        Arc::new(broker::StormyProducer::new(producer, self.fate.clone()))
    }

    /// One call of a port that is not the runtime's: the composer decorates it with this. `content` is what the call
    /// is about; equal contents count attempts together.
    pub fn port_call(&self, site: &'static str, content: &(impl Serialize + ?Sized)) -> PortCall {
        PortCall::new(&self.fate, site, digest(content))
    }
}

/// The storm's say in one call of a port.
#[derive(Clone)]
pub struct PortCall {
    fate: Fate,
    question: Question,
}

impl PortCall {
    fn new(fate: &Fate, site: &'static str, entity: u64) -> Self {
        Self { fate: fate.clone(), question: fate.ask_entity(site, entity) }
    }

    /// A call that is made again and again, whatever there is to do: known by when it is made, so that one poll more
    /// or less shifts no later one.
    fn polling(fate: &Fate, site: &'static str, entity: u64) -> Self {
        /// Polls within so many milliseconds count attempts together.
        const WINDOW_MS: u128 = 100;
        let mut hash = Fingerprint::default();
        hash.word(entity);
        hash.word((fate.storm.time.elapsed().as_millis() / WINDOW_MS) as u64);
        Self::new(fate, site, hash.finish())
    }

    /// Waits as the seed says: mostly not at all, sometimes for other tasks to run first, rarely for milliseconds.
    /// Cancel safe.
    pub async fn linger(&self) {
        for _ in 0..self.yields() {
            tokio::task::yield_now().await;
        }
        if let Some(wait) = self.wait() {
            tokio::time::sleep(wait).await;
        }
    }

    fn yields(&self) -> u32 {
        /// Half of the calls let others go first, up to three times.
        const SHARE: f64 = 0.5;
        let draw = self.fate.unit(self.question, "yield");
        if draw < SHARE { 1 + (draw / SHARE * 3.0) as u32 } else { 0 }
    }

    fn wait(&self) -> Option<Duration> {
        /// The share of calls that wait, and for how many milliseconds at most: about a round trip.
        const SHARE: f64 = 0.06;
        const LONGEST_MS: f64 = 20.0;
        let draw = self.fate.unit(self.question, "wait");
        (draw < SHARE).then(|| Duration::from_millis(1 + (draw / SHARE * LONGEST_MS) as u64))
    }

    /// F1 before the effect: whether the call is to fail unmade. Counted if so.
    pub fn fails_before(&self) -> bool {
        self.strike(Chance::ErrorBefore)
    }

    /// F1 after the effect: whether the call, once made, is to fail. Counted if so.
    pub fn fails_after(&self) -> bool {
        self.strike(Chance::ErrorAfter)
    }

    /// F2: whether the answer is to be lost. Counted if so.
    pub fn loses_answer(&self) -> bool {
        self.strike(Chance::LostAck)
    }

    fn strike(&self, chance: Chance) -> bool {
        let strikes = self.fate.strikes(self.question, chance);
        if strikes {
            self.fate.struck(self.question, chance);
        }
        strikes
    }

    /// One of `options`, by the seed.
    fn pick<T: Copy>(&self, salt: &str, options: &[T]) -> T {
        let index = (self.fate.unit(self.question, salt) * options.len() as f64) as usize;
        options[index.min(options.len() - 1)]
    }

    /// What a connection that is lost looks like from here.
    fn lost(&self) -> Cause {
        self.pick("cause", &[Cause::Disconnected, Cause::TimedOut])
    }

    /// Notes how the call ended.
    fn note(&self, outcome: &'static str, tell: impl FnOnce() -> Told) {
        let mut hash = Fingerprint::default();
        hash.word(self.question.entity);
        hash.word(u64::from(self.question.attempt));
        hash.bytes(outcome.as_bytes());
        let what = What { host: &self.fate.host, kind: self.question.site, digest: hash.finish() };
        self.fate.storm.history.record(what, || {
            let Told { causes, detail } = tell();
            Told { causes, detail: format!("{outcome}: {detail}") }
        });
    }
}

/// Event ids as causes.
fn ids(events: impl Iterator<Item = EventId>) -> Vec<u128> {
    events.map(|event| event.0.as_u128()).collect()
}

/// A hash of what a value serialises to, without the bytes.
fn digest(value: &(impl Serialize + ?Sized)) -> u64 {
    // What cannot be serialised cannot be sent either, and fails there; here it only shares its key with its like.
    postcard::serialize_with_flavor(value, Digest::default()).unwrap_or_default()
}
