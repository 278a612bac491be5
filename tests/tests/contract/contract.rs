//! The suite: runs everything, prints the table, writes it below `target/`, and holds `docs/CONTRACT.md` to it.

use std::{fmt::Write as _, io::Write as _, sync::Arc};

use tokio::task::JoinSet;

use crate::{
    broker, database, engine,
    postgres::Real,
    simulated,
    suite::{self, Case, Verdicts, is_wanted, verdict},
    table::{self, Cell, Column, Line},
};

type OfDatabase = Arc<dyn database::cases::sut::Kind>;
type OfBroker = Arc<dyn broker::cases::sut::Kind>;

/// How many cases run on the real server at once: they mostly wait.
const AT_ONCE: usize = 4;

/// Lines of SEMANTICS that no case shows, and why.
const WITHOUT_CASE: &[(&str, &str)] = &[
    ("B3", "a matter of the client's settings: system/server's own tests hold murmur2"),
    ("B4", "knowledge: partitions are never added while the system runs"),
    ("B10", "idempotence is always on: the adapter does not offer otherwise"),
    ("B15", "nothing is committed or stored by itself: the adapter does not offer otherwise"),
    ("B25", "compaction is knowledge; what retention does is shown by B23"),
    ("B26", "knowledge: production uses no Kafka transactions"),
    ("B27", "knowledge: production uses no Kafka transactions"),
    ("B29", "the adapter stores no offsets in the client"),
    ("B30", "a matter of the worker: tests, worker"),
    ("D1", "knowledge: production runs at READ COMMITTED"),
    ("D5", "knowledge: no statement of the port is an insert-or-select"),
    ("D6", "no statement inserts a key of its own choice without ON CONFLICT"),
    ("D11", "no statement takes an advisory lock"),
    ("D12", "knowledge: nothing listens for NOTIFY"),
    ("D20", "knowledge: there is no PgBouncer between"),
];

/// The suite that puts the broker's cases to the real Kafka, with a table of its own.
const KAFKA: &str = "see contract_kafka";

#[test]
fn contract() {
    let _alone = suite::alone();
    let (databases, brokers) = (database::cases(), broker::cases());
    let documented = lines(&databases, &brokers, None);
    table::every_line_is_accounted_for(&documented, WITHOUT_CASE);
    table::is_what_the_project_documents(&document(&documented));

    let embedded: OfDatabase = Arc::new(database::machines::Embedded);
    let embedded = suite::embedded(&databases, &embedded);
    let simulated = simulated::database(&databases);
    let real = real(&databases);
    let in_process: OfBroker = Arc::new(broker::machines::Embedded);
    let in_process = suite::embedded(&brokers, &in_process);
    let behind_a_network = simulated::broker(&brokers);

    let all = [&embedded, &simulated, &real, &in_process, &behind_a_network];
    report(&lines(&databases, &brokers, Some(all)));
    let failed: Vec<_> = all
        .into_iter()
        .flatten()
        .filter_map(|(name, verdict)| Some((name, verdict.as_ref().err()?)))
        .collect();
    assert!(failed.is_empty(), "not the same verdict: {failed:#?}");
}

/// The table. Without verdicts it is as it should be; the real Kafka's are in [`KAFKA`]'s table.
fn lines(
    databases: &[Case<OfDatabase>],
    brokers: &[Case<OfBroker>],
    verdicts: Option<[&Verdicts; 5]>,
) -> Vec<Line> {
    let of = |column: usize| verdicts.map(|verdicts| verdicts[column]);
    let free = |column| Column { reasons: &[], verdicts: of(column), otherwise: Cell::NotRun };
    let shared =
        Column { reasons: database::NOT_ON_A_SHARED_SERVER, verdicts: of(2), otherwise: Cell::NotRun };
    let nothing = Verdicts::new();
    let kafka = Column {
        reasons: broker::cases::NOT_ON_A_REAL_CLUSTER,
        verdicts: verdicts.map(|_| &nothing),
        otherwise: Cell::Elsewhere(KAFKA),
    };
    let (embedded, simulated, in_process, behind_a_network) = (free(0), free(1), free(3), free(4));
    let mut lines = table::lines(&names(databases), &[embedded, simulated, shared]);
    lines.extend(table::lines(&names(brokers), &[in_process, behind_a_network, kafka]));
    lines
}

fn names<K>(cases: &[Case<K>]) -> Vec<&'static str> {
    cases.iter().map(|case| case.name).collect()
}

/// Runs the cases on a real server, if there is an engine.
fn real(cases: &[Case<OfDatabase>]) -> Verdicts {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let Some(postgres) = engine::postgres("database contract").await else { return Verdicts::new() };
        let real: OfDatabase = Arc::new(Real::prepare(postgres).await);
        let excused = |name| database::NOT_ON_A_SHARED_SERVER.iter().any(|(case, _)| *case == name);
        let mut left = cases.iter().copied().filter(|case| is_wanted(case.name) && !excused(case.name));
        let mut running = JoinSet::new();
        let mut verdicts = Verdicts::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(case) = left.next()
            {
                let case_running = (case.run)(Arc::clone(&real));
                running.spawn(async move { (case.name, verdict(case_running).await) });
            }
            match running.join_next().await {
                Some(Ok((name, verdict))) => verdicts.insert(name, verdict),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => return verdicts,
            };
        }
    })
}

/// Prints the table past libtest's capture, and leaves it in a file.
fn report(lines: &[Line]) {
    let text = table::markdown(lines) + "\n" + &table::summary(lines);
    std::io::stderr().write_all(text.as_bytes()).expect("standard error is open");
    let folder = table::target();
    std::fs::create_dir_all(&folder).expect("the target directory can be written");
    std::fs::write(folder.join("contract.md"), text).expect("the target directory can be written");
}

fn document(lines: &[Line]) -> String {
    let mut text = HEAD.to_owned() + &table::markdown(lines);
    text += "\nLines of SEMANTICS without a case:\n\n| id | why |\n|-|-|\n";
    for (id, why) in WITHOUT_CASE {
        writeln!(text, "| {id} | {why} |").expect("a string takes it");
    }
    text
}

/// What precedes the table in `docs/CONTRACT.md`.
const HEAD: &str = "\
# The contract

Each line of [SEMANTICS](SEMANTICS.md) that is part of the model is a black-box case, and each case runs on three kinds
of system: *embedded* (the state machine, called directly), *simulated* (the state machine behind the storm's hosts and
network, without faults), and *real* (PostgreSQL 15, Kafka 4.1 in containers). `same` says that the case passes there;
anything else is why that system cannot express it.

`cargo test -p stormglass-tests contract` runs all of it and prints this table with what came of it; it fails if this file
is stale. It also runs random programs of two to four sessions, step by step on the model and on a real PostgreSQL, and
compares answers, errors, who waits, who goes on, and the rows at the end (`CONTRACT_SCHEDULES`, `CONTRACT_SEED`).
`tests/mutants/catch` plants mistakes in the state machines and shows that each is caught.

";
