//! What only a real cluster can be asked, or only this client.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt, future, stream};
use rdkafka::{
    ClientConfig,
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};
use stormglass_embedded::broker::OffsetReset;
use stormglass_runtime::{
    Broker as _, Cause, DurabilityFacts, Failure, Producer as _, Reason, Record, Topic,
};
use stormglass_server::kafka::{Created, KafkaConfig, NewTopic};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cases::sut::*,
    real::{Real, blocking},
};

type Case = fn(Real) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// All of them, by name.
pub const CASES: [(&str, Case); 9] = [
    ("b2_transactions_leave_gaps_and_caught_up_is_the_watermark", |real| Box::pin(gaps(real))),
    ("b17_a_report_of_who_was_thrown_out_is_fenced", |real| Box::pin(fenced(real))),
    ("b23_retention_that_overtakes_a_member_is_seen_in_its_offsets", |real| Box::pin(stepped(real))),
    ("b23_retention_that_overtakes_a_member_is_refused_where_nothing_is_reset", |real| {
        Box::pin(refused(real))
    }),
    ("a_partition_without_a_leader_keeps_back_none_beside_it", |real| Box::pin(leaderless(real))),
    ("b14_a_batch_too_large_for_the_topic_fails_nobody_but_the_record_that_is", |real| Box::pin(batch(real))),
    ("g11_a_topic_is_created_and_described", |real| Box::pin(topics(real))),
    ("keys_keep_their_order_in_bulk", |real| Box::pin(bulk(real))),
    ("a_cluster_out_of_reach_is_not_done", |real| Box::pin(nobody(real))),
];

/// B2: markers of transactions take offsets.
async fn gaps(real: Real) {
    let sut = Kind::start(&real, Setup::default()).await;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", real.site.cluster.operator()).set("transactional.id", "gaps");
    let topic = real.names.topic.as_str();
    blocking(|| {
        let producer: ThreadedProducer<_> = config.create().unwrap();
        producer.init_transactions(LONG).unwrap();
        for value in ["0", "1"] {
            producer.begin_transaction().unwrap();
            producer.send(BaseRecord::to(topic).key("k").payload(value)).ok().unwrap();
            producer.commit_transaction(LONG).unwrap();
        }
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to(topic).key("k").payload("aborted")).ok().unwrap();
        producer.flush(LONG).unwrap();
        producer.abort_transaction(LONG).unwrap();
    });
    let (client, _) = sut.client(Tuning::default());
    assert_eq!(client.watermarks(&partition(0)).await.unwrap().end, 6);
    let read = read_all(&*sut, 0).await;
    assert_eq!(read[&partition(0)], [(0, "0".to_owned()), (2, "1".to_owned())]);
}

/// B17, through the port: the member did not poll, and its group went on without it.
async fn fenced(real: Real) {
    let sut = Kind::start(&real, Setup::default()).await;
    let tuning = Tuning { max_poll_interval: Duration::from_secs(5), ..Tuning::default() };
    let ((one, _), (two, _)) = (sut.client(tuning), sut.client(tuning));
    let mut a = Member::join(&one).await;
    a.until(|member| member.owned.len() == 1).await;
    assert_eq!(a.consumer.report(vec![partition(0).at(1)]).await, Ok(()));
    let mut b = Member::join(&two).await;
    b.until(|member| member.owned.len() == 1).await;
    assert_eq!(a.consumer.report(vec![partition(0).at(2)]).await, Err(Failure::NotDone(Cause::Fenced)));
    assert_eq!(sut.committed(&group(), &partition(0)).await, Some(1));
    a.until(|member| member.lost.len() == 1).await;
}

/// B23 while it runs: what is skipped is not told of, but the next offset and the range tell.
async fn stepped(real: Real) {
    let (sut, client, mut member) = overtaken(&real, OffsetReset::Earliest).await;
    member.until(|member| member.seen.len() == 5).await;
    let offsets: Vec<_> = member.seen.iter().map(|(at, _)| at.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 6, 7]);
    assert_eq!(range(&client).await, (6, 8));
    // Nothing is remembered of the range either.
    sut.delete_records(&partition(0), 7).await;
    assert_eq!(range(&client).await, (7, 8));
}

