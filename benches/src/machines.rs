//! The state machines without clients, futures or a network: a request in, its effects out.

use std::{sync::Arc, time::Duration};

use stormglass_embedded::{
    broker::{self, Acks, ClusterConfig, Fetch, Produce, Stamp, TopicConfig},
    database::{self, Config, Schema, Transaction},
    machine::{Call, Connection, Effect, Machine},
};
use stormglass_orders::Row;
use stormglass_runtime::{Answer, Image, Offset, Partition, Record, Statement, Timestamp, Topic};

/// A machine, one connection to its node 0, and the time.
struct Caller<M: Machine> {
    machine: M,
    now: Timestamp,
    calls: u64,
}

impl<M: Machine> Caller<M> {
    fn new(machine: M) -> Self {
        Self { machine, now: Timestamp(0), calls: 0 }
    }

    /// Sends a request and lets time pass until it is answered.
    fn call(&mut self, request: M::Request) -> M::Response {
        self.calls += 1;
        let call = Call { connection: Connection { node: 0, number: 0 }, number: self.calls };
        let mut effects = self.machine.handle(self.now, call, request);
        loop {
            match effects.into_iter().next() {
                Some(Effect::Reply(_, response)) => return response,
                Some(Effect::Hangup(_)) => panic!("the machine hung up"),
                None => {}
            }
            self.now = self.now.after(Duration::from_millis(1));
            effects = self.machine.tick(self.now);
        }
    }
}

/// The database machine with one session.
pub struct Postgres {
    caller: Caller<database::Cluster>,
    transaction: Transaction,
}

impl Default for Postgres {
    fn default() -> Self {
        let mut caller = Caller::new(database::Cluster::new(Schema::of::<Row>(), Config::default()));
        caller.call(database::Request::Connect { application: "bench".to_owned() });
        Self { caller, transaction: Transaction::Begin }
    }
}

impl Postgres {
    /// Executes one statement of the transaction.
    ///
    /// # Panics
    /// If it fails: nothing here may.
    pub fn execute(&mut self, statement: Statement<Image>) -> Answer<Image> {
        let transaction = std::mem::replace(&mut self.transaction, Transaction::Continue);
        match self.caller.call(database::Request::Execute { transaction, statement }) {
            database::Response::Answer(answer) => answer,
            other => panic!("a statement failed: {other:?}"),
        }
    }

    /// Commits, lets the replica follow, and throws the evidence away.
    ///
    /// # Panics
    /// If it fails: nothing here may.
    pub fn commit(&mut self) {
        let committed = self.caller.call(database::Request::Commit);
        assert_eq!(committed, database::Response::Committed);
        self.transaction = Transaction::Begin;
        self.caller.now = self.caller.now.after(Duration::from_millis(1));
        self.caller.machine.tick(self.caller.now);
        self.caller.machine.drain_observed();
    }
}

/// The broker machine with one producer, and a topic of one partition that node 0 leads.
pub struct Kafka {
    caller: Caller<broker::Cluster>,
    partition: Partition,
    producer: u64,
    sequence: u32,
}

impl Kafka {
    /// A cluster of three brokers with `topic`.
    ///
    /// # Panics
    /// If it does not answer: it must.
    pub fn new(topic: &str) -> Self {
        let mut caller =
            Caller::new(broker::Cluster::new(ClusterConfig::new(vec![TopicConfig::new(topic, 1)])));
        let broker::Response::Producer(producer) = caller.call(broker::Request::InitProducer) else {
            panic!("no producer id")
        };
        Self { caller, partition: Partition::new(&Topic::from(topic), 0), producer, sequence: 0 }
    }

    /// Appends a batch with acks=all.
    ///
    /// # Panics
    /// If it fails: nothing here may.
    pub fn produce(&mut self, records: &[Arc<Record>]) -> Offset {
        let stamp = Stamp { producer: self.producer, epoch: 0, sequence: self.sequence };
        self.sequence += u32::try_from(records.len()).unwrap_or(u32::MAX);
        let produce = Produce {
            partition: self.partition.clone(),
            acks: Acks::All,
            stamp: Some(stamp),
            records: records.to_vec(),
            timeout: Duration::from_secs(30),
        };
        let response = self.caller.call(broker::Request::Produce(produce));
        self.caller.machine.drain_observed();
        match response {
            broker::Response::Produced(offset) => offset,
            other => panic!("a batch was not appended: {other:?}"),
        }
    }

    /// Reads records from `offset` on; how many.
    ///
    /// # Panics
    /// If it fails: nothing here may.
    pub fn fetch(&mut self, offset: Offset, max_bytes: usize) -> usize {
        let positions = vec![self.partition.at(offset)];
        let fetch = Fetch { positions, max_wait: Duration::from_millis(500), max_bytes };
        match self.caller.call(broker::Request::Fetch(fetch)) {
            broker::Response::Fetched(fetched) => {
                fetched.iter().filter_map(|part| part.records.as_ref().ok()).map(Vec::len).sum()
            }
            other => panic!("nothing was fetched: {other:?}"),
        }
    }
}
