//! A copy of the workspace to plant mistakes in, and the command built from it.
//!
//! The copy and its build directory stay from one mistake to the next, and a file is written only where it differs, so a
//! build compiles only what the last patch and the next one touch. The user's own tree and build are never touched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::stop::Stop;
use crate::{child, folder};

/// Where mistakes are planted: `target/power`.
pub(crate) struct Scratch {
    origin: PathBuf,
    home: PathBuf,
    /// Cargo's name of the profile that this program was built with.
    profile: String,
    package: String,
    binary: String,
    /// Set by Ctrl-C.
    interrupted: Arc<AtomicBool>,
}

/// Whether a build goes by what the last one left.
#[derive(Clone, Copy)]
enum Incremental {
    Yes,
    No,
}

impl Incremental {
    fn variable(self) -> &'static str {
        match self {
            Incremental::Yes => "1",
            Incremental::No => "0",
        }
    }
}

/// Why a mistake could not be planted: one line.
pub(crate) type Unplanted = String;

impl Scratch {
    /// Finds which package of the workspace builds this program.
    pub(crate) fn new(interrupted: Arc<AtomicBool>) -> Result<Self, Stop> {
        let program =
            std::env::current_exe().map_err(|error| Stop::internal(format!("no program: {error}")))?;
        let name = |path: Option<&Path>| {
            path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let binary = name(Some(&program.with_extension("")));
        let directory = name(program.parent());
        // Cargo's `dev` profile builds into `debug`; every other profile into a directory of its own name.
        let profile = match directory.as_str() {
            "debug" | "examples" | "deps" => "dev".to_owned(),
            _ => directory,
        };
        let origin = folder::workspace();
        let package = package_of(&origin, &binary)?;
        let home = folder::target().join("power");
        fs::create_dir_all(home.join("tree")).map_err(|error| Stop::unwritable(&home, &error))?;
        let home = home.canonicalize().map_err(|error| Stop::unwritable(&home, &error))?;
        Ok(Self { origin, home, profile, package, binary, interrupted })
    }

    /// Makes the copy equal to the workspace as it is on disk, uncommitted changes included.
    pub(crate) fn restore(&self) -> Result<(), Stop> {
        let wanted = tracked(&self.origin).unwrap_or_else(|| walked(&self.origin));
        let unwritable = |error: io::Error| Stop::unwritable(&self.tree(), &error);
        for gone in walked(&self.tree()).difference(&wanted) {
            fs::remove_file(self.tree().join(gone)).map_err(unwritable)?;
        }
        for path in &wanted {
            let (from, to) = (self.origin.join(path), self.tree().join(path));
            let same = fs::read(&from).ok() == fs::read(&to).ok();
            if !same {
                let place = to.parent().unwrap_or(&to);
                fs::create_dir_all(place).and_then(|()| fs::copy(&from, &to)).map_err(unwritable)?;
            }
        }
        Ok(())
    }

    /// Applies a patch to the copy.
    pub(crate) fn plant(&self, patch: &Path) -> Result<(), Unplanted> {
        let mut git = Command::new("git");
        // The copy lies inside the user's checkout: without a ceiling git would look for the files up there.
        git.env("GIT_CEILING_DIRECTORIES", &self.home).args(["apply", "--whitespace=nowarn"]).arg(patch);
        let output = self.output(git, "does not apply")?;
        if output.status.success() { Ok(()) } else { Err(format!("does not apply: {}", complaint(&output))) }
    }

    /// Builds the copy's command.
    ///
    /// Incrementally, since a patch changes a few lines of one crate: four times as fast. An incremental build of
    /// optimised code now and then ends in symbols that the linker misses; what fails to link is therefore built once
    /// more as usual before the patch is blamed.
    pub(crate) fn build(&self) -> Result<(), Unplanted> {
        match self.build_with(Incremental::Yes) {
            Err(why) if why.contains("linking with") => self.build_with(Incremental::No),
            built => built,
        }
    }

    fn build_with(&self, incremental: Incremental) -> Result<(), Unplanted> {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--profile", &self.profile]);
        cargo.args(["--package", &self.package, "--bin", &self.binary]);
        cargo.env("CARGO_TARGET_DIR", self.home.join("build"));
        cargo.env("CARGO_INCREMENTAL", incremental.variable());
        let output = self.output(cargo, "does not build")?;
        if output.status.success() { Ok(()) } else { Err(format!("does not build: {}", complaint(&output))) }
    }

    /// Whether there was a Ctrl-C. It reaches the children as well: what one of them said last is then no finding, and
    /// no other is started.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// The command that was built last.
    pub(crate) fn command(&self) -> Command {
        let directory = if self.profile == "dev" { "debug" } else { &self.profile };
        let mut command = Command::new(self.home.join("build").join(directory).join(&self.binary));
        // Its stderr is ours: a planted run that hangs says so there.
        command.current_dir(self.tree()).stdin(Stdio::null());
        command
    }

    /// Where the planted runs keep their failures.
    pub(crate) fn results(&self) -> PathBuf {
        self.home.join("out")
    }

    fn tree(&self) -> PathBuf {
        self.home.join("tree")
    }

    fn output(&self, mut command: Command, what: &str) -> Result<Output, Unplanted> {
        if self.is_interrupted() {
            return Err("interrupted".to_owned());
        }
        let output = command
            .current_dir(self.tree())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{what}: {error}"))?;
        // A child may have died of the Ctrl-C that our own handler is only about to hear of.
        if child::was_interrupted(output.status) {
            self.interrupted.store(true, Ordering::SeqCst);
        }
        Ok(output)
    }
}

fn package_of(workspace: &Path, binary: &str) -> Result<String, Stop> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(workspace)
        .stdin(Stdio::null());
    let output = cargo
        .output()
        .map_err(|error| Stop::usage(format!("cannot start cargo: {error}: put it on PATH")))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let builds = |package: &&Value| {
        let is_it = |target: &Value| target["name"] == binary && target["kind"][0] == "bin";
        package["targets"].as_array().is_some_and(|targets| targets.iter().any(is_it))
    };
    let package = metadata["packages"].as_array().and_then(|packages| packages.iter().find(builds));
    package.and_then(|package| package["name"].as_str()).map(str::to_owned).ok_or_else(|| {
        let place = workspace.display();
        Stop::usage(format!("no package in {place} builds a binary `{binary}`: start power in its workspace"))
    })
}

/// Files that git tracks or would track; `None` outside a checkout.
fn tracked(workspace: &Path) -> Option<BTreeSet<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(workspace);
    let output = git
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let files = text.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from);
    Some(files.filter(|path| workspace.join(path).is_file()).collect())
}

/// All files below a directory but build results and git's own.
fn walked(root: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(root.join(&directory)).into_iter().flatten().flatten() {
            let path = directory.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_file() => drop(files.insert(path)),
                Ok(kind) if kind.is_dir() && path != Path::new("target") && path != Path::new(".git") => {
                    open.push(path)
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    files
}

/// The first line in which a tool says what is wrong.
fn complaint(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines()
        .find(|line| line.contains("error"))
        .or(said.lines().next())
        .unwrap_or("it does not say why")
        .to_owned()
}
