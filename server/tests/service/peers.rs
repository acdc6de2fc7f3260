//! Peers that are silent, or do not read.

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{HangUp, PING, PONG, TEXT, frame},
    tally::Tally,
};

#[test]
fn a_silent_peer_is_pinged_and_dropped_without_a_word() {
    let tally = Tally::with(&[("TALLY_PING", "200ms"), ("TALLY_PEER_TIMEOUT", "600ms")]);
    let mut client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    let began = Instant::now();
    let mut pings = 0;
    while let Some(frame) = client.read_frame() {
        assert_eq!(frame.opcode, PING, "nothing but pings");
        pings += 1;
    }
    let waited = began.elapsed();
    assert!((2..=4).contains(&pings), "{pings} pings");
    assert!(waited > Duration::from_millis(550), "{waited:?}");
    assert!(waited < Duration::from_millis(1500), "{waited:?}");
    tally.wait_for_metric("tally_closes_total{reason=\"silent\"}", 1.0);
    tally.resume(&client.session()).assert_session(true, 1);
}

#[test]
fn a_peer_that_answers_pings_stays() {
    let tally = Tally::with(&[("TALLY_PING", "200ms"), ("TALLY_PEER_TIMEOUT", "1s")]);
    let mut client = tally.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        let ping = client.read_frame().expect("still there");
        assert_eq!(ping.opcode, PING);
        client.send_frame(PONG, &ping.payload);
    }
    client.send_text("still here");
    loop {
        let frame = client.read_frame().expect("still there");
        if frame.opcode == TEXT {
            assert_eq!(frame.payload, b"{\"count\":1}");
            break;
        }
    }
}

#[test]
fn a_peer_that_never_reads_is_dropped_and_nobody_notices() {
    // Longer than a busy machine makes anybody wait: who waited for the drop would show.
    let tally = Tally::with(&[("TALLY_WRITE_TIMEOUT", "3s"), ("TALLY_WORKERS", "1")]);
    let mut other = tally.connect();
    let greedy = tally.connect();
    let session = greedy.session();
    let before = tally.rss();
    let mut stream = greedy.stream.try_clone().unwrap();
    let flood = thread::spawn(move || {
        let frames = frame(0x80 | TEXT, b"").repeat(1000);
        // Ends when the server cuts it off.
        while stream.write_all(&frames).is_ok() {}
    });
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    while !flood.is_finished() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "it is not dropped"
        );
        let asked = Instant::now();
        count += 1;
        other.send_text("x");
        other.expect_count(count);
        slowest = slowest.max(asked.elapsed());
    }
    flood.join().unwrap();
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
    let grown = tally.rss().saturating_sub(before);
    assert!(grown < 8 << 20, "grown by {grown} bytes");
    tally.wait_for_metric("tally_slow_readers_total", 1.0);
    let resumed = tally.resume(&session);
    assert_eq!(resumed.header("x-session-resumed"), "true");
}

#[test]
fn a_peer_that_reads_slowly_but_reads_stays() {
    let tally = Tally::with(&[("TALLY_WRITE_TIMEOUT", "500ms")]);
    let mut client = tally.connect();
    let mut stream = client.stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        stream
            .write_all(&frame(0x80 | TEXT, b"").repeat(200_000))
            .unwrap();
    });
    for count in 1..=200_000 {
        if count % 20_000 == 0 {
            thread::sleep(Duration::from_millis(100));
        }
        client.expect_count(count);
    }
    sender.join().unwrap();
}

#[test]
fn messages_are_answered_in_the_middle_of_a_beat() {
    let tally = Tally::with(&[("TALLY_HEARTBEAT", "50ms"), ("TALLY_WORKERS", "1")]);
    let crowd: Vec<_> = (0..1000).map(|_| tally.connect()).collect();
    let mut client = tally.connect();
    let mut slowest = Duration::ZERO;
    for count in 1..=200u64 {
        let asked = Instant::now();
        client.send_text("x");
        let expected = format!("{{\"count\":{count}}}").into_bytes();
        while client.read_frame().expect("an answer").payload != expected {}
        slowest = slowest.max(asked.elapsed());
    }
    drop(crowd);
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[test]
fn a_frame_that_never_gets_whole_is_silence() {
    let tally = Tally::with(&[("TALLY_PING", "200ms"), ("TALLY_PEER_TIMEOUT", "600ms")]);
    let mut client = tally.connect();
    let began = Instant::now();
    let mut stream = client.stream.try_clone().unwrap();
    let dribble = thread::spawn(move || {
        for byte in frame(0x80 | TEXT, &[b'x'; 200]) {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    while client.read_frame().is_some() {}
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    dribble.join().unwrap();
    tally.resume(&client.session()).assert_session(true, 0);
}

#[test]
fn fragments_of_a_long_message_are_signs_of_life() {
    let tally = Tally::with(&[("TALLY_PING", "200ms"), ("TALLY_PEER_TIMEOUT", "600ms")]);
    let mut client = tally.connect();
    client.send(&frame(TEXT, b"a"));
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(200));
        client.send(&frame(0x00, b"b"));
    }
    client.send(&frame(0x80, b"c"));
    loop {
        let frame = client.read_frame().expect("still there");
        if frame.opcode == TEXT {
            assert_eq!(frame.payload, b"{\"count\":1}");
            return;
        }
    }
}

#[test]
fn a_flood_that_is_read_leaves_its_neighbours_their_turn() {
    let tally = Tally::with(&[("TALLY_WORKERS", "1")]);
    let mut other = tally.connect();
    let flooding = tally.connect();
    let mut took = Vec::new();
    thread::scope(|scope| {
        let (mut input, mut output) = (&flooding.stream, &flooding.stream);
        let _end = HangUp(&flooding.stream);
        scope.spawn(move || {
            let frames = frame(0x80 | TEXT, b"").repeat(2000);
            while input.write_all(&frames).is_ok() {}
        });
        scope.spawn(move || while output.read(&mut [0; 1 << 16]).is_ok_and(|n| n > 0) {});
        for count in 1..=30 {
            let asked = Instant::now();
            other.send_text("x");
            other.expect_count(count);
            took.push(asked.elapsed());
        }
    });
    // The middle one, for a busy machine makes a few wait long.
    took.sort();
    assert!(took[15] < Duration::from_millis(100), "{took:?}");
}
