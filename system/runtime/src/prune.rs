//! Pruning the inbox: a mark may go only when no copy of its event can come any more (DESIGN G10).
//!
//! Copies come from the log again (a rewound position), or from an outbox that publishes twice. The first end with
//! the log's start: a mark below it is out of reach. For the second the store keeps every mark that is as old as an
//! outbox row, and this task prunes a partition only once its position has passed where the log ended at the round
//! before: a copy that was published behind the log's start and is still unread would otherwise look new.
//!
//! Positions are those that the pruning transaction itself has locked. What a worker remembers of them may be ahead: a
//! database that fails over loses its last transactions, and positions go back. On a partition from which nothing comes
//! nobody else would notice, so a round is also what finds that out.

use std::{collections::BTreeMap, sync::Arc};

use tracing::{debug, info};

use crate::{
    Failure, Offset, Partition, Position, Service, Statement, Watermarks, shared::Shared,
    transact::Transaction,
};

/// A partition of a worker, as a round begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub stored: Position,
    /// Where its log ended a round before.
    pub log_end: Option<Offset>,
}

/// What a round saw of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pruned {
    pub partition: Partition,
    /// Its log's range, to be held against its position.
    pub log: Watermarks,
    /// The stored position is further back than it was, or gone.
    pub is_behind: bool,
}

/// One round over the partitions of a worker. Failures only put it off.
pub(crate) async fn prune<S: Service>(shared: Arc<Shared<S>>, partitions: Vec<Known>) -> Vec<Pruned> {
    let mut seen = Vec::new();
    for known in partitions {
        match shared.ports.broker.watermarks(&known.stored.partition).await {
            Ok(log) => seen.push((known, log)),
            Err(failure) => debug!(%failure, "pruning put off"),
        }
    }
    if seen.is_empty() {
        return Vec::new();
    }
    loop {
        match delete(&shared, &seen).await {
            Ok((deleted, pruned)) if deleted < u64::from(shared.config.prune_limit) => return pruned,
            Ok(_) => {}
            Err(failure) => {
                debug!(%failure, "pruning put off");
                return Vec::new();
            }
        }
    }
}

/// One transaction. It deletes so many marks at most, and returns how many.
async fn delete<S: Service>(
    shared: &Shared<S>,
    seen: &[(Known, Watermarks)],
) -> Result<(u64, Vec<Pruned>), Failure> {
    let mut session = shared.ports.database.begin().await?;
    match delete_in(&mut session, shared, seen).await {
        Ok((0, pruned)) => {
            session.rollback().await;
            Ok((0, pruned))
        }
        Ok((deleted, pruned)) => {
            session.commit().await?;
            shared.logic.meters.pruned.increment(deleted);
            info!(consumer = %shared.logic.consumer, deleted, "inbox pruned");
            Ok((deleted, pruned))
        }
        Err(failure) => {
            session.rollback().await;
            Err(failure)
        }
    }
}

async fn delete_in<S: Service>(
    session: &mut Transaction<S::Row>,
    shared: &Shared<S>,
    seen: &[(Known, Watermarks)],
) -> Result<(u64, Vec<Pruned>), Failure> {
    let consumer = &shared.logic.consumer;
    let partitions = seen.iter().map(|(known, _)| known.stored.partition.clone()).collect();
    let statement = Statement::LockPositions { consumer: consumer.clone(), partitions };
    let positions = session.positions(statement).await?.into_iter();
    let positions: BTreeMap<Partition, Offset> = positions.map(|at| (at.partition, at.offset)).collect();
    let (mut pruned, mut below) = (Vec::new(), Vec::new());
    for (Known { stored, log_end }, log) in seen {
        let next = positions.get(&stored.partition).copied();
        let is_behind = next.is_none_or(|next| next < stored.offset);
        pruned.push(Pruned { partition: stored.partition.clone(), log: *log, is_behind });
        if let (Some(next), Some(end)) = (next, log_end)
            && next >= *end
            && log.start > 0
        {
            below.push(stored.partition.at(log.start.min(next)));
        }
    }
    if below.is_empty() {
        return Ok((0, pruned));
    }
    let limit = shared.config.prune_limit;
    let deleted = session.count(Statement::PruneInbox { consumer: consumer.clone(), below, limit }).await?;
    Ok((deleted, pruned))
}
