//! The smallest suite that is a suite: a bank that moves money between accounts while acknowledgements get lost.
//!
//! It shows what a team writes to point the harness at a system of its own, and it is what the harness's tests run. It
//! has no network: one loop over simulated milliseconds. A `Mistake` makes the bank wrong in a known way.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use stormglass_harness::{
    Case, History, Invariant, Misfit, Observe, Outcome, Profile, Scenario, Seed, Suite, TraceHash, Verdict,
    Violation,
};
use stormglass_sim::{Dice, Fault, FaultClass, Strikes};
use toml::{Table, Value};

/// A client asks again when it has heard nothing for this long.
const RETRY_MS: u64 = 50;

/// Simulated time after which every transfer must be acknowledged.
const SETTLED_MS: u64 = 20_000;

/// What is wrong with the bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    None,
    /// A repeated transfer moves the money again.
    ForgetsTransfers,
    /// It panics at the first lost acknowledgement.
    Panics,
    /// It never acknowledges the last transfer.
    NeverAnswers,
    /// It depends on how many runs this process has seen.
    RemembersOtherRuns,
    /// It forgets transfers, but only in the first run of a process.
    ForgetsOnce,
}

/// Scenarios of one bank, each with its mistake.
pub struct Ledger {
    pub scenarios: &'static [Scenario],
    pub mistakes: &'static [Mistake],
}

const INVARIANTS: &[Invariant] = &[
    Invariant {
        id: "I1",
        name: "transfer-once",
        statement: "a transfer moves money once, however often it is sent",
        checker: "counts the bank's own entries by transfer, at each entry",
    },
    Invariant {
        id: "I2",
        name: "settles",
        statement: "every transfer is acknowledged in the end",
        checker: "looks at what clients still wait for at the end",
    },
];

impl Suite for Ledger {
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn scenarios(&self) -> &[Scenario] {
        self.scenarios
    }

    fn invariants(&self) -> &[Invariant] {
        INVARIANTS
    }

    fn faults(&self) -> &[FaultClass] {
        &[FaultClass::LostAck, FaultClass::Kill]
    }

    fn plan(&self, scenario: &str, seed: Seed, profile: Profile) -> Case {
        let dice = Dice::new(seed.0).for_site(scenario);
        let mut case = Case::new(self.name(), scenario, seed);
        let transfers = if profile == Profile::Smoke { 20 } else { 60 };
        case.cluster.insert("accounts".to_owned(), Value::Integer(5));
        case.rates.lost_ack = dice.unit("rate", 0, 0) * 0.5;
        for transfer in 0..transfers {
            let draw = |what, range| i64::try_from(dice.between(what, transfer, 0, range)).unwrap_or(0);
            let fields = [
                ("at_ms", draw("at", 0..5_000)),
                ("to", draw("to", 0..5)),
                ("amount", draw("amount", 1..100)),
            ];
            let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), Value::Integer(value)));
            case.operation.push(Table::from_iter(fields));
        }
        if dice.chance("kill", 0, 0, 0.5) {
            let at_ms = dice.between("kill-at", 0, 0, 0..5_000);
            let hosts = vec!["bank".to_owned()];
            case.fault.push(Fault {
                class: FaultClass::Kill,
                at_ms,
                for_ms: 500,
                hosts,
                from: Vec::new(),
                amount: 0,
            });
        }
        case
    }

    fn check(&self, case: &Case) -> Result<(), Misfit> {
        for (nth, operation) in case.operation.iter().enumerate() {
            for field in ["at_ms", "to", "amount"] {
                if operation.get(field).and_then(Value::as_integer).is_none_or(|value| value < 0) {
                    let what = "not a whole number from 0 up".to_owned();
                    return Err(Misfit { at: format!("operation[{nth}].{field}"), what });
                }
            }
        }
        Ok(())
    }

    fn run(&self, case: &Case, observe: Observe) -> Outcome {
        let known = self.scenarios.iter().position(|scenario| scenario.name == case.scenario);
        let mistake = known.and_then(|at| self.mistakes.get(at)).copied().unwrap_or(Mistake::None);
        let mut bank = Bank::open(case, observe, mistake);
        let until = observe.until_ms.unwrap_or(SETTLED_MS).min(SETTLED_MS);
        while bank.now_ms < until && !bank.waiting.is_empty() && bank.step().is_continue() {}
        bank.close(observe)
    }
}

struct Bank<'a> {
    case: &'a Case,
    mistake: Mistake,
    dice: Dice,
    now_ms: u64,
    /// When each transfer is sent next, and how often it was.
    waiting: BTreeMap<usize, (u64, u32)>,
    entries: BTreeMap<usize, u32>,
    strikes: Strikes,
    violation: Option<Violation>,
    hash: Sha256,
    history: Option<Vec<String>>,
}

