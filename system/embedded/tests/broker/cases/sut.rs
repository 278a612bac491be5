//! The system under test: a cluster, clients of it, and the operator's hands.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use stormglass_embedded::{
    broker::{ErrorCode, Membership, OffsetReset},
    machine::Node,
};
use stormglass_runtime::{
    Broker, Consumer, ConsumerName, Delivered, Delivery, Failure, Headers, Offset, Partition, Position,
    Producer, Record, Topic,
};
use tokio::time::{sleep, timeout};

/// A kind of Kafka that cases run on.
#[async_trait]
pub trait Kind: Send + Sync {
    /// A cluster as good as new, of three brokers.
    async fn start(&self, setup: Setup) -> Box<dyn Sut>;
}

/// How the cluster is installed, where a case needs it other than usual.
#[derive(Clone, Copy)]
pub struct Setup {
    pub partitions: u32,
    pub gap_every: u64,
    pub max_record_bytes: usize,
    pub unclean: bool,
    pub offsets_retention: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        let offsets_retention = Duration::from_secs(3600);
        Self { partitions: 1, gap_every: 0, max_record_bytes: 1 << 20, unclean: false, offsets_retention }
    }
}

/// How a client is set, where a case needs it other than usual.
#[derive(Clone, Copy)]
pub struct Tuning {
    pub delivery_timeout: Duration,
    pub max_poll_interval: Duration,
    pub revocation_grace: Duration,
    pub queue_records: usize,
    pub reset: OffsetReset,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            delivery_timeout: Duration::from_secs(12),
            max_poll_interval: Duration::from_secs(30),
            revocation_grace: Duration::from_secs(3),
            queue_records: 1_000,
            reset: OffsetReset::Earliest,
        }
    }
}

pub const SESSION: Duration = Duration::from_millis(4_500);
/// Longer than any election, rebalance or session here.
pub const LONG: Duration = Duration::from_secs(60);

pub trait Kafka: Broker + Producer {}
impl<T: Broker + Producer> Kafka for T {}

/// A cluster with one topic, and the faults that a case needs.
#[async_trait]
pub trait Sut: Send + Sync {
    /// A client process, and what can go wrong on its way to the brokers.
    fn client(&self, tuning: Tuning) -> (Arc<dyn Kafka>, Arc<Faults>);
    async fn leader(&self, partition: &Partition) -> Option<Node>;
    async fn coordinator(&self, group: &ConsumerName) -> Option<Node>;
    async fn kill(&self, node: Node);
    async fn start(&self, node: Node);
    /// Cuts a broker from the other brokers; clients still reach it.
    async fn cut_from_peers(&self, node: Node);
    async fn heal(&self);
    async fn delete_records(&self, partition: &Partition, before: Offset);
    async fn produce_acks_leader(&self, partition: &Partition, value: &str) -> Result<Offset, ErrorCode>;
    /// Commits as an operator's tool would, with any identity.
    async fn commit_as(&self, who: Membership, position: Position) -> Result<(), ErrorCode>;
    async fn committed(&self, group: &ConsumerName, partition: &Partition) -> Option<Offset>;
    /// The next fetch of the partition goes back by so many records.
    async fn redeliver(&self, partition: &Partition, records: usize);
    async fn redelivered(&self) -> u64;
    /// The requests that were held back arrive; how many.
    async fn deliver_held(&self, faults: &Faults) -> usize;
    /// How many requests the brokers have seen of the clients.
    fn requests(&self) -> u64;
    /// How much later than asked for a timeout may be noticed.
    fn lateness(&self) -> Duration;
}

