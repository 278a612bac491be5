//! B16–B22, B24, B28: membership, fencing, and what is left when members go.

use std::time::Duration;

use stormglass_embedded::broker::{ErrorCode, Membership};
use stormglass_runtime::{Cause, Delivery, Failure};
use tokio::time::{Instant, sleep, timeout};

use super::sut::*;

fn who(member: &str, generation: i32) -> Membership {
    Membership { group: group(), member: member.to_owned(), generation }
}

pub async fn b16_commits_are_neither_monotonic_nor_checked_for_ownership(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 2, ..Setup::default() }).await;
    let ((a, _), (b, _)) = (sut.client(Tuning::default()), sut.client(Tuning::default()));
    let (mut a, mut b) = (Member::join(&a).await, Member::join(&b).await);
    both(&mut a, &mut b, |member| member.owned.len() == 1).await;
    let others = b.owned[0].clone();
    assert_eq!(a.consumer.report(vec![others.at(9)]).await, Ok(()));
    assert_eq!(a.consumer.report(vec![others.at(4)]).await, Ok(()));
    assert_eq!(sut.committed(&group(), &others).await, Some(4));
}

pub async fn b17_commits_of_strangers_and_old_generations_are_fenced(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let position = partition(0).at(5);
    assert_eq!(
        sut.commit_as(who("", -1), position.clone()).await,
        Ok(()),
        "an empty group takes simple commits"
    );
    let (client, _) = sut.client(Tuning::default());
    let mut member = Member::join(&client).await;
    member.until(|member| !member.owned.is_empty()).await;
    assert_eq!(sut.commit_as(who("", -1), position.clone()).await, Err(ErrorCode::UnknownMember));
    assert_eq!(sut.commit_as(who("nobody", 1), position.clone()).await, Err(ErrorCode::UnknownMember));
    assert_eq!(sut.commit_as(who("test-1", 0), position.clone()).await, Err(ErrorCode::IllegalGeneration));
    assert_eq!(sut.commit_as(who("test-1", 2), position.clone()).await, Err(ErrorCode::IllegalGeneration));
    assert_eq!(sut.commit_as(who("test-1", 1), partition(0).at(6)).await, Ok(()));
    assert_eq!(sut.committed(&group(), &partition(0)).await, Some(6));
}

pub async fn b18_cooperative_rebalancing_revokes_only_what_moves(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 4, ..Setup::default() }).await;
    let ((one, _), (two, _)) = (sut.client(Tuning::default()), sut.client(Tuning::default()));
    let mut a = Member::join(&one).await;
    a.until(|member| member.owned.len() == 4).await;
    let mut b = Member::join(&two).await;
    both(&mut a, &mut b, |member| member.owned.len() == 2).await;
    assert_eq!((a.revoked.len(), a.lost.len(), b.revoked.len(), b.lost.len()), (2, 0, 0, 0));
    let mut all = [a.owned.clone(), b.owned.clone()].concat();
    all.sort();
    assert_eq!(all, (0..4).map(partition).collect::<Vec<_>>());
    b.consumer.close().await;
    a.until(|member| member.owned.len() == 4).await;
    assert_eq!(a.revoked.len(), 2);
}

pub async fn b18_a_rebalance_waits_for_the_revocation_but_not_beyond_its_grace(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 2, ..Setup::default() }).await;
    let ((one, _), (two, _)) = (sut.client(Tuning::default()), sut.client(Tuning::default()));
    let mut a = Member::join(&one).await;
    a.until(|member| member.owned.len() == 2).await;
    let mut b = Member::join(&two).await;
    let token = loop {
        let next = async {
            tokio::select! { biased; delivery = a.consumer.next() => Some(delivery), () = b.step() => None }
        };
        if let Some(Ok(Delivery::Revoking(_, token))) = next.await {
            break token;
        }
    };
    let begun = Instant::now();
    tokio::join!(a.run(Duration::from_millis(2_500)), b.run(Duration::from_millis(2_500)));
    assert!(b.owned.is_empty(), "handed out while it was being given up");
    tokio::join!(a.run(Duration::from_secs(5)), b.until(|member| member.owned.len() == 1));
    assert!(begun.elapsed() >= token.grace());
}

/// A killed process is cut off before it ends: what its client would still say is not heard.
pub async fn b19_a_killed_members_partitions_wait_for_its_session_a_closed_ones_do_not(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    for clean in [true, false] {
        let ((one, faults), (two, _)) = (sut.client(Tuning::default()), sut.client(Tuning::default()));
        let mut a = Member::join(&one).await;
        a.until(|member| member.owned.len() == 1).await;
        let mut b = Member::join(&two).await;
        tokio::join!(a.run(Duration::from_secs(2)), b.run(Duration::from_secs(2)));
        let begun = Instant::now();
        if clean {
            a.consumer.close().await;
        } else {
            Faults::raise(&faults.mute);
            drop(a);
        }
        b.until(|member| member.owned.len() == 1).await;
        let waited = begun.elapsed();
        assert_eq!(waited < Duration::from_secs(2), clean, "{waited:?}");
        assert!(waited < SESSION + Duration::from_secs(2), "{waited:?}");
        b.consumer.close().await;
    }
}

pub async fn b20_a_consumer_that_does_not_poll_loses_its_partitions(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let tuning = Tuning { max_poll_interval: Duration::from_secs(10), ..Tuning::default() };
    let ((one, _), (two, _)) = (sut.client(tuning), sut.client(tuning));
    let mut a = Member::join(&one).await;
    a.until(|member| member.owned.len() == 1).await;
    let mut b = Member::join(&two).await;
    b.run(Duration::from_secs(9)).await;
    assert!(b.owned.is_empty());
    b.until(|member| member.owned.len() == 1).await;
    a.until(|member| member.lost.len() == 1).await;
    assert!(a.owned.is_empty());
    b.consumer.close().await;
    a.until(|member| member.owned.len() == 1).await;
}

