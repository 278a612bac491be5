//! What a command line that cannot be carried out is answered with: one line that says where and what, and an exit code.

#![expect(clippy::expect_used, reason = "a helper that cannot do its part fails the test")]

use std::{net::TcpListener, process::Command};

use rstest::rstest;

/// Nobody listens on port 1.
const NOBODY: &str = "postgres.urls=postgres://me:hush@127.0.0.1:1/shop";
const NOBODIES: &str =
    "postgres.urls=postgres://me:hush@127.0.0.1:1/shop,postgres://me:hush@127.0.0.1:2/shop";
const NO_BROKER: &str = "kafka.brokers=127.0.0.1:1";
const SOON: &str = "kafka.request_timeout_ms=500";
const KEY: &str = "gateway.receipt_keys=k1:0123456789abcdef0123456789abcdef";

/// Runs the binary; answers with its exit code and what it says on standard error.
fn stormglass(arguments: &[&str]) -> (Option<i32>, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_stormglass")).args(arguments).output().expect("it runs");
    (ended.status.code(), String::from_utf8(ended.stderr).expect("UTF-8"))
}

#[rstest]
#[case::no_database(&["migrate"], 2, "postgres.urls names no server")]
#[case::database_away(&["migrate", "--set", NOBODY], 3, "PostgreSQL at 127.0.0.1:1: Connection refused")]
#[case::dead_letters_away(&["dead", "list", "--consumer", "orders", "--set", NOBODY], 3, "Connection refused")]
#[case::no_broker(&["topics", "check"], 2, "kafka.brokers")]
#[case::broker_away(&["topics", "check", "--set", NO_BROKER, "--set", SOON], 3, "Kafka at 127.0.0.1:1 (kafka.brokers)")]
#[case::a_gateway_without_keys(&["serve", "--role", "gateway", "--set", NOBODY], 2, "gateway.receipt_keys names no key")]
#[case::a_provider_that_is_slower_than_its_lease(
    &["serve", "--role", "payments", "--set", NOBODY, "--set", "payments.timeout_ms=60000"], 2, "payments.timeout_ms")]
#[case::a_provider_that_is_nowhere(
    &["serve", "--role", "payments", "--set", NOBODY, "--set", NO_BROKER, "--set", "payments.url=nowhere"], 2, "payments.url is no URL")]
#[case::a_provider_with_a_password(
    &["serve", "--role", "payments", "--set", "payments.url=https://me:hush@provider"], 2, "payments.url must hold no user")]
#[case::the_same_when_it_is_to_be_printed(
    &["--print-config", "--set", "notifications.url=https://notifier?key=hush"], 2, "notifications.url must hold no user")]
#[case::one_of_two_databases_away(&["migrate", "--set", NOBODIES], 3, "PostgreSQL at 127.0.0.1:2: Connection refused")]
#[case::a_log_filter_that_is_none(&["migrate", "--set", "log.filter=a=b=c"], 2, "log.filter")]
fn what_cannot_be_done_is_one_line_and_an_exit_code(
    #[case] arguments: &[&str],
    #[case] code: i32,
    #[case] line: &str,
) {
    let (exit, said) = stormglass(arguments);
    assert_eq!(exit, Some(code), "{said}");
    assert!(said.starts_with("stormglass: ") && said.contains(line), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!said.contains("hush"), "a password is printed: {said}");
}

#[rstest]
#[case::nothing_to_serve(&["serve"])]
#[case::two_things_to_serve(&["serve", "--embedded", "--role", "relay"])]
#[case::no_such_role(&["serve", "--role", "cook"])]
#[case::a_letter_without_an_id(&["dead", "show", "--consumer", "orders", "first"])]
#[case::a_redrive_without_a_reason(&["dead", "redrive", "--consumer", "orders", "--by", "me", "00000000-0000-0000-0000-000000000001"])]
#[case::more_than_all(&["stand-in", "payments", "--fail", "101%"])]
#[case::a_delivery_of_nothing(&["stock", "add", "--tenant", "acme", "--sku", "umbrella", "--units", "0"])]
fn what_makes_no_sense_is_exit_code_2(#[case] arguments: &[&str]) {
    let (exit, said) = stormglass(arguments);
    assert_eq!(exit, Some(2), "{said}");
}

#[rstest]
#[case::the_gateway(&["serve", "--role", "gateway", "--set", NOBODY, "--set", NO_BROKER, "--set", KEY])]
#[case::everything_in_one_process(&["serve", "--embedded"])]
#[case::a_stand_in(&["stand-in", "payments"])]
fn an_address_that_is_taken_is_named(#[case] arguments: &[&str]) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    let (exit, said) = stormglass(&[arguments, &["--listen", &address, "--set", "log.filter=off"]].concat());
    assert_eq!(exit, Some(2), "{said}");
    assert!(said.starts_with(&format!("stormglass: http.listen = {address}: ")), "{said}");
}

#[test]
fn a_doctor_who_reaches_nobody_says_so_of_everybody() {
    let settings = ["--set", NOBODIES, "--set", NO_BROKER, "--set", SOON, "--set", KEY];
    let ended = Command::new(env!("CARGO_BIN_EXE_stormglass"))
        .args([&["doctor"], &settings[..]].concat())
        .args(["--set", "payments.url=http://127.0.0.1:1", "--set", "notifications.url=http://127.0.0.1:1"])
        .output()
        .expect("it runs");
    let (said, failed) = (String::from_utf8(ended.stdout), String::from_utf8(ended.stderr));
    let (said, failed) = (said.expect("UTF-8"), failed.expect("UTF-8"));
    assert_eq!(ended.status.code(), Some(1), "{said}{failed}");
    assert!(failed.starts_with("stormglass: ") && failed.contains(" errors, 0 warnings among "), "{failed}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error ")).collect();
    for what in [
        "PostgreSQL at 127.0.0.1:1: Connection refused",
        "PostgreSQL at 127.0.0.1:2: Connection refused",
        "PostgreSQL: migrations",
        "PostgreSQL: permissions",
        "PostgreSQL: replication lag",
        "Kafka broker at 127.0.0.1:1: Connection refused",
        "topic orders: ",
        "topic notifications.dlq: ",
        "payments.url = http://127.0.0.1:1: ",
        "notifications.url = http://127.0.0.1:1: ",
    ] {
        assert!(errors.iter().any(|line| line.contains(what)), "no error of {what:?} in\n{said}");
    }
    assert!(said.lines().all(|line| ["ok ", "error "].iter().any(|grade| line.starts_with(grade))), "{said}");
    assert!(!said.contains("hush"), "a password is printed: {said}");
}
