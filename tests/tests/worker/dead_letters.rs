//! G5: a dead letter is there once, its key is held or goes on, and an operator decides what becomes of it.

use stormglass_embedded::database::Config;
use stormglass_runtime::{AfterDeath, Audit, DEAD_LETTER, DISCARDED, Headers, Record};

use crate::{
    cluster::{Cluster, garbage},
    ledger::{FORBIDDEN, Ledger, Script, given_up},
};

fn audit(cluster: &Cluster) -> Audit {
    Audit { by: "operator".to_owned(), reason: "test".to_owned(), at: cluster.clock.now() }
}

fn is_dead(cluster: &Cluster) -> bool {
    cluster.tables().pending.values().any(|row| row.dead_at.is_some())
}

fn of_type<'a>(records: &'a [Record], kind: &str) -> Vec<&'a Record> {
    records.iter().filter(|record| record.headers.text("ce_type") == Some(kind)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_holds_its_key_until_it_is_redriven_in_its_place() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    let (worker, relay) = (cluster.worker(&ledger, |_| {}), cluster.relay());
    cluster.publish(Script::Refused, "a", 1).await;
    cluster.publish(Script::Entry, "a", 2).await;
    cluster.until("death", is_dead).await;
    cluster.publish(Script::Entry, "a", 3).await;
    cluster.publish(Script::Entry, "b", 4).await;
    cluster
        .until("the other key", |cluster| cluster.entries("b") == [4] && cluster.tables().inbox.len() == 5)
        .await;
    assert_eq!(cluster.entries("a"), [given_up(1)]);
    ledger.provider().gate = true;
    let dead = cluster.dead_letters().list(10).await.unwrap();
    assert_eq!((dead.len(), dead[0].attempts), (1, 3));
    let redriven = cluster.dead_letters().redrive(&[dead[0].id.clone()], &audit(&cluster)).await;
    assert_eq!(redriven, Ok(1));
    cluster.settled().await;
    assert_eq!(cluster.entries("a"), [given_up(1), 1, 2, 3]);
    let letters = cluster.appended("ledger.dlq");
    let letters = of_type(&letters, DEAD_LETTER);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].headers.text("origin-offset"), Some("0"));
    assert_eq!(letters[0].headers.text("attempts"), Some("3"));
    assert_eq!(letters[0].headers.text("origin.ce_type"), Some("refused"));
    worker.drain().await;
    relay.drain().await;
}

