//! B1, B2, B5–B8, B23: what a log is.

use std::time::Duration;

use stormglass_embedded::broker::OffsetReset;
use stormglass_runtime::{Cause, Failure};
use tokio::time::{sleep, timeout};

use super::sut::*;

pub async fn b1_all_readers_see_one_order_per_partition(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 3, ..Setup::default() }).await;
    let ((one, _), (two, _)) = (sut.client(Tuning::default()), sut.client(Tuning::default()));
    for round in 0..20 {
        let batch =
            |who: &str| (0..5).map(|i| record(&format!("{i}"), &format!("{who}{round}-{i}"))).collect();
        let (a, b) = tokio::join!(one.publish(batch("a")), two.publish(batch("b")));
        assert!(a.iter().chain(&b).all(Result::is_ok));
    }
    let (first, second) = (read_all(&*sut, 0).await, read_all(&*sut, 0).await);
    assert_eq!(first, second);
    assert_eq!(first.values().map(Vec::len).sum::<usize>(), 200);
}

pub async fn b2_offsets_are_sparse_and_caught_up_is_not_the_last_record(kind: &dyn Kind) {
    let sut = kind.start(Setup { gap_every: 2, ..Setup::default() }).await;
    let (client, _) = sut.client(Tuning::default());
    let mut offsets = vec![];
    for i in 0..4 {
        offsets.push(publish(&client, "k", &i.to_string()).await.unwrap().offset);
    }
    assert_eq!(offsets, [0, 1, 3, 4]);
    let end = client.watermarks(&partition(0)).await.unwrap().end;
    assert_eq!(end, 6);
    let read: Vec<i64> = read_all(&*sut, 0).await[&partition(0)].iter().map(|(offset, _)| *offset).collect();
    assert_eq!(read, offsets);
}

pub async fn b5_only_what_is_below_the_high_watermark_is_visible(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    publish(&client, "k", "replicated").await.unwrap();
    let mut member = Member::join(&client).await;
    member.until(|member| member.seen.len() == 1).await;
    sut.cut_from_peers(sut.leader(&partition(0)).await.unwrap()).await;
    sut.produce_acks_leader(&partition(0), "not yet").await.unwrap();
    member.run(Duration::from_millis(500)).await;
    assert_eq!(member.values(), ["replicated"]);
    assert_eq!(client.watermarks(&partition(0)).await.unwrap().end, 1);
    sut.heal().await;
    member.until(|member| member.seen.len() == 2).await;
    assert_eq!(member.values(), ["replicated", "not yet"]);
}

pub async fn b6_min_insync_replicas_binds_acks_all_only(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning { delivery_timeout: Duration::from_secs(5), ..Tuning::default() });
    publish(&client, "k", "before").await.unwrap();
    let leader = sut.leader(&partition(0)).await.unwrap();
    for node in (0..3).filter(|&node| node != leader) {
        sut.kill(node).await;
    }
    sleep(Duration::from_secs(10)).await;
    // A client that repeats until its time is up may say only that.
    let refused = publish(&client, "k", "all").await;
    assert!(matches!(refused, Err(Failure::NotDone(Cause::TooFewReplicas | Cause::TimedOut))), "{refused:?}");
    assert_eq!(sut.produce_acks_leader(&partition(0), "leader").await, Ok(1));
}

pub async fn b7_acks_leader_is_lost_with_the_leader_and_its_offset_reused(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    publish(&client, "k", "kept").await.unwrap();
    let leader = sut.leader(&partition(0)).await.unwrap();
    sut.cut_from_peers(leader).await;
    assert_eq!(sut.produce_acks_leader(&partition(0), "acked and lost").await, Ok(1));
    sut.kill(leader).await;
    sut.heal().await;
    assert_eq!(publish(&client, "k", "in its place").await.unwrap().offset, 1);
    sut.start(leader).await;
    assert_eq!(values(&*sut).await, ["kept", "in its place"]);
}

/// Leaves one replica in sync, appends to it alone, kills it and brings the others back.
async fn lose_the_last_in_sync(sut: &dyn Sut) -> usize {
    let leader = sut.leader(&partition(0)).await.unwrap();
    let others: Vec<usize> = (0..3).filter(|&node| node != leader).collect();
    for &node in &others {
        sut.kill(node).await;
    }
    sleep(Duration::from_secs(10)).await;
    sut.produce_acks_leader(&partition(0), "suffix").await.unwrap();
    sut.kill(leader).await;
    for &node in &others {
        sut.start(node).await;
    }
    sleep(Duration::from_secs(5)).await;
    leader
}

