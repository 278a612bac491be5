//! What a storm on containers prints: what it did, what came of it, what was judged and what could not be.

use std::{collections::BTreeMap, fmt, time::Duration};

use stormglass_chaos::invariants::{OrderState, World, catalogue};

use crate::{
    plan::{Kind, Size},
    records::JUDGED,
    system::System,
};

/// Why the rest of the catalogue is not judged here, and what the evidence of the rest lacks.
const WITHOUT: &[(&str, &str)] = &[
    ("I10", "not judged: a reset moves positions back, which is its purpose"),
    ("I14", "not judged: which server answered a read, and how fresh it was, no server logs"),
    ("I15", "not judged: it wants the system watched while it works; I11 holds that it arrives"),
    ("I17", "not judged: times of a real machine do not repeat"),
    ("I20", "held by the storm itself: a fault that found nobody to strike fails the test"),
    ("I1", "a record counts as readable from its append: no log tells the high watermark's past"),
    ("I8", "the same; and records that a new leader cut off are never seen"),
    ("I11", "open transactions and row locks are counted after every process has been stopped"),
    (
        "I12",
        "a stand-in that is down cannot tell whom it turned away: the circuit is the simulator's to judge",
    ),
];

/// Sums of a storm.
#[derive(Debug, Default)]
pub struct Account {
    /// Strikes, and faults that found nobody to strike.
    pub struck: BTreeMap<Kind, (u32, u32)>,
    pub operations: usize,
    pub accepted: usize,
    pub records: usize,
    pub transactions: usize,
    pub unheard: usize,
    pub confirmed: usize,
    pub cancelled: usize,
    pub dead: usize,
    /// Counters of the processes: received, duplicates dropped, retried, moved, fenced.
    pub counted: BTreeMap<&'static str, f64>,
    pub starts: u32,
    /// Ends of processes that no fault caused.
    pub ends: Vec<String>,
    pub raged: Duration,
    pub settled_in: Duration,
}

/// What is asked of the processes' own counters, and how it is called here.
const COUNTERS: [(&str, &str); 6] = [
    ("records received", "stormglass_records_received_total"),
    ("duplicates dropped", "stormglass_events_duplicate_total"),
    ("attempts repeated", "stormglass_queue_retried_total"),
    ("positions found moved", "stormglass_positions_moved_total"),
    ("claims found taken over", "stormglass_queue_fenced_total"),
    ("batches failed", "stormglass_batches_failed_total"),
];

impl Account {
    /// What the processes counted, and how often they were started.
    pub fn ask(&mut self, system: &System) {
        let all = || system.processes.iter().chain(&system.parties);
        for (name, counter) in COUNTERS {
            self.counted.insert(name, all().map(|process| process.counted(counter)).sum());
        }
        self.starts = all().map(crate::process::Process::starts).sum();
        let ended = |process: &crate::process::Process| {
            let name = process.recipe.name.clone();
            process.ends().into_iter().map(move |end| format!("{name}: {end}")).collect::<Vec<_>>()
        };
        self.ends = all().flat_map(ended).collect();
    }

    /// What the judge's world came to.
    pub fn see(&mut self, world: &World) {
        let states = world.tables.stories().filter_map(|(_, rows)| rows.order.as_ref());
        for order in states {
            self.confirmed += usize::from(matches!(order.state, OrderState::Confirmed { .. }));
            self.cancelled += usize::from(matches!(order.state, OrderState::Cancelled { .. }));
        }
        self.dead = world.tables.queued().filter(|(_, row)| row.pending.dead_at.is_some()).count();
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults:")?;
        for (kind, (struck, missed)) in &self.struck {
            let missed = if *missed > 0 { format!(" ({missed} found nobody)") } else { String::new() };
            writeln!(f, "  {struck:>4}  {kind}{missed}")?;
        }
        let (raged, settled) = (self.raged.as_secs_f64(), self.settled_in.as_secs_f64());
        writeln!(f, "raged for {raged:.0} s, settled {settled:.0} s after the last answer")?;
        for (what, count) in [
            ("orders accepted", self.accepted),
            ("operations of clients", self.operations),
            ("orders confirmed", self.confirmed),
            ("orders cancelled", self.cancelled),
            ("dead letters", self.dead),
            ("records on the log", self.records),
            ("transactions", self.transactions),
            ("commits lost with a primary, never answered", self.unheard),
            ("starts of processes", self.starts as usize),
        ] {
            writeln!(f, "{count:>9}  {what}")?;
        }
        for (what, count) in &self.counted {
            writeln!(f, "{count:>9}  {what} (at least)")?;
        }
        for end in &self.ends {
            writeln!(f, "ended by itself: {end}")?;
        }
        Ok(())
    }
}

/// The verdict, invariant by invariant.
pub fn verdict(size: Size) -> String {
    let mut lines = vec![format!("seed {}: every invariant holds", size.seed)];
    for rule in catalogue() {
        let holds = if JUDGED.contains(&rule.id) { "holds" } else { "-" };
        let note = WITHOUT.iter().find(|(id, _)| *id == rule.id).map_or("", |(_, note)| *note);
        lines.push(format!("{:<4} {:<22} {holds:<6} {note}", rule.id, rule.name));
    }
    lines.join("\n")
}
