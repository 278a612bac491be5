//! Opening partitions: where each is stored to begin, and what its log has.
//!
//! The position is read first and a log that seems too short for it is asked again after, so that a range from before
//! the position moved is not taken for a loss.

use std::{collections::BTreeMap, sync::Arc};

use tracing::info;

use crate::{Failure, Partition, Position, Service, Statement, Watermarks, shared::Shared};

/// A partition whose stored position is known.
pub(crate) struct Opened {
    /// The opening that was asked for.
    pub opening: u64,
    /// Where it is stored to begin.
    pub position: Position,
    /// What there is to read.
    pub log: Watermarks,
}

/// Reads the stored positions of partitions, creating those that are missing at the log's start. Tries until it
/// succeeds: without its position a partition cannot be read.
pub(crate) async fn open<S: Service>(
    shared: Arc<Shared<S>>,
    partitions: Vec<(Partition, Option<Watermarks>)>,
    opening: u64,
) -> Vec<Opened> {
    let mut failures = 0;
    loop {
        match try_open(&shared, &partitions, opening).await {
            Ok(opened) => return opened,
            Err(failure) => {
                failures += 1;
                let delay = shared.retry_delay("retry-open", failures);
                info!(%failure, ?delay, "positions could not be read");
                tokio::time::sleep(delay).await;
            }
        }
    }
}

async fn try_open<S: Service>(
    shared: &Shared<S>,
    partitions: &[(Partition, Option<Watermarks>)],
    opening: u64,
) -> Result<Vec<Opened>, Failure> {
    let mut logs = BTreeMap::new();
    for (partition, known) in partitions {
        let log = match known {
            Some(known) => *known,
            None => shared.ports.broker.watermarks(partition).await?,
        };
        logs.insert(partition.clone(), log);
    }
    let mut opened = Vec::new();
    for position in stored_positions(shared, &logs).await? {
        let Some(mut log) = logs.get(&position.partition).copied() else { continue };
        if position.offset > log.end {
            // Another member may have moved it since the range was seen; then the log has it by now.
            log = shared.ports.broker.watermarks(&position.partition).await?;
        }
        opened.push(Opened { opening, position, log });
    }
    Ok(opened)
}

async fn stored_positions<S: Service>(
    shared: &Shared<S>,
    logs: &BTreeMap<Partition, Watermarks>,
) -> Result<Vec<Position>, Failure> {
    let consumer = shared.logic.consumer.clone();
    let positions = logs.iter().map(|(partition, log)| partition.at(log.start)).collect();
    let mut session = shared.ports.database.begin().await?;
    match session.positions(Statement::OpenPositions { consumer, positions }).await {
        Ok(stored) => session.commit().await.map(|()| stored),
        Err(failure) => {
            session.rollback().await;
            Err(failure)
        }
    }
}
