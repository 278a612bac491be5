//! Each scheduled fault on the toy cluster: what it does, that it is counted, and that nothing of it is left.

mod toy;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rstest::rstest;
use stormglass_runtime::Timestamp;
use stormglass_sim::{Fault, FaultClass, Operator, PortFaults, Rates, World, WorldError, WorldOptions};
use toy::{Toy, raise, run_for};

fn fault(class: FaultClass, hosts: &[&str], for_ms: u64) -> Fault {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    Fault { class, at_ms: 0, for_ms, hosts, from: Vec::new(), amount: 0 }
}

fn between(class: FaultClass, host: &str, from: &str, for_ms: u64) -> Fault {
    Fault { from: vec![from.to_owned()], ..fault(class, &[host], for_ms) }
}

/// A toy with two clients at work.
fn working() -> Toy {
    let mut toy = raise(WorldOptions::new(11), 2);
    run_for(&mut toy.world, 500);
    toy
}

/// How many pings of each client were answered while `sim_ms` passed.
fn progress(toy: &mut Toy, sim_ms: u64) -> Vec<u64> {
    let before = toy.answers();
    run_for(&mut toy.world, sim_ms);
    toy.answers().iter().zip(before).map(|(after, before)| after - before).collect()
}

#[track_caller]
fn check_all_work(toy: &mut Toy) {
    run_for(&mut toy.world, 1_000);
    let progress = progress(toy, 500);
    assert!(progress.iter().all(|answers| *answers > 5), "{progress:?} after the calm");
}

#[rstest]
#[case::isolation(fault(FaultClass::Isolation, &["client-0"], 400))]
#[case::partial_cut(between(FaultClass::PartialCut, "client-0", "echo-0", 400))]
#[case::deaf(between(FaultClass::OneWayCut, "client-0", "echo-0", 400))]
#[case::mute(between(FaultClass::OneWayCut, "echo-0", "client-0", 400))]
#[case::pause(fault(FaultClass::Pause, &["client-0"], 400))]
fn a_host_that_is_cut_off_or_paused_gets_no_answer_until_it_heals(#[case] fault: Fault) {
    let mut toy = working();
    toy.world.strike(&fault).unwrap();
    run_for(&mut toy.world, 50);
    let during = progress(&mut toy, 300);
    assert_eq!(during[0], 0, "{during:?}");
    assert!(during[1] > 3, "{during:?}");
    assert_eq!(toy.world.strikes().of(fault.class), 1);
    check_all_work(&mut toy);
    assert_eq!(toy.seen.lock().unwrap().failures.len(), 0, "a cut that heals breaks no connection");
}

#[test]
fn a_deaf_host_is_still_heard_and_a_mute_one_is_not() {
    let heard = |cut: Fault| -> u64 {
        let arrived = (0..10).map(|moment| {
            let mut toy = raise(WorldOptions::new(moment), 1);
            run_for(&mut toy.world, 500 + moment * 10);
            toy.world.strike(&cut).unwrap();
            run_for(&mut toy.world, 20);
            let before = toy.arrived_from("client-0");
            run_for(&mut toy.world, 300);
            toy.arrived_from("client-0") - before
        });
        arrived.sum()
    };
    assert_eq!(heard(between(FaultClass::OneWayCut, "echo-0", "client-0", 400)), 0);
    let deaf = heard(between(FaultClass::OneWayCut, "client-0", "echo-0", 400));
    assert!((1..=10).contains(&deaf), "{deaf}");
}

#[test]
fn overlapping_cuts_heal_only_when_both_are_over() {
    let mut toy = working();
    toy.world.strike(&fault(FaultClass::Isolation, &["client-0"], 200)).unwrap();
    toy.world.strike(&between(FaultClass::OneWayCut, "client-0", "echo-0", 600)).unwrap();
    run_for(&mut toy.world, 300);
    assert_eq!(progress(&mut toy, 200)[0], 0);
    check_all_work(&mut toy);
}