/// What can go wrong between one client and the brokers.
#[derive(Default)]
pub struct Faults {
    /// No answer comes back while set.
    pub deaf: AtomicBool,
    /// No request arrives while set; it is lost.
    pub mute: AtomicBool,
    /// So many answers to produce requests are lost.
    pub lose_acks: AtomicU64,
    /// While set, produce requests are held back instead of delivered.
    pub hold: AtomicBool,
    /// Whatever the system that is tested needs to deliver them.
    pub held: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Faults {
    pub fn raise(flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
    }

    pub fn lower(flag: &AtomicBool) {
        flag.store(false, Ordering::SeqCst);
    }
}

pub fn topic() -> Topic {
    Topic::from("orders")
}

pub fn partition(index: u32) -> Partition {
    Partition::new(&topic(), index)
}

pub fn group() -> ConsumerName {
    ConsumerName::from("payments")
}

pub fn record(key: &str, value: &str) -> Record {
    Record {
        topic: topic(),
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: Headers::default(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

pub async fn publish(client: &Arc<dyn Kafka>, key: &str, value: &str) -> Result<Position, Failure> {
    client.publish(vec![record(key, value)]).await.remove(0)
}

/// What a group of its own reads, from `from` on, until nothing comes for two seconds.
pub async fn read_all(sut: &dyn Sut, from: Offset) -> BTreeMap<Partition, Vec<(Offset, String)>> {
    static READERS: AtomicU64 = AtomicU64::new(0);
    let name = format!("reader-{}", READERS.fetch_add(1, Ordering::SeqCst));
    let (client, _) = sut.client(Tuning::default());
    let mut member = Member::join_as(&client, &ConsumerName::from(name.as_str())).await;
    member.from = from;
    let quiet = async {
        // A partition is handed out once its leader answers; before that, silence says nothing.
        while timeout(Duration::from_secs(2), member.step()).await.is_ok() || member.owned.is_empty() {}
    };
    timeout(LONG, quiet).await.unwrap();
    let mut read: BTreeMap<Partition, Vec<(Offset, String)>> = BTreeMap::new();
    for (at, value) in member.seen.drain(..) {
        read.entry(at.partition).or_default().push((at.offset, value));
    }
    member.consumer.close().await;
    read
}

pub async fn values(sut: &dyn Sut) -> Vec<String> {
    let read = read_all(sut, 0).await;
    read.into_values().flatten().map(|(_, value)| value).collect()
}

/// A consumer and what happened to it.
pub struct Member {
    pub consumer: Box<dyn Consumer>,
    pub owned: Vec<Partition>,
    pub seen: Vec<(Position, String)>,
    pub revoked: Vec<Partition>,
    pub lost: Vec<Partition>,
    pub from: Offset,
}

impl Member {
    pub async fn join(client: &Arc<dyn Kafka>) -> Self {
        Self::join_as(client, &group()).await
    }

    pub async fn join_as(client: &Arc<dyn Kafka>, group: &ConsumerName) -> Self {
        let consumer = client.subscribe(group, &[topic()]).await.unwrap();
        Self { consumer, owned: vec![], seen: vec![], revoked: vec![], lost: vec![], from: 0 }
    }

    /// Polls for `time`.
    pub async fn run(&mut self, time: Duration) {
        timeout(time, async {
            loop {
                self.step().await;
            }
        })
        .await
        .ok();
    }

    /// Polls until `enough` says so; fails after [`LONG`].
    #[track_caller]
    pub fn until<'a>(&'a mut self, enough: impl Fn(&Self) -> bool + 'a) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let reached = timeout(LONG, async {
                while !enough(self) {
                    self.step().await;
                }
            });
            if reached.await.is_err() {
                panic!("not reached at {caller}: owned {:?}, seen {:?}", self.owned, self.seen);
            }
        }
    }

    pub async fn step(&mut self) {
        match self.consumer.next().await {
            Ok(delivery) => self.take(delivery),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }

    pub fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Records(records) => {
                for Delivered { at, record } in records {
                    self.seen.push((at, String::from_utf8(record.value.to_vec()).unwrap()));
                }
            }
            Delivery::Assigned(assignments) => {
                for assignment in assignments {
                    self.consumer.seek(assignment.partition.at(self.from));
                    self.owned.push(assignment.partition);
                }
                self.owned.sort();
            }
            Delivery::Revoking(partitions, _token) => {
                self.owned.retain(|owned| !partitions.contains(owned));
                self.revoked.extend(partitions);
            }
            Delivery::Lost(partitions) => {
                self.owned.retain(|owned| !partitions.contains(owned));
                self.lost.extend(partitions);
            }
        }
    }

    pub fn values(&self) -> Vec<&str> {
        self.seen.iter().map(|(_, value)| value.as_str()).collect()
    }
}

/// Polls both members until `enough` says so of each: a rebalance goes on while all members of the group poll.
pub async fn both(a: &mut Member, b: &mut Member, enough: impl Fn(&Member) -> bool) {
    let reached = timeout(LONG, async {
        while !(enough(a) && enough(b)) {
            tokio::select! { biased;
                () = a.step() => {}
                () = b.step() => {}
            }
        }
    });
    assert!(reached.await.is_ok(), "not reached: {:?} and {:?}", a.owned, b.owned);
}
