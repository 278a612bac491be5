//! Why a command ended without having done what it was asked: one line, and one exit code for each kind.

use stormglass_runtime::{Failure, Reason};
use thiserror::Error;

use crate::settings::SettingsError;

/// One line that says what, where and what to do.
#[derive(Debug, Error)]
pub enum Stop {
    /// What was checked is not as it must be.
    #[error("{0}")]
    Unfit(String),
    /// The command, or a setting, makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Kafka or PostgreSQL does not answer, or does not let us in.
    #[error("{0}")]
    Unreachable(String),
    /// What was named does not exist.
    #[error("{0}")]
    Missing(String),
    /// A part of the process ended by itself.
    #[error("{0}")]
    Internal(String),
}

/// The exit codes, as `--help` shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   done; for `serve`: asked to stop, and drained
  1   what was checked is not as it must be (a topic, a migration, what `doctor` found)
  2   the command line or a setting makes no sense
  3   Kafka or PostgreSQL cannot be reached, or refuses the login
  4   what was named does not exist (a topic, a dead letter)
  70  a part of the process ended by itself; the log says which
  130 `serve` was told to stop twice, and did not wait for what was on its way";

/// Told twice: as after a kill, what was on its way repeats elsewhere.
pub const EXIT_CUT_SHORT: i32 = 130;

impl Stop {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Stop::Unfit(_) => 1,
            Stop::Usage(_) => 2,
            Stop::Unreachable(_) => 3,
            Stop::Missing(_) => 4,
            Stop::Internal(_) => 70,
        }
    }

    /// What a port's failure means to whoever typed the command; `doing` says what was tried, and where.
    pub fn of(doing: &str, failure: &Failure) -> Self {
        let line = format!("{doing}: {failure}");
        match failure {
            Failure::NotDone(_) => Stop::Unreachable(line),
            Failure::Unknown(_) => Stop::Unreachable(format!("{line}; repeat the command to find out")),
            Failure::Rejected(Reason::UnknownTopic(_)) => Stop::Missing(line),
            Failure::Rejected(
                Reason::InvalidValue(_)
                | Reason::Constraint(_)
                | Reason::Duplicate(_)
                | Reason::TooLarge { .. }
                | Reason::Invalid(_),
            ) => Stop::Unfit(line),
        }
    }
}

impl From<SettingsError> for Stop {
    fn from(error: SettingsError) -> Self {
        Stop::Usage(error.to_string())
    }
}