pub async fn b21_a_zombies_commit_fails(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let ((one, faults), (two, _)) = (sut.client(Tuning::default()), sut.client(Tuning::default()));
    let mut a = Member::join(&one).await;
    a.until(|member| member.owned.len() == 1).await;
    let mut b = Member::join(&two).await;
    Faults::raise(&faults.mute);
    b.until(|member| member.owned.len() == 1).await;
    assert_eq!(a.owned.len(), 1, "it has not looked");
    Faults::lower(&faults.mute);
    let failure = a.consumer.report(vec![partition(0).at(1)]).await;
    assert_eq!(failure, Err(Failure::NotDone(Cause::Fenced)));
    assert_eq!(sut.committed(&group(), &partition(0)).await, None);
    a.until(|member| member.lost.len() == 1).await;
}

pub async fn b22_what_was_not_committed_is_delivered_to_the_next_owner(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    for i in 0..3 {
        publish(&client, "k", &i.to_string()).await.unwrap();
    }
    let mut a = Member::join(&client).await;
    a.until(|member| member.seen.len() == 3).await;
    a.consumer.report(vec![partition(0).at(1)]).await.unwrap();
    drop(a);
    let mut b = Member::join(&client).await;
    b.from = sut.committed(&group(), &partition(0)).await.unwrap();
    b.until(|member| member.seen.len() == 2).await;
    assert_eq!(b.values(), ["1", "2"]);
}

pub async fn b24_an_empty_groups_offsets_expire(kind: &dyn Kind) {
    let retention = Duration::from_secs(20);
    let sut = kind.start(Setup { offsets_retention: retention, ..Setup::default() }).await;
    let (client, _) = sut.client(Tuning::default());
    let mut member = Member::join(&client).await;
    member.until(|member| !member.owned.is_empty()).await;
    member.consumer.report(vec![partition(0).at(1)]).await.unwrap();
    member.run(retention * 2).await;
    assert_eq!(sut.committed(&group(), &partition(0)).await, Some(1), "it has a member");
    member.consumer.close().await;
    sleep(retention / 2).await;
    assert_eq!(sut.committed(&group(), &partition(0)).await, Some(1));
    sleep(retention).await;
    assert_eq!(sut.committed(&group(), &partition(0)).await, None);
}

pub async fn b28_a_group_survives_its_coordinator(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 2, ..Setup::default() }).await;
    let ((one, _), (two, _)) = (sut.client(Tuning::default()), sut.client(Tuning::default()));
    let (mut a, mut b) = (Member::join(&one).await, Member::join(&two).await);
    both(&mut a, &mut b, |member| member.owned.len() == 1).await;
    a.consumer.report(vec![partition(0).at(3)]).await.unwrap();
    let old = sut.coordinator(&group()).await.unwrap();
    sut.kill(old).await;
    tokio::join!(a.run(Duration::from_secs(3)), b.run(Duration::from_secs(3)));
    assert_ne!(sut.coordinator(&group()).await, Some(old));
    assert_eq!(sut.committed(&group(), &partition(0)).await, Some(3));
    assert_eq!(a.consumer.report(vec![partition(0).at(4)]).await, Ok(()));
    tokio::join!(a.run(SESSION * 2), b.run(SESSION * 2));
    assert_eq!((a.lost.len(), b.lost.len(), a.owned.len(), b.owned.len()), (0, 0, 1, 1));
}

pub async fn b28_a_new_coordinator_loads_before_it_answers(kind: &dyn Kind) {
    let sut = kind.start(Setup::default()).await;
    let (client, _) = sut.client(Tuning::default());
    let mut member = Member::join(&client).await;
    member.until(|member| !member.owned.is_empty()).await;
    let old = sut.coordinator(&group()).await.unwrap();
    let mut answers = vec![];
    sut.kill(old).await;
    let moved = timeout(LONG, async {
        while answers.last() != Some(&Ok(())) {
            sleep(Duration::from_millis(1)).await;
            let answer = sut.commit_as(who("test-1", 1), partition(0).at(1)).await;
            if answers.last() != Some(&answer) {
                answers.push(answer);
            }
        }
    });
    moved.await.unwrap();
    let (unavailable, loading) = (ErrorCode::CoordinatorNotAvailable, ErrorCode::CoordinatorLoading);
    assert_eq!(answers, [Err(unavailable), Err(loading), Ok(())]);
}

pub async fn a_rebalance_storm_ends_with_every_partition_owned_once(kind: &dyn Kind) {
    let sut = kind.start(Setup { partitions: 5, ..Setup::default() }).await;
    let (client, _) = sut.client(Tuning::default());
    let mut stays = Member::join(&client).await;
    for round in 0..8u64 {
        let mut comes = Member::join(&client).await;
        let wait = Duration::from_millis(150 * round);
        tokio::join!(stays.run(wait), comes.run(wait));
        if round % 2 == 0 {
            comes.consumer.close().await;
        }
    }
    let mut last = Member::join(&client).await;
    tokio::join!(stays.run(SESSION * 3), last.run(SESSION * 3));
    let mut all = [stays.owned.clone(), last.owned.clone()].concat();
    all.sort();
    assert_eq!(all, (0..5).map(partition).collect::<Vec<_>>());
    assert!(stays.lost.is_empty(), "it was alive all the time");
}
