//! The queue: claims, leases, heads, death.

use std::time::Duration;

use stormglass_embedded::database::Config;
use stormglass_runtime::{
    AfterDeath, Answer, NewPending, Pending, PendingChange, PendingId, Statement, Verdict,
};

use super::{
    domain::Row,
    sut::{Kind, Sut, claim, consumer, enqueue, key, pause, pending, waits},
};

fn claiming(number: u128, limit: u32, after_death: AfterDeath) -> Statement<Row> {
    Statement::Claim { consumer: consumer(), claim: claim(number), limit, after_death }
}

fn events(rows: &[Pending]) -> Vec<u128> {
    rows.iter().map(|row| row.event_id.0.as_u128()).collect()
}

async fn claimed(sut: &Sut, number: u128, after_death: AfterDeath) -> Vec<Pending> {
    match sut.run(claiming(number, 10, after_death)).await {
        Answer::Pending(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn changed(row: &Pending, verdict: Verdict) -> PendingChange {
    PendingChange::Update {
        id: row.id.clone(),
        call: row.call.clone(),
        epoch: row.epoch,
        attempts: row.attempts,
        due_in: Duration::ZERO,
        error: Some("why".to_owned()),
        verdict,
    }
}

fn change(changes: Vec<PendingChange>) -> Statement<Row> {
    Statement::ChangePending { consumer: consumer(), changes }
}

fn locking(of: &str, limit: u32, after_death: AfterDeath) -> Statement<Row> {
    Statement::LockPending { consumer: consumer(), keys: vec![key(of)], limit, after_death }
}

async fn started(kind: &dyn Kind, rows: Vec<NewPending>) -> Sut {
    let sut = kind.start(Config::default()).await;
    sut.run(enqueue(rows)).await;
    sut
}

pub async fn d8_claims_are_disjoint_and_a_rollback_requeues(kind: &dyn Kind) {
    let sut = started(kind, vec![pending("a", 1), pending("b", 2), pending("c", 3)]).await;
    let (mut first, mut second) = (sut.begin().await, sut.begin().await);
    let one = first.pending(claiming(1, 2, AfterDeath::Hold)).await.unwrap();
    let two = second.pending(claiming(2, 2, AfterDeath::Hold)).await.unwrap();
    assert_eq!((events(&one), events(&two)), (vec![1, 2], vec![3]));
    assert_eq!(one[0].attempts, 1);
    first.rollback().await;
    second.commit().await.unwrap();
    let again = claimed(&sut, 3, AfterDeath::Hold).await;
    assert_eq!(events(&again), [1, 2]);
    assert_eq!(again[0].attempts, 1, "the attempt that rolled back never was");
}

pub async fn d8_a_claim_never_takes_a_follower_of_a_locked_head(kind: &dyn Kind) {
    let sut = started(kind, vec![pending("a", 1), pending("a", 2), pending("b", 3)]).await;
    let mut settling = sut.begin().await;
    let locked = settling.pending(locking("a", 10, AfterDeath::Hold)).await.unwrap();
    settling.execute(change(vec![PendingChange::Delete(locked[0].id.clone())])).await.unwrap();
    assert_eq!(events(&claimed(&sut, 1, AfterDeath::Hold).await), [3]);
    settling.commit().await.unwrap();
    assert_eq!(events(&claimed(&sut, 2, AfterDeath::Hold).await), [2]);
}

pub async fn a_claim_takes_the_oldest_due_heads_only(kind: &dyn Kind) {
    let later =
        |of, number, millis| NewPending { due_in: Duration::from_millis(millis), ..pending(of, number) };
    let rows =
        vec![later("a", 1, 300), pending("a", 2), later("b", 3, 200), later("c", 4, 100), later("d", 5, 900)];
    let sut = started(kind, rows).await;
    assert_eq!(events(&claimed(&sut, 1, AfterDeath::Hold).await), Vec::<u128>::new());
    pause(400).await;
    assert_eq!(events(&claimed(&sut, 1, AfterDeath::Hold).await), [4, 3, 1]);
    assert_eq!(events(&claimed(&sut, 1, AfterDeath::Hold).await), Vec::<u128>::new());
}

pub async fn a_leased_row_is_free_again_when_its_lease_has_run_out(kind: &dyn Kind) {
    let sut = started(kind, vec![pending("a", 1)]).await;
    assert_eq!(events(&claimed(&sut, 1, AfterDeath::Hold).await), [1]);
    pause(9_900).await;
    assert_eq!(events(&claimed(&sut, 2, AfterDeath::Hold).await), Vec::<u128>::new());
    pause(200).await;
    let again = claimed(&sut, 3, AfterDeath::Hold).await;
    assert_eq!((again[0].attempts, again[0].claim), (2, Some(claim(3).id)));
}

pub async fn hold_blocks_behind_a_dead_row_and_skip_passes_it_over(kind: &dyn Kind) {
    let dead = NewPending { verdict: Verdict::Dead, ..pending("a", 1) };
    let sut = started(kind, vec![dead, pending("a", 2), pending("b", 3)]).await;
    let blocked = |after_death| Statement::BlockedKeys {
        consumer: consumer(),
        keys: vec![key("c"), key("b"), key("a")],
        after_death,
    };
    assert_eq!(sut.run(blocked(AfterDeath::Hold)).await, Answer::Keys(vec![key("a"), key("b")]));
    assert_eq!(events(&claimed(&sut, 1, AfterDeath::Hold).await), [3]);
    assert_eq!(events(&claimed(&sut, 2, AfterDeath::Skip).await), [2]);
    let Answer::Pending(rows) = sut.run(locking("a", 10, AfterDeath::Hold)).await else {
        panic!("LockPending answers Pending")
    };
    assert_eq!(events(&rows), [1, 2]);
    assert_eq!(sut.run(locking("a", 10, AfterDeath::Skip)).await, Answer::Pending(vec![rows[1].clone()]));
    sut.run(change(vec![PendingChange::Delete(rows[1].id.clone())])).await;
    assert_eq!(sut.run(blocked(AfterDeath::Hold)).await, Answer::Keys(vec![key("a"), key("b")]));
    assert_eq!(sut.run(blocked(AfterDeath::Skip)).await, Answer::Keys(vec![key("b")]));
}

pub async fn a_row_born_claimed_counts_its_attempts_itself(kind: &dyn Kind) {
    let born = NewPending { verdict: Verdict::Claimed(claim(5)), attempts: 1, ..pending("a", 1) };
    let sut = started(kind, vec![born]).await;
    assert!(claimed(&sut, 1, AfterDeath::Hold).await.is_empty());
    let row = sut.operator.tables().await.pending.into_values().next().unwrap();
    assert_eq!((row.attempts, row.claim), (1, Some(claim(5).id)));
    sut.run(change(vec![changed(&row, Verdict::Waiting)])).await;
    assert_eq!(claimed(&sut, 1, AfterDeath::Hold).await[0].attempts, 2);
}

pub async fn a_redriven_dead_letter_is_the_head_again_and_a_discarded_one_is_gone(kind: &dyn Kind) {
    let sut = started(kind, vec![pending("a", 1), pending("a", 2), pending("b", 3)]).await;
    for row in claimed(&sut, 1, AfterDeath::Hold).await {
        sut.run(change(vec![changed(&row, Verdict::Dead)])).await;
        pause(10).await;
    }
    let Answer::Pending(dead) = sut.run(Statement::ReadDead { consumer: consumer(), limit: 10 }).await else {
        panic!("ReadDead answers Pending")
    };
    assert_eq!(events(&dead), [1, 3]);
    assert!(dead.iter().all(|row| row.dead_at.is_some() && row.error.as_deref() == Some("why")));
    assert!(claimed(&sut, 2, AfterDeath::Hold).await.is_empty());
    sut.run(change(vec![changed(&dead[0], Verdict::Waiting), PendingChange::Delete(dead[1].id.clone())]))
        .await;
    assert_eq!(events(&claimed(&sut, 3, AfterDeath::Hold).await), [1]);
    assert_eq!(
        sut.run(Statement::ReadDead { consumer: consumer(), limit: 10 }).await,
        Answer::Pending(vec![])
    );
}

pub async fn a_row_deleted_while_a_statement_waits_is_passed_over(kind: &dyn Kind) {
    let sut = started(kind, vec![pending("a", 1), pending("a", 2)]).await;
    let mut first = sut.begin().await;
    let rows = first.pending(locking("a", 10, AfterDeath::Hold)).await.unwrap();
    first.execute(change(vec![PendingChange::Delete(rows[0].id.clone())])).await.unwrap();
    // The one row it is to lock is then the next.
    let second = sut.start(sut.begin().await, locking("a", 1, AfterDeath::Hold)).await;
    let third = sut.start(sut.begin().await, change(vec![PendingChange::Delete(rows[0].id.clone())])).await;
    waits(&second);
    waits(&third);
    first.commit().await.unwrap();
    let (third, answer) = sut.done(third).await;
    assert_eq!(answer, Ok(Answer::Count(0)));
    let (second, answer) = sut.done(second).await;
    assert_eq!(answer, Ok(Answer::Pending(vec![rows[1].clone()])));
    third.rollback().await;
    second.rollback().await;
    assert_eq!(sut.operator.leftovers().await, (0, 0));
}

pub async fn a_lock_takes_the_first_rows_of_each_key_and_leaves_the_rest_free(kind: &dyn Kind) {
    let rows = vec![pending("a", 1), pending("b", 2), pending("a", 3), pending("a", 4)];
    let sut = started(kind, rows).await;
    let both = |limit| Statement::LockPending {
        consumer: consumer(),
        keys: vec![key("b"), key("a"), key("b")],
        limit,
        after_death: AfterDeath::Hold,
    };
    let Answer::Pending(all) = sut.run(both(10)).await else { panic!("LockPending answers Pending") };
    assert_eq!(events(&all), [1, 3, 4, 2]);
    let mut first = sut.begin().await;
    assert_eq!(events(&first.pending(both(2)).await.unwrap()), [1, 3, 2]);
    let delete = |row: &Pending| change(vec![PendingChange::Delete(row.id.clone())]);
    assert_eq!(sut.run(delete(&all[2])).await, Answer::Count(1), "nobody holds the third");
    let second = sut.start(sut.begin().await, delete(&all[1])).await;
    waits(&second);
    first.rollback().await;
    let (second, answer) = sut.done(second).await;
    assert_eq!(answer, Ok(Answer::Count(1)));
    second.commit().await.unwrap();
}

pub async fn only_dead_letters_are_locked_as_dead_letters(kind: &dyn Kind) {
    let dead = |of, number| NewPending { verdict: Verdict::Dead, ..pending(of, number) };
    let sut = started(kind, vec![dead("b", 1), pending("a", 2), dead("a", 3), dead("a", 4)]).await;
    let mut ids: Vec<PendingId> =
        sut.operator.tables().await.pending.into_values().map(|row| row.id).collect();
    ids.reverse();
    ids.push(PendingId { key: key("nobody"), seq: 1 });
    let letters = || Statement::LockDead { consumer: consumer(), ids: ids.clone() };
    let mut first = sut.begin().await;
    let rows = first.pending(letters()).await.unwrap();
    assert_eq!(events(&rows), [3, 4, 1]);
    // One is redriven, one discarded: who waited for them has only the third.
    let changes = vec![changed(&rows[0], Verdict::Waiting), PendingChange::Delete(rows[1].id.clone())];
    first.execute(change(changes)).await.unwrap();
    let second = sut.start(sut.begin().await, letters()).await;
    waits(&second);
    first.commit().await.unwrap();
    let (second, answer) = sut.done(second).await;
    assert_eq!(answer, Ok(Answer::Pending(vec![rows[2].clone()])));
    second.rollback().await;
    assert_eq!(sut.operator.leftovers().await, (0, 0));
}

pub async fn what_became_due_after_a_transaction_began_is_claimed_in_it(kind: &dyn Kind) {
    let sut = started(kind, vec![pending("a", 1)]).await;
    let mut early = sut.begin().await;
    early.execute(Statement::ReadOutbox { limit: 1 }).await.unwrap();
    pause(50).await;
    sut.run(enqueue(vec![pending("b", 2)])).await;
    let rows = early.pending(claiming(1, 10, AfterDeath::Hold)).await.unwrap();
    assert_eq!(events(&rows), [1, 2], "the queue goes by the clock, not by when the transaction began");
    early.rollback().await;
}

pub async fn a_change_of_a_row_that_was_changed_meanwhile_is_passed_over(kind: &dyn Kind) {
    let sut = started(kind, vec![pending("a", 1)]).await;
    let mut first = sut.begin().await;
    let rows = first.pending(claiming(1, 1, AfterDeath::Hold)).await.unwrap();
    let second = sut.start(sut.begin().await, change(vec![changed(&rows[0], Verdict::Dead)])).await;
    waits(&second);
    first.commit().await.unwrap();
    let (second, answer) = sut.done(second).await;
    assert_eq!(answer, Ok(Answer::Count(0)), "only who has locked the row before knows what it changes");
    second.commit().await.unwrap();
    let row = sut.operator.tables().await.pending.into_values().next().unwrap();
    assert_eq!((row.claim, row.dead_at), (Some(claim(1).id), None));
}

pub async fn a_claim_sees_the_rows_of_its_own_transaction(kind: &dyn Kind) {
    let sut = started(kind, vec![pending("b", 1), pending("b", 2)]).await;
    let mut session = sut.begin().await;
    session.execute(enqueue(vec![pending("a", 3)])).await.unwrap();
    let first = session.pending(claiming(1, 10, AfterDeath::Hold)).await.unwrap();
    assert_eq!(events(&first), [1, 3]);
    session.execute(change(vec![PendingChange::Delete(first[0].id.clone())])).await.unwrap();
    assert_eq!(events(&session.pending(claiming(1, 10, AfterDeath::Hold)).await.unwrap()), [2]);
    session.rollback().await;
}
