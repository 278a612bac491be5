//! Drawing programs, comparing, shrinking what differs, and the account of it all.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use tokio::time::Instant;

use super::{
    model::expected,
    program::{Action, Program, program},
    real::Lane,
    regressions::regressions,
    run::{Reply, Transcript},
};
use crate::postgres::Real;

/// How often the server is asked before a program counts as different: some races are won by the same one nearly always.
const ATTEMPTS: u32 = 30;

/// Steps of a program at most.
const STEPS: usize = 40;

/// How long one difference is shrunk at most.
const SHRINKING: Duration = Duration::from_secs(60);

/// So many are enough to mend.
const DIFFERENCES: usize = 4;

/// Which programs.
pub struct Settings {
    pub schedules: u64,
    pub seed: u64,
}

impl Settings {
    pub fn from_environment() -> Self {
        let number = |name: &str, otherwise| match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
            Err(_) => otherwise,
        };
        Self { schedules: number("CONTRACT_SCHEDULES", 2_000), seed: number("CONTRACT_SEED", 1) }
    }
}

/// What all lanes share.
pub struct Search {
    settings: Settings,
    next: AtomicU64,
    began: Instant,
    known: Mutex<VecDeque<(&'static str, Program)>>,
    account: Mutex<Account>,
}

#[derive(Default)]
struct Account {
    schedules: u64,
    /// Schedules in which the server took another turn first.
    raced: u64,
    steps: u64,
    /// Steps after which somebody waited.
    waited: u64,
    /// What statements and commits were told, by kind.
    replies: BTreeMap<String, u64>,
    differences: Vec<String>,
}

/// What came of a comparison.
enum Verdict {
    Same { attempts: u32 },
    Different(Box<Transcript>),
}

impl Search {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            next: AtomicU64::new(0),
            began: Instant::now(),
            known: Mutex::new(regressions().into()),
            account: Mutex::default(),
        }
    }

    /// Compares until nothing is left, on a database of this thread's own.
    pub fn work(&self, real: &Real) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let mut lane = runtime.block_on(Lane::open(real));
        let mut compare = |program: &Program| {
            let expected = expected(program);
            let verdict = runtime.block_on(compare(&mut lane, program, &expected));
            (expected, verdict)
        };
        loop {
            let known = self.known.lock().unwrap().pop_front();
            if let Some((name, program)) = known {
                let (expected, verdict) = compare(&program);
                self.count(&expected, &verdict);
                if let Verdict::Different(observed) = verdict {
                    self.differ(&format!("again: {name}"), &program, &expected, &observed);
                }
                continue;
            }
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number >= self.settings.schedules
                || self.account.lock().unwrap().differences.len() >= DIFFERENCES
            {
                return;
            }
            let mut tree = self.draw(number);
            let (expected, verdict) = compare(&tree.current());
            self.count(&expected, &verdict);
            if let Verdict::Different(observed) = verdict {
                let (program, expected, observed) = shrink(&mut *tree, (expected, observed), &mut compare);
                self.differ(
                    &format!("schedule {number} of seed {}", self.settings.seed),
                    &program,
                    &expected,
                    &observed,
                );
            }
        }
    }

    /// The program with this number: it depends on the seed alone.
    fn draw(&self, number: u64) -> Box<dyn ValueTree<Value = Program>> {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.settings.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&number.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        Box::new(program(STEPS).new_tree(&mut runner).expect("nothing is filtered"))
    }

    fn count(&self, expected: &Transcript, verdict: &Verdict) {
        let mut account = self.account.lock().unwrap();
        account.schedules += 1;
        account.raced += u64::from(matches!(verdict, Verdict::Same { attempts: 2.. }));
        for (_, _, seen) in &expected.steps {
            account.steps += 1;
            account.waited += u64::from(!seen.waiting.is_empty());
            for reply in seen.replies.values() {
                let kind = match reply {
                    Reply::Answer(_) => "answered".to_owned(),
                    Reply::Committed => "committed".to_owned(),
                    Reply::RolledBack => "rolled back".to_owned(),
                    Reply::Failed(failure) => failure.to_string(),
                };
                *account.replies.entry(kind).or_default() += 1;
            }
        }
    }

    fn differ(&self, name: &str, program: &Program, expected: &Transcript, observed: &Transcript) {
        let text = explain(name, program, expected, observed);
        self.account.lock().unwrap().differences.push(text);
    }

    pub fn differences(&self) -> Vec<String> {
        self.account.lock().unwrap().differences.clone()
    }

    pub fn report(&self) -> String {
        let account = self.account.lock().unwrap();
        let seconds = self.began.elapsed().as_secs_f64();
        let mut text = format!(
            "{} schedules in {seconds:.0} s ({:.0} per second), {} steps, after {} of them somebody waited; {} raced; \
             {} different\n",
            account.schedules,
            account.schedules as f64 / seconds,
            account.steps,
            account.waited,
            account.raced,
            account.differences.len(),
        );
        for (kind, count) in &account.replies {
            writeln!(text, "{count:>8}  {kind}").expect("a string takes it");
        }
        text
    }
}

async fn compare(lane: &mut Lane, program: &Program, expected: &Transcript) -> Verdict {
    let mut last = Transcript::default();
    for attempts in 1..=ATTEMPTS {
        let observed = lane.observed(program, expected).await;
        if observed == *expected {
            return Verdict::Same { attempts };
        }
        // What goes further is the better explanation.
        if observed.steps.len() >= last.steps.len() {
            last = observed;
        }
    }
    Verdict::Different(Box::new(last))
}

/// The smallest program found that still differs.
fn shrink(
    tree: &mut dyn ValueTree<Value = Program>,
    found: (Transcript, Box<Transcript>),
    compare: &mut impl FnMut(&Program) -> (Transcript, Verdict),
) -> (Program, Transcript, Box<Transcript>) {
    let (mut expected, mut observed) = found;
    let mut smallest = tree.current();
    let began = Instant::now();
    let mut goes_on = tree.simplify();
    while goes_on && began.elapsed() < SHRINKING {
        let program = tree.current();
        let (model, verdict) = compare(&program);
        goes_on = match verdict {
            Verdict::Different(server) => {
                (smallest, expected, observed) = (program, model, server);
                tree.simplify()
            }
            Verdict::Same { .. } => tree.complicate(),
        };
    }
    (smallest, expected, observed)
}

fn explain(name: &str, program: &Program, expected: &Transcript, observed: &Transcript) -> String {
    let mut text = format!("{name}: the server never does what the model does\n{program}");
    writeln!(text, "{program:?}").expect("a string takes it");
    let steps = expected.steps.iter().zip(&observed.steps).enumerate();
    for (at, ((session, action, model), (_, _, server))) in steps {
        let is_same = model == server;
        if is_same && !matches!(action, Action::Pause | Action::Commit) && at + 12 < observed.steps.len() {
            continue;
        }
        writeln!(text, "session {session}: {action:?}\n    model  {model:?}").expect("a string takes it");
        if !is_same {
            writeln!(text, "    server {server:?}").expect("a string takes it");
        }
    }
    if expected.steps.len() == observed.steps.len() && expected.tables != observed.tables {
        writeln!(text, "model  {:?}\nserver {:?}", expected.tables, observed.tables)
            .expect("a string takes it");
    }
    text
}
