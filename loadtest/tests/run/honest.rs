//! Against the real server.

use std::io::Write;

use crate::{
    server::Server,
    tool::{Outcome, load, run},
};

const BEATS: (&str, &str) = ("TALLY_HEARTBEAT", "500ms");

#[test]
fn a_rate_is_kept_and_everything_is_right() {
    let server = Server::start(&[BEATS]);
    let options = "-n 300 --rate 600 --duration 3s --heartbeat 500ms --assert opened>=300";
    let report = load(server.public, options).passed();
    assert_eq!(report["opened"], 300);
    // Not to the last message: a busy machine may begin the last second late.
    let sent = report["sent"].as_u64().unwrap();
    assert!((1700..=1801).contains(&sent), "{sent}");
    assert_eq!(report["answered"], sent);
    assert!(report["beats"]["number"].as_u64().unwrap() >= 4);
    assert_eq!(report["servers"][0]["name"], "tally-server");
    assert!(report["servers"][0]["cpu_s"].as_f64().unwrap() > 0.0);
    assert!(report["client"]["rss_peak_bytes"].as_u64().unwrap() > 100_000);
}

#[test]
fn a_closed_loop_finds_the_peak() {
    let server = Server::start(&[]);
    let options = "-n 100 --mode peak --duration 1s --leave abort";
    let report = load(server.public, options).passed();
    assert!(
        report["rate"].as_f64().unwrap() > 500.0,
        "{}",
        report["rate"]
    );
    assert_eq!(report["latency"]["count"], report["answered"]);
}

#[test]
fn idle_sockets_are_held_and_their_pings_answered() {
    let settings = [
        BEATS,
        ("TALLY_PING", "500ms"),
        ("TALLY_PEER_TIMEOUT", "1500ms"),
    ];
    let server = Server::start(&settings);
    let options = "-n 50 --rate 0 --duration 4s --heartbeat 500ms";
    let report = load(server.public, options).passed();
    assert_eq!(report["sent"], 0);
    assert!(report["pings"].as_u64().unwrap() >= 50);
}

#[test]
fn a_drain_says_the_right_goodbye_to_everybody() {
    let server = Server::start(&[BEATS]);
    let options = format!(
        "-n 200 --rate 400 --duration 1s --mode drain --end-pid {} --assert byes>=100%",
        server.pid()
    );
    let report = load(server.public, &options).passed();
    assert_eq!(report["drain"]["codes"]["1001"], 200);
    assert!(report["drain"]["exit_s"].as_f64().unwrap() < 10.0);
}

#[test]
fn who_is_sent_away_comes_back_with_the_session() {
    let server = Server::start(&[]);
    // Taken back once they are gone, so that the same process takes them in again.
    let drain = format!("http://{}/drain", server.operator);
    let script = script(&format!(
        "curl -sSX POST {drain}?rate=1000; sleep 0.5; curl -sSX DELETE {drain}"
    ));
    let options = format!(
        "-n 100 --rate 200 --duration 1s --mode drain --reconnect --end-command {}",
        script.display()
    );
    let report = load(server.public, &options).passed();
    assert_eq!(report["drain"]["resumed"], 100, "{}", report["drain"]);
    assert_eq!(report["drain"]["gap"]["count"], 100);
}

#[test]
fn who_is_sent_away_again_and_again_loses_nothing() {
    let server = Server::start(&[]);
    let drain = format!("http://{}/drain", server.operator);
    let round = format!("curl -sSX POST {drain}?rate=400; sleep 0.4; curl -sSX DELETE {drain}");
    let script = script(&format!("for round in 1 2 3; do {round}; sleep 0.5; done"));
    let options = format!(
        "-n 100 --rate 1000 --duration 1s --mode drain --reconnect --end-command {} \
         --assert lost<=0 --assert duplicated<=0 --assert resumed>=100%",
        script.display()
    );
    let report = load(server.public, &options).passed();
    let gone = report["drain"]["gone"].as_u64().unwrap();
    assert!(gone >= 250, "{}", report["drain"]);
    assert_eq!(report["drain"]["gap"]["count"], gone);
}

