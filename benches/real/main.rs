//! Speed on real servers: a broker and a database in containers, production's workers, relay and gateway on them, and
//! beside each worker a raw loop of rdkafka and sqlx that writes the same and guarantees nothing, in alternating rounds.
//!
//! It measures and asserts nothing: what a number means depends on the machine, which the table's head describes. All
//! of it shares the machine: load, services, Kafka and PostgreSQL. Replication and networks are not in it.

mod bed;
mod confirmed;
mod flow;
mod load;
mod members;
mod memory;
mod meters;
mod raw;
mod servers;
mod side_by_side;
mod table;
mod worker;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::bed::Bed;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Fallible<T> = Result<T, Error>;

/// Measures stormglass on real Kafka and PostgreSQL, beside raw loops.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// What to measure; everything without it.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Events in a round.
    #[arg(long, default_value_t = 60_000)]
    events: u32,
    /// Lanes of a worker, and raw loops beside each other.
    #[arg(long, default_value_t = 2)]
    lanes: u32,
    /// Events in one transaction at most.
    #[arg(long, default_value_t = 500)]
    batch: u32,
    /// Seconds of each load on the gateway.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections to the gateway in a closed loop, one measurement for each.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 64, 256])]
    connections: Vec<usize>,
    /// Orders a second end to end, in an open loop.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Events that the worker whose memory is measured is behind.
    #[arg(long, default_value_t = 1_000_000)]
    memory_events: u32,
    /// Seconds for which PostgreSQL is away.
    #[arg(long, default_value_t = 60)]
    outage: u64,
    /// Orders a second meanwhile.
    #[arg(long, default_value_t = 1_000)]
    outage_rate: u32,
    /// Prints the statements that took most of PostgreSQL's time in the last round.
    #[arg(long)]
    statements: bool,
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The orders service: orders are placed, reserved and paid.
    Orders,
    /// The inventory service, on 100 hot SKUs.
    Inventory,
    /// The payments service: each charge goes through the queue, to a provider that answers at once.
    Payments,
    /// The relay, from a full outbox.
    Relay,
    /// Orders accepted by a gateway alone.
    Gateway,
    /// Orders from POST to confirmed, by members of each consumer.
    EndToEnd,
    /// Memory of a worker that is far behind.
    Memory,
    /// PostgreSQL away under load, and what it leaves behind.
    Outage,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let done = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        done = run(options) => done,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-real: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Fallible<()> {
    let parts = if options.only.is_empty() { Part::value_variants().to_vec() } else { options.only.clone() };
    head()?;
    let bed = Bed::start(options).await?;
    for part in parts {
        match part {
            Part::Orders => side_by_side::orders(&bed).await?,
            Part::Inventory => side_by_side::inventory(&bed).await?,
            Part::Payments => side_by_side::payments(&bed).await?,
            Part::Relay => side_by_side::relay(&bed).await?,
            Part::Gateway => flow::gateway(&bed).await?,
            Part::EndToEnd => flow::end_to_end(&bed).await?,
            Part::Memory => memory::memory(&bed).await?,
            Part::Outage => flow::outage(&bed).await?,
        }
    }
    Ok(())
}

fn head() -> Fallible<()> {
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!("{cores} cores for load, services and servers together; load average before: {}", load.trim());
    Ok(())
}
