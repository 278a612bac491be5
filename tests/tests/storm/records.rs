//! What a storm on containers left: the records of its witnesses, and how they become evidence for the judge.
//!
//! Witnesses are Kafka's log, the database's log, the ledgers of the stand-ins, and what clients wrote down. All of them
//! ran on one machine, so their clocks are one, and evidence is heard in the order of its times. Kafka's are whole
//! milliseconds: a record is heard at the beginning of its own, which is before whoever acted on it, and still after
//! the commit that it follows, since a relay needs longer than that.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use stormglass_chaos::{
    client,
    invariants::{EndState, Evidence, Judge, Setup, Strike, Violation, World, checkers},
    notifier, provider,
};
use stormglass_embedded::broker;
use stormglass_orders::TOPIC;
use stormglass_runtime::{Partition, Position, Record, Timestamp, Topic};
use stormglass_sim::FaultClass;

use crate::{
    rows::{Unreadable, committed},
    wal::Transaction,
};

/// A record as it lies in Kafka's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// When the leader appended it.
    pub at: Timestamp,
    pub position: Position,
    pub record: Arc<Record>,
}

/// A fault that struck, by the storm's own word: for the stories of orders only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Struck {
    pub at: Timestamp,
    pub class: FaultClass,
    pub host: String,
}

/// Everything that was collected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Records {
    /// Units of each `tenant/sku` before the first order.
    pub stock: BTreeMap<String, i64>,
    /// `worker.attempts_max`.
    pub attempts_max: u32,
    /// Of the database; the first one fills the shelves.
    pub transactions: Vec<Transaction>,
    /// Of every topic, each partition in the order of its offsets.
    pub log: Vec<Logged>,
    pub provider: Vec<provider::Observed>,
    pub notifier: Vec<notifier::Observed>,
    pub clients: Vec<client::Observed>,
    pub strikes: Vec<Struck>,
    /// When the last fault was over.
    pub healed: Timestamp,
    /// Sessions in a transaction, and locks on rows, when everything was over.
    pub left_open: (usize, usize),
}

/// The invariants that real records can be held to; the others need what no real log holds.
pub const JUDGED: [&str; 13] =
    ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I11", "I12", "I16", "I21"];

/// How judging ended, if not well.
#[derive(Debug)]
pub enum Failed {
    Violated(Box<Violation>),
    Unreadable(Unreadable),
}

impl Records {
    /// Holds the records to the invariants of these numbers, with the simulator's own code; `look` sees the world
    /// that it made of them.
    pub fn judge<T>(&self, ids: &[&str], look: impl FnOnce(&World) -> T) -> Result<T, Failed> {
        let mut setup = Setup::new(Topic::from(TOPIC), self.stock.clone());
        setup.attempts_max = self.attempts_max;
        let wanted = checkers().into_iter().filter(|checker| ids.contains(&checker.rule().id));
        let mut judge = Judge::with(setup, wanted.collect());
        for (at, evidence) in self.evidence().map_err(Failed::Unreadable)? {
            judge.observe(at, evidence).map_err(Failed::Violated)?;
        }
        let (open_transactions, locks) = self.left_open;
        let end = EndState { open_transactions, locks, ..EndState::default() };
        judge.at_end(&end).map_err(Failed::Violated)?;
        Ok(look(judge.world()))
    }

    /// Everything in the order of time; what happened at once as the judge wants it: brokers first, then provider,
    /// notifier, database, clients.
    fn evidence(&self) -> Result<Vec<(Timestamp, Evidence)>, Unreadable> {
        let mut heard = Heard::default();
        let mut partitions: BTreeMap<&Partition, Vec<&Logged>> = BTreeMap::new();
        for logged in &self.log {
            partitions.entry(&logged.position.partition).or_default().push(logged);
        }
        for logged in partitions.into_values() {
            heard.source(0, logged.into_iter().flat_map(appended));
        }
        heard.source(
            1,
            self.provider.iter().map(|seen| (of_provider(seen), Evidence::Provider(seen.clone()))),
        );
        heard.source(
            2,
            self.notifier.iter().map(|seen| (of_notifier(seen), Evidence::Notifier(seen.clone()))),
        );
        let transactions: Vec<_> = self
            .transactions
            .iter()
            .map(|tx| Ok((tx.at, committed(tx)?)))
            .collect::<Result<_, Unreadable>>()?;
        heard.source(3, transactions.into_iter().map(|(at, seen)| (at, Evidence::Database(seen))));
        heard.source(4, self.clients.iter().map(|seen| (of_client(seen), Evidence::Client(seen.clone()))));
        heard.source(
            5,
            self.strikes.iter().map(|Struck { at, class, host }| {
                let (class, host) = (*class, host.clone());
                (*at, Evidence::Strike(Strike::Struck { class, host, until: *at }))
            }),
        );
        heard.source(5, [(self.healed, Evidence::Strike(Strike::Healed))].into_iter());
        Ok(heard.in_order())
    }
}

#[derive(Default)]
struct Heard(Vec<(Timestamp, u8, Evidence)>);

impl Heard {
    /// Takes in all that one witness says, in its own order, which its times may not contradict.
    fn source(&mut self, rank: u8, evidence: impl Iterator<Item = (Timestamp, Evidence)>) {
        let mut last = Timestamp(i64::MIN);
        for (at, evidence) in evidence {
            last = last.max(at);
            self.0.push((last, rank, evidence));
        }
    }

    fn in_order(mut self) -> Vec<(Timestamp, Evidence)> {
        self.0.sort_by_key(|(at, rank, _)| (*at, *rank));
        self.0.into_iter().map(|(at, _, evidence)| (at, evidence)).collect()
    }
}

/// A record, and that it can be read: when the high watermark passed it, no log says.
fn appended(logged: &Logged) -> [(Timestamp, Evidence); 2] {
    let Logged { at, position, record } = logged;
    let end = broker::Observed::Committed {
        at: *at,
        partition: position.partition.clone(),
        end: position.offset + 1,
    };
    let record =
        broker::Observed::Appended { at: *at, position: position.clone(), record: Arc::clone(record) };
    [(*at, Evidence::Broker(record)), (*at, Evidence::Broker(end))]
}

fn of_provider(seen: &provider::Observed) -> Timestamp {
    match seen {
        provider::Observed::Requested { at, .. }
        | provider::Observed::Captured { at, .. }
        | provider::Observed::Declined { at, .. }
        | provider::Observed::Refunded { at, .. }
        | provider::Observed::Failed { at, .. }
        | provider::Observed::Closed { at, .. }
        | provider::Observed::TurnedAway { at, .. } => *at,
    }
}

fn of_notifier(seen: &notifier::Observed) -> Timestamp {
    match seen {
        notifier::Observed::Requested { at, .. } | notifier::Observed::Sent { at, .. } => *at,
    }
}

fn of_client(seen: &client::Observed) -> Timestamp {
    match seen {
        client::Observed::Sent { at, .. } | client::Observed::Answered { at, .. } => *at,
    }
}
