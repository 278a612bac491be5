//! `power`: whether a green run means something.
//!
//! Each mistake of the catalogue is planted in a copy of the workspace, built and run against fresh base seeds until it
//! was found often enough to say how many seeds that takes. First the copy runs as it is: were it red, everything
//! would be found.

use std::collections::BTreeMap;

use crate::arguments::PowerArguments;
use crate::bugs::{self, Bug, fired};
use crate::catalogue::scenario_names;
use crate::console::Console;
use crate::estimate::Estimate;
use crate::machine::{self, Stopwatch};
use crate::report::counted;
use crate::scratch::{Scratch, Unplanted};
use crate::seed::BASE;
use crate::stop::{Exit, Stop};
use crate::{Suite, child};

/// Findings after which a mistake has been measured well enough: the interval's ends are then within a factor of about 4.
const FOUND_ENOUGH: u64 = 10;

/// Cases between two looks at that count.
const BATCH: u64 = 30;

/// How a mistake fared.
#[derive(Debug, Default, PartialEq, Eq)]
struct Score {
    cases: u64,
    /// Cases in which an invariant that the header names fired.
    found: u64,
    /// What else fired.
    others: BTreeMap<String, u64>,
}

/// A mistake and what came of it.
struct Row {
    bug: Bug,
    score: Result<Score, Unplanted>,
}

/// The command.
pub(crate) fn power(suites: &[&dyn Suite], arguments: &PowerArguments) -> Result<Exit, Stop> {
    let bugs = bugs::catalogue(&arguments.bugs, suites)?;
    if arguments.seeds == 0 {
        return Err(Stop::nothing("--seeds is 0"));
    }
    if bugs.is_empty() {
        return Err(Stop::nothing(&format!("{} holds no patch", arguments.bugs.display())));
    }
    let scratch = Scratch::new(machine::interruption())?;
    let mut lab = Lab { scratch, arguments, console: Console::new() };
    let mut rows = Vec::new();
    let ended = lab.prove_clean(suites).and_then(|()| lab.measure_all(&bugs, &mut rows));
    let cut_short = matches!(&ended, Err(stop) if stop.exit == Exit::Interrupted);
    let interrupted = cut_short || lab.scratch.is_interrupted();
    if !interrupted {
        ended?;
    }
    lab.console.say(&table(&rows));
    if interrupted {
        lab.console.note(&format!("interrupted: {} of {} mistakes were measured", rows.len(), bugs.len()));
    }
    lab.console.finish()?;
    let all = rows.iter().all(|row| row.verdict() == "found");
    Ok(match interrupted {
        true => Exit::Interrupted,
        false if all => Exit::Ok,
        false => Exit::Goal,
    })
}

/// Where mistakes are planted and run.
struct Lab<'a> {
    scratch: Scratch,
    arguments: &'a PowerArguments,
    console: Console,
}