/// Kills the server in the middle of the talk, starts it again at the same place, and tells what
/// became of the sockets.
fn after_a_kill(settings: &[(&str, &str)], options: &str) -> Outcome {
    let mut server = Server::start(settings);
    let (public, operator, pid) = (server.public, server.operator, server.pid());
    let settings: Vec<(String, String)> = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let again = std::thread::spawn(move || {
        server.ended();
        let settings: Vec<(&str, &str)> = settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Server::start_at(public, operator, &settings)
    });
    let ready = format!("until curl -sf http://{operator}/readyz; do sleep 0.05; done");
    let script = script(&format!("kill -s KILL {pid}; {ready}"));
    let options = format!(
        "{options} --mode drain --reconnect --end-command {}",
        script.display()
    );
    let outcome = load(public, &options);
    drop(again.join().unwrap());
    outcome
}

#[test]
fn a_kill_costs_nothing_that_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}/sessions.db", folder.path().display());
    let settings = [
        ("TALLY_SESSION_STORE", store.as_str()),
        ("TALLY_CHECKPOINT", "500ms"),
    ];
    let options = "-n 100 --rate 2000 --duration 3s --checkpoint 500ms --assert lost<=0 \
                   --assert duplicated<=0 --assert resumed>=100%";
    let report = after_a_kill(&settings, options).passed();
    let drain = &report["drain"];
    assert_eq!(drain["cut_off"], 100);
    assert!(drain["taken_back"].as_u64().unwrap() > 0, "{drain}");
    assert!(drain["resent"].as_u64().unwrap() > 0, "{drain}");
}

#[test]
fn sessions_that_end_with_their_process_are_begun_anew_and_what_is_missing_is_told() {
    // All of it is still kept.
    let report = after_a_kill(&[], "-n 20 --rate 200 --duration 1s --checkpoint 10s").passed();
    assert_eq!(report["drain"]["fresh"], 20, "{}", report["drain"]);
    // Most of it was forgotten.
    let outcome = after_a_kill(&[], "-n 20 --rate 200 --duration 4s --checkpoint 500ms");
    assert_eq!(outcome.faults(), ["message_lost"]);
    assert!(outcome.report["drain"]["lost"].as_u64().unwrap() > 100);
}

/// A command in one word.
fn script(text: &str) -> tempfile::TempPath {
    use std::os::unix::fs::PermissionsExt;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "#!/bin/sh\n{text}\n").unwrap();
    let owner = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(file.path(), owner).unwrap();
    // Closed, for nothing that is open for writing can be run.
    file.into_temp_path()
}

#[test]
fn a_drain_can_be_posted() {
    let server = Server::start(&[]);
    let options = format!(
        "-n 50 --rate 0 --duration 1s --mode drain --end-post http://{}/drain?rate=1000",
        server.operator
    );
    let report = load(server.public, &options).passed();
    assert_eq!(report["drain"]["byes"], 50);
}

#[test]
fn a_threshold_that_is_missed_fails_the_run() {
    let server = Server::start(&[]);
    let outcome = load(server.public, "-n 10 --duration 1s --assert p99<1ns");
    assert_eq!(outcome.code, 1, "{}", outcome.told);
    assert!(outcome.told.contains("FAILS: p99<1ns"), "{}", outcome.told);
}

#[test]
fn a_refusal_is_a_fault() {
    let server = Server::start(&[("TALLY_CONNECTIONS_MAX", "5")]);
    let outcome = load(server.public, "-n 8 --rate 0 --duration 1s");
    assert_eq!(outcome.faults(), ["handshake"]);
    assert!(outcome.told.contains("status 503"), "{}", outcome.told);
}

#[test]
fn what_cannot_run_says_how_it_could() {
    let server = Server::start(&[]);
    let outcome = load(server.public, "-n 900000");
    assert_eq!(outcome.code, 2, "{}", outcome.told);
    assert!(outcome.told.contains("ulimit"), "{}", outcome.told);
    let outcome = run("-n 1");
    assert_eq!(outcome.code, 2, "{}", outcome.told);
    assert!(outcome.told.contains("./just up"), "{}", outcome.told);
}

#[test]
fn nobody_who_listens_is_a_fault_for_each_socket() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let outcome = load(address, "-n 3 --rate 0 --duration 1s");
    assert_eq!(outcome.faults(), ["connect"]);
}
