//! The contract of the database: the D lines of SEMANTICS, one case each, on the state machine; and random schedules
//! against an oracle of their own. `tests/tests/contract` runs the same list on the other systems.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod cases;
mod crashes;
mod machines;
mod oracle;
mod schedules;

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
