//! What the consumer port promises beyond the B lines: silence until a seek, pause and resume, cancellation.

use std::time::Duration;

use stormglass_runtime::Delivery;
use tokio::time::timeout;

use super::sut::*;

pub async fn an_assigned_partition_is_silent_until_it_is_sought(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    for i in 0..3 {
        publish(&client, "k", &i.to_string()).await.unwrap();
    }
    let mut member = Member::join(&client).await;
    let assigned = timeout(LONG, member.consumer.next()).await.unwrap().unwrap();
    let Delivery::Assigned(assignments) = assigned else { panic!("{assigned:?}") };
    assert_eq!((assignments[0].watermarks.start, assignments[0].watermarks.end), (0, 3));
    assert!(timeout(Duration::from_secs(5), member.consumer.next()).await.is_err());
    member.consumer.seek(partition(0).at(1));
    member.until(|member| member.seen.len() == 2).await;
    assert_eq!(member.values(), ["1", "2"]);
    member.consumer.seek(partition(0).at(0));
    member.until(|member| member.seen.len() == 5).await;
    assert_eq!(member.values()[2..], ["0", "1", "2"]);
}

pub async fn a_paused_partition_is_silent_until_resumed_or_sought(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    let mut member = Member::join(&client).await;
    member.until(|member| !member.owned.is_empty()).await;
    for resume in [true, false] {
        // A fetch is on its way when the partition is paused.
        member.run(Duration::from_millis(100)).await;
        member.consumer.pause(&[partition(0)]);
        let seen = member.seen.len();
        publish(&client, "k", "v").await.unwrap();
        member.run(Duration::from_secs(3)).await;
        assert_eq!(member.seen.len(), seen);
        if resume {
            member.consumer.resume(&[partition(0)]);
        } else {
            member.consumer.seek(partition(0).at(1));
        }
        member.until(|member| member.seen.len() == seen + 1).await;
    }
}

pub async fn a_dropped_next_loses_nothing(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 3, ..Setup::default() }).await;
    let (client, _) = sut.client(Tuning::default());
    let mut member = Member::join(&client).await;
    member.until(|member| member.owned.len() == 3).await;
    let publishing = async {
        for i in 0..200 {
            publish(&client, &i.to_string(), &i.to_string()).await.unwrap();
        }
    };
    let reading = async {
        let mut turn = 0u64;
        while member.seen.len() < 200 {
            turn += 1;
            let next = timeout(Duration::from_micros(turn * 7 % 1_900), member.consumer.next()).await;
            if let Ok(Ok(delivery)) = next {
                member.take(delivery);
            }
        }
    };
    timeout(LONG, futures::future::join(publishing, reading)).await.unwrap();
    let mut values: Vec<usize> = member.values().iter().map(|value| value.parse().unwrap()).collect();
    values.sort_unstable();
    assert_eq!(values, (0..200).collect::<Vec<_>>());
}

pub async fn reading_goes_on_while_leaders_change(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 3, ..Setup::default() }).await;
    let (client, _) = sut.client(Tuning::default());
    let mut member = Member::join(&client).await;
    member.until(|member| member.owned.len() == 3).await;
    for node in 0..3 {
        sut.kill(node).await;
        for i in 0..10 {
            publish(&client, &i.to_string(), &format!("{node}-{i}")).await.unwrap();
        }
        let expected = 10 * (node + 1);
        member.until(|member| member.seen.len() >= expected).await;
        sut.start(node).await;
        member.run(Duration::from_secs(3)).await;
        assert_eq!(member.seen.len(), expected, "each record once");
    }
    assert!(member.lost.is_empty());
}

pub async fn an_idle_consumer_is_quiet(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 12, ..Setup::default() }).await;
    let (client, _) = sut.client(Tuning::default());
    let mut member = Member::join(&client).await;
    member.until(|member| member.owned.len() == 12).await;
    member.run(Duration::from_secs(2)).await;
    let before = sut.requests();
    member.run(Duration::from_secs(15)).await;
    // Per second, two long polls at each of three leaders, and three heartbeats and a third.
    let asked = sut.requests() - before;
    assert!((120..=145).contains(&asked), "{asked} requests in 15 s");
}
