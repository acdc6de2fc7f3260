//! `tally-server healthcheck`, asked about real processes.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Output},
    thread,
};

use crate::tally::Tally;

fn healthcheck(operator_listen: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tally-server"))
        .env("TALLY_OPERATOR_LISTEN", operator_listen)
        .arg("healthcheck")
        .output()
        .unwrap()
}

fn assert_healthy(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

/// One line, which says what was asked and what came.
fn assert_unhealthy(output: &Output, asked: &str, came: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains(asked) && told.contains(came), "{told}");
}

#[test]
fn a_server_is_healthy_while_it_runs_and_not_after() {
    let mut tally = Tally::start();
    let operator = tally.operator.to_string();
    assert_healthy(&healthcheck(&operator));
    tally.signal("TERM");
    tally.wait_exit();
    let asked = format!("GET http://{operator}/healthz");
    assert_unhealthy(&healthcheck(&operator), &asked, "refused");
}

#[test]
fn who_listens_everywhere_is_asked_on_loopback() {
    let tally = Tally::start();
    let port = tally.operator.port();
    assert_healthy(&healthcheck(&format!("0.0.0.0:{port}")));
    // Nobody is there with IPv6, so the line tells who was asked.
    let asked = format!("GET http://[::1]:{port}/healthz");
    assert_unhealthy(&healthcheck(&format!("[::]:{port}")), &asked, "failed");
}

#[test]
fn a_stopped_server_is_not_healthy() {
    let tally = Tally::start();
    tally.signal("STOP");
    let output = healthcheck(&tally.operator.to_string());
    assert_unhealthy(&output, &tally.operator.to_string(), "not answered");
}

#[test]
fn an_answer_other_than_200_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let read = stream.read(&mut [0; 1024]).unwrap();
        stream
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
            .unwrap();
        read
    });
    assert_unhealthy(&healthcheck(&address), &address, "503 Service Unavailable");
    assert!(server.join().unwrap() > 0);
}

#[test]
fn other_settings_do_not_keep_it_from_asking() {
    let tally = Tally::start();
    let output = Command::new(env!("CARGO_BIN_EXE_tally-server"))
        .env("TALLY_WORKERS", "many")
        .args(["healthcheck", "--operator-listen"])
        .arg(tally.operator.to_string())
        .output()
        .unwrap();
    assert_healthy(&output);
}
