//! Who acts on the brokers and the database when a fault is theirs: F11, F13, F20, and what a node's death means.

use stormglass_embedded::{
    broker,
    database::{self, Promotion},
    machine::Server,
};
use stormglass_orders::TOPIC;
use stormglass_runtime::{Partition, Timestamp, Topic};
use stormglass_sim::{Fault, Link, NodeHooks, Operator};

use crate::shape::BROKERS;

/// Acts on both clusters.
pub struct ClusterOperator {
    /// The brokers.
    pub kafka: Server<broker::Cluster>,
    /// The database nodes.
    pub postgres: Server<database::Cluster>,
    /// Partitions of the `orders` topic.
    pub partitions: u32,
}

impl ClusterOperator {
    fn partition(&self, index: u32) -> Partition {
        Partition::new(&Topic::from(TOPIC), index)
    }
}

impl Operator for ClusterOperator {
    /// The broker that the fault names if it leads anything, else the leader of the first partition that has one.
    fn leader(&mut self, fault: &Fault) -> Option<String> {
        let leaders: Vec<usize> = self.kafka.with(|cluster| {
            (0..self.partitions).filter_map(|index| cluster.leader(&self.partition(index))).collect()
        });
        let named = leaders.iter().find(|leader| fault.hosts.iter().any(|host| *host == BROKERS[**leader]));
        named.or(leaders.first()).map(|leader| BROKERS[*leader].to_owned())
    }

    /// `amount` 0 promotes a replica that gets everything first, anything else one that never gets the rest.
    fn fail_over(&mut self, _now: Timestamp, fault: &Fault) -> bool {
        let promotion = if fault.amount == 0 { Promotion::Everything } else { Promotion::LosingSuffix };
        let before = self.postgres.with(|cluster| cluster.primary());
        self.postgres.affect(|cluster| cluster.promote(promotion));
        self.postgres.with(|cluster| cluster.primary()) != before
    }

    /// Brokers that cannot hear each other do not replicate to each other.
    fn link_changed(&mut self, now: Timestamp, (a, b): (&str, &str), link: Link) {
        let node = |host: &str| BROKERS.iter().position(|name| *name == host);
        let (Some(a), Some(b)) = (node(a), node(b)) else { return };
        self.kafka.affect(|cluster| match link {
            Link::Cut => cluster.cut(now, a, b),
            Link::Mended => cluster.heal(now, a, b),
        });
    }

    /// Every partition goes back by `amount` records; who reads one that has any will get them again.
    fn redeliver(&mut self, now: Timestamp, fault: &Fault) -> bool {
        let back = usize::try_from(fault.amount).unwrap_or(0);
        let mut any = false;
        for index in 0..self.partitions {
            let partition = self.partition(index);
            any |= self
                .kafka
                .with(|cluster| cluster.watermarks(&partition).is_some_and(|range| range.start < range.end));
            self.kafka.affect(|cluster| cluster.redeliver(now, &partition, back));
        }
        any
    }
}

/// Brokers keep their log; a partition is led by others while one is down.
pub fn broker_hooks(kafka: Server<broker::Cluster>) -> NodeHooks {
    let restarted = kafka.clone();
    NodeHooks {
        crashed: Box::new(move |now, node| kafka.affect(|cluster| cluster.crash(now, node))),
        restarted: Box::new(move |now, node| restarted.affect(|cluster| cluster.restart(now, node))),
    }
}

/// Database nodes keep what was flushed; a node that was primary before a promotion comes back as the replica.
pub fn database_hooks(postgres: Server<database::Cluster>) -> NodeHooks {
    let restarted = postgres.clone();
    NodeHooks {
        crashed: Box::new(move |_, node| postgres.affect(|cluster| cluster.crash(node))),
        restarted: Box::new(move |_, node| {
            restarted.affect(|cluster| cluster.restart(node));
            restarted.affect(|cluster| cluster.rejoin(node));
        }),
    }
}
