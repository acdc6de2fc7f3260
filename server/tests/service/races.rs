//! What happens at the same moment: drains, takeovers, resets and messages.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;
use socket2::SockRef;

use crate::{
    client::{CLOSE, Client, Frame, HangUp, Request, TEXT, frame},
    tally::Tally,
};

/// Closes with a reset, as a peer does that crashes or is cut off.
fn reset(client: Client) {
    let linger = Some(Duration::ZERO);
    SockRef::from(&client.stream).set_linger(linger).unwrap();
}

/// A client that sends without a pause, a few hundred messages ahead of the answers it has read.
/// Further ahead the goodbye would have to wait behind a backlog, and nobody waits for ever.
#[derive(Default)]
struct Flood {
    answered: AtomicU64,
    over: AtomicBool,
}

impl Flood {
    const AHEAD: u64 = 500;

    fn send(&self, stream: &TcpStream) {
        let mut stream = stream;
        let frames = frame(0x80 | TEXT, b"x").repeat(50);
        let mut sent = 0;
        while !self.over.load(Ordering::Relaxed) {
            if sent > self.answered.load(Ordering::Relaxed) + Self::AHEAD {
                thread::yield_now();
            } else if stream.write_all(&frames).is_err() {
                return;
            } else {
                sent += 50;
            }
        }
    }

    /// Reads to the goodbye: the answers must count on from `known`, the bye must tell their
    /// last, a Close must follow. Returns the total and the code.
    fn read(&self, client: &mut Client, known: u64) -> (u64, u16) {
        let mut count = known;
        loop {
            let frame = client.read_frame().expect("a goodbye before the end");
            assert_eq!(frame.opcode, TEXT);
            let answer: Value = serde_json::from_slice(&frame.payload).unwrap();
            if answer["bye"] == true {
                assert_eq!(answer["total"], count, "the bye tells the last count");
                break;
            }
            count += 1;
            assert_eq!(answer["count"], count, "none is left out, none comes twice");
            self.answered.store(count - known, Ordering::Relaxed);
        }
        self.over.store(true, Ordering::Relaxed);
        let Frame { opcode, payload } = client.read_frame().expect("a Close behind the bye");
        assert_eq!(opcode, CLOSE);
        (count, u16::from_be_bytes(payload.try_into().unwrap()))
    }
}

fn read_to_goodbye(client: &mut Client) -> (u64, u16) {
    Flood::default().read(client, 0)
}

#[test]
fn a_flood_in_the_middle_of_the_drain_has_a_final_total() {
    let mut tally = Tally::start();
    let mut clients: Vec<(Client, Flood)> = (0..8)
        .map(|_| (tally.connect(), Flood::default()))
        .collect();
    thread::scope(|scope| {
        let readers: Vec<_> = clients
            .iter_mut()
            .map(|(client, flood)| {
                let (stream, flood) = (client.stream.try_clone().unwrap(), &*flood);
                scope.spawn(move || flood.send(&stream));
                scope.spawn(move || flood.read(client, 0))
            })
            .collect();
        while tally.metric("tally_messages_total") < 10_000.0 {
            thread::yield_now();
        }
        tally.signal("TERM");
        let codes = readers.into_iter().map(|reader| reader.join().unwrap().1);
        assert!(codes.eq([1001; 8]));
    });
    assert_eq!(tally.wait_exit().code(), Some(0));
    assert_eq!(
        tally.wait_for_event("shutdown_complete")["outcome"],
        "clean"
    );
}

#[test]
fn who_comes_as_the_drain_begins_gets_a_goodbye_or_no_handshake() {
    let mut tally = Tally::start();
    let accepted = AtomicUsize::new(0);
    let address = tally.public;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Everybody stays until sent away; the last to come finds nobody any more.
                let mut stayed = Vec::new();
                let frames = frame(0x80 | TEXT, b"x").repeat(3);
                let request = Request::new().followed_by(&frames);
                while let Some(client) = Client::reach(address, &request) {
                    if client.status != 101 {
                        assert_eq!(client.status, 503);
                        assert_eq!(client.header("retry-after"), "1");
                        break;
                    }
                    accepted.fetch_add(1, Ordering::Relaxed);
                    stayed.push(client);
                }
                for client in &mut stayed {
                    assert_eq!(read_to_goodbye(client), (3, 1001));
                    client.send_close(1001);
                }
            });
        }
        while accepted.load(Ordering::Relaxed) < 200 {
            thread::yield_now();
        }
        tally.signal("TERM");
    });
    assert_eq!(tally.wait_exit().code(), Some(0));
    let last = tally.wait_for_event("shutdown_complete");
    assert_eq!(last["outcome"], "clean", "{last}");
}

