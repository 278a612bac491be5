//! A rebalance that is held open by a revocation token, and its answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use stormglass_runtime::Partition;
use tokio::{sync::oneshot, task::AbortHandle, time::timeout};

use super::{
    ear::{Ear, say},
    reading::{Reading, list},
};

type Partitions = Vec<(Partition, Reading)>;

/// A revocation that waits for its token. The worker has been told, and has the partitions no more; a task answers in
/// time whether or not the worker calls `next`.
pub(super) struct Held {
    partitions: Arc<Mutex<Option<Partitions>>>,
    waiting: AbortHandle,
}

impl Held {
    /// Holds a rebalance open until the token is dropped or its time is up.
    pub(super) fn hold(
        client: &Arc<BaseConsumer<Ear>>,
        partitions: Partitions,
        (grace, released): (Duration, oneshot::Receiver<()>),
    ) -> Self {
        let partitions = Arc::new(Mutex::new(Some(partitions)));
        let (client, owed) = (Arc::clone(client), Arc::clone(&partitions));
        let waiting = tokio::spawn(async move {
            // Dropped, or out of time: it goes on either way.
            timeout(grace, released).await.unwrap_or(Ok(())).unwrap_or(());
            answer(&client, &owed);
        });
        Self { partitions, waiting: waiting.abort_handle() }
    }

    /// Lets the rebalance go on, if it is still held open.
    pub(super) fn give_up(self, client: &BaseConsumer<Ear>) {
        self.waiting.abort();
        answer(client, &self.partitions);
    }

    /// Whether the answer is still owed.
    pub(super) fn waits(&self) -> bool {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Answers a revocation, unless that was done before.
fn answer(client: &BaseConsumer<Ear>, partitions: &Mutex<Option<Partitions>>) {
    let owed = partitions.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(partitions) = owed {
        unassign(client, &partitions);
    }
}

/// Removes what was fetched; this also answers a revocation, and must be called for it in any case.
pub(super) fn unassign(client: &BaseConsumer<Ear>, partitions: &[(Partition, Reading)]) {
    let fetched = partitions.iter().filter(|(_, reading)| reading.queue.is_some());
    let list = list(fetched.map(|(partition, _)| partition.at(0)));
    say(client.incremental_unassign(&list), "the partitions are given up");
}
