//! Row locks, duplicates in flight, versions, sequences, deadlocks: read committed as a session sees it.

use std::time::Duration;

use stormglass_embedded::database::Config;
use stormglass_runtime::{Answer, Cause, Failure, Reason, Statement};
use tokio::time::Instant;

use super::{
    domain::{Key, account, at},
    sut::{Kind, Sut, emit, enqueue, event, insert, lock, pending, take, update, waits},
};

async fn started(kind: &dyn Kind) -> Sut {
    let sut = kind.start(Config::default()).await;
    sut.run(insert([account(1, 100), account(2, 100)])).await;
    sut
}

fn aborted<T>() -> Result<T, Failure> {
    Err(Failure::NotDone(Cause::Aborted))
}

pub async fn d2_a_failed_transaction_takes_no_statement_and_its_commit_is_a_rollback(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut session = sut.begin().await;
    session.execute(update(1, account(1, 50))).await.unwrap();
    let refused = session.execute(update(1, account(2, -1))).await;
    assert_eq!(refused, Err(Failure::Rejected(Reason::Constraint("balance_not_negative".to_owned()))));
    assert_eq!(session.execute(lock([1])).await, aborted());
    assert_eq!(session.commit().await, aborted());
    assert_eq!(sut.run(lock([1])).await, Answer::Rows(vec![at(1, account(1, 100))]));
}

pub async fn d2_a_failed_transaction_has_let_go_of_its_locks(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut failed = sut.begin().await;
    failed.execute(lock([1])).await.unwrap();
    failed.execute(update(1, account(2, -1))).await.unwrap_err();
    let (other, answer) = sut.done(sut.start(sut.begin().await, lock([1])).await).await;
    assert_eq!(answer, Ok(Answer::Rows(vec![at(1, account(1, 100))])));
    other.rollback().await;
    failed.rollback().await;
}

pub async fn d4_a_duplicate_waits_and_is_inserted_when_the_first_rolls_back(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut first = sut.begin().await;
    assert_eq!(first.execute(take([7])).await, Ok(Answer::Fresh(vec![event(7)])));
    let second = sut.start(sut.begin().await, take([7, 8])).await;
    waits(&second);
    first.rollback().await;
    let (second, answer) = sut.done(second).await;
    assert_eq!(answer, Ok(Answer::Fresh(vec![event(7), event(8)])));
    second.commit().await.unwrap();
}

pub async fn d4_a_duplicate_waits_and_is_not_inserted_when_the_first_commits(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut first = sut.begin().await;
    first.execute(take([7])).await.unwrap();
    let second = sut.start(sut.begin().await, take([7, 8])).await;
    waits(&second);
    first.commit().await.unwrap();
    let (second, answer) = sut.done(second).await;
    assert_eq!(answer, Ok(Answer::Fresh(vec![event(8)])));
    second.commit().await.unwrap();
    assert_eq!(sut.run(take([7, 8])).await, Answer::Fresh(vec![]));
}

pub async fn d4_an_inserted_row_waits_for_its_duplicate_too(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut first = sut.begin().await;
    first.execute(insert([account(3, 1)])).await.unwrap();
    let committed = sut.start(sut.begin().await, insert([account(3, 2)])).await;
    waits(&committed);
    first.commit().await.unwrap();
    let (second, answer) = sut.done(committed).await;
    assert_eq!(answer, Ok(Answer::Count(0)));
    second.rollback().await;
    assert_eq!(sut.run(lock([3])).await, Answer::Rows(vec![at(1, account(3, 1))]));

    // A row that is merely locked is there: its duplicate need not wait.
    let mut holder = sut.begin().await;
    holder.execute(lock([3])).await.unwrap();
    assert_eq!(sut.run(insert([account(3, 9)])).await, Answer::Count(0));
    holder.rollback().await;
}

pub async fn d7_an_update_rechecks_the_version_after_waiting(kind: &dyn Kind) {
    let sut = started(kind).await;
    for (first_commits, counted, left) in
        [(false, 1, at(2, account(1, 70))), (true, 0, at(3, account(1, 60)))]
    {
        let version = if first_commits { 2 } else { 1 };
        let mut first = sut.begin().await;
        assert_eq!(first.execute(update(version, account(1, 60))).await, Ok(Answer::Count(1)));
        let second = sut.start(sut.begin().await, update(version, account(1, 70))).await;
        waits(&second);
        if first_commits {
            first.commit().await.unwrap();
        } else {
            first.rollback().await;
        }
        let (second, answer) = sut.done(second).await;
        assert_eq!(answer, Ok(Answer::Count(counted)));
        second.commit().await.unwrap();
        assert_eq!(sut.run(lock([1])).await, Answer::Rows(vec![left]));
    }
}

