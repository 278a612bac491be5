//! Case files: what is written is read back, and nothing else is taken for a case.

#[path = "../examples/ledger/suite.rs"]
mod suite;

use std::path::Path;

use proptest::prelude::*;
use rstest::rstest;
use stormglass_harness::{Case, Profile, Scenario, Seed, Suite};
use stormglass_sim::{Fault, FaultClass};
use suite::{Ledger, Mistake};
use toml::{Table, Value};

const BANK: Ledger = Ledger {
    scenarios: &[
        Scenario { name: "transfers", summary: "the only one a file may name" },
        Scenario { name: "salaries", summary: "another" },
    ],
    mistakes: &[Mistake::None, Mistake::ForgetsTransfers, Mistake::Panics, Mistake::NeverAnswers],
};

fn planned() -> Case {
    BANK.plan("transfers", Seed(7), Profile::Smoke)
}

fn parse(text: &str) -> Result<Case, String> {
    Case::parse("x.toml", text, &[&BANK]).map_err(|error| error.to_string())
}

fn fault() -> impl Strategy<Value = Fault> {
    let class = proptest::sample::select(FaultClass::ALL.to_vec());
    let hosts = proptest::collection::vec("\\PC{0,12}", 0..3);
    let times = (0..u64::MAX / 2, 0..u64::MAX / 2, any::<i64>());
    (class, times, hosts.clone(), hosts).prop_map(|(class, (at_ms, for_ms, amount), hosts, from)| Fault {
        class,
        at_ms,
        for_ms,
        hosts,
        from,
        amount,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let operation =
        (0..i64::MAX, 0..i64::MAX, 0..i64::MAX, "\\PC{0,20}").prop_map(|(at, to, amount, note)| {
            let numbers = [("at_ms", at), ("to", to), ("amount", amount)];
            let fields = numbers.into_iter().map(|(name, value)| (name.to_owned(), Value::Integer(value)));
            Table::from_iter(fields.chain([("note".to_owned(), Value::String(note))]))
        });
    let operations = proptest::collection::vec(operation, 0..8);
    let rates = (0.0..1.0, 0.0..1.0, 0.0..1.0, 0.0..1.0);
    (any::<u64>(), operations, proptest::collection::vec(fault(), 0..5), rates).prop_map(
        |(seed, operation, fault, (error_before, error_after, lost_ack, late))| {
            let mut case = Case::new("ledger", "salaries", Seed(seed));
            case.strike = operation.iter().take(2).cloned().collect();
            case.rates = stormglass_sim::Rates { error_before, error_after, lost_ack, late };
            Case { operation, fault, ..case }
        },
    )
}

proptest! {
    #[test]
    fn a_case_reads_back_as_it_was_written(case in case()) {
        prop_assert_eq!(parse(&case.to_text().unwrap()), Ok(case));
    }

    #[test]
    fn a_case_cut_off_anywhere_is_refused(cut in any::<prop::sample::Index>()) {
        let text = planned().to_text().unwrap();
        let whole = text.trim_end().len();
        let prefix: String = text.chars().take(cut.index(whole)).collect();
        let told = parse(&prefix).unwrap_err();
        prop_assert!(told.starts_with("x.toml:") && told.lines().count() == 1, "{}", told);
    }

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("random.toml");
        std::fs::write(&place, &bytes).unwrap();
        let told = Case::load(&place, &[&BANK]).unwrap_err().to_string();
        prop_assert_eq!(told.lines().count(), 1, "{}", told);
    }
}

#[rstest]
#[case::empty("", "x.toml: empty")]
#[case::blank(" \n\n", "x.toml: empty")]
#[case::no_toml("version = 1\n{{{", "x.toml:2:1: ")]
#[case::no_version("suite = \"ledger\"\n", "x.toml:1:1: no `version`")]
#[case::other_version("version = 2\n", "x.toml:1:11: version 2, and this build reads version 1")]
#[case::word_for_version("version = \"one\"\n", "x.toml:1:11: version a string")]
#[case::no_seed("version = 1\n# end of case\n", "x.toml:1:1: missing field")]
fn what_is_no_case_is_refused_with_its_place(#[case] text: &str, #[case] told: &str) {
    let refusal = parse(text).unwrap_err();
    assert!(refusal.starts_with(told) && refusal.lines().count() == 1, "{refusal}");
}

#[rstest]
#[case::suite(
    "suite = \"ledger\"",
    "suite = \"ledgre\"",
    "2:9: unknown suite `ledgre`; did you mean `ledger`?"
)]
#[case::scenario(
    "\"transfers\"",
    "\"transfer\"",
    "3:12: unknown scenario `transfer`; did you mean `transfers`?"
)]
#[case::seed("\"0x7\"", "\"seven\"", "4:8: neither a number")]
#[case::key("late = ", "lat = ", "13:1: unknown field `lat`")]
#[case::number("at_ms = ", "at_ms = -", "17:9: operation[0].at_ms: not a whole number")]
#[case::missing("at_ms = ", "at = ", "15:1: operation[0].at_ms: not a whole number")]
fn an_entry_that_is_wrong_is_refused_with_its_place(
    #[case] right: &str,
    #[case] wrong: &str,
    #[case] told: &str,
) {
    let text = planned().to_text().unwrap();
    assert_eq!(parse(&text), Ok(planned()), "the case itself is right");
    let refusal = parse(&text.replacen(right, wrong, 1)).unwrap_err();
    assert!(refusal.starts_with(&format!("x.toml:{told}")), "{refusal}\n{text}");
}
