//! PostgreSQL's half of the contract: the one list of its cases, and the state machine that they run on.

#[path = "../../../system/embedded/tests/database/cases/mod.rs"]
pub mod cases;
#[path = "../../../system/embedded/tests/database/machines.rs"]
pub mod machines;

use std::sync::Arc;

use crate::suite::{Case, case_of};
use cases::sut::Kind;

macro_rules! listed {
    ($($module:ident::$case:ident,)*) => {
        vec![$(case_of!(cases::$module::$case, Arc<dyn Kind>),)*]
    };
}

/// Every case.
pub fn cases() -> Vec<Case<Arc<dyn Kind>>> {
    cases::every_case!(listed)
}

/// Why a case is not put to the one real server that all cases share.
pub const NOT_ON_A_SHARED_SERVER: &[(&str, &str)] = &[
    ("d14_a_killed_backend_ends_every_session", "ends every case's sessions on the server that they share"),
    ("d18_a_standby_takes_no_writes", "needs a standby: containers, replicas"),
    ("a_full_disk_refuses_new_rows_and_commits_the_old", "fills the disk of the server that all cases share"),
    (
        "d3_a_commit_that_was_not_heard_may_be_done",
        "nothing stands between client and server: containers, failures",
    ),
    ("d16_an_acknowledged_commit_survives_a_crash", CRASHES),
    ("d16_without_synchronous_commit_a_crash_loses_the_last_ones", CRASHES),
    ("d17_a_failover_may_lose_what_was_acknowledged", FAILS_OVER),
    ("d17_a_switchover_loses_nothing", FAILS_OVER),
    ("d17_with_synchronous_replication_nothing_acknowledged_is_lost", FAILS_OVER),
    ("a_commit_waits_for_a_synchronous_replica_that_is_down", FAILS_OVER),
    ("d3_a_commit_that_waits_for_the_replica_survives_a_crash_unacknowledged", CRASHES),
    (
        "a_replica_lags_and_a_token_makes_reads_fresh",
        "needs a replica that lags at will: containers, replicas",
    ),
    ("a_token_of_a_lost_suffix_is_answered_on_the_new_timeline", FAILS_OVER),
    ("a_fenced_primary_rejoins_as_a_replica", FAILS_OVER),
];

const CRASHES: &str = "crashes the server that all cases share";
const FAILS_OVER: &str = "needs a primary and a replica of its own: containers, replicas";