#[test]
fn a_killed_client_says_no_goodbye_and_comes_back_as_another() {
    let mut toy = working();
    toy.world.strike(&fault(FaultClass::Kill, &["client-0"], 300)).unwrap();
    run_for(&mut toy.world, 290);
    assert!(!toy.world.is_running("client-0").unwrap());
    let disconnected = toy.server.with(|echo| echo.disconnected.len());
    assert_eq!(disconnected, 0, "the node heard of the death");
    run_for(&mut toy.world, 2_000);
    assert_eq!(toy.identities("client-0").len(), 2);
    assert_eq!(toy.world.strikes().of(FaultClass::Kill), 1);
    // Nothing was on its way to the dead client, so the node still believes in its connection (D15).
    assert_eq!(toy.server.with(|echo| echo.disconnected.len()), 0);
    check_all_work(&mut toy);
}

#[test]
fn a_client_that_died_with_an_answer_on_its_way_resets_the_connection_when_it_is_back() {
    let resets = (0..20).filter(|seed| {
        let mut toy = raise(WorldOptions::new(*seed), 1);
        run_for(&mut toy.world, 300 + seed * 10);
        toy.world.strike(&fault(FaultClass::Kill, &["client-0"], 100)).unwrap();
        run_for(&mut toy.world, 1_000);
        toy.server.with(|echo| !echo.disconnected.is_empty())
    });
    let resets = resets.count();
    assert!((1..20).contains(&resets), "{resets} of 20 deaths were noticed");
}

#[test]
fn a_killed_node_is_silent_and_its_clients_are_reset_when_it_is_back() {
    let mut toy = working();
    toy.world.strike(&fault(FaultClass::Kill, &["echo-0"], 300)).unwrap();
    run_for(&mut toy.world, 50);
    assert_eq!(progress(&mut toy, 200), [0, 0]);
    assert!(toy.seen.lock().unwrap().failures.is_empty(), "somebody heard of the death");
    assert_eq!(toy.server.with(|echo| (echo.crashed.clone(), echo.restarted.clone())), (vec![0], vec![]));
    run_for(&mut toy.world, 100);
    assert_eq!(toy.server.with(|echo| echo.restarted.clone()), [0]);
    check_all_work(&mut toy);
}

#[test]
fn a_kill_without_a_duration_restarts_at_once_and_a_second_kill_of_the_dead_is_none() {
    let mut toy = working();
    toy.world.strike(&fault(FaultClass::Kill, &["client-1"], 200)).unwrap();
    toy.world.strike(&fault(FaultClass::Kill, &["client-1"], 100)).unwrap();
    assert_eq!(toy.world.strikes().of(FaultClass::Kill), 1);
    toy.world.strike(&fault(FaultClass::Kill, &["client-0"], 0)).unwrap();
    run_for(&mut toy.world, 10);
    assert!(toy.world.is_running("client-0").unwrap());
    assert!(!toy.world.is_running("client-1").unwrap());
    check_all_work(&mut toy);
}

#[test]
fn a_slow_link_delays_both_ways_and_is_as_fast_as_before_afterwards() {
    let mut toy = working();
    let slow = between(FaultClass::Slow, "client-0", "echo-0", 1_000);
    toy.world.strike(&Fault { amount: 100, ..slow }).unwrap();
    run_for(&mut toy.world, 1_000);
    assert!(toy.slowest_of("client-0") >= Duration::from_millis(200), "{:?}", toy.slowest_of("client-0"));
    assert!(toy.slowest_of("client-1") < Duration::from_millis(100), "{:?}", toy.slowest_of("client-1"));
    assert_eq!(toy.world.strikes().of(FaultClass::Slow), 1);
    check_all_work(&mut toy);
}

#[test]
fn late_messages_come_only_while_the_storm_rages() {
    let rates = Rates { late: 0.2, ..Rates::default() };
    let options = WorldOptions { port_faults: PortFaults::Rates(rates), ..WorldOptions::new(4) };
    let mut toy = raise(options, 2);
    run_for(&mut toy.world, 2_000);
    let late = toy.world.strikes().of(FaultClass::LateMessage);
    assert!(late > 3, "{late}");
    assert!(toy.slowest_of("client-0") > Duration::from_millis(70), "{:?}", toy.slowest_of("client-0"));
    toy.world.calm().unwrap();
    run_for(&mut toy.world, 1_000);
    assert_eq!(toy.world.strikes().of(FaultClass::LateMessage), late);
    check_all_work(&mut toy);
}

