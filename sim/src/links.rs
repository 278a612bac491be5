//! Which directions between which hosts are cut at the moment.
//!
//! A cut holds messages and lets them go when it heals, as TCP's retransmission would; turmoil's `partition` would
//! lose them for ever. Cuts overlap, so each direction counts how many cuts lie on it. turmoil can hold a link only
//! as a whole: where one direction is open, what travels it is passed on by hand, tick by tick.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use turmoil::Sim;

/// One direction of a link: from, to.
pub(crate) type Way = (Arc<str>, Arc<str>);

#[derive(Default)]
pub(crate) struct Links {
    cuts: BTreeMap<Way, u32>,
}

impl Links {
    /// Cuts one more time. Whether the link was whole before.
    pub(crate) fn cut(&mut self, sim: &Sim<'_>, way: &Way) -> bool {
        let was_whole = self.is_whole(way);
        if was_whole {
            sim.hold(&*way.0, &*way.1);
        }
        *self.cuts.entry(way.clone()).or_default() += 1;
        was_whole
    }

    /// Takes one cut away. Whether that makes the link whole.
    pub(crate) fn heal(&mut self, sim: &Sim<'_>, way: &Way) -> bool {
        let Some(count) = self.cuts.get_mut(way) else { return false };
        *count -= 1;
        if *count == 0 {
            self.cuts.remove(way);
        }
        let is_whole = self.is_whole(way);
        if is_whole {
            sim.release(&*way.0, &*way.1);
        }
        is_whole
    }

    /// Whether a message waits on one of these ways: held up by a cut, or slow.
    pub(crate) fn any_waiting(&self, sim: &Sim<'_>, ways: &[Way]) -> bool {
        ways.iter().any(|way| {
            let mut waiting = false;
            each_on(sim, way, |_| waiting = true);
            waiting
        })
    }

    /// Passes on what waits in the open direction of links that are half cut. Once per tick.
    pub(crate) fn pass_on(&self, sim: &Sim<'_>) {
        for way in self.cuts.keys() {
            if !self.is_cut(&reverse(way)) {
                each_on(sim, &reverse(way), |sent| sent.deliver());
            }
        }
    }

    /// Silences `host` for its death: what it sends from here on, and what it sent that is still on a link, is gone.
    #[expect(clippy::disallowed_methods, reason = "the last words of a dead host are to be lost for ever")]
    pub(crate) fn unplug(sim: &Sim<'_>, host: &str, others: &[Arc<str>]) {
        for other in others.iter().filter(|other| &***other != host) {
            sim.partition_oneway(host, &**other);
        }
    }

    /// Ends [`Links::unplug`]; cuts that lie on the host's links go on.
    pub(crate) fn plug_in(&self, sim: &Sim<'_>, host: &Arc<str>, others: &[Arc<str>]) {
        for other in others.iter().filter(|other| *other != host) {
            let way = (Arc::clone(host), Arc::clone(other));
            if self.is_whole(&way) {
                sim.repair_oneway(&**host, &**other);
            } else {
                sim.hold(&**host, &**other);
            }
        }
    }

    fn is_whole(&self, way: &Way) -> bool {
        !self.is_cut(way) && !self.is_cut(&reverse(way))
    }

    fn is_cut(&self, way: &Way) -> bool {
        self.cuts.contains_key(way)
    }
}

fn reverse(way: &Way) -> Way {
    (Arc::clone(&way.1), Arc::clone(&way.0))
}

fn each_on(sim: &Sim<'_>, way: &Way, mut act: impl FnMut(turmoil::SentRef<'_>)) {
    let (from, to): (IpAddr, IpAddr) = (sim.lookup(&*way.0), sim.lookup(&*way.1));
    let pair = if from < to { (from, to) } else { (to, from) };
    sim.links(|links| {
        for link in links.filter(|link| link.pair() == pair) {
            link.filter(|sent| sent.pair().0.ip() == from).for_each(&mut act);
        }
    });
}
