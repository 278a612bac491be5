//! What the world itself costs: time per host and tick when idle, and per round trip when busy.
//!
//! `cargo run --profile chaos -p stormglass-sim --example cost`. The simulation's own limit, with nothing in it.

#[path = "../tests/toy/mod.rs"]
mod toy;

use std::time::{Duration, Instant};

use stormglass_sim::{World, WorldOptions};

fn main() {
    for hosts in [6, 12, 18, 24] {
        let micros = |each: Duration| each.as_nanos() as f64 / 1e3;
        let (ours, bare) = (micros(idle(hosts)), micros(bare(hosts)));
        println!("{hosts} idle hosts: {ours:.2} µs per host and tick; bare turmoil {bare:.2} µs");
    }
    for clients in [4, 8, 16] {
        let (round_trips, busy) = busy(clients);
        let idle = idle(clients) * u32::try_from(clients).unwrap_or(1) * STEPS;
        let each = busy.saturating_sub(idle).as_nanos() as f64 / 1e3 / round_trips as f64;
        println!(
            "{clients} clients: {round_trips} round trips in {busy:.1?}, about {each:.2} µs each beyond the ticks"
        );
    }
}

const STEPS: u32 = 2_000;

/// The cost per host and tick of application hosts that only sleep.
fn idle(hosts: usize) -> Duration {
    let mut world = World::raise(WorldOptions::new(1));
    for n in 0..hosts {
        world.host(&format!("idle-{n}"), |_| std::future::pending());
    }
    run(&mut world) / STEPS / u32::try_from(hosts).unwrap_or(1)
}

/// The same of turmoil alone.
fn bare(hosts: usize) -> Duration {
    let mut builder = turmoil::Builder::new();
    let mut sim = builder.tick_duration(Duration::from_millis(10)).rng_seed(1).build();
    for n in 0..hosts {
        sim.host(format!("idle-{n}"), std::future::pending);
    }
    timed(|| assert!(sim.step().is_ok())) / STEPS / u32::try_from(hosts).unwrap_or(1)
}

fn busy(clients: usize) -> (u64, Duration) {
    let mut toy = toy::raise(WorldOptions::new(1), clients);
    let took = run(&mut toy.world);
    (toy.answers().iter().sum(), took)
}

fn run(world: &mut World) -> Duration {
    timed(|| assert!(world.step().is_ok()))
}

#[expect(clippy::disallowed_methods, reason = "this measures the real time that simulated time costs")]
fn timed(mut step: impl FnMut()) -> Duration {
    let begun = Instant::now();
    for _ in 0..STEPS {
        step();
    }
    begun.elapsed()
}
