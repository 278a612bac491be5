//! Which source a failure was seen on, and the command that repeats it there.

use std::path::Path;
use std::process::{Command, Stdio};

/// The checkout that this command was started in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Everything is committed.
    Commit(String),
    /// There are uncommitted changes to tracked files, so no checkout brings them back.
    Changed(String),
    /// Not a git checkout, or no git.
    Unknown,
}

impl Source {
    pub(crate) fn here() -> Self {
        let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return Source::Unknown };
        match git(&["status", "--porcelain", "--untracked-files=no"]) {
            Some(changes) if changes.is_empty() => Source::Commit(commit),
            Some(_) | None => Source::Changed(commit),
        }
    }

    /// For a report: `ab12cd3`, `ab12cd3-dirty`, `unknown`.
    pub(crate) fn name(&self) -> String {
        match self {
            Source::Commit(commit) => commit.clone(),
            Source::Changed(commit) => format!("{commit}-dirty"),
            Source::Unknown => "unknown".to_owned(),
        }
    }

    /// `command`, on this source.
    pub(crate) fn repeat(&self, command: &str) -> String {
        match self {
            Source::Commit(commit) => format!("git checkout {commit} && {command}"),
            Source::Changed(commit) => format!("{command}    # {commit} with the uncommitted changes"),
            Source::Unknown => command.to_owned(),
        }
    }
}

/// How a user calls this program: `cargo chaos` for a binary `chaos` (the alias in .cargo/config.toml), else its path.
pub(crate) fn program() -> String {
    let typed = std::env::args().next().unwrap_or_default();
    let name = Path::new(&typed).file_stem().map(|name| name.to_string_lossy().into_owned());
    if name.as_deref() == Some("chaos") { "cargo chaos".to_owned() } else { typed }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
