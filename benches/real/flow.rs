//! Orders from the gateway on: how fast they are accepted, how long they take to be confirmed, and what a database that
//! was away leaves behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stormglass_benches::stock;
use stormglass_orders::TOPIC;
use tokio::time::{Instant, sleep};

use crate::{
    Fallible,
    bed::Bed,
    confirmed::Confirmed,
    load::{Load, Pace, Placed},
    members::Members,
    table::{Spread, percentile},
};

const SKUS: u32 = 100;
/// Connections of a load that is to fill the services.
const CROWD: usize = 64;
/// Enough connections that an order seldom waits for one.
const OPEN: usize = 256;
/// How long orders may take to be confirmed after the last was placed.
const PATIENCE: Duration = Duration::from_secs(120);

/// `POST /v1/orders` until 202, by connections.
pub async fn gateway(bed: &Bed) -> Fallible<()> {
    fresh(bed, 4).await?;
    let members = Members::gateway(bed).await?;
    println!("\ngateway: POST until 202, acks=all, closed loop, {} s each", bed.options.seconds);
    println!(
        "  {:<16} {:>8} {:>8} {:>8}      {:>8} {:>8}",
        "connections", "min", "median", "max", "p50", "p99"
    );
    for connections in bed.options.connections.clone() {
        let (mut rates, mut halves, mut tails, mut refused) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for round in 0..bed.options.rounds {
            let name = format!("gateway-{connections}-{round}");
            let load = closed(&members, connections, name);
            let begun = Instant::now();
            let placed = during(load, Duration::from_secs(bed.options.seconds)).await?;
            let answers = answer_times(&placed);
            rates.push(answers.len() as f64 / begun.elapsed().as_secs_f64());
            halves.push(percentile(&answers, 0.5));
            tails.push(percentile(&answers, 0.99));
            refused += placed.len() - answers.len();
        }
        let rate = Spread::of(rates);
        let (p50, p99) = (Spread::of(halves).median, Spread::of(tails).median);
        println!(
            "  {connections:<16} {:>8.0} {:>8.0} {:>8.0} /s   {p50:>5.1} ms {p99:>5.1} ms{}",
            rate.min,
            rate.median,
            rate.max,
            note(refused, "not accepted"),
        );
    }
    members.stop().await
}

/// POST until confirmed, with as many members of each consumer as the topic has partitions.
pub async fn end_to_end(bed: &Bed) -> Fallible<()> {
    let rate = bed.options.rate;
    println!(
        "\nend to end: POST until order.confirmed is read; capacity by {CROWD} connections in a closed loop, times at \
         {rate} orders/s in an open one, {} s each",
        bed.options.seconds
    );
    println!(
        "  {:<16} {:>12}   {:>22} {:>22}",
        "members", "capacity", "POST → 202 p50, p99", "→ confirmed p50, p99, min and max of p99"
    );
    for count in [1, 2, 4] {
        fresh(bed, count).await?;
        let members = Members::all(bed, count).await?;
        let watch = Confirmed::watch(bed, TOPIC, count)?;
        // Groups form and statements are prepared before anything is measured.
        let warm = closed(&members, 4, format!("warm-{count}"));
        let placed = during(warm, Duration::from_secs(2)).await?;
        settled(&watch, accepted(&placed)).await?;
        let capacity = capacity(bed, &members, &watch).await?;
        times(bed, &members, (count, capacity)).await?;
        drop(watch);
        members.stop().await?;
    }
    Ok(())
}

/// Orders confirmed in a second, from the first placed to the last confirmed.
async fn capacity(bed: &Bed, members: &Members, watch: &Confirmed) -> Fallible<f64> {
    let (before, begun) = (watch.count(), Instant::now());
    let load = closed(members, CROWD, format!("capacity-{before}"));
    let placed = during(load, Duration::from_secs(bed.options.seconds)).await?;
    settled(watch, before + accepted(&placed)).await?;
    Ok((watch.count() - before) as f64 / begun.elapsed().as_secs_f64())
}

async fn times(bed: &Bed, members: &Members, (count, capacity): (u32, f64)) -> Fallible<()> {
    let (mut answers, mut halves, mut tails, mut refused) = ((0.0, 0.0), Vec::new(), Vec::new(), 0);
    for round in 0..bed.options.rounds {
        let watch = Confirmed::watch(bed, TOPIC, count)?;
        let pace = Pace::PerSecond(bed.options.rate);
        let load = Load { pace, ..closed(members, OPEN, format!("open-{count}-{round}")) };
        let placed = during(load, Duration::from_secs(bed.options.seconds)).await?;
        settled(&watch, accepted(&placed)).await?;
        let seen = watch.times();
        let taken = |placed: &Placed| Some(seen.get(&placed.order)?.saturating_duration_since(placed.due));
        let mut confirmed: Vec<f64> =
            placed.iter().filter_map(taken).map(|d| d.as_secs_f64() * 1e3).collect();
        confirmed.sort_by(f64::total_cmp);
        halves.push(percentile(&confirmed, 0.5));
        tails.push(percentile(&confirmed, 0.99));
        let times = answer_times(&placed);
        refused += placed.len() - times.len();
        answers = (percentile(&times, 0.5), percentile(&times, 0.99));
    }
    let (half, tail) = (Spread::of(halves), Spread::of(tails));
    println!(
        "  {count:<16} {capacity:>10.0} /s   {:>8.1} ms {:>8.1} ms {:>9.0} ms {:>7.0} ms   {:.0} to {:.0} ms{}",
        answers.0,
        answers.1,
        half.median,
        tail.median,
        tail.min,
        tail.max,
        note(refused, "not accepted"),
    );
    Ok(())
}

