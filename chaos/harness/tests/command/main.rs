//! The command from outside: exit codes, output, files, signals. The suites are a right bank and some wrong ones.

mod power;
mod stage;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rstest::rstest;
use stage::{Said, Stage};

#[test]
fn a_bare_command_runs_every_scenario_and_ends_in_the_count() {
    let said = Stage::of("ledger", "bare").check("", 0);
    assert_eq!(said.last_line(), "204 passed, 0 failed");
    assert!(said.out.contains("transfers") && said.out.contains("salaries"), "{}", said.out);
}

#[rstest]
#[case::passes("right", 0)]
#[case::violates("forgets", 1)]
#[case::does_not_settle("silent", 3)]
#[case::panics("panics", 70)]
fn each_kind_of_verdict_has_its_exit_code(#[case] scenario: &str, #[case] code: i32) {
    Stage::of("mistaken", &format!("exit-{scenario}")).check(&format!("run {scenario} --seeds 5"), code);
}

#[test]
fn a_panic_is_the_verdict_of_its_case_and_the_others_go_on() {
    let said = Stage::of("mistaken", "panic-goes-on").check("run panics right --seeds 10", 70);
    assert!(said.out.contains("suite.rs") && said.out.contains("is gone"), "{}", said.out);
    assert!(said.out.contains("right                   5 passed      0 failed"), "{}", said.out);
}

#[test]
fn a_failure_that_a_second_thread_does_not_see_is_not_believed() {
    let said = Stage::of("mistaken", "doubt").check("run once --seeds 1", 5);
    assert!(said.out.contains("DID NOT REPEAT: a second thread took another turn"), "{}", said.out);
    assert_eq!(said.last_line(), "0 passed, 1 failed");
}

#[rstest]
#[case::seed("run --seed banana", "banana")]
#[case::decimal_overflow("run --seed 99999999999999999999999", "below 2^64")]
#[case::hexadecimal_overflow("verify 0x10000000000000000", "below 2^64")]
#[case::negative_time("run --for -1s", "from 0 up")]
#[case::no_topic("explain", "not provided: <TOPIC>")]
#[case::negative_count("run --seeds -4", "-4")]
#[case::negative_width("run -j -1", "-1")]
#[case::no_width("run -j 0", "1 to 1024")]
#[case::scenario("run transfer", "did you mean `transfers`?")]
#[case::command("rnu", "rnu")]
#[case::shard("run --shard 5/4", "2/4")]
#[case::time("run --for 10", "10m")]
#[case::both_counts("run --for 10s --seeds 5", "--seeds")]
#[case::profile("run --profile smok", "smoke")]
#[case::topic("explain settls", "did you mean `settles`?")]
#[case::replayed("replay banana", "banana")]
#[case::replayed_file("replay no/such.toml", "no/such.toml")]
#[case::ambiguous_seed("replay 0x9", "--scenario")]
#[case::nothing_kept("replay latest", "no failure is kept")]
#[case::no_catalogue("power --bugs no/such", "--bugs DIR")]
#[case::place("run --out Cargo.lock/below", "--out DIR")]
fn a_command_that_cannot_be_obeyed_exits_2_with_one_line(#[case] arguments: &str, #[case] told: &str) {
    let name = format!("usage-{}", arguments.replace([' ', '/'], "_"));
    let said = Stage::of("ledger", &name).check(arguments, 2);
    assert_eq!((said.out.as_str(), said.err.lines().count()), ("", 1), "{}{}", said.out, said.err);
    assert!(said.err.starts_with("error: ") && said.err.contains(told), "{}", said.err);
}

#[rstest]
#[case("run --seeds 0")]
#[case("run --seeds 2 --shard 2/2")]
#[case("run --for 0s")]
#[case("verify --seeds 0")]
#[case("power --seeds 0 --bugs .")]
#[case("power --bugs .")]
fn nothing_to_run_exits_4_with_the_reason(#[case] arguments: &str) {
    let stage = Stage::of("ledger", &format!("nothing-{}", arguments.replace([' ', '/'], "_")));
    let said = stage.check(arguments, 4);
    assert_eq!((said.out.as_str(), said.err.lines().count()), ("", 1), "{}{}", said.out, said.err);
    assert!(said.err.starts_with("error: nothing ran, because "), "{}", said.err);
}

#[test]
fn a_run_of_nothing_keeps_the_failures_of_the_last_one() {
    let stage = Stage::of("mistaken", "kept");
    stage.check("run forgets --seeds 1", 1);
    stage.check("run --seeds 0", 4);
    stage.check("run --for 0s", 4);
    stage.check("replay latest", 1);
}

