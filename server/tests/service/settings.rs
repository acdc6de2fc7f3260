//! Settings: flags and variables, and what a wrong one gets.

use std::process::{Command, Output};

use crate::{client::Request, tally::Tally};

fn run(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tally-server"))
        .env("TALLY_LISTEN", "127.0.0.1:0")
        .env("TALLY_OPERATOR_LISTEN", "127.0.0.1:0")
        .envs(settings.iter().copied())
        .args(arguments)
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const WRONG: [(&str, &str); 16] = [
    ("TALLY_LISTEN", "localhost"),
    ("TALLY_OPERATOR_LISTEN", "127.0.0.1:99999"),
    ("TALLY_COLOUR", "Deep Blue"),
    ("TALLY_WORKERS", "many"),
    ("TALLY_HEARTBEAT", "30"),
    ("TALLY_PING", "0s"),
    ("TALLY_PEER_TIMEOUT", "-1s"),
    ("TALLY_WRITE_TIMEOUT", ""),
    ("TALLY_CONNECTIONS_MAX", "0"),
    ("TALLY_MESSAGE_BYTES_MAX", "64KiB"),
    ("TALLY_FRAGMENTS_MAX", "0"),
    ("TALLY_MESSAGE_RATE", "0"),
    ("TALLY_SESSION_TTL", "forever"),
    ("TALLY_SESSIONS_MAX", "1.5"),
    ("TALLY_ALLOWED_ORIGINS", "example.com"),
    ("TALLY_LOG_LEVEL", "chatty"),
];

#[test]
fn every_wrong_variable_is_named_with_what_it_should_be() {
    let output = run(&WRONG, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "nothing is bound, nothing logged");
    let told = told(&output);
    for (variable, _) in WRONG {
        let line = told
            .lines()
            .find(|line| line.contains(&format!("{variable} ")))
            .unwrap_or_else(|| panic!("{variable} is not named in\n{told}"));
        assert!(line.contains("should be"), "{line}");
    }
    assert_eq!(told.lines().count(), WRONG.len(), "{told}");
}

#[test]
fn every_wrong_flag_is_named_too() {
    let flags: Vec<String> = WRONG
        .iter()
        .map(|(variable, value)| {
            let name = variable.trim_start_matches("TALLY_").to_lowercase();
            format!("--{}={value}", name.replace('_', "-"))
        })
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let output = run(&[], &flags);
    assert_eq!(output.status.code(), Some(2));
    let told = told(&output);
    for (variable, _) in WRONG {
        assert!(
            told.contains(variable),
            "{variable} is not named in\n{told}"
        );
    }
}

#[test]
fn an_unknown_flag_is_a_mistake_and_help_is_none() {
    assert_eq!(run(&[], &["--colours=red"]).status.code(), Some(2));
    assert_eq!(run(&[], &["--help"]).status.code(), Some(0));
    let version = run(&[], &["--version"]);
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("below-a-file");
    let output = run(&[("TALLY_STATE_DIR", below.to_str().unwrap())], &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = told(&output);
    assert!(told.contains("TALLY_STATE_DIR"), "{told}");
    assert!(told.contains("below-a-file"), "{told}");
}

#[test]
fn several_origins_may_be_allowed() {
    let listed = "https://a.example, http://b.example:8080";
    let tally = Tally::with(&[("TALLY_ALLOWED_ORIGINS", listed)]);
    for origin in ["https://a.example", "http://b.example:8080"] {
        tally.connect_with(Request::new().header("Origin", origin));
    }
    for origin in [
        "http://a.example",
        "https://a.example:8443",
        "http://b.example",
    ] {
        let refused = tally.refused(Request::new().header("Origin", origin));
        assert_eq!(refused.status, 403, "{origin}");
    }
}

#[test]
fn a_full_queue_of_sessions_may_be_none_at_all() {
    let tally = Tally::with(&[("TALLY_SESSIONS_MAX", "0")]);
    let client = tally.connect();
    let session = client.session();
    drop(client);
    tally.wait_for_metric("tally_sessions_forgotten_total{reason=\"evicted\"}", 1.0);
    tally.resume(&session).assert_session(false, 0);
}
