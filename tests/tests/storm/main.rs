//! Storms on containers: the production binary as processes against real brokers and servers, under load, while what can
//! go wrong does. What is judged is what Kafka, PostgreSQL, the parties outside and the clients themselves have recorded,
//! by the simulator's own invariants.
//!
//! `STORM_SEED`, `STORM_ORDERS` and `STORM_FAULTS` set the size, `STORM_BINARY` names another binary, `STORM_RECORDS` a
//! file for what was collected. Seeded and repeatable in what is done, not in timing.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod account;
mod brokers;
mod corrupt;
#[expect(dead_code, reason = "what only the suites of one server need")]
#[path = "../containers/engine.rs"]
mod engine;
mod load;
mod log;
mod plan;
mod postgres;
mod process;
mod records;
mod rows;
mod strike;
mod system;
mod wal;
mod way;

use std::{io::Write, time::Duration};

use stormglass_chaos::client::{Answer, Observed};
use stormglass_runtime::Clock;
use stormglass_server::host::SystemClock;
use tokio::time::{Instant, sleep_until, timeout};

use account::Account;
use plan::{Fault, Size};
use records::{Failed, JUDGED, Records, Struck};
use system::System;

/// After the last answer everything must be at rest within this, and [`SETTLE_PER_ORDER`] more for each order.
const SETTLE: Duration = Duration::from_secs(60);
const SETTLE_PER_ORDER: Duration = Duration::from_millis(20);

/// Small storms are lied about afterwards, to see that the checkers notice; large ones would take too long.
const LIED_ABOUT: u64 = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_reordered_or_stuck_in_a_storm_on_real_servers() {
    let size = Size::from_environment();
    let shape = plan::shape(size);
    let Some(mut system) = System::start("storm", &system::shelves(shape.skus, shape.stock)).await else {
        return;
    };
    tell(&format!("logs of the processes: {}", system.directory().display()));
    let mut account = Account::default();
    let records = weather(&mut system, size, &mut account).await;
    if let Some(path) = std::env::var_os("STORM_RECORDS") {
        std::fs::write(path, serde_json::to_vec(&records).unwrap()).expect("STORM_RECORDS can be written");
    }
    let judged = records.judge(&JUDGED, |world| account.see(world));
    tell(&account.to_string());
    match judged {
        Ok(()) => tell(&account::verdict(size)),
        Err(Failed::Violated(violation)) => {
            panic!("seed {}: {}: {violation}", size.seed, violation.invariant)
        }
        Err(Failed::Unreadable(row)) => panic!("seed {}: a row that no service writes: {row}", size.seed),
    }
    if size.orders <= LIED_ABOUT {
        let (unnoticed, told) = corrupt::unnoticed(&records);
        assert!(unnoticed.is_empty(), "the records lied, and nothing noticed: {unnoticed:?}");
        tell(&format!("{told} lies told about these records, each in one way, and each noticed"));
    }
    let missed: u32 = account.struck.values().map(|(_, missed)| missed).sum();
    assert_eq!(missed, 0, "a fault that finds nobody to strike proves nothing");
}

/// Lets the storm rage, waits for the calm, stops everything and collects what it left.
async fn weather(system: &mut System, size: Size, account: &mut Account) -> Records {
    let begun = Instant::now();
    let operations = plan::operations(size);
    account.operations = operations.iter().map(Vec::len).sum();
    let (mut clients, log) = load::send_off(operations, &system.gateways(), size.seed);
    let mut records = Records { attempts_max: plan::ATTEMPTS_MAX, ..Records::default() };
    let faults = plan::faults(size);
    let gap = size.lasts() / (size.faults + 1);
    for (number, fault) in (1..).zip(&faults) {
        sleep_until(begun + gap * number).await;
        records.strikes.extend(strike(system, fault, account).await);
        for process in &system.processes {
            process.scrape().await;
        }
    }
    records.healed = SystemClock.now();
    let all = async { while clients.join_next().await.is_some() {} };
    timeout(size.lasts() + SETTLE, all).await.expect("clients are answered, or give up");
    account.raged = begun.elapsed();
    let limit = SETTLE + SETTLE_PER_ORDER * u32::try_from(size.orders).unwrap_or(u32::MAX);
    let settled = system.quiet(limit).await;
    collect(system, &mut records, account).await;
    records.clients = log.drain_observed();
    let accepted =
        |seen: &&Observed| matches!(seen, Observed::Answered { answer: Answer::Accepted { .. }, .. });
    account.accepted = records.clients.iter().filter(accepted).count();
    account.settled_in = settled.unwrap_or(limit);
    records
}

async fn strike(system: &mut System, fault: &Fault, account: &mut Account) -> Option<Struck> {
    let at = SystemClock.now();
    let struck = system.strike(fault).await;
    let host = struck.as_deref().unwrap_or("nobody");
    tell(&format!("{}: {host}, {:.1} s", fault.kind, SystemClock.now().since(at).as_secs_f64()));
    let count = account.struck.entry(fault.kind).or_default();
    match struck {
        Some(_) => count.0 += 1,
        None => count.1 += 1,
    }
    Some(Struck { at, class: fault.kind.class()?, host: struck? })
}

async fn collect(system: &mut System, records: &mut Records, account: &mut Account) {
    records.left_open = system.stop().await;
    account.ask(system);
    records.stock = system
        .shelves
        .changes
        .iter()
        .filter_map(|change| {
            let row = change.after.as_ref()?;
            let number = |column: &str| row.get(column)?.as_ref()?.parse::<i64>().ok();
            Some((row.get("key")?.clone()?, number("available")? + number("reserved")? + number("sold")?))
        })
        .collect();
    records.transactions = vec![system.shelves.clone()];
    records.transactions.extend(system.postgres.drain().await);
    records.log = system.log.read();
    records.provider = system.ledger("payments");
    records.notifier = system.ledger("notifications");
    account.unheard = system.postgres.unheard;
    account.records = records.log.len();
    account.transactions = records.transactions.len();
}

/// Past the test harness, which would keep it to itself.
fn tell(what: &str) {
    std::io::stderr().write_all(format!("storm: {what}\n").as_bytes()).expect("standard error is open");
}
