//! Faults of the machines: F11 leader loss, F13 failover, F20 redelivery. What they mean is the operator's to know.

use stormglass_runtime::Timestamp;

use super::{Begun, Lies};
use crate::{Fault, World, WorldError};

/// Who knows the machines behind the clusters. All methods look at the fault for what to act on.
pub trait Operator {
    /// The host whose loss loses a leader, if there is one at the moment (F11).
    fn leader(&mut self, fault: &Fault) -> Option<String>;

    /// Promotes the replica, losing as much of the log as the fault says; the primary is down already (F13).
    /// Whether it did.
    fn fail_over(&mut self, now: Timestamp, fault: &Fault) -> bool;

    /// Makes the broker hand out old records once more (F20). Whether somebody will get any.
    fn redeliver(&mut self, now: Timestamp, fault: &Fault) -> bool;

    /// The link between two nodes of one cluster is cut, in one direction or both, or is whole again (F3 to F5, F7).
    /// Nothing happens by default.
    fn link_changed(&mut self, _now: Timestamp, _nodes: (&str, &str), _link: Link) {}
}

/// What a link has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Cut.
    Cut,
    /// Whole.
    Mended,
}

impl World {
    /// F11: the host that leads at the moment loses power for `for_ms`.
    pub(super) fn lose_leader(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let leader = self.weather.operator.as_mut().and_then(|operator| operator.leader(fault));
        let hosts = leader.into_iter().collect();
        self.kill(&Fault { hosts, ..fault.clone() })
    }

    /// F13: `hosts`, the primary, lose power for `for_ms`, and the operator promotes another.
    pub(super) fn fail_over(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let killed = self.kill(fault)?;
        let now = self.storm.time.now();
        let promoted = self.weather.operator.as_mut().is_some_and(|operator| operator.fail_over(now, fault));
        Ok(Begun::done(killed.lies, promoted))
    }

    /// F20: records that were delivered are delivered again.
    pub(super) fn redeliver(&mut self, fault: &Fault) -> Begun {
        let now = self.storm.time.now();
        let struck = self.weather.operator.as_mut().is_some_and(|operator| operator.redeliver(now, fault));
        Begun::done(Lies::Nothing, struck)
    }
}
