//! Ends that somebody tries to hold up.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    client::{CLOSE, Client, Request},
    tally::Tally,
};

/// What the service promises.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Signals, and expects a clean end in time; returns how long it took.
fn end(tally: &mut Tally) -> Duration {
    let began = Instant::now();
    tally.signal("TERM");
    assert_eq!(tally.wait_exit().code(), Some(0));
    let took = began.elapsed();
    assert!(took < SHUTDOWN_MAX, "{took:?}");
    took
}

#[test]
fn nobody_connected_means_no_wait() {
    let mut tally = Tally::start();
    drop(tally.connect());
    tally.wait_for_metric("tally_active_connections", 0.0);
    let took = end(&mut tally);
    eprintln!("an empty server ends in {took:?}");
    let last = tally.wait_for_event("shutdown_complete");
    assert_eq!(
        (&last["outcome"], &last["connections"]),
        (&"clean".into(), &0.into())
    );
    assert!(last["duration_ms"].as_u64().unwrap() <= took.as_millis() as u64);
}

#[test]
fn peers_that_never_answer_get_their_goodbye_and_hold_nothing_up() {
    let mut tally = Tally::start();
    let mut silent: Vec<Client> = (0..100).map(|_| tally.connect()).collect();
    let took = end(&mut tally);
    eprintln!("a hundred silent peers, ended in {took:?}");
    for client in &mut silent {
        client.expect_text("{\"bye\":true,\"total\":0}");
        client.expect_frame(CLOSE, &1001u16.to_be_bytes());
    }
    assert_eq!(
        tally.wait_for_event("shutdown_complete")["outcome"],
        "clean"
    );
}

#[test]
fn unfinished_requests_hold_nothing_up() {
    let mut tally = Tally::start();
    let half: Vec<TcpStream> = [tally.public, tally.operator]
        .into_iter()
        .cycle()
        .take(40)
        .map(|address| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream
                .write_all(b"GET /ws/chat/ HTTP/1.1\r\nHost: x\r\n")
                .unwrap();
            stream
        })
        .collect();
    // Kept alive behind an answer, as browsers and scrapers do.
    let plain = Request::new()
        .path("/readyz")
        .without("Upgrade")
        .header("Connection", "keep-alive");
    let kept: Vec<Client> = [tally.public, tally.operator]
        .map(|address| Client::open(address, &plain))
        .into();
    let took = end(&mut tally);
    eprintln!("unfinished requests, ended in {took:?}");
    drop((half, kept));
}

#[test]
fn the_other_signal_counts_as_a_second_one_too() {
    let mut tally = Tally::start();
    let mut silent = tally.connect();
    tally.signal("INT");
    silent.expect_text("{\"bye\":true,\"total\":0}");
    tally.signal("TERM");
    assert_eq!(tally.wait_exit().code(), Some(1));
}

#[test]
fn the_operator_sees_while_the_public_side_has_no_room_left() {
    // Behind the WebSockets there is room for a thousand unfinished requests a worker; more of
    // them stop the public listener until the first are hung up on.
    let tally = Tally::with(&[("TALLY_CONNECTIONS_MAX", "1"), ("TALLY_WORKERS", "1")]);
    let mut only = tally.connect();
    let crowd: Vec<TcpStream> = (0..1500)
        .map(|_| TcpStream::connect(tally.public).unwrap())
        .collect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(tally.get(tally.operator, "/healthz").0, 200);
        tally.wait_for_metric("tally_active_connections", 1.0);
    }
    only.send_text("undisturbed");
    only.expect_count(1);
    // The last of the crowd are let in as the first leave, and then have five seconds, too.
    drop(crowd);
    assert_eq!(tally.refused(Request::new()).status, 503);
}

#[test]
fn a_stopped_peer_that_comes_back_finds_its_goodbye() {
    let mut tally = Tally::start();
    let mut client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    assert_eq!(end(&mut tally).as_secs() / 10, 0);
    // The process is gone; what it said is still there to read, for no reset followed it.
    client.expect_text("{\"bye\":true,\"total\":1}");
    client.expect_frame(CLOSE, &1001u16.to_be_bytes());
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}
