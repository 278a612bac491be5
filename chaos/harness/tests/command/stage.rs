//! Starts the example commands as a user would: a process, a directory of its own, arguments, what it said.

#![expect(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A directory of one test, and a workspace of its own: it holds a lock file.
pub struct Stage {
    pub place: PathBuf,
    program: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Stage {
    /// The example `program` in an empty directory named after the test.
    pub fn of(program: &str, test: &str) -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        fs::remove_dir_all(&place).ok();
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("Cargo.lock"), "").unwrap();
        let tests = std::env::current_exe().unwrap();
        let program = tests.parent().and_then(Path::parent).unwrap().join("examples").join(program);
        assert!(program.exists(), "{} is not built: `cargo test` builds it", program.display());
        Self { place, program }
    }

    /// The command with these arguments, not yet started.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments.split_whitespace()).current_dir(&self.place).stdin(Stdio::null());
        command.env_remove("CARGO_TARGET_DIR").env_remove("RUST_LOG");
        command.env("GIT_CEILING_DIRECTORIES", env!("CARGO_TARGET_TMPDIR"));
        command
    }

    /// Starts it as a terminal would, gives it and its children a Ctrl-C once `ready` says so, and waits for its end.
    #[cfg(unix)]
    pub fn interrupt(&self, arguments: &str, ready: impl Fn(u32) -> bool) -> Said {
        use std::os::unix::process::CommandExt;
        let mut command = self.command(arguments);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        while !ready(child.id()) {
            assert_eq!(child.try_wait().unwrap(), None, "`{arguments}` ended by itself");
            std::thread::yield_now();
        }
        let group = format!("-{}", child.id());
        assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
        Said::from(child.wait_with_output().unwrap())
    }

    /// Runs it to its end, whatever that is.
    pub fn say(&self, arguments: &str) -> Said {
        Said::of(self.command(arguments))
    }

    /// Runs it and demands an exit code.
    #[track_caller]
    pub fn check(&self, arguments: &str, code: i32) -> Said {
        let said = self.say(arguments);
        assert_eq!(said.code, Some(code), "`{arguments}` said:\n{}\n{}", said.out, said.err);
        assert!(!said.err.contains("panicked"), "`{arguments}` panicked:\n{}", said.err);
        said
    }
}

impl Said {
    pub fn of(mut command: Command) -> Self {
        Self::from(command.output().unwrap())
    }

    pub fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    pub fn last_line(&self) -> &str {
        self.out.lines().next_back().unwrap_or_default()
    }

    /// The objects of `--format json`, those of one kind.
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        let lines = self.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).collect()
    }

    /// One field of every case.
    pub fn of_cases(&self, field: &str) -> Vec<String> {
        self.objects("case").iter().map(|case| case[field].to_string()).collect()
    }
}