impl Lab<'_> {
    /// Builds the copy as it is, and refuses to go on if it fails by itself.
    fn prove_clean(&mut self, suites: &[&dyn Suite]) -> Result<(), Stop> {
        self.console.progress("the workspace as it is");
        self.scratch.restore()?;
        self.scratch
            .build()
            .map_err(|why| Stop::usage(format!("the workspace as it is {why}: mend it first")))?;
        let all: Vec<String> = scenario_names(suites).into_iter().map(str::to_owned).collect();
        let failed = self.batch(&all, self.arguments.seeds, 0)?.into_iter().flatten().count();
        if failed == 0 {
            return Ok(());
        }
        let line = format!(
            "the workspace as it is fails {}: mend it first, or every mistake is found",
            counted(failed as u64, "case")
        );
        Err(Stop { exit: Exit::Goal, line })
    }

    /// Measures one mistake after another, until Ctrl-C.
    fn measure_all(&mut self, bugs: &[Bug], rows: &mut Vec<Row>) -> Result<(), Stop> {
        for (nth, bug) in (1..).zip(bugs) {
            self.console.progress(&format!("{nth}/{} {}", bugs.len(), bug.name));
            let watch = Stopwatch::start();
            let score = self.measure(bug)?;
            if self.scratch.is_interrupted() {
                break;
            }
            let row = Row { bug: bug.clone(), score };
            let (name, verdict, seconds) = (&bug.name, row.verdict(), watch.elapsed().as_secs());
            self.console.note(&format!("{nth}/{} {name}: {verdict} ({seconds} s)", bugs.len()));
            rows.push(row);
        }
        Ok(())
    }

    /// Plants one mistake and runs until it was found often enough or the cases are spent.
    fn measure(&self, bug: &Bug) -> Result<Result<Score, Unplanted>, Stop> {
        self.scratch.restore()?;
        if let Err(why) = self.scratch.plant(&bug.patch).and_then(|()| self.scratch.build()) {
            return Ok(Err(why));
        }
        let mut score = Score::default();
        for nth in 1..=self.arguments.seeds.div_ceil(BATCH) {
            let cases = BATCH.min(self.arguments.seeds - score.cases);
            for fired in self.batch(&bug.scenarios, cases, nth)? {
                score.add(bug, fired);
            }
            if score.found >= FOUND_ENOUGH {
                break;
            }
        }
        Ok(Ok(score))
    }

    /// Runs cases from a base seed of their own; for each, what fired. A mistake may take the whole process down.
    fn batch(&self, scenarios: &[String], cases: u64, nth: u64) -> Result<Vec<Option<String>>, Stop> {
        if self.scratch.is_interrupted() {
            return Err(Stop::interrupted());
        }
        let mut command = self.scratch.command();
        let width = self.arguments.jobs.unwrap_or_else(machine::cores);
        command.arg("run").args(scenarios).args(["--format", "json", "-j", &width.to_string()]);
        command.args(["--seeds", &cases.to_string(), "--seed", &BASE.draw("power", nth).to_string()]);
        command.arg("--out").arg(self.scratch.results());
        let lines = child::objects(command)?;
        let died = lines.iter().all(|line| line["kind"] != "summary").then(|| Some("crash".to_owned()));
        Ok(lines.iter().filter(|line| line["kind"] == "case").map(fired).chain(died).collect())
    }
}

impl Score {
    fn add(&mut self, bug: &Bug, fired: Option<String>) {
        self.cases += 1;
        match fired {
            Some(fired) if bug.is_named(&fired) => self.found += 1,
            Some(other) => *self.others.entry(other).or_default() += 1,
            None => {}
        }
    }
}

impl Row {
    /// A mistake is found when most of what fired is what its header names.
    fn verdict(&self) -> &str {
        match &self.score {
            Err(why) => why,
            Ok(score) if score.found == 0 && score.others.is_empty() => "survived",
            Ok(score) if score.found < score.others.values().sum() => "wrong invariant",
            Ok(_) => "found",
        }
    }

    fn markdown(&self) -> String {
        let Bug { name, breaks, invariants, .. } = &self.bug;
        let invariants = invariants.join(", ");
        let unknown = Score::default();
        let score = self.score.as_ref().unwrap_or(&unknown);
        let (seeds, p95) =
            Estimate::from(score.found, score.cases).map_or(("–".into(), "–".into()), |estimate| {
                let Estimate { median, low, high, p95 } = estimate;
                (format!("{median} ({low}–{high})"), p95.to_string())
            });
        let others: Vec<String> =
            score.others.iter().map(|(what, count)| format!("{what} {count}")).collect();
        let (verdict, found, cases, others) = (self.verdict(), score.found, score.cases, others.join(", "));
        format!(
            "| {name} | {breaks} | {invariants} | {verdict} | {found}/{cases} | {seeds} | {p95} | {others} |\n"
        )
    }
}

/// A Markdown table, and one line that sums it up.
fn table(rows: &[Row]) -> String {
    let mut text =
        "| mistake | breaks | must fire | result | cases | median seeds (95 %) | p95 | also fired |\n"
            .to_owned();
    text += "|-|-|-|-|-|-|-|-|\n";
    text.extend(rows.iter().map(Row::markdown));
    let found = rows.iter().filter(|row| row.verdict() == "found").count();
    text + &format!("\n{found} of {} mistakes found\n", rows.len())
}
