//! The relay without guarantees: read the oldest rows, publish them all at once, delete them. No lease, no order within
//! a key if a record fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::Builder,
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};
use stormglass_runtime::Headers;

use crate::{Fallible, bed::Bed, table::Round, worker::between};

/// A row of the outbox.
type Row = (i64, String, Option<Vec<u8>>, Vec<u8>, Vec<u8>);

/// Publishes `events` rows of the outbox.
pub async fn round(bed: &Bed, events: u64) -> Fallible<Round> {
    let cpu = bed.servers.cpu()?;
    let (published, began) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let one = Loop {
        producer: producer(bed)?,
        session: bed.settings.database().sessions().remove(0),
        batch: bed.settings.relay.batch_records,
        published: Arc::clone(&published),
        began: Arc::clone(&began),
        events,
    };
    let thread = Builder::new().spawn(move || one.run().map_err(|error| error.to_string()))?;
    let seconds = between(
        || began.load(Ordering::Relaxed) > 0 || thread.is_finished(),
        || published.load(Ordering::Relaxed) >= events || thread.is_finished(),
    )
    .await?;
    let transactions = thread.join().map_err(|_| "the raw relay panicked")??;
    Ok(Round { events, seconds, cpu: bed.servers.cpu()?.since(cpu), transactions })
}

/// As production's, idempotence included: without it the order of a key would not survive a retry.
fn producer(bed: &Bed) -> Fallible<BaseProducer> {
    let kafka = &bed.settings.kafka;
    Ok(ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", kafka.linger_ms.to_string())
        .set("batch.size", kafka.batch_bytes.to_string())
        .create()?)
}

struct Loop {
    producer: BaseProducer,
    session: PgConnectOptions,
    batch: u32,
    published: Arc<AtomicU64>,
    began: Arc<AtomicU64>,
    events: u64,
}

impl Loop {
    /// How many transactions it took.
    fn run(self) -> Fallible<u64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut on = self.session.connect().await?;
            let (mut done, mut transactions) = (0, 0);
            while done < self.events {
                let mut transaction = on.begin().await?;
                let rows: Vec<Row> = sqlx::query_as(
                    "SELECT seq, topic, key, headers, value FROM outbox ORDER BY seq LIMIT $1",
                )
                .bind(i64::from(self.batch))
                .fetch_all(&mut *transaction)
                .await?;
                self.began.store(1, Ordering::Relaxed);
                self.publish(&rows)?;
                let seqs: Vec<i64> = rows.iter().map(|row| row.0).collect();
                sqlx::query("DELETE FROM outbox WHERE seq = ANY ($1)")
                    .bind(seqs)
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                done += rows.len() as u64;
                transactions += 1;
                self.published.store(done, Ordering::Relaxed);
            }
            Ok(transactions)
        })
    }

    /// Publishes and waits for all reports. A record that fails is not noticed: plain code seldom looks.
    fn publish(&self, rows: &[Row]) -> Fallible<()> {
        for (_, topic, key, headers, value) in rows {
            let headers: Headers = postcard::from_bytes(headers)?;
            let sent = headers.0.iter().fold(OwnedHeaders::new(), |sent, (key, value)| {
                sent.insert(Header { key, value: Some(&value[..]) })
            });
            let record = BaseRecord::to(topic).key(key.as_deref().unwrap_or_default()).payload(value);
            self.producer.send(record.headers(sent)).map_err(|(error, _)| error)?;
        }
        Ok(self.producer.flush(Duration::from_secs(30))?)
    }
}
