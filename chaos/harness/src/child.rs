//! This command in a process of its own: what a fresh process sees is what a user who repeats a failure will see.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::stop::{Exit, Stop};

/// The command to start, with no input and with stderr left to the child's silence.
pub(crate) fn command() -> Result<Command, Stop> {
    let program = std::env::current_exe()
        .map_err(|error| Stop::internal(format!("cannot find this program to start it again: {error}")))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// Repeats a case file and gives the object that describes the case.
pub(crate) fn replay(case: &Path) -> Result<Value, Stop> {
    let mut command = command()?;
    command.arg("replay").arg(case).args(["--format", "json"]);
    let lines = objects(command)?;
    let found = lines.into_iter().find(|line| line["kind"] == "case");
    found.ok_or_else(|| Stop::internal(format!("a second process said nothing about {}", case.display())))
}

/// Whether Ctrl-C ended it: by the signal itself, or with the code that commands answer it with.
pub(crate) fn was_interrupted(status: ExitStatus) -> bool {
    // SIGINT is 2 on every Unix (POSIX `kill`).
    #[cfg(unix)]
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(2);
    #[cfg(not(unix))]
    let by_signal = false;
    by_signal || status.code() == Some(Exit::Interrupted as i32)
}

/// Runs a command that speaks JSON lines, and gives all of them; of one that Ctrl-C ended, none.
pub(crate) fn objects(mut command: Command) -> Result<Vec<Value>, Stop> {
    let shown = format!("{command:?}");
    let output =
        command.output().map_err(|error| Stop::internal(format!("cannot start {shown}: {error}")))?;
    if was_interrupted(output.status) {
        return Err(Stop::interrupted());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    lines.map_err(|error| Stop::internal(format!("{shown} answered what is not JSON: {error}")))
}
