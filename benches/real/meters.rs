//! What the runtime counts while it runs: a recorder that only adds, so that progress can be read from outside at the
//! price that production pays for its metrics. Histograms are not kept.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::Fallible;

type Counters = BTreeMap<(String, String), Arc<AtomicU64>>;

/// Counters by their name and the value of their first label.
#[derive(Clone, Default)]
pub struct Meters(Arc<Mutex<Counters>>);

impl Meters {
    /// Meters of everything that this process counts from now on.
    pub fn install() -> Fallible<Self> {
        let meters = Self::default();
        metrics::set_global_recorder(meters.clone())?;
        Ok(meters)
    }

    /// The counter itself, to be read often.
    pub fn counter(&self, name: &str, label: &str) -> Arc<AtomicU64> {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(counters.entry((name.to_owned(), label.to_owned())).or_default())
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let label = key.labels().next().map_or("", |label| label.value());
        Counter::from_arc(self.counter(key.name(), label))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