#[test]
fn who_closes_as_the_drain_begins_gets_the_right_total_all_the_same() {
    let mut tally = Tally::start();
    let mut clients: Vec<Client> = (0..300).map(|_| tally.connect()).collect();
    thread::scope(|scope| {
        let tally = &tally;
        scope.spawn(|| tally.signal("TERM"));
        for client in &mut clients {
            let bytes = [
                frame(0x80 | TEXT, b"x").repeat(2),
                frame(0x80 | CLOSE, &3000u16.to_be_bytes()),
            ];
            // The drain may have been there first, and have closed behind its goodbye.
            let _ = client.stream.write_all(&bytes.concat());
        }
    });
    for client in &mut clients {
        match read_to_goodbye(client) {
            (2, 3000 | 1001) | (0, 1001) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tally.wait_exit().code(), Some(0));
}

#[test]
fn a_message_in_progress_is_not_counted_by_the_drain() {
    let mut tally = Tally::start();
    let mut client = tally.connect();
    client.send(&[frame(0x80 | TEXT, b"one"), frame(TEXT, b"begun")].concat());
    client.expect_count(1);
    tally.signal("TERM");
    client.expect_goodbye(1, 1001);
    assert_eq!(tally.wait_exit().code(), Some(0));
}

#[test]
fn takeovers_under_load_count_every_message_once() {
    let tally = Tally::with(&[("TALLY_WORKERS", "2")]);
    let mut client = tally.connect();
    let session = client.session();
    let mut count = 0;
    for _ in 0..25 {
        let flood = Flood::default();
        let known = count;
        let (next, total) = thread::scope(|scope| {
            let stream = client.stream.try_clone().unwrap();
            let flood = &flood;
            scope.spawn(move || flood.send(&stream));
            let reader = scope.spawn(|| flood.read(&mut client, known));
            // Under way before it is interrupted.
            while flood.answered.load(Ordering::Relaxed) < 100 {
                thread::yield_now();
            }
            let next = tally.resume(&session);
            let (total, code) = reader.join().unwrap();
            assert_eq!(code, 4001);
            next.assert_session(true, total);
            (next, total)
        });
        (client, count) = (next, total);
    }
    tally.wait_for_metric("tally_messages_total", count as f64);
}

#[test]
fn a_flood_is_taken_over_with_its_goodbye() {
    let tally = Tally::with(&[("TALLY_WORKERS", "1")]);
    let old = tally.connect();
    let session = old.session();
    let over = AtomicBool::new(false);
    let (tail, next) = thread::scope(|scope| {
        let (mut input, mut output) = (&old.stream, &old.stream);
        let over = &over;
        scope.spawn(move || {
            let frames = frame(0x80 | TEXT, b"").repeat(2000);
            while !over.load(Ordering::Relaxed) && input.write_all(&frames).is_ok() {}
        });
        let reader = scope.spawn(move || {
            let (mut tail, mut chunk) = (Vec::new(), [0; 1 << 16]);
            while let Ok(length @ 1..) = output.read(&mut chunk) {
                tail.extend_from_slice(&chunk[..length]);
                tail.drain(..tail.len().saturating_sub(100));
                if tail.windows(5).any(|word| word == b"\"bye\"") {
                    over.store(true, Ordering::Relaxed);
                }
            }
            over.store(true, Ordering::Relaxed);
            tail
        });
        while tally.metric("tally_messages_total") < 10_000.0 {
            thread::yield_now();
        }
        let next = {
            // If this fails, the flood must end all the same.
            let end = HangUp(&old.stream);
            let next = tally.resume(&session);
            std::mem::forget(end);
            next
        };
        (reader.join().unwrap(), next)
    });
    let total: u64 = next.header("x-session-count").parse().unwrap();
    let bye = format!("{{\"bye\":true,\"total\":{total}}}");
    let close = [&[0x80 | CLOSE, 2][..], &4001u16.to_be_bytes()].concat();
    let goodbye = [bye.as_bytes(), &close].concat();
    let told = String::from_utf8_lossy(&tail);
    assert!(tail.ends_with(&goodbye), "{told} instead of {bye}");
    tally.wait_for_metric("tally_messages_total", total as f64);
}

#[test]
fn a_reset_parks_the_session_and_it_can_be_resumed_at_once() {
    let tally = Tally::with(&[("TALLY_WORKERS", "2")]);
    let mut client = tally.connect();
    let session = client.session();
    for count in 1..=50 {
        client.send_text("x");
        client.expect_count(count);
        reset(client);
        client = tally.resume(&session);
        client.assert_session(true, count);
    }
}

#[test]
fn an_heir_that_has_gone_leaves_the_session_to_the_next() {
    let tally = Tally::with(&[("TALLY_WORKERS", "2")]);
    let mut client = tally.connect();
    let session = client.session();
    for count in 1..=50u32 {
        client.send_text("x");
        client.expect_count(u64::from(count));
        let mut heir = TcpStream::connect(tally.public).unwrap();
        let request = Request::new().query(&format!("session={session}"));
        heir.write_all(&request.bytes()).unwrap();
        heir.shutdown(Shutdown::Both).unwrap();
        drop(heir);
        // Its wish is granted all the same; later, it would take the session from the next one.
        let granted = f64::from(2 * count - 1);
        tally.wait_for_metric("tally_resumes_total{outcome=\"resumed\"}", granted);
        client = tally.resume(&session);
        let count = u64::from(count);
        client.assert_session(true, count);
    }
    drop(client);
    tally.wait_for_metric("tally_active_connections", 0.0);
    tally.wait_for_metric("tally_sessions_parked", 1.0);
}

#[test]
fn every_connection_that_came_has_gone_in_the_metrics() {
    let tally = Tally::with(&[("TALLY_WORKERS", "2")]);
    thread::scope(|scope| {
        for kind in 0..4 {
            let tally = &tally;
            scope.spawn(move || {
                for _ in 0..50 {
                    let mut client = tally.connect();
                    match kind {
                        0 => client.send_close(1000),
                        1 => reset(client),
                        2 => client.send_frame(crate::client::BINARY, b"x"),
                        _ => drop(client),
                    }
                }
            });
        }
    });
    tally.wait_for_metric("tally_active_connections", 0.0);
    tally.wait_for_metric("tally_handshakes_total{outcome=\"accepted\"}", 200.0);
    tally.wait_for_metric("tally_sessions_parked", 200.0);
    tally.wait_for_metric("tally_connection_duration_seconds_count", 200.0);
    let closes: f64 = tally
        .metrics()
        .lines()
        .filter(|line| line.starts_with("tally_closes_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!((closes - 200.0).abs() < 0.1, "{closes}");
}
