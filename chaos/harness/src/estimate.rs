//! How many seeds it takes to find a mistake, from how many of n independent cases found it.
//!
//! Cases are independent draws, so seeds-to-detection is geometric with the detection rate p: the q-quantile is
//! ln(1 - q) / ln(1 - p), rounded up. The interval is Wilson's for p (Wilson 1927) at 95 %, carried through the quantile.

/// Two-sided 95 % point of the normal distribution.
const Z: f64 = 1.959_964;

/// Seeds until a mistake is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) median: u64,
    /// 95 % interval of the median.
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) p95: u64,
}

impl Estimate {
    /// From `found` of `cases`; nothing can be said if none found it.
    pub(crate) fn from(found: u64, cases: u64) -> Option<Self> {
        if found == 0 || cases < found {
            return None;
        }
        let (low, high) = wilson(found as f64, cases as f64);
        let rate = found as f64 / cases as f64;
        Some(Self {
            median: seeds(0.5, rate),
            low: seeds(0.5, high),
            high: seeds(0.5, low),
            p95: seeds(0.95, rate),
        })
    }
}

/// Seeds after which a mistake of detection rate `rate` has been found with probability `quantile`.
fn seeds(quantile: f64, rate: f64) -> u64 {
    let seeds = (1.0 - quantile).ln() / (1.0 - rate.min(1.0)).ln();
    seeds.ceil().max(1.0) as u64
}

fn wilson(found: f64, cases: f64) -> (f64, f64) {
    let (rate, square) = (found / cases, Z * Z);
    let scale = 1.0 + square / cases;
    let center = (rate + square / (2.0 * cases)) / scale;
    let spread = Z / scale * (rate * (1.0 - rate) / cases + square / (4.0 * cases * cases)).sqrt();
    (center - spread, center + spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures worked out by hand from the formulas above.
    #[test]
    fn an_estimate_is_the_geometric_quantile_of_the_rate() {
        let half = Estimate::from(50, 100).unwrap();
        assert_eq!((half.median, half.p95), (1, 5));
        let tenth = Estimate::from(10, 100).unwrap();
        assert_eq!((tenth.median, tenth.p95), (7, 29));
        // Wilson for 10 of 100: 0.0552 to 0.1744.
        assert_eq!((tenth.low, tenth.high), (4, 13));
    }

    #[test]
    fn a_mistake_that_every_case_finds_takes_one_seed() {
        let always = Estimate::from(25, 25).unwrap();
        assert_eq!((always.median, always.low, always.p95), (1, 1, 1));
    }

    #[test]
    fn a_mistake_that_no_case_finds_has_no_estimate() {
        assert_eq!(Estimate::from(0, 500), None);
    }
}
