//! Tidy: what the project promises of its own shape, held as tests (the idea is rust-analyzer's `xtask/tidy`).
//!
//! The absences of DESIGN 2 (which crate cannot reach or name what) and the limits of STYLE (how long, how wide, how
//! silent). Every rule is shown to catch: a rule cannot be written without a plant that breaks it. Formatting is
//! rustfmt's, what needs types is clippy's (`clippy.toml`), licences are cargo-deny's: none of it is repeated here.

#![expect(clippy::expect_used, reason = "the helpers of a test fail the test")]

mod bans;
mod patches;
mod project;
mod rules;
mod walls;
mod weight;

use project::{Source, files};
use rules::{RULES, Rule};

fn broken(rule: &Rule, source: &Source) -> Vec<String> {
    let report = |(line, what)| format!("{}:{line}: {what} ({}: {})", source.path, rule.name, rule.why);
    (rule.check)(source).into_iter().map(report).collect()
}

fn check(path: &str, text: &str) -> Vec<String> {
    match Source::parse(path, text) {
        Ok(source) => RULES.iter().flat_map(|rule| broken(rule, &source)).collect(),
        Err(error) => vec![format!("{path}:{}: {error}", error.span().start().line)],
    }
}

#[test]
fn no_file_breaks_a_rule() {
    let problems: Vec<String> = files("rs").iter().flat_map(|file| check(&file.path, &file.text)).collect();
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn every_rule_catches_its_plant_and_names_the_line() {
    for rule in RULES {
        let source = Source::parse("sim/src/x.rs", &(rule.plant)()).expect("plants parse");
        let problems = broken(rule, &source);
        assert!(!problems.is_empty(), "rule {} passed over its plant", rule.name);
        assert!(problems[0].starts_with("sim/src/x.rs:"), "{}", problems[0]);
    }
}

#[test]
fn a_file_at_every_limit_breaks_nothing() {
    let body = "\n".repeat(rules::FUNCTION_LINES - 1);
    let text = format!(
        "//! x\n#[allow(dead_code, reason = \"x\")]\npub fn f(a: u8, b: u8, c: u8, d: u8) {{{body}}}\n\
         struct S<A, B>(A, B);\nimpl S<u8, u8> {{ fn g(&self, a: u8, b: u8, c: u8, fast: bool) {{}} }}\n\
         async fn h() {{ tokio::select! {{ biased; _ = g() => {{}} }} }}\n"
    );
    assert_eq!(check("sim/src/x.rs", &text), Vec::<String>::new());
}
