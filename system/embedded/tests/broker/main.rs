//! Holds a Kafka cluster to SEMANTICS.md's B lines, through the ports, and the state machine to two oracles.
//!
//! The cases are shared: the same ones hold the adapter to a real cluster (`tests/tests/kafka`).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cases;
mod group_model;
mod in_process;
mod log_model;
mod wire;

macro_rules! embedded {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $case() {
                cases::$module::$case(&in_process::Embedded).await;
            }
        )*
    };
}

cases::every_case!(embedded);
