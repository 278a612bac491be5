//! What happened, in order: a trace hash always, the events themselves when somebody will read them.
//!
//! Every frame that crosses the network, every answer of a port and every fault passes through here, so two runs
//! took the same course exactly if their hashes agree. Text is made only when it is kept.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use crate::{SimTime, hash::Fingerprint};

/// How much of a history is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// The hash alone.
    #[default]
    Hash,
    /// The hash, and every event with its text.
    All,
}

/// What an event is known by; all of it goes into the hash.
#[derive(Clone, Copy, Debug)]
pub struct What<'a> {
    /// The host where it happened.
    pub host: &'a str,
    /// Its kind: `request`, `reply`, `strike`, the name of a port's call, or a word of the composer's.
    pub kind: &'static str,
    /// A hash of its content.
    pub digest: u64,
}

/// What is told of an event that is kept.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The causal ids concerned: event ids as the inbox knows them, or the number of a fault.
    pub causes: Vec<u128>,
    /// For people.
    pub detail: String,
}

impl From<String> for Told {
    fn from(detail: String) -> Self {
        Told { causes: Vec::new(), detail }
    }
}

/// An event that was kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Simulated time since the start, in seconds, as verdicts and fault schedules count it: `4.310`.
    pub t: String,
    /// The host where it happened.
    pub host: String,
    /// Its kind.
    pub kind: &'static str,
    /// Causal ids, in hexadecimal.
    pub causes: Vec<String>,
    /// A hash of its content, in hexadecimal.
    pub digest: String,
    /// For people.
    pub detail: String,
}

/// The history of one world. Append-only; cloning shares it.
#[derive(Clone)]
pub struct History {
    time: SimTime,
    keep: Keep,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    hash: Fingerprint,
    count: u64,
    events: Vec<Event>,
}

impl History {
    pub(crate) fn new(time: SimTime, keep: Keep) -> Self {
        Self { time, keep, inner: Arc::default() }
    }

    /// Appends an event at the present simulated time. `tell` is called only if events are kept.
    pub fn record<T: Into<Told>>(&self, what: What<'_>, tell: impl FnOnce() -> T) {
        let at = self.time.now();
        let mut inner = self.lock();
        inner.count += 1;
        inner.hash.word(at.0.cast_unsigned());
        inner.hash.bytes(what.host.as_bytes());
        inner.hash.bytes(what.kind.as_bytes());
        inner.hash.word(what.digest);
        if self.is_kept() {
            let Told { causes, detail } = tell().into();
            inner.events.push(Event {
                t: format!("{:.3}", self.time.elapsed().as_secs_f64()),
                host: what.host.to_owned(),
                kind: what.kind,
                causes: causes.iter().map(|cause| format!("{cause:032x}")).collect(),
                digest: format!("{:016x}", what.digest),
                detail,
            });
        }
    }

    /// Whether events are kept with their text.
    pub fn is_kept(&self) -> bool {
        self.keep == Keep::All
    }

    /// The hash over everything recorded so far, in order.
    pub fn hash(&self) -> u64 {
        self.lock().hash.finish()
    }

    /// How many events were recorded, kept or not.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    /// The events kept so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Writes the kept events as JSON, one a line.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_jsonl(&self, out: &mut impl Write) -> io::Result<()> {
        for event in &self.lock().events {
            serde_json::to_writer(&mut *out, event)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