#[test]
fn strikes_of_one_run_repeat_without_rates() {
    let rates = Rates { late: 0.1, ..Rates::default() };
    let run = |port_faults| {
        let mut toy = raise(WorldOptions { port_faults, ..WorldOptions::new(4) }, 2);
        run_for(&mut toy.world, 2_000);
        (toy.world.history().hash(), toy.world.strikes_since(0))
    };
    let (hash, strikes) = run(PortFaults::Rates(rates));
    assert!(!strikes.is_empty());
    let explicit = strikes.iter().map(|strike| strike.draw.clone()).collect();
    assert_eq!(run(PortFaults::Explicit(explicit)), (hash, strikes.clone()));
    let fewer = strikes[..1].iter().map(|strike| strike.draw.clone()).collect();
    assert_eq!(run(PortFaults::Explicit(fewer)).1, strikes[..1]);
}

#[test]
fn members_of_a_churn_leave_and_come_back_and_all_are_there_at_the_end() {
    let mut toy = working();
    let churn = fault(FaultClass::RebalanceStorm, &["client-0", "client-1"], 2_000);
    toy.world.strike(&Fault { amount: 200, ..churn }).unwrap();
    run_for(&mut toy.world, 2_100);
    let lives: usize = ["client-0", "client-1"].iter().map(|client| toy.identities(client).len()).sum();
    assert!(lives >= 8, "{lives} incarnations");
    assert_eq!(toy.world.strikes().of(FaultClass::RebalanceStorm), 1);
    check_all_work(&mut toy);
}

#[test]
fn the_calm_heals_everything_at_once() {
    let mut toy = working();
    for fault in [
        fault(FaultClass::Isolation, &["client-0"], 60_000),
        fault(FaultClass::Pause, &["client-1"], 60_000),
        fault(FaultClass::Kill, &["echo-0"], 60_000),
        Fault { amount: 500, ..fault(FaultClass::Slow, &["client-1"], 60_000) },
        fault(FaultClass::RebalanceStorm, &["client-0"], 60_000),
    ] {
        toy.world.strike(&fault).unwrap();
    }
    run_for(&mut toy.world, 1_000);
    toy.world.calm().unwrap();
    check_all_work(&mut toy);
}

/// A process that notes what it sees of time, every 10 ms.
fn watchmaker(world: &mut World) -> (Arc<AtomicU64>, Arc<AtomicU64>) {
    let (wall_ms, longest_ms) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let seen = (Arc::clone(&wall_ms), Arc::clone(&longest_ms));
    world.host("watchmaker", move |host| {
        let (wall_ms, longest_ms) = (Arc::clone(&wall_ms), Arc::clone(&longest_ms));
        async move {
            loop {
                let before = tokio::time::Instant::now();
                tokio::time::sleep(Duration::from_millis(10)).await;
                let millis = u64::try_from(before.elapsed().as_millis())?;
                longest_ms.fetch_max(millis, Ordering::Relaxed);
                wall_ms.store(host.clock().now().millis().cast_unsigned(), Ordering::Relaxed);
            }
        }
    });
    seen
}

#[test]
fn a_clock_jumps_on_its_host_only_and_is_right_again_after_the_calm() {
    let mut world = World::raise(WorldOptions::new(1));
    let (wall_ms, _) = watchmaker(&mut world);
    run_for(&mut world, 100);
    let ahead = |world: &World| wall_ms.load(Ordering::Relaxed).cast_signed() - world.time().now().millis();
    assert!(ahead(&world).abs() <= 20);
    let jump = Fault { amount: -5_000, ..fault(FaultClass::ClockJump, &["watchmaker"], 0) };
    world.strike(&jump).unwrap();
    run_for(&mut world, 100);
    assert!((ahead(&world) + 5_000).abs() <= 20, "{}", ahead(&world));
    assert_eq!(world.strikes().of(FaultClass::ClockJump), 1);
    world.calm().unwrap();
    run_for(&mut world, 100);
    assert!(ahead(&world).abs() <= 20);
}

