//! What a machine does to its processes: it stops them for a while, stops reading their log,
//! takes their disk away.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    client::{Client, PING, Request, TEXT},
    tally::{PATIENCE, Tally},
};

#[test]
fn a_stopped_process_does_not_make_up_for_missed_beats() {
    let tally = Tally::with(&[("TALLY_HEARTBEAT", "100ms"), ("TALLY_PING", "100ms")]);
    let mut client = tally.connect();
    client.read_frame().expect("a beat or a ping");
    tally.signal("STOP");
    thread::sleep(Duration::from_millis(1500));
    // What came before the stop is read first, so that only what comes after it is counted.
    client.stream.set_nonblocking(true).unwrap();
    while client.stream.peek(&mut [0]).is_ok() {
        let _ = std::io::Read::read(&mut client.stream, &mut [0; 4096]);
    }
    client.stream.set_nonblocking(false).unwrap();
    let began = Instant::now();
    tally.signal("CONT");
    let (mut beats, mut pings) = (0, 0);
    while began.elapsed() < Duration::from_millis(500) {
        match client.read_frame().expect("it goes on").opcode {
            TEXT => beats += 1,
            PING => pings += 1,
            other => panic!("{other}"),
        }
    }
    // Five of each are due in that time, and one of each that was late.
    assert!(beats <= 8, "{beats} beats in half a second");
    assert!(pings <= 8, "{pings} pings in half a second");
}

#[test]
fn who_wrote_while_the_process_was_stopped_was_not_silent() {
    let tally = Tally::with(&[("TALLY_PING", "200ms"), ("TALLY_PEER_TIMEOUT", "600ms")]);
    let mut client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    tally.signal("STOP");
    client.send_text("two");
    thread::sleep(Duration::from_millis(1000));
    tally.signal("CONT");
    loop {
        let frame = client.read_frame().expect("an answer, not the end");
        if frame.opcode == TEXT {
            assert_eq!(frame.payload, b"{\"count\":2}");
            return;
        }
        assert_eq!(frame.opcode, PING);
    }
}

/// A server whose log the test holds in its own hands.
fn spawn(settings: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tally-server"))
        .env("TALLY_LISTEN", "127.0.0.1:0")
        .env("TALLY_OPERATOR_LISTEN", "127.0.0.1:0")
        .envs(settings.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The address in the next line of the log.
fn address(log: &mut impl BufRead) -> std::net::SocketAddr {
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

/// Sends SIGTERM; returns the exit code, and what was said on stderr.
fn end(child: &mut Child) -> (Option<i32>, String) {
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut told = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    (status.code(), told)
}

#[test]
fn a_closed_log_costs_nothing_but_the_log() {
    let mut child = spawn(&[("TALLY_LOG_LEVEL", "debug")]);
    let mut log = BufReader::new(child.stdout.take().unwrap());
    let public = address(&mut log);
    drop(log);
    let mut client = Client::open(public, &Request::new());
    for count in 1..=100 {
        client.send_text("x");
        client.expect_count(count);
    }
    let killer = thread::spawn(move || end(&mut child));
    client.expect_goodbye(100, 1001);
    let (code, told) = killer.join().unwrap();
    assert_eq!((code, told.as_str()), (Some(0), ""));
}

#[test]
fn records_that_nobody_reads_are_dropped_and_counted() {
    let mut child = spawn(&[("TALLY_LOG_LEVEL", "debug")]);
    let mut log = BufReader::new(child.stdout.take().unwrap());
    let (public, operator) = (address(&mut log), address(&mut log));
    let mut client = Client::open(public, &Request::new());
    let dropped = || -> f64 {
        let plain = Request::new()
            .path("/metrics")
            .without("Upgrade")
            .header("Connection", "close");
        let answer = Client::open(operator, &plain).body;
        let series = "\ntally_log_records_dropped_total ";
        let value = answer.split_once(series).expect("the series").1;
        value.lines().next().unwrap().parse().unwrap()
    };
    let began = Instant::now();
    let mut count = 0;
    while dropped() < 1.0 {
        assert!(began.elapsed() < PATIENCE, "{count} records fit somewhere");
        for _ in 0..50 {
            client.send(&crate::client::frame(0x80 | TEXT, b"").repeat(100));
            for _ in 0..100 {
                count += 1;
                client.expect_count(count);
            }
        }
    }
    // Read again, the log goes on, and ends with its last line.
    let rest = thread::spawn(move || log.lines().map_while(Result::ok).last());
    let (code, _) = end(&mut child);
    assert_eq!(code, Some(0));
    let last = rest.join().unwrap().expect("lines");
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["event"], "shutdown_complete");
}

#[test]
fn a_state_directory_that_goes_away_does_not_spoil_the_end() {
    let state = tempfile::tempdir().unwrap();
    let mut tally = Tally::with(&[("TALLY_STATE_DIR", state.path().to_str().unwrap())]);
    state.close().unwrap();
    assert!(
        tally
            .metric("tally_shutdown_duration_seconds{slot=\"blue\"}")
            .abs()
            < 0.1
    );
    let mut client = tally.connect();
    tally.signal("TERM");
    client.expect_goodbye(0, 1001);
    assert_eq!(tally.wait_exit().code(), Some(0));
    assert_eq!(tally.wait_for_event("state_unwritable")["level"], "WARNING");
    tally.wait_for_event("shutdown_complete");
}

#[test]
fn a_broken_record_of_another_colour_is_left_alone() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("green.shutdown.json"), "{ half a rec").unwrap();
    std::fs::write(state.path().join("note.txt"), "not ours").unwrap();
    let tally = Tally::with(&[("TALLY_STATE_DIR", state.path().to_str().unwrap())]);
    assert!(
        tally
            .metric("tally_shutdown_duration_seconds{slot=\"blue\"}")
            .abs()
            < 0.1
    );
    assert!(!tally.metrics().contains("slot=\"note"));
}
