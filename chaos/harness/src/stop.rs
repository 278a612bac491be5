//! Why a command ends, as the exit codes that scripts rely on.

use std::path::Path;

/// What the process answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All that ran passed.
    Ok = 0,
    /// An invariant was violated.
    Violated = 1,
    /// The command line, a case file, the build or the place for results cannot be used; one line says why.
    Usage = 2,
    /// A system did not settle after its storm.
    Unsettled = 3,
    /// Nothing ran.
    Nothing = 4,
    /// The same case took another turn when repeated.
    Undetermined = 5,
    /// A seeded bug survived, or a fault class never struck.
    Goal = 6,
    /// The harness or the world went wrong, not the system under test.
    Internal = 70,
    /// Ctrl-C; what had run is reported.
    Interrupted = 130,
}

/// A command that cannot go on: its code and the one line for stderr.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub(crate) struct Stop {
    pub(crate) exit: Exit,
    pub(crate) line: String,
}

impl Stop {
    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, line: line.into() }
    }

    /// What was asked for comes to no case at all.
    pub(crate) fn nothing(why: &str) -> Self {
        Self { exit: Exit::Nothing, line: format!("nothing ran, because {why}") }
    }

    /// Ctrl-C before the command had come to its end.
    pub(crate) fn interrupted() -> Self {
        Self { exit: Exit::Interrupted, line: "interrupted".to_owned() }
    }

    pub(crate) fn internal(line: impl Into<String>) -> Self {
        Self { exit: Exit::Internal, line: line.into() }
    }

    /// The place for results refuses: a full disk, a read-only directory.
    pub(crate) fn unwritable(path: &Path, error: &std::io::Error) -> Self {
        Self::usage(format!(
            "cannot write {}: {error}: free or unlock it, or give another place with --out DIR",
            path.display()
        ))
    }
}