#[test]
fn a_paused_process_does_nothing_and_finds_all_its_timers_due() {
    let mut world = World::raise(WorldOptions::new(1));
    let (wall_ms, longest_ms) = watchmaker(&mut world);
    run_for(&mut world, 100);
    world.strike(&fault(FaultClass::Pause, &["watchmaker"], 1_000)).unwrap();
    let stopped = wall_ms.load(Ordering::Relaxed);
    run_for(&mut world, 900);
    assert_eq!(wall_ms.load(Ordering::Relaxed), stopped);
    run_for(&mut world, 200);
    let longest = longest_ms.load(Ordering::Relaxed);
    assert!((1_000..1_050).contains(&longest), "{longest} ms");
}

/// An operator that knows `echo-0` as the leader.
struct Conductor(Arc<AtomicBool>);

impl Operator for Conductor {
    fn leader(&mut self, _: &Fault) -> Option<String> {
        Some("echo-0".to_owned())
    }

    fn fail_over(&mut self, _: Timestamp, fault: &Fault) -> bool {
        self.0.store(true, Ordering::Relaxed);
        fault.amount > 0
    }

    fn redeliver(&mut self, _: Timestamp, fault: &Fault) -> bool {
        fault.amount > 0
    }
}

#[test]
fn the_operator_names_the_leader_and_performs_failover_and_redelivery() {
    let mut toy = working();
    let promoted = Arc::new(AtomicBool::new(false));
    toy.world.set_operator(Conductor(Arc::clone(&promoted)));
    toy.world.strike(&fault(FaultClass::LeaderLoss, &[], 200)).unwrap();
    assert!(!toy.world.is_running("echo-0").unwrap());
    let failover = Fault { amount: 1, ..fault(FaultClass::Failover, &["echo-1"], 200) };
    toy.world.strike(&failover).unwrap();
    assert!(!toy.world.is_running("echo-1").unwrap());
    assert!(promoted.load(Ordering::Relaxed));
    toy.world.strike(&fault(FaultClass::Redelivery, &[], 0)).unwrap();
    toy.world.strike(&Fault { amount: 3, ..fault(FaultClass::Redelivery, &[], 0) }).unwrap();
    for class in [FaultClass::LeaderLoss, FaultClass::Failover, FaultClass::Redelivery] {
        assert_eq!(toy.world.strikes().of(class), 1, "{class:?}");
    }
    check_all_work(&mut toy);
}

#[test]
fn what_cannot_be_struck_is_refused_by_name() {
    let mut toy = working();
    let unknown = toy.world.strike(&fault(FaultClass::Kill, &["nobody"], 1)).unwrap_err();
    assert!(matches!(unknown, WorldError::UnknownHost(name) if name == "nobody"));
    let drawn = toy.world.strike(&fault(FaultClass::LostAck, &["client-0"], 1)).unwrap_err();
    assert!(matches!(drawn, WorldError::NotScheduled("F2")));
}

#[test]
fn a_storm_of_all_classes_takes_the_same_course_again() {
    let course = |seed: u64| {
        let rates = Rates { late: 0.05, ..Rates::default() };
        let mut toy =
            raise(WorldOptions { port_faults: PortFaults::Rates(rates), ..WorldOptions::new(seed) }, 4);
        toy.world.set_operator(Conductor(Arc::default()));
        for class in FaultClass::ALL {
            run_for(&mut toy.world, 100);
            let client = format!("client-{}", class as u64 % 4);
            let fault =
                Fault { amount: 80, from: vec!["echo-0".to_owned()], ..fault(class, &[&client], 350) };
            match toy.world.strike(&fault) {
                Ok(()) | Err(WorldError::NotScheduled(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        toy.world.calm().unwrap();
        run_for(&mut toy.world, 1_000);
        (toy.world.history().hash(), toy.world.strikes_since(0))
    };
    let first = course(1);
    assert!(first.1.iter().map(|strike| strike.class).collect::<BTreeSet<_>>().len() >= 10, "{:?}", first.1);
    assert_ne!(course(2), first);
    assert_eq!(course(1), first);
}
