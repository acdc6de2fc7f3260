//! Sessions: parked, resumed, taken over, forgotten.

use std::{
    net::Shutdown,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Request, TEXT, frame},
    tally::Tally,
};

#[test]
fn a_session_goes_on_again_and_again() {
    let tally = Tally::start();
    let mut client = tally.connect();
    let session = client.session();
    for round in 1..=5 {
        client.send_text("more");
        client.expect_count(round);
        drop(client);
        client = tally.resume(&session);
        client.assert_session(true, round);
        assert_eq!(client.session(), session);
    }
}

#[test]
fn a_session_without_messages_is_resumed_too() {
    let tally = Tally::start();
    let session = tally.connect().session();
    tally.resume(&session).assert_session(true, 0);
    tally
        .resume(&session.to_uppercase())
        .assert_session(true, 0);
}

#[test]
fn every_ended_connection_parks_its_session() {
    let tally = Tally::start();
    let endings: [fn(&mut Client); 4] = [
        |client| client.send_close(1000),
        |client| client.send_close(4999),
        |client| client.send_frame(crate::client::BINARY, b"x"),
        |client| client.stream.shutdown(Shutdown::Write).unwrap(),
    ];
    for end in endings {
        let mut client = tally.connect();
        client.send_text("one");
        client.expect_count(1);
        end(&mut client);
        tally.resume(&client.session()).assert_session(true, 1);
    }
}

#[test]
fn hello_tells_of_the_resume() {
    let tally = Tally::start();
    let mut first = tally.connect();
    first.send_text("one");
    first.expect_count(1);
    let session = first.session();
    drop(first);
    let mut second =
        tally.connect_with(Request::new().query(&format!("session={session}&hello=1")));
    second.expect_text(&format!(
        "{{\"session\":\"{session}\",\"resumed\":true,\"count\":1,\"colour\":\"blue\"}}"
    ));
}

#[test]
fn an_unknown_session_becomes_a_fresh_one_with_an_id_of_our_own() {
    let tally = Tally::start();
    let forged = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let client = tally.resume(forged);
    client.assert_session(false, 0);
    assert_ne!(client.session(), forged);
    assert!((tally.metric("tally_resumes_total{outcome=\"unknown\"}") - 1.0).abs() < 0.1);
}

#[test]
fn an_expired_session_becomes_a_fresh_one() {
    let tally = Tally::with(&[("TALLY_SESSION_TTL", "100ms")]);
    let client = tally.connect();
    let session = client.session();
    drop(client);
    tally.wait_for_metric("tally_sessions_forgotten_total{reason=\"expired\"}", 1.0);
    let fresh = tally.resume(&session);
    fresh.assert_session(false, 0);
    assert_ne!(fresh.session(), session);
}

#[test]
fn the_oldest_parked_session_is_forgotten_first() {
    let tally = Tally::with(&[("TALLY_SESSIONS_MAX", "2")]);
    let sessions: Vec<String> = (1..=3)
        .map(|ended| {
            let mut client = tally.connect();
            client.send_close(1000);
            client.expect_text("{\"bye\":true,\"total\":0}");
            tally.wait_for_metric("tally_closes_total{reason=\"client\"}", f64::from(ended));
            client.session()
        })
        .collect();
    tally.wait_for_metric("tally_sessions_forgotten_total{reason=\"evicted\"}", 1.0);
    // Kept open: a session that is parked meanwhile would send the next oldest away.
    let resumed = [0, 2, 1].map(|index: usize| tally.resume(&sessions[index]));
    resumed[0].assert_session(false, 0);
    resumed[1].assert_session(true, 0);
    resumed[2].assert_session(true, 0);
}

#[test]
fn an_open_session_is_taken_over_with_its_final_count() {
    let tally = Tally::start();
    let mut old = tally.connect();
    // Unread answers, and messages that arrive with the takeover.
    old.send(&frame(0x80 | TEXT, b"x").repeat(100));
    let mut new = tally.resume(&old.session());
    new.assert_session(true, 100);
    for count in 1..=100 {
        old.expect_count(count);
    }
    old.expect_goodbye(100, 4001);
    new.send_text("more");
    new.expect_count(101);
    assert!((tally.metric("tally_messages_total") - 101.0).abs() < 0.1);
}

#[test]
fn a_session_is_taken_over_from_a_peer_that_never_reads() {
    let tally = Tally::start();
    let old = tally.connect();
    let session = old.session();
    old.clog();
    let began = Instant::now();
    let new = tally.resume(&session);
    assert_eq!(new.header("x-session-resumed"), "true");
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn takeovers_in_a_row_keep_the_count() {
    let tally = Tally::with(&[("TALLY_WORKERS", "2")]);
    let mut client = tally.connect();
    let session = client.session();
    for round in 1..=50 {
        client.send_text("x");
        client.expect_count(round);
        let next = tally.resume(&session);
        next.assert_session(true, round);
        client.expect_goodbye(round, 4001);
        client = next;
    }
}

#[test]
fn of_many_that_resume_at_once_one_holds_the_session() {
    let tally = Tally::with(&[("TALLY_WORKERS", "2")]);
    let mut first = tally.connect();
    first.send_text("one");
    first.expect_count(1);
    let session = first.session();
    let together = Barrier::new(8);
    let rivals: Vec<Client> = thread::scope(|scope| {
        let rivals: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    let request = Request::new().query(&format!("session={session}"));
                    Client::open(tally.public, &request)
                })
            })
            .collect();
        rivals
            .into_iter()
            .map(|rival| rival.join().unwrap())
            .collect()
    });
    for rival in &rivals {
        match rival.status {
            101 => rival.assert_session(true, 1),
            status => assert_eq!(status, 503, "{}", rival.body),
        }
    }
    tally.wait_for_metric("tally_active_connections", 1.0);
    tally.resume(&session).assert_session(true, 1);
}

#[test]
fn a_doubled_disconnect_changes_nothing() {
    let tally = Tally::start();
    let mut old = tally.connect();
    let session = old.session();
    old.send_text("one");
    old.expect_count(1);
    let mut new = tally.resume(&session);
    new.send_text("two");
    new.expect_count(2);
    // The old connection ends late: first by the takeover, then by its own reset.
    drop(old);
    new.send_text("three");
    new.expect_count(3);
    drop(new);
    tally.resume(&session).assert_session(true, 3);
}
