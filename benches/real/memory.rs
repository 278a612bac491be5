//! Memory of a worker that is a million events behind.

use std::{sync::atomic::Ordering, time::Duration};

use stormglass_benches::{PAID_AFTER, stories};
use stormglass_orders::Orders;
use tokio::time::sleep;

use crate::{
    Fallible,
    bed::{Bed, Log},
    servers::resident_mb,
    worker,
};

/// Resident memory of this process while an orders worker reads a long log.
pub async fn memory(bed: &Bed) -> Fallible<()> {
    let count = bed.options.memory_events / 3;
    let log = Log { topic: "bench-long", partitions: 4, count: count + PAID_AFTER };
    let events = bed.log(&log, |numbers| stories(numbers, count)).await?;
    bed.reset().await?;
    println!("\nmemory: an orders worker that is {events} events behind; this process, in MB");
    println!("  before it started {:.0}", resident_mb()?);
    let done = bed.meters.counter("stormglass_events_taken_total", "orders");
    let before = done.load(Ordering::Relaxed);
    let worker = worker::start(bed, Orders::new(Duration::from_secs(900)), log.topic)?;
    let mut peaks = [0.0_f64; 10];
    loop {
        let so_far = done.load(Ordering::Relaxed) - before;
        let tenth = usize::try_from(so_far * 10 / events)?.min(9);
        peaks[tenth] = peaks[tenth].max(resident_mb()?);
        if so_far >= events {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    worker.stop().await?;
    let peaks = peaks.map(|peak| format!("{peak:.0}"));
    println!("  most in each tenth of the events: {}", peaks.join(" "));
    Ok(())
}
