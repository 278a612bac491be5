//! The scheduled faults: how one begins, lies on the world, shows its effect, and is healed.
//!
//! One function per class, beside its like: [`cuts`] for the network, [`hosts`] for hosts and their clocks,
//! [`operators`] for what is done to the machines themselves. A class strikes when it has an effect: a cut when it
//! holds a message up, a kill when there was something to kill.

mod cuts;
mod hosts;
mod operators;

use std::{sync::Arc, time::Duration};

pub use operators::{Link, Operator};

use self::hosts::Churn;
use crate::{Fault, FaultClass, Told, What, World, WorldError, links::Way, storm::Draw};

/// What lies on the world at the moment.
#[derive(Default)]
pub(crate) struct Weather {
    underway: Vec<Underway>,
    begun: u32,
    operator: Option<Box<dyn Operator>>,
}

/// A fault between its beginning and its healing.
struct Underway {
    fault: Fault,
    number: u32,
    /// When it heals; `None` for not before the calm.
    ends: Option<Duration>,
    lies: Lies,
    struck: bool,
}

/// What has to be undone.
enum Lies {
    Cut(Vec<Way>),
    Slow(Vec<Way>, Duration),
    Down(Vec<Arc<str>>),
    Paused(Vec<Arc<str>>, Vec<Way>),
    Skewed(Vec<Arc<str>>, i64),
    Churning(Churn),
    /// It was an instant.
    Nothing,
}

/// What a class's function reports.
struct Begun {
    lies: Lies,
    /// Whether it has had its effect already.
    struck: bool,
}

impl Begun {
    /// Its effect is still to be seen.
    fn watched(lies: Lies) -> Self {
        Self { lies, struck: false }
    }

    fn done(lies: Lies, struck: bool) -> Self {
        Self { lies, struck }
    }
}

impl World {
    /// Begins a fault now, whatever its `at_ms`, and schedules its healing after its `for_ms`. Without a duration a
    /// killed host restarts at once; a pause, a cut or a skew then lasts until the calm.
    ///
    /// # Errors
    /// [`WorldError::UnknownHost`]; [`WorldError::NotScheduled`] for the classes that are drawn per port call.
    pub fn strike(&mut self, fault: &Fault) -> Result<(), WorldError> {
        self.open()?;
        self.resolve(&fault.hosts)?;
        self.resolve(&fault.from)?;
        let begun = match fault.class {
            FaultClass::Isolation => self.isolate(fault)?,
            FaultClass::PartialCut => self.cut_off(fault)?,
            FaultClass::OneWayCut => self.cut_one_way(fault)?,
            FaultClass::Slow => self.slow_down(fault)?,
            FaultClass::Kill => self.kill(fault)?,
            FaultClass::Pause => self.pause(fault)?,
            FaultClass::RebalanceStorm => self.churn(fault)?,
            FaultClass::ClockJump => self.jump_clock(fault)?,
            FaultClass::LeaderLoss => self.lose_leader(fault)?,
            FaultClass::Failover => self.fail_over(fault)?,
            FaultClass::Redelivery => self.redeliver(fault),
            FaultClass::PortError | FaultClass::LostAck | FaultClass::LateMessage => {
                return Err(WorldError::NotScheduled(fault.class.id()));
            }
        };
        let instant = fault.for_ms == 0 && !matches!(begun.lies, Lies::Down(_));
        let ends = self.storm.time.elapsed() + Duration::from_millis(fault.for_ms);
        let number = self.weather.begun;
        self.weather.begun += 1;
        let underway = Underway {
            fault: fault.clone(),
            number,
            ends: (!instant).then_some(ends),
            lies: begun.lies,
            struck: begun.struck,
        };
        self.note("fault", &underway);
        if underway.struck {
            self.count(&underway);
        }
        self.weather.underway.push(underway);
        Ok(())
    }

    /// Ends the storm: heals every scheduled fault and stops drawing others.
    ///
    /// # Errors
    /// If a process cannot be started again.
    pub fn calm(&mut self) -> Result<(), WorldError> {
        self.storm.calm();
        for underway in std::mem::take(&mut self.weather.underway) {
            self.heal(underway)?;
        }
        Ok(())
    }

    /// Names who acts on the machines for the classes that need it.
    pub fn set_operator(&mut self, operator: impl Operator + 'static) {
        self.weather.operator = Some(Box::new(operator));
    }

    /// Heals what is over, goes on with what moves, and looks for effects. Once per tick.
    pub(crate) fn change_weather(&mut self) -> Result<(), WorldError> {
        if self.weather.underway.is_empty() {
            return Ok(());
        }
        let now = self.storm.time.elapsed();
        for mut underway in std::mem::take(&mut self.weather.underway) {
            if let Lies::Churning(churn) = &mut underway.lies {
                let struck = self.go_on_churning(churn)?;
                self.first_effect(&mut underway, struck);
            }
            if let Lies::Cut(ways) | Lies::Slow(ways, _) = &underway.lies
                && !underway.struck
            {
                let struck = self.links.any_waiting(&self.sim, ways);
                self.first_effect(&mut underway, struck);
            }
            if underway.ends.is_some_and(|ends| ends <= now) {
                self.heal(underway)?;
            } else {
                self.weather.underway.push(underway);
            }
        }
        Ok(())
    }

    fn first_effect(&mut self, underway: &mut Underway, struck: bool) {
        if struck && !underway.struck {
            underway.struck = true;
            self.count(underway);
        }
    }

    fn heal(&mut self, underway: Underway) -> Result<(), WorldError> {
        self.note("healed", &underway);
        match underway.lies {
            Lies::Cut(ways) => self.mend(&ways),
            Lies::Slow(ways, _) => self.speed_up(&ways),
            Lies::Down(hosts) => {
                for host in hosts {
                    self.revive(&host)?;
                }
            }
            Lies::Paused(hosts, ways) => self.resume(&hosts, &ways)?,
            Lies::Skewed(hosts, offset_ms) => self.turn_back(&hosts, offset_ms)?,
            Lies::Churning(churn) => self.settle(&churn)?,
            Lies::Nothing => {}
        }
        Ok(())
    }

    fn note(&self, kind: &'static str, underway: &Underway) {
        let host = underway.fault.hosts.first().map_or("", String::as_str);
        self.storm.history.record(What { host, kind, digest: u64::from(underway.number) }, || {
            let Fault { class, hosts, from, for_ms, amount, at_ms: _ } = &underway.fault;
            let detail =
                format!("{} on {hosts:?} from {from:?} for {for_ms} ms, amount {amount}", class.id());
            Told { causes: vec![u128::from(underway.number)], detail }
        });
    }

    fn count(&self, underway: &Underway) {
        let draw = Draw {
            host: underway.fault.hosts.first().cloned().unwrap_or_default(),
            site: "schedule".to_owned(),
            entity: u64::from(underway.number),
            attempt: 0,
        };
        self.storm.struck(underway.fault.class, draw);
    }

    /// The hosts of these names.
    fn resolve(&self, names: &[String]) -> Result<Vec<Arc<str>>, WorldError> {
        let hosts = self.hosts();
        let find = |name: &String| {
            let found = hosts.iter().find(|host| ***host == **name);
            found.cloned().ok_or_else(|| WorldError::UnknownHost(name.clone()))
        };
        names.iter().map(find).collect()
    }
}
