//! Pruning the inbox: a mark may go only when no copy of its event can come any more (DESIGN G10).
//!
//! Copies come from the log again (a rewound position), or from an outbox that publishes twice. The first end with
//! the log's start: a mark below it is out of reach. For the second the store keeps every mark that is as old as an
//! outbox row, and this task prunes a partition only once its position has passed where the log ended at the round
//! before: a copy that was published behind the log's start and is still unread would otherwise look new.

use std::sync::Arc;

use tracing::{debug, info};

use crate::{Failure, Offset, Partition, Position, Service, Statement, Watermarks, shared::Shared};

/// What pruning saw of a partition: its log's range, to be held against its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pruned {
    pub partition: Partition,
    pub log: Watermarks,
}

/// One round over the partitions of a worker, each with its stored position and where its log ended a round before.
/// Failures only put it off.
pub(crate) async fn prune<S: Service>(
    shared: Arc<Shared<S>>,
    partitions: Vec<(Position, Option<Offset>)>,
) -> Vec<Pruned> {
    let (mut seen, mut below) = (Vec::new(), Vec::new());
    for (stored, log_end_before) in partitions {
        let log = match shared.ports.broker.watermarks(&stored.partition).await {
            Ok(log) => log,
            Err(failure) => {
                debug!(%failure, "pruning put off");
                continue;
            }
        };
        let has_caught_up = log_end_before.is_some_and(|end| stored.offset >= end);
        if has_caught_up && log.start > 0 {
            below.push(stored.partition.at(log.start.min(stored.offset)));
        }
        seen.push(Pruned { partition: stored.partition, log });
    }
    if !below.is_empty()
        && let Err(failure) = delete(&shared, below).await
    {
        debug!(%failure, "pruning put off");
    }
    seen
}

/// Deletes in transactions of bounded size until nothing is left to delete.
async fn delete<S: Service>(shared: &Shared<S>, below: Vec<Position>) -> Result<(), Failure> {
    let limit = shared.config.prune_limit;
    loop {
        let statement =
            Statement::PruneInbox { consumer: shared.logic.consumer.clone(), below: below.clone(), limit };
        let mut session = shared.ports.database.begin().await?;
        let count = match session.count(statement).await {
            Ok(count) => count,
            Err(failure) => {
                session.rollback().await;
                return Err(failure);
            }
        };
        session.commit().await?;
        shared.logic.meters.pruned.increment(count);
        if count < u64::from(limit) {
            info!(consumer = %shared.logic.consumer, count, "inbox pruned");
            return Ok(());
        }
    }
}
