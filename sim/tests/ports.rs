//! The port decorators: what they inject is what the contracts allow, and a seed is a schedule.

#![allow(clippy::unwrap_used, reason = "a test that finds none here has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use stormglass_embedded::{broker, database, machine::Server};
use stormglass_runtime::{
    Cause, ConsumerName, Database, Failure, Headers, Image, Partition, Position, Producer, Record, Statement,
    Topic,
};
use stormglass_sim::{FaultClass, Host, NodeHooks, PortFaults, Rates, World, WorldOptions};

fn stormy(seed: u64) -> WorldOptions {
    let rates = Rates { error_before: 0.05, error_after: 0.05, lost_ack: 0.05, late: 0.0 };
    WorldOptions { port_faults: PortFaults::Rates(rates), ..WorldOptions::new(seed) }
}

fn run_until_over(world: &mut World, host: &str) {
    for _ in 0..20_000 {
        world.step().unwrap();
        if !world.is_running(host).unwrap() {
            return;
        }
    }
    panic!("{host} is still busy");
}

type Outcomes = Arc<Mutex<BTreeMap<u32, Result<(), Failure>>>>;

/// Opens positions 0 to 299, one transaction each, and notes what it was told.
async fn transact(host: Host, client: database::Client, outcomes: Outcomes) -> stormglass_sim::ProcessResult {
    let database: Arc<dyn Database<Image>> = host.stormy_database(Arc::new(client));
    let topic = Topic::from("numbers");
    for number in 0..300 {
        let transaction = async {
            let mut session = database.begin().await?;
            for consumer in ["one", "two"] {
                let positions = vec![Partition::new(&topic, number).at(0)];
                let consumer = ConsumerName::from(consumer);
                session.execute(Statement::OpenPositions { consumer, positions }).await?;
            }
            session.commit().await
        };
        let outcome = transaction.await;
        outcomes.lock().unwrap().insert(number, outcome);
    }
    Ok(())
}

#[test]
fn a_transaction_is_done_or_not_done_as_its_outcome_says() {
    let schema = database::Schema::of::<Image>();
    let server = Server::new(database::Cluster::new(schema, database::Config::default()));
    let mut world = World::raise(stormy(1));
    let cluster = world.cluster(&["primary", "replica"], server.clone(), NodeHooks::default());
    let outcomes = Outcomes::default();
    let noted = Arc::clone(&outcomes);
    world.host("client", move |host| {
        let client = database::Client::new(host.transport(&cluster), database::ClientConfig::default());
        transact(host, client, Arc::clone(&noted))
    });
    run_until_over(&mut world, "client");

    let stored: BTreeSet<u32> =
        server.with(|db| db.tables().positions.keys().map(|key| key.1.index).collect());
    let stored_whole = server.with(|db| db.tables().positions.len());
    assert_eq!(stored_whole, stored.len() * 2, "a transaction was half done");
    let (mut unknown_done, mut unknown_not_done, mut causes) = (0, 0, BTreeSet::new());
    for (number, outcome) in &*outcomes.lock().unwrap() {
        let done = stored.contains(number);
        match outcome {
            Ok(()) => assert!(done, "{number} is lost"),
            Err(Failure::NotDone(cause)) => {
                assert!(!done, "{number} was done after all: {cause}");
                causes.insert(*cause);
            }
            Err(Failure::Unknown(_)) if done => unknown_done += 1,
            Err(Failure::Unknown(_)) => unknown_not_done += 1,
            Err(Failure::Rejected(reason)) => panic!("{reason}"),
        }
    }
    assert!(unknown_done > 5 && unknown_not_done > 1, "{unknown_done} done, {unknown_not_done} not");
    assert!(causes.len() > 4, "{causes:?}");
    let strikes = world.strikes();
    assert!(strikes.of(FaultClass::PortError) > 50 && strikes.of(FaultClass::LostAck) > 5, "{strikes:?}");
    server.with(|db| assert_eq!((db.open_transactions(), db.held_locks()), (0, 0)));
}

fn record(key: u8, number: u32) -> Record {
    Record {
        topic: Topic::from("orders"),
        key: Some(vec![key].into()),
        headers: Headers::default(),
        value: number.to_be_bytes().to_vec().into(),
    }
}

type Reports = Arc<Mutex<Vec<(Record, Result<Position, Failure>)>>>;