#[test]
fn a_failure_fits_a_screen_and_ends_in_a_command_that_repeats_it() {
    let stage = Stage::of("mistaken", "failure-text");
    let said = stage.check("run forgets --seeds 1", 1);
    assert_eq!(said.out.lines().next(), Some("base seed 0x570a: 1 case of forgets"));
    let failure: Vec<&str> =
        said.out.lines().skip(1).take_while(|line| !line.starts_with("forgets")).collect();
    assert!(
        failure.len() <= 25 && failure[0].starts_with("FAIL transfer-once  scenario=forgets seed=0x570a")
    );
    let repeat =
        failure.last().and_then(|line| line.trim().strip_prefix("repeat: ")).expect("the last line repeats");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{repeat} --format json")]).current_dir(&stage.place);
    let again = Said::of(shell);
    assert_eq!(again.code, Some(1), "{}{}", again.out, again.err);
    let first = stage.check("run forgets --seeds 1 --format json", 1);
    assert_eq!(first.of_cases("hash"), again.of_cases("hash"));
}

#[test]
fn a_failure_leaves_case_history_and_verdict_and_the_case_repeats_it() {
    let stage = Stage::of("mistaken", "failure-files");
    let said = stage.check("run forgets --seeds 1 --format json", 1);
    let kept = stage.place.join("target/chaos/latest/failures/0x570a");
    let history = fs::read_to_string(kept.join("history.jsonl")).unwrap();
    assert!(history.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    let verdict: serde_json::Value =
        serde_json::from_slice(&fs::read(kept.join("verdict.json")).unwrap()).unwrap();
    assert_eq!(verdict["judgement"]["invariant"], "transfer-once");
    for what in ["latest", "0x570a", "target/chaos/latest/failures/0x570a/case.toml"] {
        let again = stage.check(&format!("replay {what} --format json"), 1);
        assert_eq!(again.of_cases("hash"), said.of_cases("hash"), "replay {what}");
    }
    let full = stage.check("replay latest --log full --format json", 1);
    assert_eq!(full.objects("event").len(), history.lines().count());
}

#[test]
fn a_replay_can_stop_before_the_violation() {
    let stage = Stage::of("mistaken", "until");
    let whole = stage.check("replay 0x570a --scenario forgets", 1);
    assert!(whole.out.contains("t=1.134s"), "{}", whole.out);
    let part = stage.check("replay 0x570a --scenario forgets --until 1.1s", 0);
    assert_eq!(part.out, "forgets 0x570a was stopped at t=1.100s and not judged\n");
    let json = stage.check("replay 0x570a --scenario forgets --until 1.1s --format json", 0);
    assert_eq!(json.of_cases("verdict"), ["\"stopped\""]);
    stage.check("replay 0x570a --scenario forgets --until 1.2s", 1);
    assert!(stage.check("replay 0x570a --scenario right --until 1h", 0).out.contains("1 passed"));
}

#[test]
fn json_has_one_object_a_line_with_its_keys_in_order() {
    let said = Stage::of("mistaken", "json").check("run right forgets --seeds 4 --format json", 1);
    let lines: Vec<&str> = said.out.lines().collect();
    let keys = [
        "kind",
        "scenario",
        "seed",
        "hash",
        "verdict",
        "invariant",
        "sim_ms",
        "wall_ms",
        "orders",
        "strikes",
    ];
    for line in &lines[..4] {
        let found: Vec<usize> = keys.iter().map(|key| line.find(&format!("\"{key}\":")).unwrap()).collect();
        assert!(found.is_sorted() && line.starts_with("{\"kind\":\"case\""), "{line}");
    }
    assert!(lines[4].starts_with("{\"kind\":\"summary\"") && lines.len() == 5, "{}", said.out);
}

#[test]
fn github_gets_one_annotation_per_failure() {
    let said = Stage::of("mistaken", "github").check("run forgets --seeds 3 --format github", 1);
    assert_eq!(
        said.out.lines().filter(|line| line.starts_with("::error title=FAIL")).count(),
        3,
        "{}",
        said.out
    );
    assert_eq!(said.last_line(), "0 passed, 3 failed");
}

#[test]
fn thread_count_changes_neither_cases_nor_their_order() {
    let stage = Stage::of("ledger", "widths");
    let hashes =
        |width: &str| stage.check(&format!("run --seeds 30 --format json -j {width}"), 0).of_cases("hash");
    assert_eq!(hashes("1"), hashes("4"));
}

#[test]
fn fail_fast_reports_the_same_first_failure_at_any_width() {
    let stage = Stage::of("mistaken", "fail-fast");
    let cases = |width: &str| {
        let arguments = format!("run right forgets --seeds 40 --fail-fast --format json -j {width}");
        stage.check(&arguments, 1).of_cases("seed")
    };
    assert_eq!((cases("1").len(), cases("1")), (2, cases("4")));
}

#[test]
fn shards_together_are_the_whole_run() {
    let stage = Stage::of("ledger", "shards");
    let cases = |more: &str| stage.check(&format!("run --seeds 21 --format json {more}"), 0).of_cases("hash");
    let mut parts = [cases("--shard 1/3"), cases("--shard 2/3"), cases("--shard 3/3")].concat();
    let mut whole = cases("");
    parts.sort();
    whole.sort();
    assert_eq!(parts, whole);
}

#[test]
fn a_number_is_run_as_it_is_and_a_commit_is_a_base() {
    let stage = Stage::of("ledger", "seeds");
    let seeds = |arguments: &str| stage.check(&format!("run {arguments} --format json"), 0).of_cases("seed");
    assert_eq!(seeds("--seed 42"), ["\"0x2a\"", "\"0x2a\""]);
    assert_eq!(seeds("transfers --seed 0x8f3a"), ["\"0x8f3a\""]);
    let (one, other) = (seeds("--seed ab12cd3 --seeds 3"), seeds("--seed ab12cd4 --seeds 3"));
    assert!(one.len() == 3 && one != other, "{one:?} {other:?}");
}

#[test]
fn results_never_grow_without_bound_and_never_take_a_strangers_file() {
    let stage = Stage::of("mistaken", "bounded");
    let failures = stage.place.join("out/failures");
    fs::create_dir_all(failures.join("0x1")).unwrap();
    fs::write(failures.join("0x1/notes.txt"), "mine").unwrap();
    stage.check("run forgets --seeds 130 --out out", 1);
    assert_eq!(fs::read_dir(&failures).unwrap().count(), 101);
    stage.check("run right --seeds 2 --out out", 0);
    assert_eq!(fs::read_dir(&failures).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(failures.join("0x1/notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_dir(stage.place.join("out/running")).unwrap().count(), 0);
}

#[test]
fn a_fault_class_that_never_struck_is_a_goal_not_reached() {
    let stage = Stage::of("ledger", "goal");
    let said = stage.check("run --seeds 2 --seed 2 --require-faults --format json", 6);
    assert_eq!(said.objects("summary")[0]["missing"].to_string(), "[\"F6\"]");
    stage.check("run --seeds 40 --require-faults", 0);
    assert!(stage.check("run --profile ci --seeds 40", 0).out.contains("struck F2"));
}

#[test]
fn a_reader_that_leaves_early_is_no_panic() {
    let stage = Stage::of("ledger", "pipe");
    let mut command = stage.command("run --seeds 20000 --format json");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout_is_an_error_line() {
    let stage = Stage::of("ledger", "full");
    let mut command = stage.command("run --seeds 2");
    command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let said = Said::of(command);
    assert_eq!((said.code, said.err.lines().count()), (Some(2), 1), "{}", said.err);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_says_what_it_had() {
    let stage = Stage::of("ledger", "interrupted");
    let mut command = stage.command("run --for 10m --format json");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let last: serde_json::Value = serde_json::from_str(&lines.map(Result::unwrap).last().unwrap()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!((last["interrupted"].as_bool(), last["failed"].as_u64()), (Some(true), Some(0)));
    assert!(last["passed"].as_u64() > Some(0));
}

#[test]
fn verify_agrees_on_a_deterministic_suite() {
    let said = Stage::of("ledger", "verify").check("verify --seeds 20", 0);
    let what = "20 cases of base seed 0x570a in transfers, salaries, 20 different traces: the same";
    assert!(said.out.starts_with(what), "{}", said.out);
}

#[test]
fn verify_of_a_seed_checks_that_seed_in_every_scenario_or_in_those_named() {
    let stage = Stage::of("ledger", "verify-seed");
    let said = stage.check("verify 0x8f3a --profile ci", 0);
    let what = "2 cases of seed 0x8f3a in transfers, salaries, 2 different traces: ";
    assert!(said.out.starts_with(what), "{}", said.out);
    let said = stage.check("verify 0x8f3a --scenario salaries", 0);
    assert!(said.out.starts_with("1 case of seed 0x8f3a in salaries, 1 different trace: "), "{}", said.out);
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_verify_says_what_it_had_compared() {
    let stage = Stage::of("ledger", "verify-interrupted");
    // SIGINT is the second bit of the signals that a process handles (proc_pid_status(5)).
    let handles_it = |process: u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 2 != 0)
    };
    let said = stage.interrupt("verify --seeds 100000000", handles_it);
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    assert!(said.out.starts_with("interrupted: ") && said.out.contains("0 compared"), "{}", said.out);
}

#[test]
fn verify_names_the_first_event_of_a_case_that_took_another_turn() {
    let said = Stage::of("mistaken", "verify-leaks").check("verify --seeds 10", 5);
    assert!(
        said.out.starts_with("leaks ") && said.out.contains("first difference at event 1"),
        "{}",
        said.out
    );
}

#[test]
fn list_and_explain_know_every_name() {
    let stage = Stage::of("ledger", "list");
    let list = stage.check("list", 0).out;
    assert!(
        ["transfers", "salaries", "transfer-once", "settles"].iter().all(|name| list.contains(name)),
        "{list}"
    );
    assert!(list.contains("F6   kill") && list.contains("F2   lost-ack"), "{list}");
    for topic in ["transfers", "transfer-once", "I2", "i2", "F6", "f2", "lost-ack"] {
        stage.check(&format!("explain {topic}"), 0);
    }
}