pub async fn d7_decrements_under_lock_never_oversell(kind: &dyn Kind) {
    let sut = kind.start(Config::default()).await;
    sut.run(insert([account(1, 5)])).await;
    let mut buyers = Vec::new();
    for _ in 0..8 {
        let mut session = sut.begin().await;
        buyers.push(tokio::spawn(async move {
            let rows = session.rows(lock([1])).await.unwrap();
            let super::domain::Row::Account { balance, .. } = rows[0].row else { panic!("an account") };
            tokio::time::sleep(Duration::from_millis(3)).await;
            let sold = session.execute(update(rows[0].version, account(1, balance - 1))).await;
            match sold {
                Ok(answer) => {
                    assert_eq!(answer, Answer::Count(1), "nobody can change a locked row");
                    session.commit().await.unwrap();
                    true
                }
                Err(refused) => {
                    assert!(matches!(refused, Failure::Rejected(Reason::Constraint(_))), "{refused}");
                    session.rollback().await;
                    false
                }
            }
        }));
    }
    let mut sold = 0;
    for buyer in buyers {
        sold += u32::from(buyer.await.unwrap());
    }
    assert_eq!(sold, 5);
    assert_eq!(sut.run(lock([1])).await, Answer::Rows(vec![at(6, account(1, 0))]));
}

pub async fn d9_a_later_number_is_seen_first_and_a_rollback_leaves_a_gap(kind: &dyn Kind) {
    let sut = started(kind).await;
    let (mut slow, mut gone, mut fast) = (sut.begin().await, sut.begin().await, sut.begin().await);
    let slow_seq = slow.sequence(enqueue(vec![pending("a", 1)])).await.unwrap()[0];
    let gone_seq = gone.sequence(enqueue(vec![pending("b", 2)])).await.unwrap()[0];
    let fast_seq = fast.sequence(enqueue(vec![pending("c", 3)])).await.unwrap()[0];
    assert!(slow_seq < gone_seq && gone_seq < fast_seq);
    fast.commit().await.unwrap();
    gone.rollback().await;
    let seen = |tables: stormglass_embedded::database::Snapshot| {
        tables.pending.keys().map(|(_, id)| id.seq).collect::<Vec<_>>()
    };
    assert_eq!(seen(sut.operator.tables().await), [fast_seq]);
    slow.commit().await.unwrap();
    assert_eq!(seen(sut.operator.tables().await), [slow_seq, fast_seq]);
    let Answer::Sequence(next) = sut.run(enqueue(vec![pending("d", 4)])).await else { panic!("Sequence") };
    assert!(next[0] > fast_seq, "the value of the rollback is not used again");
}

pub async fn d10_a_deadlock_ends_after_its_timeout_with_one_victim(kind: &dyn Kind) {
    let sut = started(kind).await;
    let (mut first, mut second) = (sut.begin().await, sut.begin().await);
    first.execute(update(1, account(1, 10))).await.unwrap();
    second.execute(update(1, account(2, 20))).await.unwrap();
    let began = Instant::now();
    let first = sut.start(first, lock([2])).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = sut.start(second, lock([1])).await;
    waits(&first);
    waits(&second);
    // The first to check found no cycle had there been none yet; both exist, so the first check finds it.
    let (first, answer) = first.await.unwrap();
    assert_eq!(answer, Err(Failure::NotDone(Cause::Deadlock)));
    assert!(
        (Duration::from_millis(950)..Duration::from_secs(1) + sut.pace.lateness).contains(&began.elapsed())
    );
    let (second, answer) = sut.done(second).await;
    assert_eq!(answer, Ok(Answer::Rows(vec![at(1, account(1, 100))])));
    second.commit().await.unwrap();
    assert_eq!(first.commit().await, aborted());
    assert_eq!(sut.operator.leftovers().await, (0, 0));
}

pub async fn d10_who_waits_in_line_waits_for_the_first_in_line(kind: &dyn Kind) {
    let sut = started(kind).await;
    let (mut holder, mut other) = (sut.begin().await, sut.begin().await);
    holder.execute(lock([1])).await.unwrap();
    other.execute(lock([2])).await.unwrap();
    // In line for 1: a bystander, then the other. Only the bystander waits for the holder itself.
    let bystander = sut.start(sut.begin().await, lock([1])).await;
    let other = sut.start(other, lock([1])).await;
    let holder = sut.start(holder, lock([2])).await;
    let (bystander, answer) = bystander.await.unwrap();
    assert_eq!(
        answer,
        Err(Failure::NotDone(Cause::Deadlock)),
        "the cycle leads through it, and it looks first"
    );
    bystander.rollback().await;
    // The other has moved up and waits anew, so that it is the holder who looks next.
    let (holder, answer) = holder.await.unwrap();
    assert_eq!(answer, Err(Failure::NotDone(Cause::Deadlock)));
    holder.rollback().await;
    let (other, answer) = sut.done(other).await;
    assert_eq!(answer, Ok(Answer::Rows(vec![at(1, account(1, 100))])));
    other.rollback().await;
    assert_eq!(sut.operator.leftovers().await, (0, 0));
}

