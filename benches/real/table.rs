//! Rounds and how they are told: minimum, median and maximum, and where processor time went.

use crate::servers::Cpu;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Events, requests or orders done.
    pub events: u64,
    /// From the first to the last of them.
    pub seconds: f64,
    /// What was done meanwhile, starting and stopping included.
    pub cpu: Cpu,
    /// Transactions they took, if that was counted.
    pub transactions: u64,
}

impl Round {
    /// Events per second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds.max(1e-9)
    }
}

/// Minimum, median and maximum of some values.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Of these. All zero without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self { min: at(0), median, max: at(sorted.len().saturating_sub(1)) }
    }
}

/// The value below which `share` of `sorted` lie.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// A line of rounds: rates, and processor time per event by who spent it.
pub fn print_rounds(name: &str, rounds: &[Round]) {
    let rate = Spread::of(rounds.iter().map(Round::rate));
    let per_event = |of: fn(&Cpu) -> f64| {
        let spent: f64 = rounds.iter().map(|round| of(&round.cpu)).sum();
        let events: u64 = rounds.iter().map(|round| round.events).sum();
        spent * 1e6 / (events as f64).max(1.0)
    };
    let (events, transactions) =
        rounds.iter().fold((0, 0), |(e, t), round| (e + round.events, t + round.transactions));
    let size = events.checked_div(transactions).map(|size| size.to_string()).unwrap_or_default();
    println!(
        "  {name:<10} {:>8.0} {:>8.0} {:>8.0} /s   {:>6.1} {:>6.1} {:>6.1} µs   {size:>6}",
        rate.min,
        rate.median,
        rate.max,
        per_event(|cpu| cpu.client),
        per_event(|cpu| cpu.postgres),
        per_event(|cpu| cpu.kafka),
    );
}

/// What the columns of [`print_rounds`] are.
pub fn print_head(title: &str) {
    println!("\n{title}");
    println!(
        "  {:<10} {:>8} {:>8} {:>8}      {:>6} {:>6} {:>6} {:>11}",
        "", "min", "median", "max", "client", "PostgreSQL", "Kafka", "per COMMIT"
    );
}

/// Worker over raw, round by round.
pub fn print_ratio(raw: &[Round], worker: &[Round]) {
    let ratio = Spread::of(raw.iter().zip(worker).map(|(raw, worker)| worker.rate() / raw.rate()));
    println!("  {:<10} {:>8.2} {:>8.2} {:>8.2}", "ratio", ratio.min, ratio.median, ratio.max);
}