/// PostgreSQL is killed under load, and comes back.
pub async fn outage(bed: &Bed) -> Fallible<()> {
    const MEMBERS: u32 = 2;
    const CALM: Duration = Duration::from_secs(3);
    let (rate, away) = (bed.options.outage_rate, Duration::from_secs(bed.options.outage));
    fresh(bed, MEMBERS).await?;
    let members = Members::all(bed, MEMBERS).await?;
    let watch = Confirmed::watch(bed, TOPIC, MEMBERS)?;
    let load = Load { pace: Pace::PerSecond(rate), ..closed(&members, OPEN, "outage".to_owned()) };
    let stop = Arc::clone(&load.stop);
    let running = load.start()?;
    sleep(CALM).await;
    let gone = Instant::now();
    bed.servers.kill_postgres()?;
    sleep(away).await;
    bed.servers.revive_postgres().await?;
    let back = Instant::now();
    sleep(CALM).await;
    stop.store(true, Ordering::Relaxed);
    let placed = joined(running).await?;
    settled(&watch, accepted(&placed)).await?;
    let seen = watch.times();
    let last = |placed: &&Placed| seen.get(&placed.order).copied();
    let behind = placed.iter().filter(|placed| placed.due < back);
    let drained = behind.clone().filter_map(|placed| last(&placed)).max().unwrap_or(back);
    let meanwhile: Vec<Placed> = behind.filter(|placed| placed.due > gone).copied().collect();
    let answers = answer_times(&meanwhile);
    println!("\noutage: PostgreSQL killed for {} s under {rate} orders/s", (back - gone).as_secs());
    println!(
        "  {} of {} POSTs answered 202 meanwhile, p50 {:.1} ms, p99 {:.1} ms",
        answers.len(),
        meanwhile.len(),
        percentile(&answers, 0.5),
        percentile(&answers, 0.99),
    );
    println!(
        "  backlog confirmed {:.1} s after PostgreSQL was back; {} accepted orders not confirmed in the end",
        drained.saturating_duration_since(back).as_secs_f64(),
        accepted(&placed).saturating_sub(watch.count()),
    );
    drop(watch);
    members.stop().await
}

/// Empty tables but for stock, and an empty topic of so many partitions.
async fn fresh(bed: &Bed, partitions: u32) -> Fallible<()> {
    bed.reset().await?;
    bed.insert(stock(SKUS)).await?;
    bed.topic(TOPIC, partitions).await?;
    for consumer in ["orders", "payments", "inventory", "notifications"] {
        bed.topic(&format!("{consumer}.dlq"), 1).await?;
    }
    Ok(())
}

fn closed(members: &Members, connections: usize, name: String) -> Load {
    let (gateway, stop) = (members.gateway, Arc::new(AtomicBool::new(false)));
    Load { gateway, connections, pace: Pace::Answered, name, skus: SKUS, stop }
}

/// Runs a load for so long.
async fn during(load: Load, time: Duration) -> Fallible<Vec<Placed>> {
    let stop = Arc::clone(&load.stop);
    let running = load.start()?;
    sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    joined(running).await
}

async fn joined(running: std::thread::JoinHandle<Result<Vec<Placed>, String>>) -> Fallible<Vec<Placed>> {
    while !running.is_finished() {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(running.join().map_err(|_| "the load panicked")??)
}

/// Waits until so many orders were seen confirmed. What is missing when patience ends, the figures show.
async fn settled(watch: &Confirmed, count: usize) -> Fallible<()> {
    let asked = Instant::now();
    while watch.count() < count && asked.elapsed() < PATIENCE {
        sleep(Duration::from_millis(1)).await;
    }
    if watch.count() < count {
        println!("  {} of {count} orders were not confirmed within {PATIENCE:?}", count - watch.count());
    }
    Ok(())
}

fn accepted(placed: &[Placed]) -> usize {
    placed.iter().filter(|placed| placed.status == 202).count()
}

/// Of accepted orders, in milliseconds, sorted.
fn answer_times(placed: &[Placed]) -> Vec<f64> {
    let mut times: Vec<f64> =
        placed.iter().filter(|placed| placed.status == 202).map(Placed::answer_ms).collect();
    times.sort_by(f64::total_cmp);
    times
}

fn note(count: usize, what: &str) -> String {
    if count == 0 { String::new() } else { format!("   {count} {what}") }
}
