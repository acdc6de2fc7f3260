//! Start, settings, drain, end.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    client::{CLOSE, Client, Request, TEXT, frame},
    tally::Tally,
};

#[test]
fn it_is_ready_at_once() {
    let tally = Tally::start();
    assert_eq!(tally.get(tally.public, "/readyz").0, 200);
    eprintln!("listening {:?} after exec", tally.started_in);
    assert!(tally.started_in < Duration::from_secs(3));
}

#[test]
fn wrong_settings_are_all_reported_before_anything_binds() {
    let output = Command::new(env!("CARGO_BIN_EXE_tally-server"))
        .env("TALLY_LISTEN", "nowhere")
        .env("TALLY_HEARTBEAT", "soon")
        .args(["--session-ttl", "never", "--sessions-max=-1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        output.stdout.is_empty(),
        "nothing was bound, nothing is logged"
    );
    let told = String::from_utf8(output.stderr).unwrap();
    for variable in ["TALLY_LISTEN", "TALLY_HEARTBEAT", "TALLY_SESSION_TTL"] {
        assert!(told.contains(variable), "{told}");
    }
}

#[test]
fn a_taken_port_is_named_with_the_variable() {
    let tally = Tally::start();
    let output = Command::new(env!("CARGO_BIN_EXE_tally-server"))
        .env("TALLY_LISTEN", tally.public.to_string())
        .env("TALLY_OPERATOR_LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("TALLY_LISTEN") && told.contains(&tally.public.to_string()),
        "{told}"
    );
}

/// Messages in flight are counted and answered, then everybody gets the right goodbye.
fn drains_on(signal: &str) {
    let mut tally = Tally::start();
    let mut clients: Vec<Client> = (0..200).map(|_| tally.connect()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(&frame(0x80 | TEXT, b"x").repeat(index % 7));
    }
    tally.signal(signal);
    for (index, client) in clients.iter_mut().enumerate() {
        let total = index as u64 % 7;
        for count in 1..=total {
            client.expect_count(count);
        }
        client.expect_goodbye(total, 1001);
    }
    assert_eq!(tally.wait_exit().code(), Some(0));
    let last = tally.wait_for_event("shutdown_complete");
    assert_eq!(
        (&last["outcome"], &last["connections"]),
        (&"clean".into(), &200.into())
    );
    assert_eq!(
        tally.log_lines().last().unwrap(),
        &last,
        "it is the last line"
    );
}

#[test]
fn sigterm_drains() {
    drains_on("TERM");
}

#[test]
fn sigint_drains() {
    drains_on("INT");
}

#[test]
fn what_arrives_after_the_bye_is_not_counted() {
    let mut tally = Tally::start();
    let mut client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    tally.signal("TERM");
    client.expect_text("{\"bye\":true,\"total\":1}");
    client.send_text("late");
    client.expect_frame(CLOSE, &1001u16.to_be_bytes());
    client.send_close(1001);
    client.expect_end();
    assert_eq!(tally.wait_exit().code(), Some(0));
}

#[test]
fn while_draining_nobody_is_let_in() {
    let mut tally = Tally::start();
    let mut silent = tally.connect();
    // It gets its bye and never answers, which holds the drain open for a second.
    tally.signal("TERM");
    silent.expect_text("{\"bye\":true,\"total\":0}");
    let (status, _) = tally.get(tally.operator, "/readyz");
    let refused = tally.refused(Request::new());
    assert_eq!(status, 503);
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!((tally.metric("tally_draining") - 1.0).abs() < 0.1);
    assert_eq!(
        tally.get(tally.operator, "/healthz").0,
        200,
        "alive all the same"
    );
    assert_eq!(tally.wait_exit().code(), Some(0));
}

#[test]
fn peers_that_do_not_read_do_not_hold_the_end_up() {
    let mut tally = Tally::start();
    let stuck: Vec<Client> = (0..20).map(|_| tally.connect()).collect();
    for client in &stuck {
        client.clog();
    }
    let mut polite = tally.connect();
    let began = Instant::now();
    tally.signal("TERM");
    polite.expect_goodbye(0, 1001);
    assert_eq!(tally.wait_exit().code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut tally = Tally::start();
    let mut silent = tally.connect();
    tally.signal("TERM");
    silent.expect_text("{\"bye\":true,\"total\":0}");
    let began = Instant::now();
    tally.signal("TERM");
    assert_eq!(tally.wait_exit().code(), Some(1));
    assert!(began.elapsed() < Duration::from_millis(500));
}

#[test]
fn five_thousand_sockets_drain_each_with_its_own_total() {
    let mut tally = Tally::start();
    let mut clients: Vec<Client> = (0..5000).map(|_| tally.connect()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(&frame(0x80 | TEXT, b"x").repeat(index % 3));
    }
    let began = Instant::now();
    tally.signal("TERM");
    for (index, client) in clients.iter_mut().enumerate() {
        let total = index as u64 % 3;
        for count in 1..=total {
            client.expect_count(count);
        }
        client.expect_goodbye(total, 1001);
    }
    eprintln!(
        "5,000 sockets drained, debug build, in {:?}",
        began.elapsed()
    );
    assert_eq!(tally.wait_exit().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn out_of_files_it_recovers() {
    let tally = Tally::with_files(64, &[("TALLY_CONNECTIONS_MAX", "1000")]);
    let crowd: Vec<_> = (0..100)
        .map(|_| std::net::TcpStream::connect(tally.public).unwrap())
        .collect();
    let line = tally.wait_for(|line| {
        line["msg"]
            .as_str()
            .is_some_and(|msg| msg.contains("accept"))
    });
    assert_eq!(line["level"], "ERROR");
    drop(crowd);
    let mut client = tally.connect();
    client.send_text("again");
    client.expect_count(1);
}

#[test]
fn the_file_limit_bounds_the_connections() {
    let tally = Tally::with_files(256, &[]);
    assert!((tally.metric("tally_connections_max") - 128.0).abs() < 0.1);
}
