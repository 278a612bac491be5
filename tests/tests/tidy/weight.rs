//! Limits on the project as a whole: how much prose, how long functions are, what a planted bug must say of itself.

use super::project::{Source, Text, files, root};

const ARCHITECTURE_LINES: usize = 250;
const FUNCTION_LINES_P90: usize = 40;

/// What the head of each patch in `chaos/bugs` says.
const PATCH_HEADERS: [&str; 2] = ["# breaks:", "# invariant:"];
/// Of a mutated state machine, which storms do not look for: the contract does.
const MUTANT_HEADERS: [&str; 2] = ["# breaks:", "# caught by:"];

/// Lines that are not blank.
fn weight(texts: &[Text]) -> usize {
    texts.iter().flat_map(|file| file.text.lines()).filter(|line| !line.trim().is_empty()).count()
}

fn too_much_prose(prose: &[Text], code: &[Text]) -> Option<String> {
    let (prose, code) = (weight(prose), weight(code));
    (prose * 10 >= code).then(|| format!("{prose} lines of Markdown to {code} of code: a tenth is the limit"))
}

/// The length that nine of ten functions do not exceed.
fn p90(mut lengths: Vec<usize>) -> usize {
    lengths.sort_unstable();
    lengths.get(lengths.len() * 9 / 10).copied().unwrap_or(0)
}

/// What is missing from the head of a patch: the lines before its first hunk.
fn silent_patch(patch: &Text) -> Vec<String> {
    let head: Vec<&str> = patch
        .text
        .lines()
        .take_while(|line| !line.starts_with("diff ") && !line.starts_with("--- "))
        .collect();
    let said = |header: &&str| {
        head.iter().any(|line| line.strip_prefix(header).is_some_and(|rest| !rest.trim().is_empty()))
    };
    let headers = if patch.path.contains("tests/mutants/") { MUTANT_HEADERS } else { PATCH_HEADERS };
    let missing = headers.iter().filter(|header| !said(header));
    missing.map(|header| format!("{}:1: no line `{header} …` before the first hunk", patch.path)).collect()
}

#[test]
fn prose_weighs_less_than_a_tenth_of_the_code() {
    let mut code = files("rs");
    code.extend(files("sql"));
    assert_eq!(too_much_prose(&files("md"), &code), None);
}

#[test]
fn the_architecture_fits_on_a_few_pages() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is readable");
    let lines = text.lines().count();
    assert!(lines <= ARCHITECTURE_LINES, "ARCHITECTURE.md: {lines} lines, {ARCHITECTURE_LINES} allowed");
}

#[test]
fn nine_of_ten_functions_are_short() {
    let sources = files("rs").into_iter().filter_map(|file| Source::parse(&file.path, &file.text).ok());
    let lengths: Vec<usize> =
        sources.flat_map(|source| source.functions).map(|function| function.lines).collect();
    let (count, p90) = (lengths.len(), p90(lengths));
    println!("tidy: {count} functions, p90 {p90} lines");
    assert!(p90 <= FUNCTION_LINES_P90, "p90 of function length is {p90} lines, {FUNCTION_LINES_P90} allowed");
}

#[test]
fn every_planted_bug_says_what_it_breaks_and_what_must_catch_it() {
    let patches = files("patch");
    let silent: Vec<String> = patches.iter().flat_map(silent_patch).collect();
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

#[test]
fn limits_on_the_whole_catch_what_is_over_them() {
    let text = |text: &str| Text { path: "x".to_owned(), text: text.to_owned() };
    let code = "line\n\n".repeat(100);
    assert!(too_much_prose(&[text(&"word\n".repeat(10))], &[text(&code)]).is_some());
    assert!(too_much_prose(&[text(&"word\n\n".repeat(9))], &[text(&code)]).is_none());
    assert_eq!(p90((1..=10).collect()), 10);
    assert_eq!(p90(vec![3; 9].into_iter().chain([90]).collect()), 90);
    assert_eq!(p90(vec![3; 19].into_iter().chain([90]).collect()), 3);
    assert_eq!(silent_patch(&text("# breaks: x\n# invariant: \n--- a\n# invariant: effect-once")).len(), 1);
    assert!(silent_patch(&text("# breaks: x\n# invariant: effect-once\n--- a\n+++ b")).is_empty());
    let mutant = Text { path: "tests/mutants/x.patch".to_owned(), text: "# breaks: x\n--- a".to_owned() };
    assert_eq!(silent_patch(&mutant).len(), 1);
}
