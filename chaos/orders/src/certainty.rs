//! Which scheduled faults are certain to strike, so that `fault-fired` may insist on them.
//!
//! A cut strikes when it holds up a message, a kill when there is somebody to kill. A plan cannot know what will be
//! said in half a second or who will be dead already, so only faults that nothing stands in the way of are held to it:
//! those on hosts that never stop talking, long enough, apart in time from whatever could silence them.

use stormglass_sim::{Fault, FaultClass};

use crate::shape::CONSUMERS;

/// A member of a consumer group polls, fetches and sends heartbeats at least this often, with all its delays.
const TALKS_WITHIN_MS: u64 = 1_000;

/// A host that was down needs about this long to be itself again.
const RECOVERS_WITHIN_MS: u64 = 1_500;

/// By then the first orders are on the log, so there is something to deliver again.
const RECORDS_BY_MS: u64 = 1_000;

/// The classes of which at least one fault is certain to strike.
pub fn certain_classes(faults: &[Fault]) -> Vec<FaultClass> {
    let certain = faults.iter().filter(|fault| is_certain(fault, faults)).map(|fault| fault.class);
    let mut classes: Vec<FaultClass> = certain.collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

fn is_certain(fault: &Fault, faults: &[Fault]) -> bool {
    let mut others = faults.iter().filter(|other| !std::ptr::eq(*other, fault));
    match fault.class {
        FaultClass::Isolation | FaultClass::PartialCut | FaultClass::OneWayCut | FaultClass::Slow => {
            let talkative = !fault.hosts.is_empty() && fault.hosts.iter().all(|host| is_member(host));
            talkative
                && fault.for_ms >= TALKS_WITHIN_MS
                && !others.any(|other| silences(other) && overlap(fault, other))
        }
        FaultClass::Kill | FaultClass::Pause | FaultClass::RebalanceStorm | FaultClass::ClockJump => {
            !others.any(|other| stops(other) && overlap(fault, other))
        }
        FaultClass::LeaderLoss | FaultClass::Failover => true,
        FaultClass::Redelivery => fault.at_ms >= RECORDS_BY_MS,
        // Drawn per port call: a small run may be lucky.
        FaultClass::PortError | FaultClass::LostAck | FaultClass::LateMessage => false,
    }
}

fn is_member(host: &str) -> bool {
    CONSUMERS.iter().any(|consumer| host.strip_prefix(consumer).is_some_and(|rest| rest.starts_with('-')))
}

/// Whether a fault may stop a host from running, or from saying anything.
fn silences(fault: &Fault) -> bool {
    stops(fault)
        || matches!(fault.class, FaultClass::Isolation | FaultClass::PartialCut | FaultClass::OneWayCut)
}

/// Whether a fault may stop a host from running.
fn stops(fault: &Fault) -> bool {
    match fault.class {
        FaultClass::Kill
        | FaultClass::Pause
        | FaultClass::LeaderLoss
        | FaultClass::RebalanceStorm
        | FaultClass::Failover => true,
        FaultClass::Isolation
        | FaultClass::PartialCut
        | FaultClass::OneWayCut
        | FaultClass::Slow
        | FaultClass::ClockJump
        | FaultClass::Redelivery
        | FaultClass::PortError
        | FaultClass::LostAck
        | FaultClass::LateMessage => false,
    }
}

fn overlap(a: &Fault, b: &Fault) -> bool {
    let until = |fault: &Fault| fault.at_ms + fault.for_ms + RECOVERS_WITHIN_MS;
    a.at_ms < until(b) && b.at_ms < a.at_ms + a.for_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(at_ms: u64, for_ms: u64, host: &str) -> Fault {
        Fault {
            class: FaultClass::Isolation,
            at_ms,
            for_ms,
            hosts: vec![host.to_owned()],
            from: Vec::new(),
            amount: 0,
        }
    }

    #[test]
    fn long_cut_of_a_member_alone_in_its_time_must_strike() {
        let faults = [cut(1_000, 1_200, "payments-1"), cut(4_000, 100, "payments-1")];
        assert_eq!(certain_classes(&faults), [FaultClass::Isolation]);
    }

    #[test]
    fn short_cuts_quiet_hosts_and_overlaps_need_not_strike() {
        assert_eq!(certain_classes(&[cut(1_000, 300, "payments-1")]), []);
        assert_eq!(certain_classes(&[cut(1_000, 2_000, "gateway-1")]), []);
        let kill = Fault { class: FaultClass::Kill, ..cut(900, 600, "payments-1") };
        let overlapping = [kill, cut(1_000, 1_200, "payments-1")];
        assert_eq!(certain_classes(&overlapping), [FaultClass::Kill]);
    }
}
