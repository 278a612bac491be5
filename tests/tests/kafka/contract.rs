//! Every case on real clusters, and a table of what came of each and how long it took. That the same cases pass on the
//! state machine is a test of its own crate (`cargo test -p stormglass-embedded --test broker`).
//!
//! Most cases wait for something most of their time, so they run side by side, each with a topic and a group of its own.
//! Those that take brokers away run alone, or in step with others that take away the same ones; on a second cluster, so
//! that nobody waits for them. Real time is against them all: what fails beside others is put to the cluster once more,
//! alone, and the table says so.

use std::{fmt::Write as _, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::join_all, stream};
use stormglass_server::kafka::GroupProtocol;
use tokio::time::{Instant, timeout};

use crate::{
    cases::{self, NOT_ON_A_REAL_CLUSTER},
    cluster,
    outage::Outage,
    own,
    real::{Real, Site},
};

/// How the names of the cases begin that depend on the group's protocol. They are run with both.
const MEMBERSHIP: &[&str] = &[
    "b16",
    "b17",
    "b18",
    "b19",
    "b20",
    "b21",
    "b22",
    "b28",
    "a_rebalance",
    "an_assigned",
    "a_paused",
    "reading",
];

/// Cases that take brokers away, by cluster: one batch after the other, and in step within a batch.
const OUTAGES: [&[&[&str]]; 2] = [
    &[
        &["an_acknowledged_record_survives_any_one_broker"],
        &["b11_a_retry_at_the_next_leader_leaves_one_copy"],
        &["a_partition_without_a_leader_keeps_back_none_beside_it"],
    ],
    &[
        &[
            "b6_min_insync_replicas_binds_acks_all_only",
            "b8_without_an_in_sync_replica_a_partition_is_unavailable",
            "b8_unclean_election_loses_the_suffix",
        ],
        &["reading_goes_on_while_leaders_change"],
        &["b28_a_group_survives_its_coordinator"],
        &["b12_a_record_that_expires_leaves_a_gap"],
    ],
];

/// How many cases run side by side: they mostly wait, but some do so against the clock.
const AT_ONCE: usize = 12;

/// What is run once more is numbered from here.
const ALONE: usize = 1_000;

/// No case takes so long, whatever it waits for.
const TOO_LONG: Duration = Duration::from_secs(600);

type Case = fn(Real) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! listed {
    ($($module:ident::$case:ident,)*) => {
        vec![$((
            stringify!($case),
            (|real: Real| Box::pin(async move { cases::$module::$case(&real).await }) as _) as Case,
        ),)*]
    };
}

/// One case with one protocol.
#[derive(Clone, Copy)]
struct Run {
    name: &'static str,
    case: Case,
    protocol: GroupProtocol,
    number: usize,
}

struct Outcome {
    run: Run,
    took: Duration,
    verdict: Result<(), String>,
    /// What it failed with beside others.
    before: Option<String>,
}

/// `KAFKA_CASE=b14,b18` runs the cases whose names begin so.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn contract_kafka() {
    let (runs, begun) = (runs(), Instant::now());
    let lanes = OUTAGES.iter().enumerate().map(|(lane, outages)| {
        let mut batches: Vec<Vec<Run>> = outages.iter().map(|names| named(&runs, names)).collect();
        if lane == 0 {
            batches.insert(0, runs.iter().copied().filter(is_quiet).collect());
        }
        batches.retain(|batch| !batch.is_empty());
        tokio::spawn(run_on_a_cluster(lane, batches))
    });
    let (mut outcomes, mut broken) = (Vec::new(), Vec::new());
    for lane in join_all(lanes).await {
        match lane {
            Ok(of_lane) => outcomes.extend(of_lane),
            Err(error) => broken.push(error),
        }
    }
    if !outcomes.is_empty() {
        print!("{}", table(&outcomes, begun.elapsed()));
    }
    assert!(broken.is_empty(), "a cluster does not come up, or come back: {broken:#?}");
    outcomes.retain(|outcome| outcome.verdict.is_err());
    let failed: Vec<_> = outcomes.iter().map(|outcome| (outcome.run.name, &outcome.verdict)).collect();
    assert!(failed.is_empty(), "not the same verdict: {failed:#?}");
}