pub async fn b8_without_an_in_sync_replica_a_partition_is_unavailable(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning { delivery_timeout: Duration::from_secs(5), ..Tuning::default() });
    publish(&client, "k", "kept").await.unwrap();
    let leader = lose_the_last_in_sync(&*sut).await;
    assert_eq!(sut.leader(&partition(0)).await, None);
    // The first client may not know yet that its connection is gone; this one has none.
    let (fresh, _) = sut.client(Tuning { delivery_timeout: Duration::from_secs(5), ..Tuning::default() });
    let refused = publish(&fresh, "k", "refused").await;
    assert!(matches!(refused, Err(Failure::NotDone(Cause::NotLeader | Cause::TimedOut))), "{refused:?}");
    sut.start(leader).await;
    assert_eq!(values(&*sut).await, ["kept", "suffix"]);
}

pub async fn b8_unclean_election_loses_the_suffix(kind: &dyn Kind) {
    let sut = kind.start(Setup { unclean: true, ..Setup::default() }).await;
    let (client, _) = sut.client(Tuning::default());
    publish(&client, "k", "kept").await.unwrap();
    let leader = lose_the_last_in_sync(&*sut).await;
    assert_eq!(publish(&client, "k", "after").await.unwrap().offset, 1);
    sut.start(leader).await;
    assert_eq!(values(&*sut).await, ["kept", "after"]);
}

pub async fn an_acknowledged_record_survives_any_one_broker(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    let mut expected = vec![];
    for round in 0..6 {
        expected.push(round.to_string());
        publish(&client, "k", &round.to_string()).await.unwrap();
        let leader = sut.leader(&partition(0)).await.unwrap();
        sut.kill(leader).await;
        expected.push(format!("after {round}"));
        publish(&client, "k", &format!("after {round}")).await.unwrap();
        sut.start(leader).await;
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(values(&*sut).await, expected);
}

pub async fn a_leader_cut_from_its_peers_cannot_commit_and_is_deposed(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    publish(&client, "k", "before").await.unwrap();
    let leader = sut.leader(&partition(0)).await.unwrap();
    sut.cut_from_peers(leader).await;
    let published = publish(&client, "k", "during").await.unwrap();
    assert_ne!(sut.leader(&partition(0)).await, Some(leader));
    assert_eq!(published.offset, 1);
    sut.heal().await;
    assert_eq!(values(&*sut).await, ["before", "during"]);
}

pub async fn b23_an_offset_out_of_range_is_reset_to_the_oldest(kind: &dyn Kind) {
    out_of_range(kind, OffsetReset::Earliest, &["3", "4", "5"]).await;
}

pub async fn b23_an_offset_out_of_range_can_skip_everything(kind: &dyn Kind) {
    out_of_range(kind, OffsetReset::Latest, &["5"]).await;
}

async fn out_of_range(kind: &dyn Kind, reset: OffsetReset, expected: &[&str]) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning { reset, ..Tuning::default() });
    for i in 0..5 {
        publish(&client, "k", &i.to_string()).await.unwrap();
    }
    sut.delete_records(&partition(0), 3).await;
    assert_eq!(client.watermarks(&partition(0)).await.unwrap().start, 3);
    let mut member = Member::join(&client).await;
    member.until(|member| !member.owned.is_empty()).await;
    member.run(Duration::from_secs(2)).await;
    publish(&client, "k", "5").await.unwrap();
    member.run(Duration::from_secs(2)).await;
    assert_eq!(member.values(), expected);
}

pub async fn b23_an_offset_out_of_range_can_be_an_error(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning { reset: OffsetReset::Fail, ..Tuning::default() });
    for i in 0..5 {
        publish(&client, "k", &i.to_string()).await.unwrap();
    }
    sut.delete_records(&partition(0), 3).await;
    let mut member = Member::join(&client).await;
    member.until(|member| !member.owned.is_empty()).await;
    assert!(matches!(timeout(LONG, member.consumer.next()).await.unwrap(), Err(Failure::Rejected(_))));
    member.consumer.seek(partition(0).at(4));
    member.until(|member| member.seen.len() == 1).await;
    assert_eq!(member.values(), ["4"]);
}

pub async fn f20_old_records_are_delivered_once_more(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    for i in 0..3 {
        publish(&client, "k", &i.to_string()).await.unwrap();
    }
    let mut member = Member::join(&client).await;
    member.until(|member| member.seen.len() == 3).await;
    assert_eq!(sut.redelivered().await, 0);
    sut.redeliver(&partition(0), 2).await;
    member.run(Duration::from_secs(2)).await;
    publish(&client, "k", "3").await.unwrap();
    member.run(Duration::from_secs(2)).await;
    assert_eq!(member.values(), ["0", "1", "2", "1", "2", "3"]);
    assert_eq!(sut.redelivered().await, 1);
}

pub async fn an_unknown_topic_is_refused(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    let unknown = stormglass_runtime::Topic::from("no-such-topic");
    assert!(matches!(client.partitions(&unknown).await, Err(Failure::Rejected(_))));
    assert!(matches!(client.subscribe(&group(), &[unknown]).await.err(), Some(Failure::Rejected(_))));
    assert_eq!(client.partitions(&topic()).await, Ok(1));
    assert!(matches!(client.watermarks(&partition(7)).await, Err(Failure::Rejected(_))));
}
