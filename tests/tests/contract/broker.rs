//! Kafka's half of the contract: the one list of its cases, and the state machine that they run on.

#[path = "../../../system/embedded/tests/broker/cases/mod.rs"]
pub mod cases;
#[path = "../../../system/embedded/tests/broker/machines.rs"]
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
