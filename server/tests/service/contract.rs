//! The wire contract, row by row.

use std::time::{Duration, Instant};

use crate::{
    client::{CLOSE, Client, PING, PONG, Request, TEXT, frame},
    tally::Tally,
};

#[test]
fn an_accepted_handshake_names_session_request_and_colour() {
    let tally = Tally::with(&[("TALLY_COLOUR", "green")]);
    let client = tally.connect_with(Request::new().header("X-Request-Id", "abc.1-2_3"));
    client.assert_session(false, 0);
    assert_eq!(client.session().len(), 36);
    assert_eq!(&client.session()[14..15], "4", "a UUID of version 4");
    assert_eq!(client.header("x-request-id"), "abc.1-2_3");
    assert_eq!(client.header("x-colour"), "green");
    // The example of RFC 6455, section 1.3.
    assert_eq!(
        client.header("sec-websocket-accept"),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert_eq!(client.header("sec-websocket-extensions"), "");
}

#[test]
fn the_last_slash_may_be_left_out() {
    let tally = Tally::start();
    tally.connect_with(Request::new().path("/ws/chat"));
}

#[test]
fn hello_comes_first_when_asked_for() {
    let tally = Tally::start();
    let mut client = tally.connect_with(Request::new().query("hello=1"));
    let session = client.session();
    client.expect_text(&format!(
        "{{\"session\":\"{session}\",\"resumed\":false,\"count\":0,\"colour\":\"blue\"}}"
    ));
}

#[test]
fn nothing_comes_unasked() {
    let tally = Tally::start();
    tally.connect().expect_silence(Duration::from_millis(300));
}

#[test]
fn messages_are_counted_whole_and_in_fragments() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    client.send(&frame(TEXT, b"tw"));
    client.send_frame(PING, b"between");
    client.send(&frame(0x00, b""));
    client.send(&frame(0x80, b"o"));
    client.expect_frame(PONG, b"between");
    client.expect_count(2);
    client.send_text("");
    client.expect_count(3);
}

#[test]
fn characters_may_be_cut_between_fragments() {
    let tally = Tally::start();
    let mut client = tally.connect();
    let text = "κόσμε".as_bytes();
    client.send(&frame(TEXT, &text[..1]));
    client.send(&frame(0x00, &text[1..2]));
    client.send(&frame(0x80, &text[2..]));
    client.expect_count(1);
}

#[test]
fn messages_sent_in_one_go_are_answered_in_order() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send(&frame(0x80 | TEXT, b"x").repeat(5000));
    for count in 1..=5000 {
        client.expect_count(count);
    }
}

#[test]
fn frames_may_arrive_byte_by_byte() {
    let tally = Tally::start();
    let mut client = tally.connect();
    for byte in frame(0x80 | TEXT, &[b'x'; 200]) {
        client.send(&[byte]);
    }
    client.expect_count(1);
}

#[test]
fn a_message_of_the_whole_limit_is_counted() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send_frame(TEXT, &[b'x'; 65536]);
    client.expect_count(1);
}

#[test]
fn a_beat_reaches_every_socket_with_the_same_time() {
    let tally = Tally::with(&[("TALLY_HEARTBEAT", "300ms"), ("TALLY_WORKERS", "2")]);
    let mut clients: Vec<Client> = (0..50).map(|_| tally.connect()).collect();
    // The first beat may fall between two handshakes; the second one cannot.
    let first: Vec<_> = clients.iter_mut().map(Client::read_json).collect();
    let latest = first
        .iter()
        .map(|beat| beat["ts"].as_str().unwrap())
        .max()
        .unwrap()
        .to_owned();
    for (client, mut beat) in clients.iter_mut().zip(first) {
        while beat["ts"].as_str().unwrap() < latest.as_str() {
            beat = client.read_json();
        }
        assert_eq!(beat["ts"], latest);
        assert_eq!(beat.as_object().unwrap().len(), 1);
        assert!(latest.len() == 24 && latest.ends_with('Z'), "{latest}");
    }
}

#[test]
fn a_ping_gets_its_payload_back_and_does_not_count() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send_frame(PING, &[7; 125]);
    client.expect_frame(PONG, &[7; 125]);
    client.send_frame(PONG, b"unasked");
    client.send_text("one");
    client.expect_count(1);
}

#[test]
fn a_client_that_closes_gets_bye_its_code_and_the_end_at_once() {
    let tally = Tally::start();
    for code in [1000, 1001, 3000, 4999] {
        let mut client = tally.connect();
        client.send_text("one");
        client.expect_count(1);
        let began = Instant::now();
        client.send_close(code);
        client.expect_text("{\"bye\":true,\"total\":1}");
        client.expect_frame(CLOSE, &code.to_be_bytes());
        client.expect_end();
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn an_empty_close_gets_an_empty_close() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send_frame(CLOSE, b"");
    client.expect_text("{\"bye\":true,\"total\":0}");
    client.expect_frame(CLOSE, b"");
    client.expect_end();
}

#[test]
fn what_a_client_sends_behind_its_close_is_not_counted() {
    let tally = Tally::start();
    let mut client = tally.connect();
    let session = client.session();
    let mut bytes = frame(0x80 | TEXT, b"one");
    bytes.extend(frame(0x80 | CLOSE, &1000u16.to_be_bytes()));
    bytes.extend(frame(0x80 | TEXT, b"late"));
    client.send(&bytes);
    client.expect_count(1);
    client.expect_text("{\"bye\":true,\"total\":1}");
    tally.resume(&session).assert_session(true, 1);
}

#[test]
fn a_server_that_closes_waits_a_second_for_the_peers_close() {
    let tally = Tally::start();
    let mut client = tally.connect();
    let began = Instant::now();
    client.send_frame(crate::client::BINARY, b"x");
    client.expect_text("{\"bye\":true,\"total\":0}");
    client.expect_frame(CLOSE, &1003u16.to_be_bytes());
    client.expect_end();
    let waited = began.elapsed();
    assert!(
        (Duration::from_millis(800)..Duration::from_millis(2500)).contains(&waited),
        "{waited:?}"
    );
}
