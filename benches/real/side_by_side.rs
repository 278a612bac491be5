//! Raw loop and worker in alternating rounds, over the same log, into tables that are empty at the start of each.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use stormglass_benches::{Agreeable, PAID_AFTER, order_placed, orders_placed, stock, stories};
use stormglass_orders::{Inventory, Orders, Payments, Row, TOPIC};
use stormglass_runtime::{Relay, Service, Statement};
use stormglass_server::serve::incarnation;
use tokio_util::sync::CancellationToken;

use crate::{
    Fallible,
    bed::{Bed, Log},
    raw::{self, Source, Work},
    table::{Round, print_head, print_ratio, print_rounds},
    worker::{self, Goal, between},
};

/// Partitions of the logs that workers read.
const PARTITIONS: u32 = 4;
const HOT_SKUS: u32 = 100;

const TAKEN: &str = "stormglass_events_taken_total";
const SETTLED: &str = "stormglass_queue_settled_total";
const PUBLISHED: &str = "stormglass_relay_published_total";

/// Two ways to do the same.
struct Pair<W, S> {
    raw: W,
    service: S,
    /// The counter that says how much the worker has done.
    done: &'static str,
}

/// Placed, reserved, paid.
pub async fn orders(bed: &Bed) -> Fallible<()> {
    let count = bed.options.events / 3;
    let log = Log { topic: "bench-orders", partitions: PARTITIONS, count: count + PAID_AFTER };
    let events = bed.log(&log, |numbers| stories(numbers, count)).await?;
    let source = Source { topic: log.topic, partitions: PARTITIONS, events };
    let service = || Orders::new(Duration::from_secs(900));
    print_head(&format!("orders: {events} events, of each order placed, reserved and paid"));
    rounds(bed, source, || Pair { raw: raw::orders::Orders, service: service(), done: TAKEN }).await
}

/// Few shelves that every transaction takes from.
pub async fn inventory(bed: &Bed) -> Fallible<()> {
    let source = placed(bed, "bench-inventory").await?;
    print_head(&format!("inventory: {} orders of {HOT_SKUS} SKUs", source.events));
    rounds(bed, source, || Pair { raw: raw::inventory::Inventory, service: Inventory, done: TAKEN }).await
}

/// Every event goes through the queue.
pub async fn payments(bed: &Bed) -> Fallible<()> {
    let source = placed(bed, "bench-payments").await?;
    let service = || Payments::new(Arc::new(Agreeable::default()));
    print_head(&format!("payments: {} charges through the queue", source.events));
    rounds(bed, source, || Pair { raw: raw::payments::Payments, service: service(), done: SETTLED }).await
}

/// A log on which orders are placed.
async fn placed(bed: &Bed, topic: &'static str) -> Fallible<Source> {
    let log = Log { topic, partitions: PARTITIONS, count: bed.options.events };
    let events =
        bed.log(&log, |numbers| numbers.map(|number| order_placed(number, HOT_SKUS)).collect()).await?;
    Ok(Source { topic: log.topic, partitions: PARTITIONS, events })
}

async fn rounds<W: Work, S: Service<Row = Row>>(
    bed: &Bed,
    source: Source,
    pair: impl Fn() -> Pair<W, S>,
) -> Fallible<()> {
    let (mut raws, mut workers) = (Vec::new(), Vec::new());
    for _ in 0..bed.options.rounds {
        refill(bed).await?;
        raws.push(raw::round(bed, source, || pair().raw).await?);
        bed.print_statements().await?;
        refill(bed).await?;
        let Pair { service, done, .. } = pair();
        let goal = Goal { counter: done, count: source.events };
        workers.push(worker::round(bed, service, source.topic, goal).await?);
        bed.print_statements().await?;
    }
    print_both(&raws, &workers);
    Ok(())
}

async fn refill(bed: &Bed) -> Fallible<()> {
    bed.reset().await?;
    bed.insert(stock(HOT_SKUS)).await
}

fn print_both(raws: &[Round], workers: &[Round]) {
    print_rounds("raw", raws);
    print_rounds("ours", workers);
    print_ratio(raws, workers);
}

/// From a full outbox onto the topic. PostgreSQL's `synchronous_commit` is on, as it is everywhere here.
pub async fn relay(bed: &Bed) -> Fallible<()> {
    let events = u64::from(bed.options.events);
    bed.topic(TOPIC, PARTITIONS).await?;
    let (mut raws, mut relays) = (Vec::new(), Vec::new());
    print_head(&format!("relay: {events} records, {} at a time", bed.settings.relay.batch_records));
    for _ in 0..bed.options.rounds {
        fill_outbox(bed).await?;
        raws.push(raw::relay::round(bed, events).await?);
        bed.print_statements().await?;
        fill_outbox(bed).await?;
        relays.push(relay_round(bed, events).await?);
        bed.print_statements().await?;
    }
    print_both(&raws, &relays);
    Ok(())
}

async fn fill_outbox(bed: &Bed) -> Fallible<()> {
    bed.reset().await?;
    for chunk in orders_placed(bed.options.events, HOT_SKUS).chunks(5_000) {
        bed.transact(Statement::Emit { records: chunk.to_vec() }).await?;
    }
    Ok(())
}

async fn relay_round(bed: &Bed, events: u64) -> Fallible<Round> {
    let settings = bed.settings.relay.clone();
    let published = bed.meters.counter(PUBLISHED, &settings.lease);
    let before = published.load(Ordering::Relaxed);
    let cpu = bed.servers.cpu()?;
    let relay = Relay::<Row>::new(
        Arc::clone(&bed.database) as _,
        Arc::clone(&bed.kafka) as _,
        settings,
        incarnation()?,
    )?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    let so_far = || published.load(Ordering::Relaxed) - before;
    // It begins at once: nothing has to be joined.
    let seconds = between(|| true, || so_far() >= events).await?;
    shutdown.cancel();
    running.await?;
    let transactions = events.div_ceil(u64::from(bed.settings.relay.batch_records));
    Ok(Round { events: so_far(), seconds, cpu: bed.servers.cpu()?.since(cpu), transactions })
}
