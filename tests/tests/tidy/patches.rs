//! The catalogue of mistakes stays plantable: a patch that no longer applies would be a mistake that nobody looks for.

use std::process::Command;

use super::project::{files, root};

/// Why a patch cannot be planted; `None` if it can.
fn refusal(patch: &str) -> Option<String> {
    let output = Command::new("git")
        .args(["apply", "--check", "--whitespace=nowarn", patch])
        .current_dir(root())
        .output()
        .expect("git is on PATH: `chaos power` plants with it");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[test]
fn every_planted_mistake_still_applies() {
    let patches = files("patch");
    assert!(!patches.is_empty(), "there is no catalogue");
    let refused: Vec<String> = patches.iter().filter_map(|patch| refusal(&patch.path)).collect();
    assert!(refused.is_empty(), "mend these patches in chaos/bugs:\n{}", refused.join("\n"));
}
