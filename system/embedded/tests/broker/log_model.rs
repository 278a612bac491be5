//! The log against an oracle: random produce requests, repeats, crashes, cuts and elections at the bare machine.
//!
//! The oracle is an append-only list per partition: what was ever readable never changes, what was acknowledged by all
//! in-sync replicas is in it at the offset it was promised, and no batch is in it twice. It shares no code with the
//! machine.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;
use stormglass_embedded::{
    broker::{
        Acks, Cluster, ClusterConfig, ErrorCode, Fetch, Produce, Request, Response, Stamp, TopicConfig,
    },
    machine::{Call, Connection, Effect, Machine, Node},
};
use stormglass_runtime::{Offset, Timestamp};

use super::cases::sut::{partition, record};

/// One step. Producers are told apart by number; each sends its batches in order and may repeat any of them.
#[derive(Clone, Debug)]
enum Step {
    /// A producer's next batch of so many records.
    Produce {
        producer: u64,
        records: usize,
        acks: Acks,
    },
    /// A producer repeats the batch it sent so many batches ago.
    Repeat {
        producer: u64,
        back: usize,
    },
    Crash(Node),
    Restart(Node),
    Cut(Node, Node),
    Heal(Node, Node),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let acks = prop_oneof![4 => Just(Acks::All), 1 => Just(Acks::Leader)];
    prop_oneof![
        8 => (1u64..4, 1usize..4, acks).prop_map(|(producer, records, acks)| Step::Produce { producer, records, acks }),
        6 => (1u64..4, 0usize..8).prop_map(|(producer, back)| Step::Repeat { producer, back }),
        1 => (0usize..3).prop_map(Step::Crash),
        2 => (0usize..3).prop_map(Step::Restart),
        1 => (0usize..3, 0usize..2).prop_map(|(a, b)| Step::Cut(a, (a + 1 + b) % 3)),
        2 => (0usize..3, 0usize..2).prop_map(|(a, b)| Step::Heal(a, (a + 1 + b) % 3)),
        6 => (0u64..8).prop_map(Step::Wait),
        2 => (100u64..2_000).prop_map(Step::Wait),
    ]
}

/// A batch as its producer remembers it.
#[derive(Clone)]
struct Batch {
    stamp: Stamp,
    values: Vec<String>,
    acks: Acks,
}

struct World {
    cluster: Cluster,
    now: Timestamp,
    calls: u64,
    sent: BTreeMap<u64, Vec<Batch>>,
    /// Batches that wait for their answer, by call.
    open: BTreeMap<Call, Batch>,
    /// What was ever readable.
    readable: Vec<(Offset, String)>,
    /// Acknowledged by all in-sync replicas: the offset promised for a value.
    acked: BTreeMap<String, Offset>,
}

impl World {
    fn new(gap_every: u64) -> Self {
        let config = ClusterConfig {
            gap_every,
            observe: false,
            ..ClusterConfig::new(vec![TopicConfig::new("orders", 1)])
        };
        Self {
            cluster: Cluster::new(config.scaled_down(10)),
            now: Timestamp(0),
            calls: 0,
            sent: BTreeMap::new(),
            open: BTreeMap::new(),
            readable: vec![],
            acked: BTreeMap::new(),
        }
    }

    fn call(&mut self, node: Node) -> Call {
        self.calls += 1;
        Call { connection: Connection { node, number: self.calls }, number: 0 }
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        let effects = match step {
            Step::Produce { producer, records, acks } => {
                let batch = self.next_batch(producer, records, acks);
                self.send(batch)
            }
            Step::Repeat { producer, back } => {
                let sent = self.sent.entry(producer).or_default();
                let Some(batch) = sent.len().checked_sub(back + 1).map(|index| sent[index].clone()) else {
                    return;
                };
                self.send(batch)
            }
            Step::Crash(node) => self.cluster.crash(now, node),
            Step::Restart(node) => self.cluster.restart(now, node),
            Step::Cut(a, b) => self.cluster.cut(now, a, b),
            Step::Heal(a, b) => self.cluster.heal(now, a, b),
            Step::Wait(millis) => return self.wait(Duration::from_millis(millis)),
        };
        self.hear(effects);
    }

    fn next_batch(&mut self, producer: u64, records: usize, acks: Acks) -> Batch {
        let sent = self.sent.entry(producer).or_default();
        let sequence = sent.iter().map(|batch| u32::try_from(batch.values.len()).unwrap()).sum();
        let values = (0..records).map(|i| format!("{producer}/{}/{i}", sent.len())).collect();
        let batch = Batch { stamp: Stamp { producer, epoch: 0, sequence }, values, acks };
        sent.push(batch.clone());
        batch
    }

