//! `power` over a workspace of one file, in which mistakes are planted that it must find, miss or refuse.

#![expect(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

use std::fs;

use rstest::rstest;

use crate::stage::Stage;

/// Says what `ledger run --format json` says, and fails the cases that `fails` names. Only std, so it builds at once.
const PROGRAM: &str = r#"//! A stand-in for a chaos command.
use std::env::args;

fn fails(case: u64) -> Option<&'static str> {
    let _ = case;
    None
}

fn main() {
    let arguments: Vec<String> = args().collect();
    let seeds = arguments.iter().position(|word| word == "--seeds").map(|at| arguments[at + 1].parse().unwrap());
    for case in 0..seeds.unwrap() {
        let (verdict, invariant) = match fails(case) {
            Some(name) => ("violated", format!("\"{name}\"")),
            None => ("passed", "null".to_owned()),
        };
        println!("{{\"kind\":\"case\",\"verdict\":\"{verdict}\",\"invariant\":{invariant}}}");
    }
    println!("{{\"kind\":\"summary\"}}");
}
"#;

fn workspace(test: &str) -> Stage {
    let stage = Stage::of("ledger", test);
    let manifest = "[package]\nname = \"bank\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n\
                    [[bin]]\nname = \"ledger\"\npath = \"src/main.rs\"\n";
    for directory in ["src", "bugs"] {
        fs::create_dir_all(stage.place.join(directory)).unwrap();
    }
    fs::write(stage.place.join("Cargo.toml"), manifest).unwrap();
    fs::write(stage.place.join("src/main.rs"), PROGRAM).unwrap();
    stage
}

/// A patch that replaces the line `    None` in `fails`.
fn plant(stage: &Stage, name: &str, header: &str, line: &str) {
    let diff = format!(
        "--- a/src/main.rs\n+++ b/src/main.rs\n@@ -5,3 +5,3 @@\n     let _ = case;\n-    None\n+    {line}\n }}\n"
    );
    fs::write(stage.place.join(format!("bugs/{name}.patch")), format!("{header}\n{diff}")).unwrap();
}

const HEADER: &str = "# breaks: it\n# invariant: transfer-once";

#[track_caller]
fn check(stage: &Stage, code: i32, row: &str) {
    let said = stage.check("power --bugs bugs --seeds 60", code);
    assert!(said.out.contains(row), "{}", said.out);
    assert_eq!(
        fs::read_to_string(stage.place.join("src/main.rs")).unwrap(),
        PROGRAM,
        "the user's tree was touched"
    );
}

#[rstest]
#[case::always("Some(\"transfer-once\")", 0, "| found | 30/30 | 1 (1–1) | 1 |  |\n\n1 of 1 mistakes found")]
#[case::now_and_then(
    "(case % 10 == 9).then_some(\"transfer-once\")",
    0,
    "| found | 6/60 | 7 (4–15) | 29 |  |"
)]
#[case::never("(case == 999).then_some(\"transfer-once\")", 6, "| survived | 0/60 | – | – |  |\n\n0 of 1")]
#[case::by_another("Some(\"settles\")", 6, "| wrong invariant | 0/60 | – | – | settles 60 |")]
#[case::crash("std::process::abort()", 6, "| wrong invariant | 0/2 | – | – | crash 2 |")]
#[case::not_built("banana", 6, "| does not build: error")]
fn a_mistake_is_scored_by_the_cases_that_found_it(#[case] line: &str, #[case] code: i32, #[case] row: &str) {
    let stage = workspace(&format!("power-{}", line.replace(|letter: char| !letter.is_alphanumeric(), "_")));
    plant(&stage, "mistake", HEADER, line);
    check(&stage, code, row);
}

#[test]
fn one_mistake_leaves_nothing_behind_for_the_next() {
    let stage = workspace("power-two");
    plant(&stage, "a-found", HEADER, "Some(\"transfer-once\")");
    plant(&stage, "b-survivor", HEADER, "(case == 999).then_some(\"transfer-once\")");
    check(&stage, 6, "1 of 2 mistakes found");
}

#[test]
fn a_patch_that_does_not_apply_is_not_found() {
    let stage = workspace("power-stale");
    plant(&stage, "stale", HEADER, "None");
    let patch = stage.place.join("bugs/stale.patch");
    let stale = fs::read_to_string(&patch).unwrap().replace("let _ = case", "let other = case");
    fs::write(patch, stale).unwrap();
    check(&stage, 6, "| does not apply: error: patch failed");
}

#[test]
fn a_workspace_that_fails_by_itself_measures_nothing() {
    let stage = workspace("power-red");
    let red = PROGRAM.replace("    None\n", "    Some(\"transfer-once\")\n");
    fs::write(stage.place.join("src/main.rs"), red).unwrap();
    plant(&stage, "mistake", HEADER, "Some(\"settles\")");
    let said = stage.check("power --bugs bugs --seeds 60", 6);
    assert!(said.err.contains("the workspace as it is fails 60 cases"), "{}", said.err);
}

#[rstest]
#[case::no_invariant("# breaks: it", "bugs/mistake.patch:1: needs a header")]
#[case::unknown(
    "# breaks: it\n# invariant: transfer-twice",
    ":2: unknown invariant `transfer-twice`; did you mean"
)]
#[case::key("# breaks: it\n# finds: all", ":2: unknown header `finds`")]
#[case::scenario(
    "# breaks: it\n# scenario: salary",
    "mistake.patch:2: unknown scenario `salary`; did you mean `salaries`?"
)]
fn a_header_that_says_too_little_is_refused(#[case] header: &str, #[case] told: &str) {
    let stage = workspace(&format!("power-header-{}", header.len()));
    plant(&stage, "mistake", header, "Some(\"transfer-once\")");
    let said = stage.check("power --bugs bugs", 2);
    assert!(said.err.contains(told) && said.err.lines().count() == 1, "{}", said.err);
}

/// Says that it is running, and then neither ends nor says anything else.
#[cfg(unix)]
const HANGS: &str = "{ std::fs::write(\"running\", \"\").unwrap(); loop { std::thread::park() } }";

#[cfg(unix)]
#[track_caller]
fn interrupt(stage: &Stage, row: &str, told: &str) {
    let said = stage.interrupt("power --bugs bugs --seeds 60", |_| {
        stage.place.join("target/power/tree/running").exists()
    });
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    assert!(said.out.contains(row) && said.err.lines().next_back() == Some(told), "{}{}", said.out, said.err);
}

#[cfg(unix)]
#[test]
fn an_interrupted_power_says_what_it_had_measured() {
    let stage = workspace("power-interrupted");
    plant(&stage, "a-found", HEADER, "Some(\"transfer-once\")");
    plant(&stage, "b-hangs", HEADER, HANGS);
    interrupt(&stage, "| found | 30/30 |", "interrupted: 1 of 2 mistakes were measured");
}

#[cfg(unix)]
#[test]
fn a_build_that_is_interrupted_is_not_a_workspace_that_does_not_build() {
    let stage = workspace("power-interrupted-build");
    plant(&stage, "mistake", HEADER, "Some(\"transfer-once\")");
    fs::write(stage.place.join("build.rs"), format!("fn main() {HANGS}\n")).unwrap();
    interrupt(&stage, "0 of 0 mistakes found", "interrupted: 0 of 1 mistakes were measured");
}
