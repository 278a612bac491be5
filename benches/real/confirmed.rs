//! Who sees orders confirmed: a consumer of its own, at the end of the log, that notes when each order.confirmed came.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, Headers as _},
};
use stormglass_orders::types::OrderId;
use tokio::time::Instant;

use crate::{Fallible, bed::Bed};

/// When each order was seen confirmed.
pub type Times = BTreeMap<OrderId, Instant>;

/// The consumer, which ends when this is dropped.
pub struct Confirmed {
    seen: Arc<Mutex<Times>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Confirmed {
    /// Watches a topic from its present end on.
    pub fn watch(bed: &Bed, topic: &str, partitions: u32) -> Fallible<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bed.servers.brokers())
            .set("group.id", "watch")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        let mut list = TopicPartitionList::new();
        for index in 0..partitions {
            let index = i32::try_from(index)?;
            let (_, end) = consumer.fetch_watermarks(topic, index, Duration::from_secs(10))?;
            list.add_partition_offset(topic, index, Offset::Offset(end))?;
        }
        consumer.assign(&list)?;
        let (seen, stop) = (Arc::<Mutex<Times>>::default(), Arc::new(AtomicBool::new(false)));
        let (theirs, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = Builder::new().name("confirmed".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50))
                    && let Some(order) = confirmed(&message)
                {
                    let mut seen = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(order).or_insert_with(Instant::now);
                }
            }
        })?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What was seen.
    pub fn times(&self) -> Times {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Confirmed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("who watches for confirmed orders panicked");
        }
    }
}

/// The order that a record confirms.
fn confirmed(message: &BorrowedMessage<'_>) -> Option<OrderId> {
    let mut headers = message.headers()?.iter();
    headers.find(|header| header.key == "ce_type" && header.value == Some(b"order.confirmed.v1"))?;
    Some(OrderId(std::str::from_utf8(message.key()?).ok()?.parse().ok()?))
}
