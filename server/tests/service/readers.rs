//! Peers that do not read, in every way but the flood of messages that `peers` tries.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{
    client::{Client, PING, Request, frame},
    tally::Tally,
};

/// A peer whose kernel takes in next to nothing for it.
fn connect_with_small_buffer(address: SocketAddr) -> Client {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(&address.into()).unwrap();
    let client = Client::shake_hands(TcpStream::from(socket), &Request::new());
    client.expect("an answer to the handshake")
}

#[test]
fn a_peer_that_never_reads_its_heartbeats_is_dropped() {
    let tally = Tally::with(&[("TALLY_HEARTBEAT", "1ms"), ("TALLY_WRITE_TIMEOUT", "500ms")]);
    let deaf: Vec<Client> = (0..10)
        .map(|_| connect_with_small_buffer(tally.public))
        .collect();
    let mut other = tally.connect();
    let before = tally.rss();
    // The other one reads on, and hears every beat in its order.
    let (began, mut last) = (Instant::now(), String::new());
    while tally.metric("tally_active_connections") > 1.0 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "they are not dropped"
        );
        for _ in 0..100 {
            let beat = other.read_json()["ts"].as_str().unwrap().to_owned();
            assert!(beat >= last);
            last = beat;
        }
    }
    let grown = tally.rss().saturating_sub(before);
    assert!(grown < 8 << 20, "grown by {grown} bytes");
    // Whether our patience or the kernel's is at its end first, it is the same thing to tell.
    tally.wait_for_metric("tally_slow_readers_total", 10.0);
    for client in &deaf {
        let resumed = tally.resume(&client.session());
        resumed.assert_session(true, 0);
    }
    tally.wait_for_metric("tally_errors_total{kind=\"slow_reader\"}", 10.0);
}

#[test]
fn a_peer_that_pings_and_never_reads_is_dropped() {
    let tally = Tally::with(&[("TALLY_WRITE_TIMEOUT", "500ms")]);
    let mut client = connect_with_small_buffer(tally.public);
    let before = tally.rss();
    let flood = thread::spawn(move || {
        let pings = frame(0x80 | PING, &[7; 125]).repeat(500);
        while std::io::Write::write_all(&mut client.stream, &pings).is_ok() {}
        client.session()
    });
    tally.wait_for_metric("tally_slow_readers_total", 1.0);
    let grown = tally.rss().saturating_sub(before);
    assert!(grown < 4 << 20, "grown by {grown} bytes");
    let session = flood.join().unwrap();
    tally.resume(&session).assert_session(true, 0);
}

#[test]
fn a_peer_that_never_reads_does_not_delay_its_own_goodbye_for_long() {
    let tally = Tally::start();
    let mut client = connect_with_small_buffer(tally.public);
    client.stream.set_nonblocking(true).unwrap();
    let frames = frame(0x81, b"").repeat(1000);
    let mut taken = Instant::now();
    while taken.elapsed() < Duration::from_millis(200) {
        match std::io::Write::write(&mut client.stream, &frames) {
            Ok(_) => taken = Instant::now(),
            Err(_) => thread::yield_now(),
        }
    }
    // Its session is wanted elsewhere: the old connection gets a second for its goodbye.
    let began = Instant::now();
    let heir = tally.resume(&client.session());
    assert_eq!(heir.header("x-session-resumed"), "true");
    tally.wait_for_metric("tally_active_connections", 1.0);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    // Its place is free again, too.
    while tally.metric("process_open_fds") > tally.metric("tally_active_connections") + 60.0 {
        thread::yield_now();
    }
}

#[test]
fn a_backlog_that_is_read_in_the_end_brings_its_goodbye() {
    let mut tally = Tally::start();
    let mut client = connect_with_small_buffer(tally.public);
    let sent = 30_000;
    client.send(&frame(0x81, b"").repeat(sent));
    tally.signal("TERM");
    // Some 570 KB of answers, in about three seconds.
    for count in 1..=sent as u64 {
        client.expect_count(count);
        if count % 1000 == 0 {
            thread::sleep(Duration::from_millis(100));
        }
    }
    client.expect_goodbye(sent as u64, 1001);
    assert_eq!(tally.wait_exit().code(), Some(0));
}
