//! Settings: which source wins, and what a mistake in one is answered with.

#![expect(clippy::expect_used, reason = "a helper that cannot do its part fails the test")]

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rstest::rstest;
use stormglass_server::settings::{Settings, SettingsError, Sources};

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("stormglass-settings-{}-{number}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, file).expect("the file is written");
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let sources = Sources { file: Some(&path), environment: owned(environment), flags: owned(flags) };
    let loaded = Settings::load(&sources);
    fs::remove_file(&path).expect("the file is removed");
    loaded
}

#[test]
fn flag_goes_over_environment_and_environment_over_file() {
    let file = "[worker]\nlanes = 3\nbatch_records = 30\nclaim_limit = 33\n";
    let environment = [("STORMGLASS_WORKER_LANES", "4"), ("STORMGLASS_WORKER_BATCH_RECORDS", "40")];
    let settings = load(file, &environment, &[("worker.lanes", "5")]).expect("valid");
    let worker = settings.worker;
    assert_eq!((worker.lanes, worker.batch_records, worker.claim_limit), (5, 40, 33));
    assert_eq!(worker.topics, ["orders"], "what no source names stays as it was");
}

#[rstest]
#[case::in_the_file("[kafka]\nbroker = \"a:1\"", &[], &[], ["kafka.broker;", "kafka.brokers"])]
#[case::in_the_environment("", &[("STORMGLASS_KAFKA_BROKERZ", "a:1")], &[], ["STORMGLASS_KAFKA_BROKERZ", "kafka.brokers"])]
#[case::in_a_flag("", &[], &[("worker.lane", "3")], ["worker.lane;", "worker.lanes"])]
#[case::a_section("[postgress]\nurls = []", &[], &[], ["postgress.urls", "postgres.urls"])]
fn an_unknown_key_is_refused_with_the_nearest_known_one(
    #[case] file: &str,
    #[case] environment: &[(&str, &str)],
    #[case] flags: &[(&str, &str)],
    #[case] names: [&str; 2],
) {
    let [named, nearest] = names;
    let refusal = load(file, environment, flags).expect_err("unknown").to_string();
    assert!(refusal.contains(named), "{refusal}");
    assert!(refusal.ends_with(&format!("nearest one is {nearest}")), "{refusal}");
}

#[rstest]
#[case::another_type("[worker]\nlanes = \"two\"", &[], "worker.lanes must be a whole number, not a text")]
#[case::no_number("", &[("worker.lanes", "two")], "worker.lanes must be a whole number, not \"two\"")]
#[case::a_negative_number("[worker]\nlanes = -1", &[], "worker.lanes invalid value")]
#[case::no_such_mode("[log]\nformat = \"xml\"", &[], "log.format unknown variant `xml`, expected `pretty` or `json`")]
#[case::no_toml("[worker]\nlanes = = 2", &[], "line 2: ")]
#[case::no_url("", &[("postgres.urls", "localhost")], "postgres.urls is no URL of the form postgres://")]
#[case::a_party_nowhere("", &[("payments.url", "pay me")], "payments.url is no URL of the form http://")]
#[case::a_party_without_http("", &[("payments.url", "ftp://provider")], "payments.url is no URL of the form http://")]
#[case::a_party_without_a_host("", &[("notifications.url", "/charges")], "notifications.url is no URL of the form http://")]
fn a_wrong_value_is_refused_by_name(#[case] file: &str, #[case] flags: &[(&str, &str)], #[case] line: &str) {
    let refusal = load(file, &[], flags).expect_err("wrong").to_string();
    assert!(refusal.contains(line), "{refusal}");
    assert!(!refusal.contains('\n'), "more than one line: {refusal}");
}

#[rstest]
#[case::a_user("http://me:hush@provider:1")]
#[case::a_token("https://hush@provider")]
#[case::a_query("https://provider/charges?key=hush")]
#[case::a_fragment("https://provider/#hush")]
fn an_address_that_is_shown_may_hold_no_secret(#[case] url: &str) {
    let refusal = load("", &[], &[("payments.url", url)]).expect_err("refused").to_string();
    assert!(refusal.starts_with("settings: payments.url must hold no user, password"), "{refusal}");
    assert!(!refusal.contains("hush"), "a secret is printed: {refusal}");
}

#[rstest]
#[case::out_of_range("worker.lanes", "65", "worker.lanes = 65: must be between 1 and 64")]
#[case::contradiction("postgres.statement_timeout_ms", "5", "must be above worker.lock_timeout_ms")]
#[case::bodies_that_no_record_holds(
    "gateway.body_bytes",
    "600000",
    "must be at most half of kafka.record_bytes_max"
)]
#[case::records_that_hold_no_dead_letter(
    "worker.dlq_payload_limit",
    "196608",
    "kafka.record_bytes_max must be at least 790528"
)]
#[case::another_topic("worker.topics", "orders,others", "worker.topics must be [\"orders\"]")]
fn settings_that_break_a_guarantee_are_refused(#[case] key: &str, #[case] value: &str, #[case] line: &str) {
    let flags = [("postgres.urls", "postgres://db/x"), ("kafka.record_bytes_max", "700000"), (key, value)];
    let settings = load("", &[], &flags).expect("well formed");
    let refusal = (settings.check_work())
        .and_then(|()| settings.check_postgres())
        .and_then(|()| settings.check_gateway())
        .expect_err("refused");
    assert!(refusal.to_string().contains(line), "{refusal}");
}

#[rstest]
#[case::none("", "names no key")]
#[case::short("k1:short", "at least 32 bytes")]
#[case::no_id("0123456789abcdef0123456789abcdef", "must be id:secret")]
fn a_receipt_key_that_protects_nothing_is_refused(#[case] keys: &str, #[case] line: &str) {
    let settings = load("", &[], &[("gateway.receipt_keys", keys)]).expect("well formed");
    let refusal = settings.keyring().expect_err("refused").to_string();
    assert!(refusal.contains(line), "{refusal}");
    assert!(!refusal.contains("0123456789abcdef"), "a secret is printed: {refusal}");
}

#[test]
fn printed_settings_hide_secrets_and_are_settings() {
    let printed = Command::new(env!("CARGO_BIN_EXE_stormglass"))
        .args(["--print-config", "--set", "postgres.password=hush1"])
        .env("STORMGLASS_POSTGRES_URLS", "postgres://me:hush2@db:5433/shop")
        .env("STORMGLASS_GATEWAY_RECEIPT_KEYS", "k1:hush3hush3hush3hush3hush3hush3hush3")
        .output()
        .expect("the binary runs");
    let text = String::from_utf8(printed.stdout).expect("UTF-8");
    assert!(printed.status.success());
    assert!(!text.contains("hush"), "{text}");
    assert!(text.contains("postgres://me@db:5433/shop"), "{text}");
    assert!(load(&text, &[], &[]).is_ok(), "what is printed can be read again");
}

#[test]
fn a_mistake_is_one_line_on_standard_error_and_exit_code_2() {
    let refused = Command::new(env!("CARGO_BIN_EXE_stormglass"))
        .args(["serve", "--embedded", "--set", "worker.lane=1"])
        .output()
        .expect("the binary runs");
    let line = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!(refused.status.code(), Some(2), "{line}");
    assert_eq!(line, "stormglass: flag: unknown key worker.lane; the nearest one is worker.lanes\n");
}