async fn refused(real: Real) {
    let (_sut, client, mut member) = overtaken(&real, OffsetReset::Fail).await;
    let told = async {
        loop {
            match member.consumer.next().await {
                Err(Failure::Rejected(_)) => return,
                // The cut that let retention overtake it.
                Err(_) => sleep(Duration::from_millis(50)).await,
                Ok(delivery) => panic!("{delivery:?}"),
            }
        }
    };
    timeout(LONG, told).await.unwrap();
    let (start, _) = range(&client).await;
    member.consumer.seek(partition(0).at(start));
    member.until(|member| member.seen.len() == 5).await;
    assert_eq!(member.values(), ["0", "1", "2", "6", "7"]);
}

/// A member that has read three records of eight when it is cut off for a moment, and all but the last two are removed.
async fn overtaken(real: &Real, reset: OffsetReset) -> (Box<dyn Sut>, Arc<dyn Kafka>, Member) {
    let sut = Kind::start(real, Setup::default()).await;
    let ((writer, _), (reader, faults)) =
        (sut.client(Tuning::default()), sut.client(Tuning { reset, ..Tuning::default() }));
    let mut member = Member::join(&reader).await;
    member.until(|member| member.owned.len() == 1).await;
    for value in 0..8 {
        if value == 3 {
            member.until(|member| member.seen.len() == 3).await;
            Faults::raise(&faults.deaf);
        }
        publish(&writer, "k", &value.to_string()).await.unwrap();
    }
    sut.delete_records(&partition(0), 6).await;
    Faults::lower(&faults.deaf);
    (sut, writer, member)
}

async fn range(client: &Arc<dyn Kafka>) -> (i64, i64) {
    let range = client.watermarks(&partition(0)).await.unwrap();
    (range.start, range.end)
}

/// The only broker of the first partition is away when a member joins.
async fn leaderless(real: Real) {
    real.create_topic(&Setup { partitions: 2, ..Setup::default() }, 1).await;
    let (client, _) = real.client(Tuning::default());
    let keys: Vec<String> = (0..8).map(|key| key.to_string()).collect();
    let results = client.publish(keys.iter().map(|key| record(key, key)).collect()).await;
    let stored: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    let of = |index: u32| stored.iter().filter(|at| at.partition.index == index).count();
    assert!(of(0) > 0 && of(1) > 0, "{stored:?}");
    let alone = real.leader(&partition(0)).await.unwrap();
    Sut::kill(&real, alone).await;
    let mut member = Member::join(&client).await;
    member.until(|member| member.seen.len() == of(1)).await;
    assert_eq!(member.owned, [partition(1)]);
    Sut::start(&real, alone).await;
    member.until(|member| member.seen.len() == 8).await;
    assert_eq!(member.owned, [partition(0), partition(1)]);
    assert!(member.lost.is_empty() && member.revoked.is_empty());
}

/// The topic refuses batches of a size that the client makes; every record in them would fit.
async fn batch(real: Real) {
    let sut = Kind::start(&real, Setup { max_record_bytes: 5_000, ..Setup::default() }).await;
    let (client, _) = real.connect(Tuning::default(), |config| KafkaConfig { linger_ms: 200, ..config });
    let client = real.renamed(client);
    let value = "x".repeat(1_000);
    let mut records: Vec<_> = (0..40).map(|key| record(&format!("key-{}", key % 20), &value)).collect();
    records.insert(7, record("large", &"x".repeat(10_000)));
    records.insert(8, record("large", "behind"));
    let results = client.publish(records).await;
    assert!(
        matches!(results[7], Err(Failure::Rejected(Reason::TooLarge { bytes: 10_005, .. }))),
        "{:?}",
        results[7]
    );
    assert_eq!(results[8], Err(Failure::NotDone(Cause::Predecessor)));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 40, "{results:?}");
    assert_eq!(values(&*sut).await.len(), 40);
}