/// Publishes 60 batches of 12 records on three keys.
async fn publish(host: Host, client: broker::Client, reports: Reports) -> stormglass_sim::ProcessResult {
    let producer = host.stormy_producer(Arc::new(client) as Arc<dyn Producer>);
    for batch in 0..60 {
        let records: Vec<Record> = (0..12).map(|n| record(n as u8 % 3, batch * 12 + n)).collect();
        let published = producer.publish(records.clone()).await;
        reports.lock().unwrap().extend(records.into_iter().zip(published));
    }
    Ok(())
}

#[test]
fn a_record_that_fails_takes_its_followers_with_it_and_no_key_is_reordered() {
    let topics = vec![broker::TopicConfig::new("orders", 2)];
    let server = Server::new(broker::Cluster::new(broker::ClusterConfig::new(topics)));
    let mut world = World::raise(stormy(2));
    let cluster = world.cluster(&["kafka-0", "kafka-1", "kafka-2"], server.clone(), NodeHooks::default());
    let reports = Reports::default();
    let noted = Arc::clone(&reports);
    world.host("client", move |host| {
        let client = broker::Client::new(host.transport(&cluster), broker::ClientConfig::new("client"));
        publish(host, client, Arc::clone(&noted))
    });
    run_until_over(&mut world, "client");

    let mut log: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
    for event in server.with(broker::Cluster::drain_observed) {
        if let broker::Observed::Appended { record, .. } = event {
            let number = u32::from_be_bytes(record.value.as_ref().try_into().unwrap());
            log.entry(record.key.clone().unwrap().to_vec()).or_default().push(number);
        }
    }
    assert!(log.values().all(|numbers| numbers.is_sorted()), "{log:?}");
    let mut kinds = BTreeMap::<String, u32>::new();
    for batch in reports.lock().unwrap().chunks(12) {
        let mut failed = BTreeSet::new();
        for (record, report) in batch {
            let key = record.key.clone().unwrap().to_vec();
            let number = u32::from_be_bytes(record.value.as_ref().try_into().unwrap());
            let appended = log.get(&key).is_some_and(|numbers| numbers.contains(&number));
            match report {
                Ok(_) => assert!(appended),
                Err(Failure::NotDone(_)) => assert!(!appended),
                Err(Failure::Unknown(_) | Failure::Rejected(_)) => {}
            }
            let behind = failed.contains(&key);
            assert_eq!(behind, *report == Err(Failure::NotDone(Cause::Predecessor)), "{report:?}");
            if let Err(failure) = report {
                failed.insert(key);
                *kinds.entry(format!("{failure}")).or_default() += 1;
            }
        }
    }
    assert!(kinds.len() >= 5, "{kinds:?}");
}

/// The order in which four tasks that make the same calls are through with them.
fn interleaving(seed: u64, lingers: bool) -> String {
    let mut world = World::raise(WorldOptions::new(seed));
    let order = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&order);
    world.host("host", move |host| {
        let noted = Arc::clone(&noted);
        async move {
            let tasks = ["a", "b", "c", "d"].map(|task| {
                let (host, noted) = (host.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    for step in 0..3 {
                        if lingers {
                            host.port_call("step", &(task, step)).linger().await;
                        }
                        noted.lock().unwrap().push_str(task);
                        tokio::task::yield_now().await;
                    }
                })
            });
            for task in tasks {
                task.await?;
            }
            Ok(())
        }
    });
    run_until_over(&mut world, "host");
    order.lock().unwrap().clone()
}

#[test]
fn each_seed_takes_its_own_interleaving_and_the_same_one_again() {
    let distinct = |lingers| (0..200).map(|seed| interleaving(seed, lingers)).collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(false), 1, "without the storm's say the order never varies by itself");
    let with = distinct(true);
    println!("{with} interleavings of 4 tasks with 3 calls each in 200 seeds");
    assert!(with > 150, "{with}");
    assert_eq!(interleaving(17, true), interleaving(17, true));
}

#[test]
fn a_drawn_fault_of_one_call_does_not_move_with_other_calls() {
    let strikes = |extra: bool| {
        let mut world = World::raise(stormy(9));
        world.host("host", move |host| async move {
            for n in 0..200_u32 {
                if extra {
                    let other = host.port_call("site", &("other", n));
                    other.fails_before();
                }
                host.port_call("site", &("same", n)).fails_before();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        });
        run_until_over(&mut world, "host");
        world.strikes_since(0).into_iter().map(|strike| strike.draw).collect::<BTreeSet<_>>()
    };
    let (alone, among_others) = (strikes(false), strikes(true));
    assert!(alone.len() > 3 && among_others.len() > alone.len());
    assert!(alone.is_subset(&among_others));
}