#[tokio::test(start_paused = true)]
async fn under_skip_the_key_goes_on() {
    let cluster = Cluster::new(1);
    let worker = cluster.worker(&Ledger::default(), |config| config.after_death = AfterDeath::Skip);
    cluster.publish(Script::Refused, "a", 1).await;
    cluster.publish(Script::Entry, "a", 2).await;
    cluster.publish(Script::Hopeless, "a", 3).await;
    cluster.publish(Script::Entry, "a", 4).await;
    cluster.until("the end", |cluster| cluster.entries("a") == [given_up(1), 2, given_up(3), 4]).await;
    cluster.publish(Script::Entry, "a", 5).await;
    cluster.until("one more", |cluster| cluster.entries("a").ends_with(&[5])).await;
    assert_eq!(cluster.tables().pending.len(), 2);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_discarded_letter_is_gone_with_a_record_of_who_and_why() {
    let cluster = Cluster::new(1);
    let (worker, relay) = (cluster.worker(&Ledger::default(), |_| {}), cluster.relay());
    cluster.publish(Script::Hopeless, "a", 1).await;
    cluster.publish(Script::Entry, "a", 2).await;
    cluster.until("death", is_dead).await;
    let id = cluster.dead_letters().list(1).await.unwrap()[0].id.clone();
    let letters = cluster.dead_letters();
    assert_eq!(letters.discard(std::slice::from_ref(&id), &audit(&cluster)).await, Ok(1));
    assert_eq!(letters.discard(&[id], &audit(&cluster)).await, Ok(0));
    cluster.settled().await;
    assert_eq!(cluster.entries("a"), [given_up(1), 2]);
    cluster.until("the outbox", |cluster| cluster.tables().outbox.is_empty()).await;
    let records = cluster.appended("ledger.dlq");
    assert_eq!(of_type(&records, DEAD_LETTER).len(), 1);
    assert_eq!(of_type(&records, DISCARDED)[0].headers.text("by"), Some("operator"));
    worker.drain().await;
    relay.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_dies_at_once_with_its_payload_cut() {
    let cluster = Cluster::new(1);
    let (worker, relay) =
        (cluster.worker(&Ledger::default(), |config| config.dlq_payload_limit = 100), cluster.relay());
    cluster.publish_record(garbage("a", 5_000)).await;
    cluster.publish(Script::Entry, "b", 2).await;
    cluster.until("death", is_dead).await;
    cluster.until("the outbox", |cluster| cluster.tables().outbox.is_empty()).await;
    let letters = cluster.appended("ledger.dlq");
    assert_eq!((letters.len(), letters[0].value.len()), (1, 100));
    assert_eq!(letters[0].headers.text("origin-bytes"), Some("5000"));
    assert!(cluster.entries("a").is_empty(), "nothing to give up");
    worker.drain().await;
    relay.drain().await;
}

#[tokio::test(start_paused = true)]
async fn events_whose_key_no_index_holds_are_queued_and_buried_in_the_order_of_their_key() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    let (worker, relay) = (cluster.worker(&ledger, |_| {}), cluster.relay());
    let key = "k".repeat(5_000);
    let account = &key[..64];
    cluster.publish(Script::Refused, &key, 1).await;
    cluster.publish(Script::Entry, &key, 2).await;
    cluster.publish(Script::Hopeless, &format!("{key}2"), 3).await;
    cluster.publish(Script::Entry, "b", 4).await;
    cluster.until("the other key", |cluster| cluster.entries("b") == [4]).await;
    cluster.until("two deaths", |cluster| cluster.entries(account).len() == 2).await;
    let tables = cluster.tables();
    assert!(tables.pending.values().all(|row| row.record.key.as_ref().is_some_and(|key| key.len() >= 5_000)));
    ledger.provider().gate = true;
    let dead = cluster.dead_letters().list(10).await.unwrap();
    let refused: Vec<_> = dead.iter().filter(|row| row.attempts == 3).map(|row| row.id.clone()).collect();
    assert_eq!(cluster.dead_letters().redrive(&refused, &audit(&cluster)).await, Ok(1));
    cluster
        .until("the redrive", |cluster| cluster.entries(account) == [given_up(3), given_up(1), 1, 2])
        .await;
    cluster.until("the outbox", |cluster| cluster.tables().outbox.is_empty()).await;
    let letters = cluster.appended("ledger.dlq");
    let keys: Vec<_> = of_type(&letters, DEAD_LETTER)
        .iter()
        .filter_map(|letter| letter.headers.text("origin-key").map(str::to_owned))
        .collect();
    assert_eq!(keys, [format!("{key}2"), key]);
    worker.drain().await;
    relay.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_redriven_charge_is_told_the_providers_answer_again_and_not_made_again() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().balks = true;
    let worker = cluster.worker(&ledger, |config| config.circuit_failures = 1_000);
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.until("death", is_dead).await;
    ledger.provider().balks = false;
    ledger.provider().down = true;
    let id = cluster.dead_letters().list(1).await.unwrap()[0].id.clone();
    assert_eq!(cluster.dead_letters().redrive(&[id], &audit(&cluster)).await, Ok(1));
    cluster.until("questions beyond the budget", |_| ledger.questions() == 5).await;
    ledger.provider().down = false;
    cluster.settled().await;
    assert_eq!((cluster.entries("a"), ledger.charged()), (vec![1], vec![1]));
    assert_eq!(ledger.calls().0, 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_redriven_charge_that_the_provider_has_forgotten_is_dead_again_and_not_made_twice() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    ledger.provider().balks = true;
    let worker = cluster.worker(&ledger, |_| {});
    cluster.publish(Script::Charge, "a", 1).await;
    cluster.until("death", is_dead).await;
    ledger.provider().balks = false;
    ledger.provider().forget();
    for round in 1..=2 {
        let id = cluster.dead_letters().list(1).await.unwrap()[0].id.clone();
        assert_eq!(cluster.dead_letters().redrive(&[id], &audit(&cluster)).await, Ok(1));
        cluster.until("another death", |cluster| ledger.questions() == round && is_dead(cluster)).await;
    }
    assert_eq!((ledger.calls().0, ledger.charged()), (1, vec![1]));
    // Giving up would deny that it was charged.
    assert!(cluster.entries("a").is_empty());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_store_rejects_dies_alone() {
    let cluster = Cluster::new(1);
    for number in 1..=40 {
        let forbidden = if number == 13 { FORBIDDEN } else { number };
        cluster.publish(Script::Entry, &format!("a{}", number % 4), forbidden).await;
    }
    let worker = cluster.worker(&Ledger::default(), |_| {});
    cluster.until("the end", Cluster::is_caught_up_with_forty).await;
    let dead: Vec<_> =
        cluster.tables().pending.values().filter(|row| row.dead_at.is_some()).cloned().collect();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].error.as_deref().unwrap_or_default().contains("accounts_without_the_beast"), "{dead:?}");
    assert_eq!(cluster.entries("a1"), [1, 5, 9, given_up(FORBIDDEN)]);
    assert_eq!(cluster.tables().pending.len(), 1 + [17, 21, 25, 29, 33, 37].len());
    for account in [0, 2, 3] {
        let expected: Vec<u64> = (1..=40).filter(|number| number % 4 == account).collect();
        assert_eq!(cluster.entries(&format!("a{account}")), expected);
    }
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_store_rejects_in_the_queue_dies_there_alone() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    let worker = cluster.worker(&ledger, |_| {});
    for (account, number) in [("a", 1), ("b", FORBIDDEN), ("b", 14), ("c", 15)] {
        cluster.publish(Script::Charge, account, number).await;
    }
    cluster.until("the end", |cluster| cluster.entries("c") == [15] && is_dead(cluster)).await;
    assert_eq!(cluster.entries("a"), [1]);
    // The provider has charged it: giving up would deny that.
    assert!(cluster.entries("b").is_empty());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_rows_no_store_can_name_dies_alone() {
    let cluster = Cluster::new(1);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    cluster.publish(Script::Entry, "no\0text", 1).await;
    cluster.publish(Script::Entry, "b", 2).await;
    cluster.until("the other key", |cluster| cluster.entries("b") == [2]).await;
    assert!(is_dead(&cluster));
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_rows_no_store_can_name_dies_alone_in_the_queue_too() {
    let cluster = Cluster::new(1);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    cluster.publish_record(garbage("no\0text", 10)).await;
    cluster.publish(Script::Entry, "no\0text", 2).await;
    cluster.until("both", |cluster| is_dead(cluster) && cluster.tables().pending.len() == 2).await;
    let garbage = cluster.dead_letters().list(1).await.unwrap()[0].id.clone();
    assert_eq!(cluster.dead_letters().discard(std::slice::from_ref(&garbage), &audit(&cluster)).await, Ok(1));
    cluster.publish(Script::Charge, "b", 3).await;
    cluster.until("the other key", |cluster| cluster.entries("b") == [3] && is_dead(cluster)).await;
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_cannot_even_die_holds_up_no_other_key() {
    let config = Config { max_record_bytes: 2_000, ..Config::default() };
    let cluster = Cluster::with(1, config);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    let mut letter_too_large = garbage("a", 0);
    letter_too_large.headers = Headers::default();
    letter_too_large.headers.push("ce_type", "refused");
    letter_too_large.value = format!("1{}", " ".repeat(5_000)).into();
    cluster.publish_record(letter_too_large).await;
    cluster
        .until("the last attempt", |cluster| cluster.tables().pending.values().any(|row| row.attempts >= 3))
        .await;
    for number in 2..20 {
        cluster.publish(Script::Charge, &format!("b{number}"), number).await;
    }
    cluster
        .until("the other keys", |cluster| {
            (2..20).all(|number| cluster.entries(&format!("b{number}")) == [number])
        })
        .await;
    assert!(!is_dead(&cluster), "the letter fits after all: the test shows nothing");
    worker.kill().await;
}

impl Cluster {
    fn is_caught_up_with_forty(&self) -> bool {
        self.is_caught_up() && self.tables().inbox.len() == 40
    }
}
