//! The table of the contract: each case, and what came of it on each kind of system.
//!
//! `docs/CONTRACT.md` is this table as it is when every system agrees; the suite fails when that file tells of other
//! cases or other reasons than the lists do. `STORMGLASS_UPDATE=1` writes it anew.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf};

use crate::suite::Verdicts;

/// What a column says of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// It got the verdict that it asserts.
    Same,
    /// It did not.
    Different,
    /// This system cannot express it, and why.
    Reason(&'static str),
    /// It was not run now: it is not wanted, or there is no engine.
    NotRun,
    /// Another suite runs it.
    Elsewhere(&'static str),
}

impl Cell {
    fn text(self) -> &'static str {
        match self {
            Cell::Same => "same",
            Cell::Different => "DIFFERENT",
            Cell::Reason(why) | Cell::Elsewhere(why) => why,
            Cell::NotRun => "not run",
        }
    }
}

/// A kind of system, as one list of cases sees it.
pub struct Column<'a> {
    /// Cases that it cannot express, and why.
    pub reasons: &'a [(&'static str, &'static str)],
    /// What came of the others; `None`: they are told as they should be.
    pub verdicts: Option<&'a Verdicts>,
    /// What is said of a case without a verdict.
    pub otherwise: Cell,
}

impl Column<'_> {
    fn cell(&self, case: &str) -> Cell {
        let excused = self.reasons.iter().find(|(name, _)| *name == case);
        match (excused, self.verdicts) {
            (Some((_, why)), _) => Cell::Reason(why),
            (None, None) => Cell::Same,
            (None, Some(verdicts)) => match verdicts.get(case) {
                Some(Ok(())) => Cell::Same,
                Some(Err(_)) => Cell::Different,
                None => self.otherwise,
            },
        }
    }
}

/// One line of the table.
pub struct Line {
    /// The line of SEMANTICS; `–` where none says it.
    pub id: String,
    pub what: String,
    /// Embedded, simulated, real.
    pub cells: [Cell; 3],
}

/// The lines of one list of cases.
pub fn lines(cases: &[&'static str], columns: &[Column<'_>; 3]) -> Vec<Line> {
    let line = |name: &&'static str| {
        let (id, what) = split(name);
        Line { id, what, cells: [0, 1, 2].map(|column| columns[column].cell(name)) }
    };
    cases.iter().map(line).collect()
}

/// The id that a case's name begins with, and what it states.
fn split(name: &str) -> (String, String) {
    let (first, rest) = name.split_once('_').unwrap_or((name, ""));
    let is_id =
        first.len() > 1 && first.get(1..).is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_digit()));
    match is_id {
        true => (first.to_uppercase(), rest.replace('_', " ")),
        false => ("–".to_owned(), name.replace('_', " ")),
    }
}

/// The table as Markdown.
pub fn markdown(lines: &[Line]) -> String {
    let mut text = "| id | what | embedded | simulated | real |\n|-|-|-|-|-|\n".to_owned();
    for Line { id, what, cells } in lines {
        let [embedded, simulated, real] = cells.map(Cell::text);
        writeln!(text, "| {id} | {what} | {embedded} | {simulated} | {real} |").expect("a string takes it");
    }
    text
}

/// How many cells say what, for the last line.
pub fn summary(lines: &[Line]) -> String {
    let count =
        |column: usize, of: fn(Cell) -> bool| lines.iter().filter(|line| of(line.cells[column])).count();
    let column = |(column, name): (usize, &str)| {
        let same = count(column, |cell| cell == Cell::Same);
        let different = count(column, |cell| cell == Cell::Different);
        let excused = count(column, |cell| matches!(cell, Cell::Reason(_)));
        let not_run = count(column, |cell| matches!(cell, Cell::NotRun | Cell::Elsewhere(_)));
        format!(
            "{name}: {same} same, {different} different, {excused} not expressible, {not_run} not run here"
        )
    };
    [(0, "embedded"), (1, "simulated"), (2, "real")].map(column).join("\n") + "\n"
}

/// Fails if a line of SEMANTICS has neither a case nor a reason, or both; or a reason is of a line that is not there.
pub fn every_line_is_accounted_for(lines: &[Line], without_case: &[(&str, &str)]) {
    let semantics = std::fs::read_to_string(project("docs/SEMANTICS.md")).expect("it is checked in");
    let stated: BTreeSet<String> = semantics.lines().filter_map(stated).collect();
    let shown: BTreeSet<String> = lines.iter().map(|line| line.id.clone()).collect();
    let excused: BTreeSet<String> = without_case.iter().map(|(id, _)| (*id).to_owned()).collect();
    let of_semantics = |id: &String| !id.starts_with('F') && id != "–";
    let both: Vec<_> = shown.intersection(&excused).collect();
    assert!(both.is_empty(), "they have cases, so no reason is needed: {both:?}");
    let accounted: BTreeSet<String> = shown.union(&excused).filter(|id| of_semantics(id)).cloned().collect();
    let open: Vec<_> = stated.symmetric_difference(&accounted).collect();
    assert!(
        open.is_empty(),
        "lines of SEMANTICS without a case or a reason, or the other way round: {open:?}"
    );
}

/// The id of a B or D line.
fn stated(line: &str) -> Option<String> {
    let (id, _) = line.strip_prefix("- ")?.split_once(' ')?;
    let digits = id.strip_prefix(['B', 'D'])?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| id.to_owned())
}

/// A file of the project.
pub fn project(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Where the tests of this build leave what they have to say.
pub fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.ancestors().nth(2).expect("it lies in target/<profile>/deps");
    profile.join("contract")
}

/// Holds `docs/CONTRACT.md` to what the lists say now.
pub fn is_what_the_project_documents(text: &str) {
    let path = project("docs/CONTRACT.md");
    if std::env::var_os("STORMGLASS_UPDATE").is_some() {
        std::fs::write(&path, text).expect("docs can be written");
    }
    let documented = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(documented == text, "docs/CONTRACT.md is stale: run this with STORMGLASS_UPDATE=1");
}
