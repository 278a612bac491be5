//! Results for people, for programs and for GitHub Actions.
//!
//! For people a failure is at most 25 lines in words of the domain and ends in the command that repeats it. For programs
//! every line is one JSON object whose keys stand in a fixed order.

use serde::Serialize;
use stormglass_sim::{FaultClass, Strikes};

use crate::arguments::Format;
use crate::console::{Console, Ink};
use crate::folder::shown;
use crate::run::Cases;
use crate::source::{Source, program};
use crate::tally::Tally;
use crate::trial::Trial;
use crate::{Profile, Seed, TraceHash, Verdict};

/// Failures told in full; of the others one line each. The first say what is wrong, the rest how often.
const TOLD_MAX: u64 = 10;

/// Lines of a list (open things, links of a chain, a panic's text) that one failure shows.
const LIST_MAX: usize = 12;

/// Characters of one line of a failure.
const LINE_MAX: usize = 800;

/// Characters of one link of a chain: a chain of `LIST_MAX` links fits a line, so its end is never cut off.
const LINK_MAX: usize = 60;

/// Writes results as they come, in the order of the cases.
pub(crate) struct Reporter {
    pub(crate) format: Format,
    pub(crate) console: Console,
    told: u64,
    source: Option<Source>,
}

#[derive(Serialize)]
struct CaseLine<'a> {
    kind: &'static str,
    scenario: &'a str,
    seed: Seed,
    hash: TraceHash,
    verdict: &'a str,
    invariant: Option<&'a str>,
    sim_ms: u64,
    wall_ms: u64,
    orders: u64,
    strikes: &'a Strikes,
}

/// How a run went apart from its cases.
pub(crate) struct Frame {
    pub(crate) base: Seed,
    pub(crate) profile: Profile,
    pub(crate) wall_ms: u64,
    pub(crate) interrupted: bool,
    /// Fault classes that should have struck, and whether that fails the run.
    pub(crate) missing: Vec<FaultClass>,
}

