//! What this process knows of its own health: whether Kafka and PostgreSQL answer, asked over and over.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stormglass_orders::{
    TOPIC,
    gateway::{Health, Reach},
};
use stormglass_runtime::{Failure, Topic};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::stack::Stack;

/// How often both are asked.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long either may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was found last.
#[derive(Debug, Default)]
pub struct Watch {
    broker: AtomicBool,
    database: AtomicBool,
    stuck: Mutex<Option<String>>,
}

impl Watch {
    /// Asks until `shutdown`.
    pub async fn keep(self: Arc<Self>, stack: Stack, shutdown: CancellationToken) {
        let topic = Topic::from(TOPIC);
        while !shutdown.is_cancelled() {
            let answered = |answer| matches!(answer, Ok(Ok(())));
            let kafka = async { stack.broker.partitions(&topic).await.map(|_| ()) };
            let postgres = async {
                stack.database.begin().await?.rollback().await;
                Ok::<(), Failure>(())
            };
            let (kafka, postgres) = tokio::join!(timeout(PATIENCE, kafka), timeout(PATIENCE, postgres));
            note("Kafka", &self.broker, answered(kafka));
            note("PostgreSQL", &self.database, answered(postgres));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = sleep(INTERVAL) => {}
            }
        }
    }

    /// Says that a part of the process has ended, so that `/livez` asks for a restart.
    pub fn give_up(&self, what: &str) {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = Some(what.to_owned());
    }
}

impl Health for Watch {
    fn stuck(&self) -> Option<String> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn broker(&self) -> Reach {
        reach(&self.broker)
    }

    fn database(&self) -> Reach {
        reach(&self.database)
    }
}

fn reach(up: &AtomicBool) -> Reach {
    if up.load(Ordering::Relaxed) { Reach::Up } else { Reach::Down }
}

/// Remembers an answer, and logs when it is another than before.
fn note(who: &str, known: &AtomicBool, answers: bool) {
    metrics::gauge!("stormglass_reachable", "server" => who.to_lowercase()).set(f64::from(u8::from(answers)));
    match (known.swap(answers, Ordering::Relaxed), answers) {
        (false, true) => info!("{who} answers"),
        (true, false) => warn!("{who} does not answer"),
        (true, true) | (false, false) => {}
    }
}