/// Every case that is asked for and can be put to a real cluster, with each protocol that it depends on.
fn runs() -> Vec<Run> {
    let mut all: Vec<(&str, Case)> = cases::every_case!(listed);
    all.extend(own::CASES);
    let wanted = std::env::var("KAFKA_CASE").unwrap_or_default();
    let is_wanted = |name: &str| wanted.split(',').any(|prefix| name.starts_with(prefix));
    let is_expressed = |name: &str| NOT_ON_A_REAL_CLUSTER.iter().all(|(case, _)| *case != name);
    let of_groups = |name: &str| MEMBERSHIP.iter().any(|prefix| name.starts_with(prefix));
    let mut runs = Vec::new();
    for (name, case) in all.into_iter().filter(|(name, _)| is_wanted(name) && is_expressed(name)) {
        let both = [GroupProtocol::Classic, GroupProtocol::Consumer];
        for &protocol in &both[..if of_groups(name) { 2 } else { 1 }] {
            runs.push(Run { name, case, protocol, number: runs.len() });
        }
    }
    runs
}

fn is_quiet(run: &Run) -> bool {
    !OUTAGES.iter().copied().flatten().copied().flatten().any(|name| *name == run.name)
}

fn named(runs: &[Run], names: &[&str]) -> Vec<Run> {
    runs.iter().copied().filter(|run| names.contains(&run.name)).collect()
}

/// Runs batches one after the other. Nothing, if there is no engine.
async fn run_on_a_cluster(lane: usize, batches: Vec<Vec<Run>>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    if batches.is_empty() {
        return outcomes;
    }
    let Some(cluster) = cluster::start(&format!("contract kafka {lane}")).await else { return outcomes };
    let site = Arc::new(Site::new(cluster));
    for batch in batches {
        site.mend().await;
        let outage = Arc::new(Outage::of(batch.len()));
        let at_once = if is_quiet(&batch[0]) { AT_ONCE } else { batch.len() };
        // Those of one outage share a home, the others are spread.
        let home = |run: &Run| if is_quiet(run) { run.number % cluster::BROKERS } else { 0 };
        let running = batch.into_iter().map(|run| {
            let real = Real::new(&site, run.protocol, run.number, (home(&run), Arc::clone(&outage)));
            tokio::spawn(judge(run, real)).map(|outcome| outcome.expect("its panic is caught"))
        });
        outcomes.extend(stream::iter(running).buffer_unordered(at_once).collect::<Vec<_>>().await);
    }
    for outcome in &mut outcomes {
        if let Err(before) = &outcome.verdict {
            let before = Some(before.clone());
            site.mend().await;
            // Topics and groups of its own again.
            let number = outcome.run.number + ALONE;
            let real = Real::new(&site, outcome.run.protocol, number, (0, Arc::new(Outage::of(1))));
            *outcome = Outcome { before, ..judge(Run { number, ..outcome.run }, real).await };
        }
    }
    outcomes
}

/// Runs one case. What it panics with is its verdict.
async fn judge(run: Run, real: Real) -> Outcome {
    let begun = Instant::now();
    let outage = Arc::clone(&real.outage);
    let verdict = timeout(TOO_LONG, AssertUnwindSafe((run.case)(real)).catch_unwind()).await;
    outage.leave();
    let verdict = match verdict {
        Ok(ended) => ended.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
        }),
        Err(_) => Err("it does not end".to_owned()),
    };
    Outcome { run, took: begun.elapsed(), verdict, before: None }
}

/// Slowest first.
fn table(outcomes: &[Outcome], took: Duration) -> String {
    let mut sorted: Vec<_> = outcomes.iter().collect();
    sorted.sort_by_key(|outcome| std::cmp::Reverse(outcome.took));
    let mut text = format!("{:<80} {:<9} {:>7}  verdict\n", "case", "protocol", "seconds");
    for Outcome { run, took, verdict, before } in sorted {
        let protocol = match run.protocol {
            GroupProtocol::Classic => "classic",
            GroupProtocol::Consumer => "KIP-848",
        };
        let verdict = if verdict.is_ok() { "ok" } else { "FAILED" };
        let before = before.as_ref().map(|why| format!(", alone; beside others: {why}")).unwrap_or_default();
        let seconds = took.as_secs_f64();
        writeln!(text, "{:<80} {protocol:<9} {seconds:>7.1}  {verdict}{before}", run.name)
            .expect("a string takes it");
    }
    for (name, why) in NOT_ON_A_REAL_CLUSTER {
        writeln!(text, "{name:<80} not expressed: {why}").expect("a string takes it");
    }
    let cases: f64 = outcomes.iter().map(|outcome| outcome.took.as_secs_f64()).sum();
    let (count, took) = (outcomes.len(), took.as_secs_f64());
    writeln!(text, "{count} runs of cases in {took:.0} s; one after the other: {cases:.0} s")
        .expect("likewise");
    text
}