impl<'a> Bank<'a> {
    fn open(case: &'a Case, observe: Observe, mistake: Mistake) -> Self {
        let at = |operation: &Table| number(operation, "at_ms");
        let waiting = case.operation.iter().map(at).enumerate().map(|(nth, at)| (nth, (at, 0))).collect();
        let mut bank = Bank {
            case,
            mistake,
            dice: Dice::new(case.seed.0),
            now_ms: 0,
            waiting,
            entries: BTreeMap::new(),
            strikes: Strikes::default(),
            violation: None,
            hash: Sha256::new(),
            history: (observe.history == History::Kept).then(Vec::new),
        };
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::SeqCst);
        if mistake == Mistake::RemembersOtherRuns {
            bank.record("run", usize::try_from(run).unwrap_or(0));
        } else if mistake == Mistake::ForgetsOnce && run == 0 {
            bank.mistake = Mistake::ForgetsTransfers;
        }
        bank
    }

    fn step(&mut self) -> ControlFlow<()> {
        self.now_ms += 1;
        let due = |(nth, (at, sent)): (&usize, &(u64, u32))| (*at <= self.now_ms).then_some((*nth, *sent));
        let due: Vec<(usize, u32)> = self.waiting.iter().filter_map(due).collect();
        due.into_iter().for_each(|(nth, sent)| self.send(nth, sent));
        if self.violation.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn send(&mut self, nth: usize, sent: u32) {
        self.waiting.insert(nth, (self.now_ms + RETRY_MS, sent + 1));
        self.record("send", nth);
        let down = |fault: &&Fault| (fault.at_ms..fault.at_ms + fault.for_ms).contains(&self.now_ms);
        if self.case.fault.iter().any(|fault| down(&fault)) {
            return self.strikes.count(FaultClass::Kill);
        }
        self.apply(nth);
        let last = nth + 1 == self.case.operation.len();
        let silent = self.mistake == Mistake::NeverAnswers && last;
        if self.dice.chance("ack", nth as u128, sent, self.case.rates.lost_ack) {
            assert!(self.mistake != Mistake::Panics, "the acknowledgement of transfer {nth} is gone");
            self.strikes.count(FaultClass::LostAck);
        } else if !silent {
            self.record("acknowledged", nth);
            self.waiting.remove(&nth);
        }
    }

    fn apply(&mut self, nth: usize) {
        let entries = self.entries.entry(nth).or_default();
        if *entries > 0 && self.mistake != Mistake::ForgetsTransfers {
            return;
        }
        *entries += 1;
        if *entries > 1 {
            self.violation = Some(Violation {
                invariant: "transfer-once".to_owned(),
                at_ms: self.now_ms,
                subject: format!(
                    "transfer {nth} of {} moved twice",
                    number(&self.case.operation[nth], "amount")
                ),
                expected: "one entry per transfer".to_owned(),
                got: format!("{} entries", *entries),
                chain: vec![
                    format!("transfer#{nth}"),
                    "[acknowledgement lost]".to_owned(),
                    "sent again".to_owned(),
                ],
            });
        }
        self.record("entry", nth);
    }

    fn record(&mut self, what: &str, nth: usize) {
        let line = format!("{{\"t\":{},\"what\":\"{what}\",\"transfer\":{nth}}}", self.now_ms);
        self.hash.update(&line);
        if let Some(history) = &mut self.history {
            history.push(line);
        }
    }

    fn close(self, observe: Observe) -> Outcome {
        let whole = observe.until_ms.is_none();
        let open: Vec<String> = self.waiting.keys().map(|nth| format!("transfer {nth} unanswered")).collect();
        let verdict = match self.violation {
            Some(violation) => Verdict::Violated(violation),
            None if whole && !open.is_empty() => Verdict::Unsettled { open },
            None => Verdict::Passed,
        };
        let digest = self.hash.finalize();
        Outcome {
            hash: TraceHash(u64::from_be_bytes(std::array::from_fn(|byte| digest[byte]))),
            verdict,
            sim_ms: self.now_ms,
            orders: self.entries.len() as u64,
            strikes: self.strikes,
            coverage: BTreeMap::from([("transfers".to_owned(), self.entries.len() as u64)]),
            distinct: BTreeMap::from([("first-byte".to_owned(), u64::from(digest[0]))]),
            history: self.history.unwrap_or_default(),
        }
    }
}

fn number(table: &Table, field: &str) -> u64 {
    table.get(field).and_then(Value::as_integer).and_then(|value| value.try_into().ok()).unwrap_or(0)
}