pub async fn a_statement_locks_in_order_of_keys_whatever_order_it_is_given(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut holder = sut.begin().await;
    holder.execute(lock([1])).await.unwrap();
    let waiting = sut.start(sut.begin().await, lock([2, 1])).await;
    waits(&waiting);
    // It waits for 1 and has not locked 2 yet.
    let (other, answer) = sut.done(sut.start(sut.begin().await, lock([2])).await).await;
    assert!(answer.is_ok());
    holder.rollback().await;
    waits(&waiting);
    other.rollback().await;
    let (session, answer) = sut.done(waiting).await;
    assert_eq!(answer, Ok(Answer::Rows(vec![at(1, account(1, 100)), at(1, account(2, 100))])));
    session.rollback().await;
}

pub async fn waiters_are_served_in_the_order_of_waiting(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut holder = sut.begin().await;
    holder.execute(lock([1])).await.unwrap();
    let second = sut.start(sut.begin().await, lock([1])).await;
    let third = sut.start(sut.begin().await, lock([1])).await;
    holder.rollback().await;
    let (second, answer) = sut.done(second).await;
    assert!(answer.is_ok());
    waits(&third);
    second.rollback().await;
    let (third, answer) = sut.done(third).await;
    assert!(answer.is_ok());
    third.rollback().await;
}

pub async fn readers_never_wait_and_see_committed_rows_only(kind: &dyn Kind) {
    let sut = started(kind).await;
    super::sut::pause(50).await;
    let mut writer = sut.begin().await;
    writer.execute(update(1, account(1, 1))).await.unwrap();
    writer.execute(emit(&["unseen"])).await.unwrap();
    let (rows, _) = sut.client.read(vec![Key::Account(1)], None).await.unwrap();
    assert_eq!(rows, [at(1, account(1, 100))]);
    assert_eq!(sut.run(Statement::ReadOutbox { limit: 10 }).await, Answer::Outbox(vec![]));
    writer.rollback().await;
}

pub async fn a_transaction_sees_its_own_writes(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut session = sut.begin().await;
    session.execute(update(1, account(1, 1))).await.unwrap();
    session.execute(insert([account(9, 9)])).await.unwrap();
    assert_eq!(session.count(insert([account(9, 10)])).await, Ok(0));
    let seen = session.rows(lock([1, 9])).await.unwrap();
    assert_eq!(seen, [at(2, account(1, 1)), at(1, account(9, 9))]);
    assert_eq!(session.count(update(2, account(1, 2))).await, Ok(1));
    session.commit().await.unwrap();
    assert_eq!(sut.run(lock([1])).await, Answer::Rows(vec![at(3, account(1, 2))]));
}

pub async fn each_statement_sees_what_was_committed_before_it(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut session = sut.begin().await;
    assert_eq!(session.outbox(Statement::ReadOutbox { limit: 10 }).await.unwrap().len(), 0);
    sut.run(emit(&["meanwhile"])).await;
    assert_eq!(session.outbox(Statement::ReadOutbox { limit: 10 }).await.unwrap().len(), 1);
    session.rollback().await;
}

pub async fn a_rollback_keeps_nothing(kind: &dyn Kind) {
    let sut = started(kind).await;
    let before = sut.operator.tables().await;
    let mut session = sut.begin().await;
    session.execute(update(1, account(1, 1))).await.unwrap();
    session.execute(insert([account(9, 9)])).await.unwrap();
    session.execute(take([1])).await.unwrap();
    session.execute(enqueue(vec![pending("a", 1)])).await.unwrap();
    session.execute(emit(&["x"])).await.unwrap();
    session.rollback().await;
    assert_eq!(sut.operator.tables().await, before);
    assert_eq!(sut.operator.leftovers().await, (0, 0));
}

pub async fn rows_that_appear_while_a_statement_waits_are_not_in_its_answer(kind: &dyn Kind) {
    let sut = started(kind).await;
    let mut holder = sut.begin().await;
    holder.execute(update(1, account(1, 99))).await.unwrap();
    let waiting = sut.start(sut.begin().await, lock([1, 5])).await;
    waits(&waiting);
    sut.run(insert([account(5, 5)])).await;
    holder.commit().await.unwrap();
    let (session, answer) = sut.done(waiting).await;
    // The row that was waited for is the newest, the one that came meanwhile is missing.
    assert_eq!(answer, Ok(Answer::Rows(vec![at(2, account(1, 99))])));
    session.rollback().await;
}