impl Reporter {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, console: Console::new(), told: 0, source: None }
    }

    /// What is about to run: the seed comes first, so that even a run cut short can be had again.
    pub(crate) fn announce(&mut self, cases: &Cases<'_>) {
        if self.format == Format::Pretty {
            let count = cases.limit.map_or("cases".to_owned(), |limit| counted(limit, "case"));
            self.console.say(&format!(
                "base seed {}: {count} of {}\n",
                cases.base,
                cases.scenarios.join(", ")
            ));
        }
    }

    /// A case that a user stopped before its end: what holds at every moment held, and nothing else was judged.
    pub(crate) fn stopped(&mut self, trial: &Trial) {
        let text = match self.format {
            Format::Json => case_line(trial, "stopped"),
            Format::Pretty | Format::Github => {
                let (scenario, seed, t) =
                    (&trial.case.scenario, trial.case.seed, seconds(trial.outcome.sim_ms));
                format!("{scenario} {seed} was stopped at t={t}s and not judged")
            }
        };
        self.console.say(&format!("{text}\n"));
    }

    /// One case.
    pub(crate) fn case(&mut self, trial: &Trial) {
        match self.format {
            Format::Json => {
                let verdict =
                    if trial.doubt.is_some() { "undetermined" } else { trial.outcome.verdict.name() };
                self.console.say(&format!("{}\n", case_line(trial, verdict)));
            }
            Format::Pretty | Format::Github if !trial.failed() => {}
            Format::Pretty => {
                self.told += 1;
                let text = if self.told > TOLD_MAX { self.headline(trial) } else { self.failure(trial) };
                self.console.say(&format!("{text}\n"));
            }
            Format::Github => {
                let text = self.failure(trial);
                let (title, body) = text.split_once('\n').unwrap_or((&text, ""));
                self.console.say(&format!("::error title={}::{}\n", property(title), data(body)));
            }
        }
    }

    /// A failure as DESIGN section 9 shows it.
    fn failure(&mut self, trial: &Trial) -> String {
        let mut lines = vec![self.headline(trial)];
        lines.extend(judgement(&trial.outcome.verdict).into_iter().map(|line| format!("  {line}")));
        lines.push(format!("  faults: {} struck", trial.outcome.strikes.total()));
        if let Some(doubt) = &trial.doubt {
            lines.push(format!("  DID NOT REPEAT: {doubt}"));
        }
        if let Some(files) = &trial.files {
            lines.push(format!("  files:  {}/", shown(files)));
        }
        let command = format!("{} replay {}", program(), trial.again);
        let repeat = format!("  repeat: {}", self.source().repeat(&command));
        lines.iter().map(|line| clipped(line, LINE_MAX)).chain([repeat]).collect::<Vec<_>>().join("\n")
    }

    fn headline(&mut self, trial: &Trial) -> String {
        let (what, at_ms) = match &trial.outcome.verdict {
            Verdict::Violated(violation) => (violation.invariant.as_str(), violation.at_ms),
            Verdict::Passed | Verdict::Unsettled { .. } | Verdict::Internal { .. } => {
                (trial.outcome.verdict.name(), trial.outcome.sim_ms)
            }
        };
        let commit = self.source().name();
        let fail = self.console.ink(Ink::Bad, "FAIL");
        let (scenario, seed, t) = (&trial.case.scenario, trial.case.seed, seconds(at_ms));
        format!("{fail} {what}  scenario={scenario} seed={seed} commit={commit} t={t}s")
    }

    fn source(&mut self) -> &Source {
        self.source.get_or_insert_with(Source::here)
    }

    /// What all cases add up to.
    pub(crate) fn summary(&mut self, tally: &Tally, frame: &Frame) {
        let text = match self.format {
            Format::Json => format!("{}\n", summary_line(tally, frame)),
            Format::Pretty => self.summary_text(tally, frame),
            Format::Github => {
                let goal =
                    missing_text(&frame.missing).map(|text| format!("::error title=goal::{}\n", data(&text)));
                format!("{}{}\n", goal.unwrap_or_default(), counts(tally))
            }
        };
        self.console.say(&text);
    }

    fn summary_text(&self, tally: &Tally, frame: &Frame) -> String {
        let mut text = String::new();
        for (scenario, (cases, failures)) in &tally.scenarios {
            text += &format!("{scenario:<18} {:>6} passed {failures:>6} failed\n", cases - failures);
        }
        if frame.profile != Profile::Smoke {
            text += &table("struck", tally.strikes.0.iter().map(|(class, count)| (class.id(), *count)));
            text += &table("reached", tally.coverage.iter().map(|(what, count)| (what.as_str(), *count)));
        }
        for (what, seen) in &tally.distinct {
            text += &format!("{} different by {what}\n", seen.len());
        }
        if let Some(missing) = missing_text(&frame.missing) {
            text += &format!("{} {missing}\n", self.console.ink(Ink::Bad, "GOAL"));
        }
        if frame.interrupted {
            text += "interrupted: what had run until then\n";
        }
        text += &format!(
            "{}, {} s simulated in {} s\n",
            counted(tally.traces.len() as u64, "different trace"),
            tally.sim_ms / 1000,
            seconds(frame.wall_ms),
        );
        let ink = if tally.failed() == 0 { Ink::Good } else { Ink::Bad };
        text + &self.console.ink(ink, &counts(tally)) + "\n"
    }
}

/// What did not hold, in the suite's words, one entry per line.
fn judgement(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Passed => Vec::new(),
        Verdict::Violated(violation) => {
            let mut lines: Vec<String> =
                violation.subject.lines().take(LIST_MAX / 2).map(str::to_owned).collect();
            lines.push(format!("expected {}; got {}", violation.expected, violation.got).replace('\n', " "));
            if !violation.chain.is_empty() {
                lines.push(format!("chain: {}", chain(&violation.chain)));
            }
            lines
        }
        Verdict::Unsettled { open } => shortened("open:  ", open.iter().map(String::as_str)),
        Verdict::Internal { message } => shortened("", message.lines()),
    }
}

/// Cause and end matter most: the middle of a long chain is counted, not shown.
fn chain(links: &[String]) -> String {
    let links: Vec<String> = links.iter().map(|link| clipped(&link.replace('\n', " "), LINK_MAX)).collect();
    if links.len() <= LIST_MAX {
        return links.join(" → ");
    }
    let half = LIST_MAX / 2;
    let between = links.len() - 2 * half;
    format!(
        "{} → … {between} more … → {}",
        links[..half].join(" → "),
        links[links.len() - half..].join(" → ")
    )
}

fn shortened<'a>(label: &str, lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let lines: Vec<&str> = lines.collect();
    let mut shown: Vec<String> = lines.iter().take(LIST_MAX).map(|line| format!("{label}{line}")).collect();
    if lines.len() > LIST_MAX {
        shown.push(format!("and {} more", lines.len() - LIST_MAX));
    }
    shown
}

fn clipped(line: &str, max: usize) -> String {
    if line.chars().count() <= max {
        return line.to_owned();
    }
    line.chars().take(max - 1).chain(['…']).collect()
}

