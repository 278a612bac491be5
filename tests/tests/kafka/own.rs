//! What only a real cluster can be asked, or only this client.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use futures::{StreamExt, future, stream};
use rdkafka::{
    ClientConfig,
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};
use stormglass_runtime::{
    Broker as _, Cause, DurabilityFacts, Failure, Producer as _, Reason, Record, Topic,
};
use stormglass_server::kafka::{Created, Kafka as Client, KafkaConfig, NewTopic};
use tokio::time::{Instant, sleep};

use crate::{cases::sut::*, real::Real};

type Case = fn(Real) -> Pin<Box<dyn Future<Output = ()>>>;

/// All of them, by name.
pub const CASES: [(&str, Case); 6] = [
    ("b2_transactions_leave_gaps_and_caught_up_is_the_watermark", |real| Box::pin(gaps(real))),
    ("b17_a_report_of_who_was_thrown_out_is_fenced", |real| Box::pin(fenced(real))),
    ("b14_a_batch_too_large_for_the_topic_fails_nobody_but_the_record_that_is", |real| Box::pin(batch(real))),
    ("g11_a_topic_is_created_and_described", |real| Box::pin(topics(real))),
    ("keys_keep_their_order_in_bulk", |real| Box::pin(bulk(real))),
    ("a_cluster_out_of_reach_is_not_done", |real| Box::pin(nobody(real))),
];

/// B2: markers of transactions take offsets.
async fn gaps(real: Real) {
    let sut = Kind::start(&real, Setup::default()).await;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", real.0.operator()).set("transactional.id", "gaps");
    let producer: ThreadedProducer<_> = config.create().unwrap();
    producer.init_transactions(LONG).unwrap();
    for value in ["0", "1"] {
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to(topic().as_str()).key("k").payload(value)).ok().unwrap();
        producer.commit_transaction(LONG).unwrap();
    }
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to(topic().as_str()).key("k").payload("aborted")).ok().unwrap();
    producer.flush(LONG).unwrap();
    producer.abort_transaction(LONG).unwrap();
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

/// The topic refuses batches of a size that the client makes; every record in them would fit.
async fn batch(real: Real) {
    let sut = Kind::start(&real, Setup { max_record_bytes: 5_000, ..Setup::default() }).await;
    let (servers, _) = real.0.client();
    let client = Client::start(KafkaConfig { linger_ms: 200, ..real.config(servers, Tuning::default()) });
    let client = client.unwrap();
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
    Kind::start(&real, Setup::default()).await;
    let (servers, _) = real.0.client();
    let client = Client::start(real.config(servers, Tuning::default())).unwrap();
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
    let config = real.config(
        "127.0.0.1:1".to_owned(),
        Tuning { delivery_timeout: Duration::from_secs(4), ..Tuning::default() },
    );
    let client = Client::start(config).unwrap();
    assert!(matches!(client.partitions(&topic()).await, Err(Failure::NotDone(_))));
    assert!(matches!(client.watermarks(&partition(0)).await, Err(Failure::NotDone(_))));
    assert!(matches!(client.subscribe(&group(), &[topic()]).await.err(), Some(Failure::NotDone(_))));
    assert!(matches!(client.publish(vec![record("k", "v")]).await[..], [Err(Failure::NotDone(_))]));
}

/// As a relay publishes, one batch after the other, and as gateways do, one record each; then all of it is read. The
/// rates are printed for whoever looks; what is held is that every key's records come in the order they were given.
async fn bulk(real: Real) {
    let sut = Kind::start(&real, Setup { partitions: 8, ..Setup::default() }).await;
    let (servers, _) = real.0.client();
    let config = KafkaConfig { linger_ms: 5, ..real.config(servers, Tuning::default()) };
    let client = Client::start(config).unwrap();
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

const BATCHES: usize = 100;
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