    fn send(&mut self, batch: Batch) -> Vec<Effect<Response>> {
        let node = self.cluster.leader(&partition(0)).unwrap_or(0);
        let call = self.call(node);
        let produce = Produce {
            partition: partition(0),
            acks: batch.acks,
            stamp: Some(batch.stamp),
            records: batch.values.iter().map(|value| Arc::new(record("k", value))).collect(),
            timeout: Duration::from_secs(3),
        };
        self.open.insert(call, batch);
        self.cluster.handle(self.now, call, Request::Produce(produce))
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.cluster.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let effects = self.cluster.tick(self.now);
            self.hear(effects);
        }
        self.now = end;
    }

    fn hear(&mut self, effects: Vec<Effect<Response>>) {
        for effect in effects {
            match effect {
                Effect::Hangup(gone) => self.open.retain(|call, _| call.connection != gone),
                Effect::Reply(call, response) => {
                    let Some(batch) = self.open.remove(&call) else { continue };
                    match response {
                        Response::Produced(base) if batch.acks == Acks::All => {
                            for (offset, value) in (base..).zip(batch.values) {
                                let before = self.acked.insert(value, offset);
                                assert!(
                                    before.is_none_or(|before| before == offset),
                                    "acknowledged at two offsets"
                                );
                            }
                        }
                        Response::Produced(_) | Response::Failed(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        self.look();
    }

    /// Reads everything below the high watermark and holds it to the oracle.
    fn look(&mut self) {
        let Some(leader) = self.cluster.leader(&partition(0)).filter(|&leader| self.cluster.is_up(leader))
        else {
            return;
        };
        let call = self.call(leader);
        let fetch =
            Fetch { positions: vec![partition(0).at(0)], max_wait: Duration::ZERO, max_bytes: usize::MAX };
        let answer = self.cluster.handle(self.now, call, Request::Fetch(fetch)).pop();
        let Some(Effect::Reply(_, Response::Fetched(fetched))) = answer else { panic!("{answer:?}") };
        let records = fetched.into_iter().next().map_or(Ok(vec![]), |fetched| fetched.records).unwrap();
        let read: Vec<(Offset, String)> = records
            .iter()
            .map(|(at, record)| (*at, String::from_utf8(record.value.to_vec()).unwrap()))
            .collect();
        assert!(
            read.starts_with(&self.readable),
            "what was readable changed: {:?} to {read:?}",
            self.readable
        );
        assert!(read.is_sorted_by(|a, b| a.0 < b.0), "offsets do not grow");
        self.readable = read;
        let found: BTreeMap<&str, Offset> =
            self.readable.iter().map(|(at, value)| (value.as_str(), *at)).collect();
        assert_eq!(found.len(), self.readable.len(), "a batch is in the log twice: {:?}", self.readable);
        for (value, offset) in &self.acked {
            assert_eq!(
                found.get(value.as_str()),
                Some(offset),
                "an acknowledged record is not where it was promised"
            );
        }
    }

    /// Heals everything, and then has every producer repeat what was not acknowledged.
    fn settle(&mut self) {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            self.take(Step::Heal(a, b));
            self.take(Step::Restart(a));
            self.take(Step::Restart(b));
        }
        self.wait(Duration::from_secs(30));
        assert_eq!(self.cluster.in_sync(&partition(0)), [0, 1, 2]);
        let call = self.call(self.cluster.leader(&partition(0)).unwrap());
        let produce = Produce {
            partition: partition(0),
            acks: Acks::All,
            stamp: None,
            records: vec![Arc::new(record("k", "last"))],
            timeout: Duration::from_secs(3),
        };
        self.open.insert(
            call,
            Batch {
                stamp: Stamp { producer: 0, epoch: 0, sequence: 0 },
                values: vec!["last".into()],
                acks: Acks::All,
            },
        );
        let effects = self.cluster.handle(self.now, call, Request::Produce(produce));
        self.hear(effects);
        self.wait(Duration::from_secs(1));
        assert!(self.acked.contains_key("last"), "a healed cluster takes no records");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_readable_stays_and_what_is_acknowledged_is_there_once(
        gap_every in 0u64..4,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(gap_every);
        for step in steps {
            world.take(step);
        }
        world.settle();
    }
}

/// Sends batches of one producer by hand and returns the answers.
fn answers(batches: &[(u32, u32, usize)]) -> Vec<Result<Offset, ErrorCode>> {
    let mut cluster = Cluster::new(ClusterConfig {
        replication_delay: Duration::ZERO,
        ..ClusterConfig::new(vec![TopicConfig::new("orders", 1)])
    });
    let mut number = 0;
    let mut send = |&(epoch, sequence, records): &(u32, u32, usize)| {
        number += 1;
        let produce = Produce {
            partition: partition(0),
            acks: Acks::All,
            stamp: Some(Stamp { producer: 1, epoch, sequence }),
            records: (0..records).map(|_| Arc::new(record("k", "v"))).collect(),
            timeout: Duration::from_secs(1),
        };
        let call = Call { connection: Connection { node: 0, number }, number };
        match cluster.handle(Timestamp(0), call, Request::Produce(produce)).pop() {
            Some(Effect::Reply(_, Response::Produced(offset))) => Ok(offset),
            Some(Effect::Reply(_, Response::Failed(code))) => Err(code),
            other => panic!("{other:?}"),
        }
    };
    batches.iter().map(&mut send).collect()
}

#[test]
fn b11_the_last_five_batches_are_remembered() {
    let sent: Vec<(u32, u32, usize)> = (0..7).map(|sequence| (0, sequence, 1)).collect();
    let repeats: Vec<(u32, u32, usize)> = (0..7).map(|sequence| (0, sequence, 1)).collect();
    let answers = answers(&[sent, repeats].concat());
    let old = Err(ErrorCode::OutOfOrderSequence);
    assert_eq!(answers[7..], [old, old, Ok(2), Ok(3), Ok(4), Ok(5), Ok(6)]);
}

#[test]
fn b11_a_gap_in_the_sequence_is_refused() {
    let out_of_order = Err(ErrorCode::OutOfOrderSequence);
    assert_eq!(
        answers(&[(0, 0, 2), (0, 3, 1), (0, 2, 1), (0, 2, 2)]),
        [Ok(0), out_of_order, Ok(2), out_of_order]
    );
}

#[test]
fn b11_a_new_epoch_begins_at_zero_and_fences_the_old_one() {
    let (fenced, out_of_order) = (Err(ErrorCode::InvalidProducerEpoch), Err(ErrorCode::OutOfOrderSequence));
    let sent = [(0, 0, 1), (1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 1, 1)];
    assert_eq!(answers(&sent), [Ok(0), out_of_order, Ok(1), fenced, fenced, Ok(1), Ok(2)]);
}
