//! Seeds per second: the standard storm on one core and on two, a bare simulated network with as many idle hosts as
//! the limit beside it, and how a storm's cost grows with its orders.

use std::{hint::black_box, ops::Range, thread, time::Duration};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use stormglass_chaos::{OrderSuite, shape::Shape, workload};
use stormglass_harness::{Case, Observe, Profile, Seed, Suite, Verdict};
use stormglass_sim::Rates;
use toml::Table;

const SCENARIO: &str = "checkout";
const SEEDS: u64 = 16;
const TICK: Duration = Duration::from_millis(10);

fn storms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("storm");
    group.throughput(Throughput::Elements(SEEDS)).sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("one-core", |bencher| bencher.iter(|| raise(0..SEEDS)));
    group.bench_function("two-cores", |bencher| {
        bencher.iter(|| {
            thread::scope(|scope| {
                scope.spawn(|| raise(0..SEEDS / 2));
                raise(SEEDS / 2..SEEDS);
            });
        });
    });
    group.bench_function("bare-turmoil", |bencher| {
        let worlds: Vec<(usize, u64)> = (0..SEEDS).map(size).collect();
        bencher.iter(|| worlds.iter().for_each(|(hosts, ticks)| idle(*hosts, *ticks)));
    });
    group.finish();
}

/// Runs the seeds one after the other, each on a fresh thread as the command does.
fn raise(seeds: Range<u64>) {
    for seed in seeds {
        run(&OrderSuite.plan(SCENARIO, Seed(seed), Profile::Smoke));
    }
}

fn run(case: &Case) -> u64 {
    let outcome = thread::scope(|scope| scope.spawn(|| OrderSuite.run(case, Observe::default())).join());
    let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(outcome.verdict, Verdict::Passed, "seed {:?}", case.seed);
    outcome.sim_ms
}

/// How many hosts a seed's storm has, and for how many ticks it lasts.
#[expect(clippy::expect_used, reason = "a plan's own shape reads back")]
fn size(seed: u64) -> (usize, u64) {
    /// Three brokers, a primary and its replica, the payment provider and the notifier.
    const SERVERS: usize = 7;
    let case = OrderSuite.plan(SCENARIO, Seed(seed), Profile::Smoke);
    let shape: Shape = case.cluster.clone().try_into().expect("a shape");
    let hosts = shape.application_hosts().len() + shape.clients().len() + SERVERS;
    (hosts, run(&case) / u64::try_from(TICK.as_millis()).unwrap_or(1))
}

#[expect(clippy::expect_used, reason = "hosts that wait cannot fail")]
fn idle(hosts: usize, ticks: u64) {
    let mut sim = turmoil::Builder::new().tick_duration(TICK).rng_seed(1).build();
    for number in 0..hosts {
        sim.host(format!("idle-{number}"), std::future::pending);
    }
    for _ in 0..ticks {
        black_box(sim.step().expect("steps"));
    }
}

/// More and more orders in the time of one storm, without faults: the same hosts, ever busier.
fn growth(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("growth");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for orders in [100, 1_000, 10_000] {
        let case = calm(orders);
        group.throughput(Throughput::Elements(orders));
        group.bench_with_input(BenchmarkId::from_parameter(orders), &case, |bencher, case| {
            bencher.iter(|| run(case));
        });
    }
    group.finish();
}

#[expect(clippy::expect_used, reason = "shapes and operations are tables")]
fn calm(orders: u64) -> Case {
    let mut case = OrderSuite.plan(SCENARIO, Seed(0), Profile::Smoke);
    case.rates = Rates::default();
    case.fault.clear();
    let shape: Shape = case.cluster.clone().try_into().expect("a shape");
    let shape =
        Shape { stock: 1_000_000, lanes: 2, members: 2, batch_records: 64, deadline_ms: 300_000, ..shape };
    case.cluster = Table::try_from(&shape).expect("a table");
    let operations = workload::draw(&shape, orders, 0);
    case.operation =
        operations.iter().map(|operation| Table::try_from(operation).expect("a table")).collect();
    case
}

criterion_group!(benches, storms, growth);
criterion_main!(benches);
