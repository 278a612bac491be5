//! Every case on one real cluster, one after the other, and a table of what came of them. That the same cases pass on
//! the state machine is a test of its own crate (`cargo test -p stormglass-embedded --test broker`).

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use futures::FutureExt;
use stormglass_server::kafka::GroupProtocol;
use tokio::time::Instant;

use crate::{cases, cluster, own, real::Real};

/// Cases that cannot be put to a real cluster, or not to this client, and why.
const NOT_EXPRESSED: &[(&str, &str)] = &[
    (
        "b2_offsets_are_sparse_and_caught_up_is_not_the_last_record",
        "gaps at will; real ones are transactions': see own",
    ),
    ("b5_only_what_is_below_the_high_watermark_is_visible", "a broker cut from its peers alone"),
    ("b7_acks_leader_is_lost_with_the_leader_and_its_offset_reused", "a broker cut from its peers alone"),
    ("a_leader_cut_from_its_peers_cannot_commit_and_is_deposed", "a broker cut from its peers alone"),
    ("b17_commits_of_strangers_and_old_generations_are_fenced", "commits under another's name: see own"),
    ("b23_an_offset_out_of_range_can_skip_everything", "the adapter does not offer `latest`"),
    ("b24_an_empty_groups_offsets_expire", "Kafka counts this in minutes"),
    ("b28_a_new_coordinator_loads_before_it_answers", "commits under another's name"),
    ("f20_old_records_are_delivered_once_more", "a real broker does not go back by itself"),
    ("an_idle_consumer_is_quiet", "counts the requests of another client"),
];

/// How the names of the cases begin that depend on the group's protocol.
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

type Case = fn(Real) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! listed {
    ($($module:ident::$case:ident,)*) => {
        vec![$((
            stringify!($case),
            (|real: Real| Box::pin(async move { cases::$module::$case(&real).await }) as _) as Case,
        ),)*]
    };
}

/// `KAFKA_CASE=b14,b18` runs the cases whose names begin so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_kafka() {
    let Some(cluster) = cluster::start("contract kafka").await else { return };
    let cluster = Arc::new(cluster);
    let mut all: Vec<(&str, Case)> = cases::every_case!(listed);
    all.extend(own::CASES);
    let wanted = std::env::var("KAFKA_CASE").unwrap_or_default();
    let mut failed = vec![];
    for (protocol, label) in [(GroupProtocol::Classic, "real"), (GroupProtocol::Consumer, "real, KIP-848")] {
        println!("{:<75} {:>7}  {label}", "case", "seconds");
        let real = Real(Arc::clone(&cluster), protocol);
        for (name, case) in all.iter().filter(|(name, _)| is_wanted(name, &wanted, protocol)) {
            failed.extend(run(name, *case, &real).await.err());
        }
    }
    assert!(failed.is_empty(), "not the same verdict: {failed:?}");
}

/// What depends on the group's protocol is run with both.
fn is_wanted(name: &str, wanted: &str, protocol: GroupProtocol) -> bool {
    let of_groups = |name: &str| MEMBERSHIP.iter().any(|prefix| name.starts_with(prefix));
    wanted.split(',').any(|prefix| name.starts_with(prefix))
        && match protocol {
            GroupProtocol::Classic => true,
            GroupProtocol::Consumer => of_groups(name),
        }
}

/// Runs one case and prints what came of it. The name of the case, if it failed.
async fn run(name: &'static str, case: Case, real: &Real) -> Result<(), &'static str> {
    if let Some((_, why)) = NOT_EXPRESSED.iter().find(|(case, _)| *case == name) {
        println!("{name:<75} {:>7}  not expressed: {why}", "");
        return Ok(());
    }
    let begun = Instant::now();
    let outcome = AssertUnwindSafe(case(real.clone())).catch_unwind().await;
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!("{name:<75} {:>7.1}  {verdict}", begun.elapsed().as_secs_f64());
    outcome.map_err(|_| name)
}
