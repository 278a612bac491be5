//! One attempt at a claimed head: the call, outside any transaction.
//!
//! Its timeout fits what is left of the lease, so that in the ordinary case no two members call for one event at a
//! time; where that fails nevertheless (a paused process), the idempotency key makes the second call the first.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::{
    ActError, IdempotencyKey, Service,
    config::ms,
    logic::panic_text,
    plan::Kept,
    shared::{Job, Shared},
};

/// What became of an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Outcome<P> {
    /// There is no call yet: decide.
    Decide,
    /// The provider answered.
    Replied(P),
    /// The provider failed this idempotency key for good: the next attempt takes a new one.
    Failed(String),
    /// Not known, or not sent after something that is not known: the key stays.
    Unknown(String),
    /// The provider will never do it, and says that nothing was done under the key before.
    Rejected(String),
    /// The attempts are used up, and the provider says that nothing happened and nothing will.
    Closed,
    /// The provider has answered this call before, and no longer knows it: its word that nothing happened is not true.
    Forgotten,
    /// A question was due, and the provider does not say what happened: ask again, for as long as it takes.
    Unanswered(String),
    /// The attempts are used up, and no call was ever made.
    Spent,
    /// This version cannot read the event or the stored call of another, so nothing was asked: a deploy may bring the
    /// other version back, and what it asked for may have been done.
    Unread(String),
    /// The lease is too short for a call: leave the row to whoever claims it next.
    Abandoned,
}

/// An attempt that was made, to be settled.
pub(crate) struct Finished<S: Service> {
    pub job: Job,
    pub outcome: Outcome<S::Reply>,
}

/// What an attempt says about the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    Ill,
    Unasked,
}

impl<P> Outcome<P> {
    /// What the circuit should know.
    pub fn health(&self) -> Health {
        match self {
            Outcome::Replied(_) | Outcome::Rejected(_) | Outcome::Closed | Outcome::Forgotten => Health::Well,
            Outcome::Failed(_) | Outcome::Unknown(_) | Outcome::Unanswered(_) => Health::Ill,
            Outcome::Decide | Outcome::Spent | Outcome::Abandoned | Outcome::Unread(_) => Health::Unasked,
        }
    }
}

/// Makes the attempt that `job` is claimed for. An attempt beyond the budget (the last one was not known to fail, or
/// its process died) is a question instead of a call, and so is every attempt at a call that was answered once.
pub(crate) async fn attempt<S: Service>(shared: Arc<Shared<S>>, job: Job) -> Finished<S> {
    let spent = job.attempts > shared.logic.attempts_max;
    let outcome = match &job.call {
        None if spent => Outcome::Spent,
        None => Outcome::Decide,
        // Whoever cannot read the event could not conclude with the reply.
        Some(_) if let Some(error) = &job.unread => Outcome::Unread(error.clone()),
        Some(call) => match serde_json::from_slice(call) {
            Err(error) => Outcome::Unread(format!("the stored call cannot be read: {error}")),
            Ok(_) if !fits(&shared, &job) => Outcome::Abandoned,
            Ok(Kept::Answered(call)) => match inquire(&shared, &job, (call, job.epoch)).await {
                Outcome::Closed => Outcome::Forgotten,
                outcome => outcome,
            },
            Ok(Kept::Asked(call)) if spent => inquire_at_last(&shared, &job, call).await,
            Ok(Kept::Asked(call)) => match act(&shared, &job, call.clone()).await {
                Outcome::Rejected(error) => doubt(&shared, &job, (call, error)).await,
                outcome => outcome,
            },
        },
    };
    debug!(event = %job.event_id, attempts = job.attempts, ?outcome, "attempt");
    Finished { job, outcome }
}

fn fits<S: Service>(shared: &Shared<S>, job: &Job) -> bool {
    job.lease_ends.saturating_duration_since(Instant::now()) > act_timeout(shared)
}

fn act_timeout<S: Service>(shared: &Shared<S>) -> Duration {
    ms(shared.config.act_timeout_ms)
}

fn idempotency_key<S: Service>(shared: &Shared<S>, job: &Job, epoch: u32) -> IdempotencyKey {
    IdempotencyKey::new(&shared.logic.consumer, job.event_id, epoch)
}

async fn act<S: Service>(shared: &Shared<S>, job: &Job, call: S::Call) -> Outcome<S::Reply> {
    let began = Instant::now();
    let acting = shared.logic.service.act(call, idempotency_key(shared, job, job.epoch));
    let result = guarded(shared, acting).await;
    shared.logic.meters.act_seconds.record(began.elapsed().as_secs_f64());
    match result {
        Ok(reply) => Outcome::Replied(reply),
        Err(ActError::Failed(error)) => Outcome::Failed(error),
        Err(ActError::NotSent(error) | ActError::Unknown(error)) => Outcome::Unknown(error),
        Err(ActError::Rejected(error)) => Outcome::Rejected(error),
    }
}

/// A refusal speaks of the request that was refused. An earlier one under the same key, whose answer was lost, may have
/// been done all the same, so the key is closed before the event dies of it.
async fn doubt<S: Service>(
    shared: &Shared<S>,
    job: &Job,
    (call, refused): (S::Call, String),
) -> Outcome<S::Reply> {
    if !fits(shared, job) {
        // The next attempt is refused again, and asks then.
        return Outcome::Unknown(refused);
    }
    match inquire_at_last(shared, job, call).await {
        Outcome::Closed => Outcome::Rejected(refused),
        Outcome::Unanswered(error) => Outcome::Unknown(format!("{refused}; then {error}")),
        outcome => outcome,
    }
}

/// What is asked before an event dies: about its key, and about the next one. That was never used, unless this one failed
/// for good before a failover, and the database lost the suffix that remembered it and what was done since.
async fn inquire_at_last<S: Service>(shared: &Shared<S>, job: &Job, call: S::Call) -> Outcome<S::Reply> {
    match inquire(shared, job, (call.clone(), job.epoch)).await {
        Outcome::Closed if fits(shared, job) => inquire(shared, job, (call, job.epoch + 1)).await,
        Outcome::Closed => Outcome::Unanswered("no time is left to ask about the next key".to_owned()),
        outcome => outcome,
    }
}

async fn inquire<S: Service>(
    shared: &Shared<S>,
    job: &Job,
    (call, epoch): (S::Call, u32),
) -> Outcome<S::Reply> {
    let asking = shared.logic.service.inquire(call, idempotency_key(shared, job, epoch));
    match guarded(shared, asking).await {
        Ok(Some(reply)) => Outcome::Replied(reply),
        Ok(None) => Outcome::Closed,
        Err(error) => Outcome::Unanswered(error.to_string()),
    }
}

/// A call that panics or takes too long may have been sent.
async fn guarded<S: Service, T>(
    shared: &Shared<S>,
    call: impl Future<Output = Result<T, ActError>>,
) -> Result<T, ActError> {
    match timeout(act_timeout(shared), AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            shared.logic.meters.panics.increment(1);
            Err(ActError::Unknown(format!("panicked: {}", panic_text(panic.as_ref()))))
        }
        Err(_) => Err(ActError::Unknown(format!("no answer within {:?}", act_timeout(shared)))),
    }
}
