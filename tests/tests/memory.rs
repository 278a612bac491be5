//! G8: a worker's memory is bounded, whatever the lag. Measured at the allocator.
//!
//! Time is paused and the database slow, so that the log is far ahead for as long as the measurement takes, and as much
//! is written to the tables whatever the lag. Records are copied as they are delivered, as from a socket: otherwise
//! they would share their bytes with the embedded cluster's log and weigh nothing. One test alone, because the
//! allocator counts for the whole process.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failed unwrap is a failed test")]

#[path = "worker/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of the worker")]
mod cluster;
#[path = "worker/ledger.rs"]
#[expect(dead_code, reason = "shared with the tests of the worker")]
mod ledger;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use cluster::Cluster;
use ledger::{Account, Ledger, Script, emission};
use peak_alloc::PeakAlloc;
use stormglass_embedded::{broker, broker::ClientConfig, database};
use stormglass_runtime::{
    Broker, Consumer, ConsumerName, Database, Delivery, Failure, Partition, Position, Producer, Record,
    Session, Topic, Watermarks, derive_id,
};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What a record weighs, roughly.
const RECORD_BYTES: usize = 1_000;
/// What the worker is told to hold at most, and what one fetch brings on top.
const BUFFER_BYTES: usize = 1 << 20;
const FETCH_BYTES: usize = 256 << 10;
/// Records cost more than their bytes: decoded events, ids, the bookkeeping of maps and queues. What the tables and
/// connections of the embedded cluster take during the measurement comes on top.
const OVERHEAD: usize = 3;

/// Transactions take a second to begin.
struct Slow(Arc<database::Client>);

#[async_trait]
impl Database<Account> for Slow {
    async fn begin(&self) -> Result<Box<dyn Session<Account>>, Failure> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.0.begin().await
    }
}

/// A broker whose records come in memory of their own, and whose consumers may be deaf.
struct Copying(Arc<broker::Client>, Pause);

struct CopyingConsumer(Box<dyn Consumer>, Pause);

/// What a consumer makes of it when a worker pauses its partitions.
#[derive(Clone, Copy, PartialEq)]
enum Pause {
    Heard,
    Ignored,
}

#[async_trait]
impl Broker for Copying {
    async fn subscribe(&self, group: &ConsumerName, topics: &[Topic]) -> Result<Box<dyn Consumer>, Failure> {
        Ok(Box::new(CopyingConsumer(self.0.subscribe(group, topics).await?, self.1)))
    }

    async fn watermarks(&self, partition: &Partition) -> Result<Watermarks, Failure> {
        self.0.watermarks(partition).await
    }

    async fn partitions(&self, topic: &Topic) -> Result<u32, Failure> {
        self.0.partitions(topic).await
    }
}

#[async_trait]
impl Consumer for CopyingConsumer {
    async fn next(&mut self) -> Result<Delivery, Failure> {
        let mut delivery = self.0.next().await?;
        if let Delivery::Records(records) = &mut delivery {
            for delivered in records {
                delivered.record.value = Bytes::copy_from_slice(&delivered.record.value);
                for (_, value) in &mut delivered.record.headers.0 {
                    *value = Bytes::copy_from_slice(value);
                }
            }
        }
        Ok(delivery)
    }

    async fn report(&mut self, positions: Vec<Position>) -> Result<(), Failure> {
        self.0.report(positions).await
    }

    fn seek(&mut self, position: Position) {
        self.0.seek(position);
    }

    fn pause(&mut self, partitions: &[Partition]) {
        if self.1 == Pause::Heard {
            self.0.pause(partitions);
        }
    }

    fn resume(&mut self, partitions: &[Partition]) {
        self.0.resume(partitions);
    }

    async fn close(self: Box<Self>) {
        self.0.close().await;
    }
}

/// A record whose weight is in a header, which the ledger does not read.
fn record(cluster: &Cluster, number: u64) -> Record {
    let id = derive_id("test", &[&number.to_be_bytes()]);
    let emission = emission(Script::Entry, &format!("a{}", number % 100), number);
    let mut record = emission.into_record(&ConsumerName::from("test"), id, cluster.clock.now(), None);
    record.headers.push("weight", vec![b'x'; RECORD_BYTES]);
    record
}

/// How much more is alive at the worst moment than before the worker began, with so many records before it.
async fn peak_over(lag: u64, pause: Pause) -> usize {
    let cluster = Cluster::new(1);
    let publisher = cluster.broker.client(ClientConfig::new("publisher"));
    for from in (0..lag).step_by(500) {
        let records = (from..lag.min(from + 500)).map(|number| record(&cluster, number)).collect();
        publisher.publish(records).await.into_iter().for_each(|result| drop(result.unwrap()));
    }
    cluster.appended("events");
    let config = ClientConfig { fetch_max_bytes: FETCH_BYTES, ..ClientConfig::new("ledger").scaled_down(10) };
    let broker = Arc::new(Copying(cluster.broker.client(config), pause));
    let database = Arc::new(Slow(cluster.database_client("ledger")));
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let worker = cluster.worker_on((broker, database), &Ledger::default(), |config| {
        (config.lanes, config.batch_records, config.batch_bytes) = (1, 100, 128 << 10);
        config.buffer_bytes = BUFFER_BYTES as u64;
    });
    tokio::time::sleep(Duration::from_secs(20)).await;
    let peak = HEAP.peak_usage() - before;
    let taken = cluster.tables().inbox.len() as u64;
    assert!((500..lag).contains(&taken), "{taken} of {lag} were taken: that measures no lag");
    worker.kill().await;
    peak
}

#[tokio::test(start_paused = true)]
async fn ten_times_the_lag_takes_no_more_memory() {
    let (peak, peak_of_ten) = (peak_over(4_000, Pause::Heard).await, peak_over(40_000, Pause::Heard).await);
    println!("{peak} bytes at the peak with a lag of 4,000, {peak_of_ten} with 40,000");
    assert!(peak_of_ten * 2 < peak * 3, "{peak} bytes became {peak_of_ten}");
    assert!(peak_of_ten < (BUFFER_BYTES + FETCH_BYTES) * OVERHEAD, "{peak_of_ten} bytes");
    // What bounds it is the pause: without it, the same measurement sees the whole lag.
    let unbounded = peak_over(40_000, Pause::Ignored).await;
    println!("{unbounded} with 40,000 and no pause");
    assert!(unbounded > 40_000 * RECORD_BYTES, "{unbounded} bytes");
}
