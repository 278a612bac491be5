//! Holds a Kafka cluster to SEMANTICS.md's B lines, through the ports, and the state machine to two oracles.
//!
//! The cases are shared: the same ones hold the adapter to a real cluster (`tests/tests/kafka`), and the state
//! machine behind a simulated network (`tests/tests/contract`).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cases;
mod group_model;
mod log_model;
mod machines;
mod wire;

macro_rules! embedded {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $case() {
                cases::$module::$case(&machines::Embedded).await;
            }
        )*
    };
}

cases::every_case!(embedded);
