//! Events per second of the production worker and relay on the in-process clusters: what our own code costs, with
//! servers that answer at once. The limit for real ones, not a promise of them.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use stormglass_benches::{Bed, orders_placed, stock};
use stormglass_orders::Inventory;

const EVENTS: u32 = 10_000;

fn runtime(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("runtime");
    group.throughput(Throughput::Elements(EVENTS.into())).sample_size(10);
    for (name, skus) in [("lane/10000-skus", 10_000), ("lane/100-hot-skus", 100)] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || with_orders(skus),
                |bed| run(bed, |bed| bed.run_lanes(Inventory)),
                BatchSize::PerIteration,
            );
        });
    }
    group.bench_function("queue", |bencher| {
        bencher.iter_batched(|| with_orders(1), |bed| run(bed, Bed::run_queue), BatchSize::PerIteration);
    });
    group.bench_function("relay", |bencher| {
        bencher.iter_batched(with_outbox, |bed| run(bed, Bed::run_relay), BatchSize::PerIteration);
    });
    group.finish();
}

/// Gives the bed back, so that taking it down is not measured.
fn run(bed: Bed, work: impl FnOnce(&Bed)) -> Bed {
    work(&bed);
    bed
}

fn with_orders(skus: u32) -> Bed {
    let bed = Bed::default();
    bed.insert(stock(skus));
    bed.publish(orders_placed(EVENTS, skus));
    bed
}

fn with_outbox() -> Bed {
    let bed = Bed::default();
    bed.emit(orders_placed(EVENTS, 1));
    bed
}

criterion_group!(benches, runtime);
criterion_main!(benches);
