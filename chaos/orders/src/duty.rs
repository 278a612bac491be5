//! The operator's duties: dead letters are redriven or discarded while it storms, and once more when it is calm.
//!
//! The operator is a host like any other, on production's `DeadLetters`. What it does is explicit in the case, one
//! operation each; what comes of it the database's own log says. Left out: whoever decides *which* letters deserve it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stormglass_orders::Row;
use stormglass_runtime::{Audit, ConsumerName, Database, DeadLetters, Failure, PendingId};
use stormglass_sim::Host;
use tokio::time::Instant;

use crate::workload::{Action, Operation};

/// How many dead letters are looked at, at most.
const LIMIT: u32 = 1_000;

/// Between two tries of a duty that the database did not take.
const PAUSE: Duration = Duration::from_millis(200);

/// What the operator has done so far. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct DutyLog(Arc<Mutex<Done>>);

/// Sums over all duties that are done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Duties.
    pub duties: usize,
    /// Dead letters that were put back.
    pub redriven: u64,
    /// Dead letters that were deleted.
    pub discarded: u64,
}

impl DutyLog {
    /// The sums.
    pub fn done(&self) -> Done {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, redriven: u64, discarded: u64) {
        let mut done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        done.duties += 1;
        done.redriven += redriven;
        done.discarded += discarded;
    }
}

/// Does `duties`, each at its time and until the database has taken it. Started anew, it goes on where `log` ends.
pub async fn run(duties: Vec<Operation>, database: Arc<dyn Database<Row>>, log: DutyLog, host: Host) {
    let begun = Instant::now();
    for duty in duties.into_iter().skip(log.done().duties) {
        tokio::time::sleep_until(begun + Duration::from_millis(duty.at_ms)).await;
        loop {
            match perform(&duty.action, &database, &host).await {
                Ok((redriven, discarded)) => break log.note(redriven, discarded),
                Err(failure) => {
                    tracing::debug!(%failure, "the operator tries again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// How many letters were redriven, and how many discarded.
async fn perform(
    action: &Action,
    database: &Arc<dyn Database<Row>>,
    host: &Host,
) -> Result<(u64, u64), Failure> {
    let audit = Audit { by: "operator".to_owned(), reason: "storm".to_owned(), at: host.clock().now() };
    match action {
        Action::Redrive { consumer } => {
            let (letters, dead) = dead(database, consumer).await?;
            Ok((letters.redrive(&dead, &audit).await?, 0))
        }
        Action::Discard { consumer } => {
            let (letters, dead) = dead(database, consumer).await?;
            let oldest = dead.get(..1).unwrap_or_default();
            Ok((0, letters.discard(oldest, &audit).await?))
        }
        Action::Place(_) | Action::Repeat(_) | Action::Cancel(_) | Action::Read(_) | Action::List { .. } => {
            Ok((0, 0))
        }
    }
}

async fn dead(
    database: &Arc<dyn Database<Row>>,
    consumer: &str,
) -> Result<(DeadLetters<Row>, Vec<PendingId>), Failure> {
    let letters = DeadLetters::new(Arc::clone(database), ConsumerName::from(consumer));
    let dead = letters.list(LIMIT).await?.into_iter().map(|row| row.id).collect();
    Ok((letters, dead))
}
