//! Faults of hosts: F6 kill, F7 pause, F12 rebalance storm, F18 clock jump.

use std::{sync::Arc, time::Duration};

use super::{Begun, Lies, cuts::both_ways};
use crate::{
    Fault, World, WorldError,
    app::State,
    hash::fingerprint,
    links::{Links, Way},
};

/// Members that leave and come back, one at a time.
pub(super) struct Churn {
    hosts: Vec<Arc<str>>,
    period: Duration,
    next: Duration,
    turn: u32,
}

impl World {
    /// F6: the power of `hosts` fails; it comes back after `for_ms`.
    pub(super) fn kill(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let mut down = self.resolve(&fault.hosts)?;
        down.retain(|host| self.power_off(host));
        let struck = !down.is_empty();
        Ok(Begun::done(Lies::Down(down), struck))
    }

    /// F7: the processes of `hosts` stop and later continue. A node's machine is its cluster's, so a paused node is
    /// one that nobody can reach.
    pub(super) fn pause(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let hosts = self.resolve(&fault.hosts)?;
        let (apps, nodes): (Vec<_>, Vec<_>) =
            hosts.into_iter().partition(|host| self.apps.iter().any(|app| app.name == *host));
        let ways = both_ways(&nodes, &self.hosts());
        self.cut(&ways);
        let mut struck = !nodes.is_empty();
        for host in &apps {
            let app = self.app(host)?;
            app.pauses += 1;
            struck |= app.is_running();
        }
        Ok(Begun::done(Lies::Paused(apps, ways), struck))
    }

    pub(super) fn resume(&mut self, hosts: &[Arc<str>], ways: &[Way]) -> Result<(), WorldError> {
        self.mend(ways);
        for host in hosts {
            self.app(host)?.pauses -= 1;
        }
        Ok(())
    }

    /// F12: one of `hosts` after the other leaves, politely or not, and is back before the next but one goes.
    /// `amount` is the time between two changes, in milliseconds.
    pub(super) fn churn(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        /// Without an amount: a few changes per simulated second.
        const PERIOD_MS: u64 = 300;
        let period_ms = if fault.amount == 0 { PERIOD_MS } else { fault.amount.unsigned_abs() };
        let next = self.storm.time.elapsed();
        let hosts = self.resolve(&fault.hosts)?;
        let churn = Churn { hosts, period: Duration::from_millis(period_ms), next, turn: 0 };
        Ok(Begun::watched(Lies::Churning(churn)))
    }

    /// Whether somebody left.
    pub(super) fn go_on_churning(&mut self, churn: &mut Churn) -> Result<bool, WorldError> {
        if churn.hosts.is_empty() || self.storm.time.elapsed() < churn.next {
            return Ok(false);
        }
        churn.next += churn.period;
        let turn = churn.turn;
        churn.turn += 1;
        let place = |turn: u32| churn.hosts[turn as usize % churn.hosts.len()].clone();
        if turn > 0 {
            self.revive(&place(turn - 1))?;
        }
        let leaver = place(turn);
        let entity = u128::from(fingerprint(leaver.as_bytes()));
        /// Half of the departures are crashes.
        const RUDE: f64 = 0.5;
        if self.storm.dice.chance("churn", entity, turn, RUDE) {
            Ok(self.power_off(&leaver))
        } else {
            self.stop(&leaver)
        }
    }

    pub(super) fn settle(&mut self, churn: &Churn) -> Result<(), WorldError> {
        churn.hosts.iter().try_for_each(|host| self.revive(host))
    }

    /// F18: the clocks of `hosts` run `amount` milliseconds ahead, or behind if it is negative. Clusters have no
    /// clocks of their own.
    pub(super) fn jump_clock(&mut self, fault: &Fault) -> Result<Begun, WorldError> {
        let mut hosts = self.resolve(&fault.hosts)?;
        hosts.retain(|host| self.apps.iter().any(|app| app.name == *host));
        let mut struck = false;
        for host in &hosts {
            let app = self.app(host)?;
            app.clock.turn_ms(fault.amount);
            struck |= app.is_running() && fault.amount != 0;
        }
        Ok(Begun::done(Lies::Skewed(hosts, fault.amount), struck))
    }

    pub(super) fn turn_back(&mut self, hosts: &[Arc<str>], offset_ms: i64) -> Result<(), WorldError> {
        for host in hosts {
            self.app(host)?.clock.turn_ms(offset_ms.saturating_neg());
        }
        Ok(())
    }

    /// Cuts the power of a host: its links fall silent first, so that nobody hears its destructors. Whether it was on.
    pub(super) fn power_off(&mut self, host: &Arc<str>) -> bool {
        if !self.sim.is_host_running(&**host) {
            return false;
        }
        if self.app(host).is_ok_and(|app| !app.is_running()) {
            return false;
        }
        let all = self.hosts();
        Links::unplug(&self.sim, host, &all);
        self.sim.crash(&**host);
        self.links.plug_in(&self.sim, host, &all);
        if let Ok(app) = self.app(host) {
            app.state = State::Off;
            app.new_card();
        }
        self.tell_machine(host, Power::Off);
        true
    }

    /// Brings a host back, whether it was killed or had left by itself.
    pub(super) fn revive(&mut self, host: &Arc<str>) -> Result<(), WorldError> {
        let Ok(app) = self.app(host) else {
            if !self.sim.is_host_running(&**host) {
                self.sim.bounce(&**host);
                self.tell_machine(host, Power::On);
            }
            return Ok(());
        };
        match app.state {
            State::Running(_) | State::Ended => Ok(app.come_back()?),
            State::Off => {
                self.sim.bounce(&**host);
                Ok(self.app(host)?.start()?)
            }
        }
    }

    fn tell_machine(&mut self, host: &Arc<str>, power: Power) {
        let now = self.storm.time.now();
        let Some(node) = self.nodes.iter().find(|node| node.name == *host) else { return };
        let hooks = &mut self.hooks[node.cluster];
        match power {
            Power::Off => (hooks.crashed)(now, node.node),
            Power::On => (hooks.restarted)(now, node.node),
        }
    }
}

enum Power {
    Off,
    On,
}
