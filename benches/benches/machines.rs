//! What one operation of the state machines costs: requests handled directly, without clients or futures.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stormglass_benches::{Kafka, Postgres, image, orders_placed, stock};
use stormglass_orders::TOPIC;
use stormglass_runtime::{
    AfterDeath, Answer, Claim, ConsumerName, EventId, Image, ImageKey, InboxEntry, NewPending, OrderingKey,
    Partition, PendingChange, PendingId, RowSet, Statement, Topic, Verdict, Versioned, derive_id,
};
use uuid::Uuid;

/// Rows or records of one statement.
const BATCH: u32 = 100;

fn database(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("database");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("inbox", |bencher| {
        let (mut postgres, mut taken) = (Postgres::default(), 0_u64);
        bencher.iter(|| {
            let entries = (0..BATCH).map(|_| entry(&mut taken)).collect();
            postgres.execute(Statement::TakeInbox { consumer: consumer(), entries });
            postgres.commit();
        });
    });
    group.bench_function("update", |bencher| {
        let (mut postgres, rows) = with_stock();
        let keys: Vec<ImageKey> = rows.iter().map(RowSet::key).collect();
        bencher.iter(|| update(&mut postgres, &keys));
    });
    group.bench_function("queue", |bencher| {
        let (mut postgres, mut turn) = (Postgres::default(), 0_u128);
        bencher.iter(|| queue(&mut postgres, &mut turn));
    });
    group.bench_function("outbox", |bencher| {
        let (mut postgres, records) = (Postgres::default(), orders_placed(BATCH, 1));
        bencher.iter(|| {
            postgres.execute(Statement::Emit { records: records.clone() });
            postgres.commit();
            let Answer::Outbox(rows) = postgres.execute(Statement::ReadOutbox { limit: BATCH }) else {
                return;
            };
            let seqs = rows.iter().map(|row| row.seq).collect();
            assert_eq!(postgres.execute(Statement::DeleteOutbox { seqs }), Answer::Count(BATCH.into()));
            postgres.commit();
        });
    });
    group.finish();
}

fn consumer() -> ConsumerName {
    ConsumerName::from("inventory")
}

fn entry(taken: &mut u64) -> InboxEntry {
    *taken += 1;
    let at = Partition::new(&Topic::from(TOPIC), 0).at(i64::try_from(*taken).unwrap_or(i64::MAX));
    InboxEntry { event_id: EventId(derive_id("bench/v1", &[&taken.to_be_bytes()])), at }
}

fn with_stock() -> (Postgres, Vec<Image>) {
    let mut rows: Vec<Image> = stock(BATCH).iter().map(image).collect();
    rows.sort();
    let mut postgres = Postgres::default();
    postgres.execute(Statement::InsertRows { table: "stock".to_owned(), rows: rows.clone() });
    postgres.commit();
    (postgres, rows)
}

fn update(postgres: &mut Postgres, keys: &[ImageKey]) {
    let lock = Statement::LockRows { table: "stock".to_owned(), keys: keys.to_vec() };
    let Answer::Rows(rows) = postgres.execute(lock) else { return };
    assert_eq!(rows.len(), keys.len());
    let rows: Vec<Versioned<Image>> = rows;
    let updated = postgres.execute(Statement::UpdateRows { table: "stock".to_owned(), rows });
    assert_eq!(updated, Answer::Count(BATCH.into()));
    postgres.commit();
}

/// Enqueues rows of as many keys, claims them, and deletes them: three transactions.
fn queue(postgres: &mut Postgres, turn: &mut u128) {
    *turn += 1;
    let rows = orders_placed(BATCH, 1).into_iter().map(|record| NewPending {
        key: OrderingKey(record.key.clone().unwrap_or_default()),
        event_id: EventId(Uuid::nil()),
        origin: Partition::new(&record.topic, 0).at(0),
        record,
        call: Some(Bytes::from_static(b"{}")),
        attempts: 0,
        due_in: Duration::ZERO,
        error: None,
        verdict: Verdict::Waiting,
    });
    postgres.execute(Statement::Enqueue { consumer: consumer(), rows: rows.collect() });
    postgres.commit();
    let claim = Claim { id: Uuid::from_u128(*turn), lease: Duration::from_secs(60) };
    let after_death = AfterDeath::Hold;
    let claimed =
        postgres.execute(Statement::Claim { consumer: consumer(), claim, limit: BATCH, after_death });
    let Answer::Pending(rows) = claimed else { return };
    postgres.commit();
    let ids: Vec<PendingId> = rows.into_iter().map(|row| row.id).collect();
    let changes = ids.into_iter().map(PendingChange::Delete).collect();
    let deleted = postgres.execute(Statement::ChangePending { consumer: consumer(), changes });
    assert_eq!(deleted, Answer::Count(BATCH.into()));
    postgres.commit();
}

fn broker(criterion: &mut Criterion) {
    let records: Vec<_> = orders_placed(BATCH, 1).into_iter().map(Arc::new).collect();
    let mut group = criterion.benchmark_group("broker");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("produce", |bencher| {
        let mut kafka = Kafka::new(TOPIC);
        bencher.iter(|| kafka.produce(&records));
    });
    group.bench_function("fetch", |bencher| {
        let mut kafka = Kafka::new(TOPIC);
        kafka.produce(&records);
        bencher.iter(|| assert_eq!(kafka.fetch(0, usize::MAX), records.len()));
    });
    group.finish();
}

criterion_group!(benches, database, broker);
criterion_main!(benches);
