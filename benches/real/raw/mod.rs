//! The loops to compare with: rdkafka and sqlx, the same records per transaction, the same rows, the same commits, and
//! no guarantees. Nothing is locked, compared, deduplicated, retried or queued; a failure ends the program.
//!
//! They are as quick as plain code gets: borrowed JSON, one `unnest` statement for each table, a thread, a consumer and
//! a connection for each loop, partitions assigned by hand. Sessions have production's settings, so that plans do not
//! decide the comparison.

pub mod inventory;
pub mod orders;
pub mod payments;
pub mod relay;
mod wire;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::BorrowedMessage,
};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};

use crate::{Fallible, bed::Bed, table::Round, worker::between};

/// What one loop does with a batch.
pub trait Work: Send + 'static {
    /// One or more transactions. All are committed when this returns.
    fn work(
        &mut self,
        batch: &[BorrowedMessage<'_>],
        on: &mut PgConnection,
    ) -> impl Future<Output = Fallible<()>>;
}

/// Which records a round reads.
#[derive(Clone, Copy)]
pub struct Source {
    pub topic: &'static str,
    pub partitions: u32,
    pub events: u64,
}

/// How far the loops of a round have come.
#[derive(Default)]
struct Progress {
    received: AtomicU64,
    done: AtomicU64,
    transactions: AtomicU64,
}

/// Runs as many loops as a worker has lanes, until all events are done.
pub async fn round<W: Work>(bed: &Bed, source: Source, work: impl Fn() -> W) -> Fallible<Round> {
    let cpu = bed.servers.cpu()?;
    let progress = Arc::new(Progress::default());
    let threads: Vec<JoinHandle<Result<(), String>>> = (0..bed.options.lanes)
        .map(|number| {
            let one = Loop {
                consumer: consumer(bed, source, number)?,
                session: bed.settings.database().sessions().remove(0),
                batch: bed.options.batch as usize,
                progress: Arc::clone(&progress),
                events: source.events,
            };
            let work = work();
            Ok(Builder::new().spawn(move || one.run(work).map_err(|error| error.to_string()))?)
        })
        .collect::<Fallible<_>>()?;
    let failed = || threads.iter().any(JoinHandle::is_finished);
    let seconds = between(
        || progress.received.load(Ordering::Relaxed) > 0 || failed(),
        || progress.done.load(Ordering::Relaxed) >= source.events || failed(),
    )
    .await?;
    for thread in threads {
        thread.join().map_err(|_| "a raw loop panicked")??;
    }
    let transactions = progress.transactions.load(Ordering::Relaxed);
    Ok(Round { events: source.events, seconds, cpu: bed.servers.cpu()?.since(cpu), transactions })
}

/// A consumer of every `lanes`-th partition, set as production's is where it matters for speed.
fn consumer(bed: &Bed, source: Source, number: u32) -> Fallible<BaseConsumer> {
    let kafka = &bed.settings.kafka;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("group.id", "raw")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", kafka.fetch_wait_ms.to_string())
        .set("fetch.min.bytes", kafka.fetch_bytes_min.to_string())
        .set("queued.min.messages", "100000")
        .set("queued.max.messages.kbytes", (kafka.prefetch_bytes / 1_000 * source.partitions).to_string())
        .create()?;
    let mut assigned = TopicPartitionList::new();
    for index in (number..source.partitions).step_by(bed.options.lanes as usize) {
        assigned.add_partition_offset(source.topic, i32::try_from(index)?, Offset::Beginning)?;
    }
    consumer.assign(&assigned)?;
    Ok(consumer)
}

struct Loop {
    consumer: BaseConsumer,
    session: PgConnectOptions,
    batch: usize,
    progress: Arc<Progress>,
    events: u64,
}

impl Loop {
    fn run(self, mut work: impl Work) -> Fallible<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connection = self.session.connect().await?;
            let mut batch = Vec::with_capacity(self.batch);
            while self.progress.done.load(Ordering::Relaxed) < self.events {
                self.fill(&mut batch)?;
                if batch.is_empty() {
                    continue;
                }
                self.progress.received.fetch_add(batch.len() as u64, Ordering::Relaxed);
                work.work(&batch, &mut connection).await?;
                self.progress.transactions.fetch_add(1, Ordering::Relaxed);
                self.progress.done.fetch_add(batch.len() as u64, Ordering::Relaxed);
                batch.clear();
            }
            Ok(())
        })
    }

    /// Waits for a first record, and takes what is there beside it.
    fn fill<'a>(&'a self, batch: &mut Vec<BorrowedMessage<'a>>) -> Fallible<()> {
        let mut patience = Duration::from_millis(5);
        while batch.len() < self.batch {
            match self.consumer.poll(patience) {
                Some(message) => batch.push(message?),
                None => return Ok(()),
            }
            patience = Duration::ZERO;
        }
        Ok(())
    }
}

/// Where the records of a batch stand, as columns.
#[derive(Default)]
struct Origins<'a> {
    ids: Vec<uuid::Uuid>,
    topics: Vec<&'a str>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
}

impl<'a> Origins<'a> {
    fn of(batch: &'a [BorrowedMessage<'_>]) -> Fallible<Self> {
        let mut origins = Self::default();
        for message in batch {
            origins.ids.push(wire::id(message)?);
            origins.topics.push(message.topic());
            origins.partitions.push(message.partition());
            origins.offsets.push(message.offset());
        }
        Ok(origins)
    }
}

/// The inbox rows of a batch.
async fn take(consumer: &str, origins: &Origins<'_>, on: &mut PgConnection) -> Fallible<()> {
    sqlx::query(
        "INSERT INTO inbox (consumer, event_id, topic, partition, \"offset\") SELECT $1, * \
         FROM unnest($2::uuid[], $3::text[], $4::int[], $5::bigint[])",
    )
    .bind(consumer)
    .bind(&origins.ids)
    .bind(&origins.topics)
    .bind(&origins.partitions)
    .bind(&origins.offsets)
    .execute(on)
    .await?;
    Ok(())
}

/// The positions after a batch.
async fn move_on(consumer: &str, origins: &Origins<'_>, on: &mut PgConnection) -> Fallible<()> {
    let mut next = std::collections::BTreeMap::new();
    for ((topic, partition), offset) in origins.topics.iter().zip(&origins.partitions).zip(&origins.offsets) {
        next.insert((*topic, *partition), offset + 1);
    }
    let (places, next): (Vec<(&str, i32)>, Vec<i64>) = next.into_iter().unzip();
    let (topics, partitions): (Vec<&str>, Vec<i32>) = places.into_iter().unzip();
    sqlx::query(
        "INSERT INTO positions (consumer, topic, partition, next) SELECT $1, * \
         FROM unnest($2::text[], $3::int[], $4::bigint[]) \
         ON CONFLICT (consumer, topic, partition) DO UPDATE SET next = excluded.next",
    )
    .bind(consumer)
    .bind(topics)
    .bind(partitions)
    .bind(next)
    .execute(on)
    .await?;
    Ok(())
}

/// A loop that changed fewer rows than it has events for would be quick and wrong.
fn all(changed: u64, wanted: usize) -> Fallible<()> {
    if changed == wanted as u64 { Ok(()) } else { Err(format!("{changed} of {wanted} rows changed").into()) }
}
