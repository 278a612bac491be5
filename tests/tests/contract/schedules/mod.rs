//! Schedules nobody wrote: random programs of two to four sessions, step by step on the model and on a real PostgreSQL.
//!
//! After each step both must have given the same answers and errors to the same sessions and have the same sessions
//! waiting; at the end, the same rows committed. Where the server has a choice (two that wait for the end of one transaction
//! are woken at once, and race), the model takes one: a program is different only if the server never does what the model
//! does, however often it is asked. A difference is shrunk, and printed.

mod model;
mod normal;
mod program;
mod real;
mod regressions;
mod run;
mod search;

use std::{io::Write, sync::Arc};

use search::{Search, Settings};

use crate::{engine, postgres::Real, suite};

/// Programs that run at once: they mostly wait.
const LANES: usize = 12;

/// `CONTRACT_SCHEDULES` says how many, `CONTRACT_SEED` which.
#[test]
fn contract_schedules() {
    let _alone = suite::alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let Some(postgres) = runtime.block_on(engine::postgres("database schedules")) else { return };
    // Whatever removes the container, a failure included, does so on this runtime.
    let _entered = runtime.enter();
    let real = runtime.block_on(Real::prepare(postgres));
    let search = Arc::new(Search::new(Settings::from_environment()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| search.work(&real));
        }
    });
    let report = search.report();
    std::io::stderr().write_all(report.as_bytes()).expect("standard error is open");
    let differences = search.differences();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
