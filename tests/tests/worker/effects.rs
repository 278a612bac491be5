//! G1 to G4, G8, G9: effects happen once, in the order of their key, and nothing is passed over.

use std::time::Duration;

use crate::{
    cluster::Cluster,
    ledger::{Ledger, Script},
};

#[tokio::test(start_paused = true)]
async fn a_redelivered_or_copied_event_has_one_effect() {
    let cluster = Cluster::new(3);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    for number in 0..60 {
        cluster.publish(Script::Entry, &format!("a{}", number % 5), number).await;
        if number % 3 == 0 {
            cluster.publish(Script::Entry, &format!("a{}", number % 5), number).await;
        }
        if number % 20 == 0 {
            cluster.redeliver(8);
        }
    }
    cluster.settled().await;
    for account in 0..5 {
        let expected: Vec<u64> = (0..60).filter(|number| number % 5 == account).collect();
        assert_eq!(cluster.entries(&format!("a{account}")), expected);
    }
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_order_through_retries_and_blocks_no_other() {
    let cluster = Cluster::new(1);
    let ledger = Ledger::default();
    let worker = cluster.worker(&ledger, |config| config.attempts_max = 1_000);
    cluster.publish(Script::Entry, "slow", 1).await;
    cluster.publish(Script::Refused, "slow", 2).await;
    cluster.publish(Script::Entry, "slow", 3).await;
    cluster.publish(Script::Entry, "quick", 4).await;
    cluster.until("the other key", |cluster| cluster.entries("quick") == [4]).await;
    cluster.publish(Script::Panics, "slow", 5).await;
    cluster.publish(Script::Entry, "slow", 6).await;
    cluster.until("five events taken", |cluster| cluster.tables().inbox.len() == 6).await;
    assert_eq!(cluster.entries("slow"), [1]);
    ledger.provider().gate = true;
    cluster.settled().await;
    assert_eq!(cluster.entries("slow"), [1, 2, 3, 5, 6]);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn events_of_no_interest_move_the_position_lazily_and_leave_no_mark() {
    let cluster = Cluster::new(1);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    for number in 0..10 {
        let mut record = crate::cluster::garbage("a", 3);
        record.headers.0.clear();
        record.headers.push("ce_type", "boring");
        record.headers.push("n", number.to_string());
        cluster.publish_record(record).await;
    }
    cluster.until("the position", |cluster| cluster.tables().positions.values().eq([&10])).await;
    assert!(cluster.tables().inbox.is_empty());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_drains_leaves_its_partitions_where_the_next_one_goes_on() {
    let cluster = Cluster::new(4);
    let ledger = Ledger::default();
    let mut number = 0;
    for round in 0..4 {
        let worker = cluster.worker(&ledger, |_| {});
        for _ in 0..40 {
            let script = if number % 4 == 0 { Script::Charge } else { Script::Entry };
            cluster.publish(script, &format!("a{}", number % 7), number).await;
            number += 1;
        }
        tokio::time::sleep(Duration::from_millis(500 + 37 * round)).await;
        worker.drain().await;
    }
    let worker = cluster.worker(&ledger, |_| {});
    cluster.settled().await;
    for account in 0..7 {
        let expected: Vec<u64> = (0..number).filter(|number| number % 7 == account).collect();
        assert_eq!(cluster.entries(&format!("a{account}")), expected);
    }
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn members_that_come_and_go_share_the_work_without_doubling_it() {
    let cluster = Cluster::new(6);
    let ledger = Ledger::default();
    let mut workers = vec![cluster.worker(&ledger, |_| {})];
    for number in 0..300 {
        let script = if number % 5 == 0 { Script::Charge } else { Script::Entry };
        cluster.publish(script, &format!("a{}", number % 11), number).await;
        if number % 60 == 30 {
            workers.push(cluster.worker(&ledger, |_| {}));
        }
        if number % 90 == 80 {
            workers.remove(0).kill().await;
        }
    }
    cluster.settled().await;
    for account in 0..11 {
        let expected: Vec<u64> = (0..300).filter(|number| number % 11 == account).collect();
        assert_eq!(cluster.entries(&format!("a{account}")), expected, "a{account}");
    }
    let mut charged = ledger.charged();
    charged.sort_unstable();
    assert_eq!(charged, (0..300).filter(|number| number % 5 == 0).collect::<Vec<_>>());
    for worker in workers {
        worker.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_turn_out_to_be_needed_are_locked_before_they_are_written() {
    let cluster = Cluster::new(4);
    let worker = cluster.worker(&Ledger::default(), |config| config.lanes = 4);
    for number in 0..40 {
        cluster.publish(Script::Joint, &format!("a{number}"), number).await;
    }
    cluster.settled().await;
    let mut shared = cluster.entries("shared");
    shared.sort_unstable();
    assert_eq!(shared, (0..40).collect::<Vec<_>>());
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_timer_fires_once_after_its_time() {
    let cluster = Cluster::new(1);
    let worker = cluster.worker(&Ledger::default(), |_| {});
    cluster.publish(Script::Timed, "a", 1).await;
    cluster.publish(Script::Entry, "a", 2).await;
    cluster.until("the other event", |cluster| cluster.entries("a") == [2]).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(cluster.entries("a"), [2]);
    cluster.settled().await;
    assert_eq!(cluster.entries("a"), [2, 1]);
    worker.drain().await;
}
