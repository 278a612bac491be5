//! Faults of the network: F3 isolation, F4 partial cut, F5 one-way cut, F8 slow link.

use std::{sync::Arc, time::Duration};

use super::{Begun, Lies, Link};
use crate::{Fault, World, WorldError, links::Way};

impl World {
    /// F3: `hosts` are cut off from everyone, each other included.
    pub(super) fn isolate(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let hosts = self.resolve(&fault.hosts)?;
        let all = self.hosts();
        Ok(self.begin_cut(both_ways(&hosts, &all)))
    }

    /// F4: `hosts` and `from` are cut off from each other.
    pub(super) fn cut_off(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let (hosts, others) = self.sides(fault)?;
        Ok(self.begin_cut(both_ways(&hosts, &others)))
    }

    /// F5: `hosts` hear nothing of what `from` sends; with a negative amount, `from` hears nothing of `hosts`.
    ///
    /// A connection can still be opened through the cut: turmoil's handshake does not travel on links. What is sent
    /// on it arrives or waits as the cut says, so this only adds requests with an effect and no answer.
    pub(super) fn cut_one_way(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let (hosts, others) = self.sides(fault)?;
        let ways = if fault.amount < 0 { ways(&hosts, &others) } else { ways(&others, &hosts) };
        Ok(self.begin_cut(ways))
    }

    /// F8: messages between `hosts` and `from` take `amount` milliseconds more.
    pub(super) fn slow_down(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let (hosts, others) = self.sides(fault)?;
        let latency = Duration::from_millis(fault.amount.unsigned_abs());
        let ways = both_ways(&hosts, &others);
        for way in &ways {
            let latency = latency.max(self.latency_of(way));
            self.sim.set_link_latency(&*way.0, &*way.1, latency);
        }
        Ok(Begun::watched(Lies::Slow(ways, latency)))
    }

    pub(super) fn speed_up(&mut self, ways: &[Way]) {
        for way in ways {
            self.sim.set_link_latency(&*way.0, &*way.1, self.latency_of(way));
        }
    }

    fn begin_cut(&mut self, ways: Vec<Way>) -> Begun {
        self.cut(&ways);
        Begun::watched(Lies::Cut(ways))
    }

    pub(super) fn cut(&mut self, ways: &[Way]) {
        for way in ways {
            if self.links.cut(&self.sim, way) {
                self.tell_operator(way, Link::Cut);
            }
        }
    }

    pub(super) fn mend(&mut self, ways: &[Way]) {
        for way in ways {
            if self.links.heal(&self.sim, way) {
                self.tell_operator(way, Link::Mended);
            }
        }
    }

    /// What nodes of one cluster tell each other does not travel on links, but must stop and go on with them.
    fn tell_operator(&mut self, way: &Way, link: Link) {
        let find =
            |name: &Arc<str>| self.nodes.iter().find(|node| node.name == *name).map(|node| node.cluster);
        let (from, to) = (find(&way.0), find(&way.1));
        if from.is_some() && from == to {
            let now = self.storm.time.now();
            if let Some(operator) = &mut self.weather.operator {
                operator.link_changed(now, (&way.0, &way.1), link);
            }
        }
    }

    /// The two sides of a cut: an empty `from` is everyone else.
    fn sides(&self, fault: &Fault) -> Result<(Vec<Arc<str>>, Vec<Arc<str>>), WorldError> {
        let hosts = self.resolve(&fault.hosts)?;
        let others = if fault.from.is_empty() {
            self.hosts().into_iter().filter(|host| !hosts.contains(host)).collect()
        } else {
            self.resolve(&fault.from)?
        };
        Ok((hosts, others))
    }

    /// The longest latency that the faults underway put on a link.
    fn latency_of(&self, way: &Way) -> Duration {
        let lies = self.weather.underway.iter().map(|underway| &underway.lies);
        let slow = lies.filter_map(|lies| match lies {
            Lies::Slow(ways, latency) if ways.contains(way) => Some(*latency),
            _ => None,
        });
        slow.max().unwrap_or_default()
    }
}

/// All ways from one of `from` to one of `to`, each once.
fn ways(from: &[Arc<str>], to: &[Arc<str>]) -> Vec<Way> {
    let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (Arc::clone(from), Arc::clone(to))));
    let mut ways: Vec<Way> = pairs.filter(|(from, to)| from != to).collect();
    ways.sort();
    ways.dedup();
    ways
}

pub(super) fn both_ways(a: &[Arc<str>], b: &[Arc<str>]) -> Vec<Way> {
    let mut both = ways(a, b);
    both.extend(ways(b, a));
    both.sort();
    both.dedup();
    both
}