async fn topics(real: Real) {
    let (client, _) = real.connect(Tuning::default(), |config| config);
    let topic = Topic::from("described");
    let retention = Some(Duration::from_secs(86_400));
    let new = NewTopic { topic: topic.clone(), partitions: 4, replicas: 3, min_insync: 2, retention };
    assert_eq!(client.create_topic(&new).await, Ok(Created::Now));
    let described = loop {
        match client.describe_topic(&topic).await {
            Ok(facts) => break facts,
            // It takes a while until every broker knows it.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    };
    let facts = DurabilityFacts {
        topic: topic.clone(),
        replicas: 3,
        min_insync: 2,
        unclean_election: false,
        compacted: false,
        retention,
    };
    assert_eq!(described, facts);
    assert_eq!(client.partitions(&topic).await, Ok(4));
    assert_eq!(client.create_topic(&new).await, Ok(Created::Before));
    let impossible = NewTopic { topic: Topic::from("impossible"), replicas: 9, ..new };
    assert!(matches!(client.create_topic(&impossible).await, Err(Failure::Rejected(_))));
}

async fn nobody(real: Real) {
    let tuning = Tuning { delivery_timeout: Duration::from_secs(4), ..Tuning::default() };
    let nowhere = "127.0.0.1:1".to_owned();
    let (client, _) = real.connect(tuning, |config| KafkaConfig { brokers: nowhere, ..config });
    assert!(matches!(client.partitions(&topic()).await, Err(Failure::NotDone(_))));
    assert!(matches!(client.watermarks(&partition(0)).await, Err(Failure::NotDone(_))));
    assert!(matches!(client.subscribe(&group(), &[topic()]).await.err(), Some(Failure::NotDone(_))));
    assert!(matches!(client.publish(vec![record("k", "v")]).await[..], [Err(Failure::NotDone(_))]));
}

/// As a relay publishes, one batch after the other, and as gateways do, one record each; then all of it is read. The
/// rates are printed for whoever looks; what is held is that every key's records come in the order they were given.
async fn bulk(real: Real) {
    let sut = Kind::start(&real, Setup { partitions: 8, ..Setup::default() }).await;
    // However slow the machine is: what is held is the order.
    let tuning = Tuning { delivery_timeout: LONG, ..Tuning::default() };
    let (client, _) = real.connect(tuning, |config| KafkaConfig { linger_ms: 5, ..config });
    let client = real.renamed(client);
    let begun = Instant::now();
    for batch in 0..BATCHES {
        let records = (batch * BATCH..(batch + 1) * BATCH).map(in_turn).collect();
        assert!(client.publish(records).await.iter().all(Result::is_ok));
    }
    rate("published in batches of 1,000", begun);
    let begun = Instant::now();
    let single = |number: usize| client.publish(vec![record(&format!("single-{number}"), "")]);
    let singles = stream::iter((0..BATCHES * BATCH).map(single)).buffer_unordered(2_000);
    let stored = singles.filter(|results| future::ready(results[0].is_ok())).count().await;
    assert_eq!(stored, BATCHES * BATCH);
    rate("published one by one, 2,000 at a time", begun);
    let (reader, _) = sut.client(Tuning::default());
    let mut member = Member::join(&reader).await;
    member.until(|member| member.owned.len() == 8).await;
    let begun = Instant::now();
    member.until(|member| member.seen.len() == 2 * BATCHES * BATCH).await;
    rate("read, half of", begun);
    let mut last: BTreeMap<usize, usize> = BTreeMap::new();
    for number in member.seen.iter().filter_map(|(_, value)| value.parse::<usize>().ok()) {
        let before = last.insert(number % KEYS, number);
        assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
    }
    assert_eq!(last.len(), KEYS);
}

const BATCHES: usize = 30;
const BATCH: usize = 1_000;
/// A batch holds every key twice.
const KEYS: usize = 500;

fn in_turn(number: usize) -> Record {
    record(&format!("key-{}", number % KEYS), &number.to_string())
}

fn rate(what: &str, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    println!("    {what}: {:.0} records/s", (BATCHES * BATCH) as f64 / seconds);
}