/// `1 case`, `2 cases`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn counts(tally: &Tally) -> String {
    format!("{} passed, {} failed", tally.passed, tally.failed())
}

fn table<'a>(title: &str, rows: impl Iterator<Item = (&'a str, u64)>) -> String {
    rows.map(|(what, count)| format!("{title} {what:<24} {count:>10}\n")).collect()
}

fn missing_text(missing: &[FaultClass]) -> Option<String> {
    let names: Vec<&str> = missing.iter().map(|class| class.id()).collect();
    (!names.is_empty()).then(|| format!("never struck: {}", names.join(", ")))
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// A case as one line of JSON.
fn case_line(trial: &Trial, verdict: &str) -> String {
    let outcome = &trial.outcome;
    let line = CaseLine {
        kind: "case",
        scenario: &trial.case.scenario,
        seed: trial.case.seed,
        hash: outcome.hash,
        verdict,
        invariant: outcome.verdict.invariant(),
        sim_ms: outcome.sim_ms,
        wall_ms: trial.wall_ms,
        orders: outcome.orders,
        strikes: &outcome.strikes,
    };
    json(&line)
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    kind: &'static str,
    base: Seed,
    profile: Profile,
    passed: u64,
    failed: u64,
    violated: u64,
    unsettled: u64,
    internal: u64,
    undetermined: u64,
    traces: usize,
    sim_ms: u64,
    wall_ms: u64,
    orders: u64,
    strikes: &'a Strikes,
    coverage: &'a std::collections::BTreeMap<String, u64>,
    distinct: std::collections::BTreeMap<&'a str, usize>,
    missing: &'a [FaultClass],
    interrupted: bool,
}

fn summary_line(tally: &Tally, frame: &Frame) -> String {
    json(&SummaryLine {
        kind: "summary",
        base: frame.base,
        profile: frame.profile,
        passed: tally.passed,
        failed: tally.failed(),
        violated: tally.violated,
        unsettled: tally.unsettled,
        internal: tally.internal,
        undetermined: tally.undetermined,
        traces: tally.traces.len(),
        sim_ms: tally.sim_ms,
        wall_ms: frame.wall_ms,
        orders: tally.orders,
        strikes: &tally.strikes,
        coverage: &tally.coverage,
        distinct: tally.distinct.iter().map(|(what, seen)| (what.as_str(), seen.len())).collect(),
        missing: &frame.missing,
        interrupted: frame.interrupted,
    })
}

fn json(line: &impl Serialize) -> String {
    // Maps have string keys and numbers are integers, so this cannot fail; an error would still be one JSON object.
    serde_json::to_string(line).unwrap_or_else(|error| format!("{{\"kind\":\"error\",\"what\":\"{error}\"}}"))
}

/// Escapes the text of a workflow command (GitHub's `toolkit`, `command.ts`).
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Case, Outcome, Violation};

    #[track_caller]
    fn check(verdict: Verdict, told: &str) {
        let outcome = Outcome {
            hash: TraceHash::default(),
            verdict,
            sim_ms: 0,
            orders: 0,
            strikes: Strikes::default(),
            coverage: Default::default(),
            distinct: Default::default(),
            history: Vec::new(),
        };
        let case = Case::new("suite", "scenario", Seed(1));
        let doubt = Some("a second thread took another turn".to_owned());
        let files = Some("failures/0x1".into());
        let trial = Trial { case, again: "0x1".to_owned(), outcome, wall_ms: 0, doubt, files };
        let text = Reporter::new(Format::Pretty).failure(&trial);
        assert!(text.lines().count() <= 25 && text.lines().all(|line| line.len() < 1000), "{text}");
        assert!(text.contains(told) && text.lines().next_back().unwrap().contains("replay 0x1"), "{text}");
    }

    #[test]
    fn a_failure_fits_a_screen_however_much_there_is_to_say() {
        let many = || (0..100).map(|nth| format!("{nth} {}", "x".repeat(300)));
        check(Verdict::Internal { message: many().collect::<Vec<_>>().join("\n") }, "and 88 more");
        check(Verdict::Unsettled { open: many().collect() }, "and 88 more");
        let violation = Violation {
            subject: many().collect::<Vec<_>>().join("\n"),
            expected: "one\nline".to_owned(),
            chain: many().collect(),
            ..Violation::default()
        };
        check(Verdict::Violated(violation.clone()), "88 more");
        check(Verdict::Violated(violation), "→ 99 xxx");
    }
}
