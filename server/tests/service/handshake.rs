//! Handshakes beyond the table's rows: what browsers and proxies send, what slow clients do, and
//! that both doors refuse alike.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Request, TEXT, frame},
    tally::{PATIENCE, Tally},
};

#[test]
fn header_values_are_compared_in_any_case() {
    let tally = Tally::start();
    for (upgrade, connection) in [
        ("WebSocket", "Upgrade"),
        ("WEBSOCKET", "upgrade"),
        ("websocket", "keep-alive, Upgrade"),
    ] {
        let request = Request::new()
            .header("Upgrade", upgrade)
            .header("Connection", connection);
        let client = Client::open(tally.public, &request);
        assert_eq!(client.status, 101, "{upgrade} / {connection}");
    }
}

#[test]
fn no_extension_and_no_subprotocol_is_agreed_to() {
    let tally = Tally::start();
    let request = Request::new()
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .header("Sec-WebSocket-Protocol", "chat, superchat");
    let mut client = tally.connect_with(request);
    assert!(!client.headers.contains_key("sec-websocket-extensions"));
    assert!(!client.headers.contains_key("sec-websocket-protocol"));
    client.send_text("one");
    client.expect_count(1);
}

#[test]
fn frames_that_come_with_the_handshake_are_counted() {
    let tally = Tally::start();
    // More than the HTTP codec reads at once, and a last frame that is cut by its read.
    for messages in [1, 3000] {
        let frames = frame(0x80 | TEXT, b"early bird").repeat(messages as usize);
        let mut client = tally.connect_with(Request::new().followed_by(&frames));
        for count in 1..=messages {
            client.expect_count(count);
        }
        client.send_close(1000);
        client.expect_text(&format!("{{\"bye\":true,\"total\":{messages}}}"));
    }
}

#[test]
fn only_hello_1_brings_a_hello() {
    let tally = Tally::start();
    for query in [
        "hello=0",
        "hello",
        "hello=",
        "hello=11",
        "xhello=1",
        "x=hello=1",
    ] {
        let mut client = tally.connect_with(Request::new().query(query));
        client.send_text("first");
        client.expect_count(1);
    }
}

#[test]
fn unknown_parameters_are_none_of_our_business() {
    let tally = Tally::start();
    let query = "token=x&sessions=1&SESSION=2&&=";
    tally
        .connect_with(Request::new().query(query))
        .assert_session(false, 0);
}

/// The whole answer to these bytes.
fn exchange(tally: &Tally, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(tally.public).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn the_answer_to_head_has_no_body() {
    let tally = Tally::start();
    let request = Request::new().method("HEAD").bytes();
    let answer = exchange(&tally, &request);
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn both_doors_refuse_alike() {
    let tally = Tally::start();
    let told = |request: Request| {
        let mut refused = tally.refused(request.header("X-Request-Id", "same"));
        // How a connection is kept, and when, is the door's own business.
        for own in ["connection", "date"] {
            refused.headers.remove(own);
        }
        (refused.status, refused.headers, refused.body)
    };
    let wrong_version = || Request::new().header("Sec-WebSocket-Version", "8");
    for upgrade in ["h2c", "websocket, h2c", "x"] {
        assert_eq!(
            told(Request::new().method("POST")),
            told(Request::new().method("POST").header("Upgrade", upgrade)),
        );
        assert_eq!(
            told(wrong_version()),
            told(wrong_version().header("Upgrade", upgrade))
        );
    }
    assert_eq!(
        told(wrong_version()),
        told(wrong_version().without("Upgrade"))
    );
    assert_eq!(
        told(Request::new().path("/elsewhere")).0,
        told(Request::new().path("/elsewhere").without("Upgrade")).0,
    );
}

#[test]
fn a_refused_handshake_gives_its_place_back() {
    let tally = Tally::with(&[("TALLY_CONNECTIONS_MAX", "1")]);
    for _ in 0..20 {
        tally.refused(Request::new().query("session=nonsense"));
    }
    tally.connect();
}

#[test]
fn every_answer_carries_a_request_id_on_both_listeners() {
    let tally = Tally::start();
    let operators = [
        "/metrics", "/healthz", "/readyz", "/version", "/", "/nowhere",
    ];
    let publics = [
        "/",
        "/healthz",
        "/readyz",
        "/page.js",
        "/page.css",
        "/nowhere",
        "/metrics",
    ];
    let pages = operators
        .map(|path| (tally.operator, path))
        .into_iter()
        .chain(publics.map(|path| (tally.public, path)));
    for (address, path) in pages {
        let plain = || {
            Request::new()
                .path(path)
                .without("Upgrade")
                .without("Connection")
        };
        let given = Client::open(address, &plain().header("X-Request-Id", "a.b-c_1"));
        assert_eq!(given.header("x-request-id"), "a.b-c_1", "{path}");
        let bad = Client::open(address, &plain().header("X-Request-Id", &"x".repeat(129)));
        assert_eq!(bad.header("x-request-id").len(), 36, "{path}");
        let minted = Client::open(address, &plain());
        assert_eq!(minted.header("x-request-id").len(), 36, "{path}");
    }
}

#[test]
fn every_refusal_is_counted_by_its_outcome() {
    let tally = Tally::with(&[("TALLY_CONNECTIONS_MAX", "1")]);
    let full = tally.connect();
    tally.refused(Request::new());
    drop(full);
    tally.wait_for_metric("tally_active_connections", 0.0);
    tally.refused(Request::new().path("/elsewhere"));
    tally.refused(Request::new().method("PUT"));
    tally.refused(Request::new().method("PUT").without("Upgrade"));
    tally.refused(Request::new().without("Upgrade"));
    tally.refused(Request::new().without("Sec-WebSocket-Key"));
    tally.refused(Request::new().header("Origin", "https://evil.example"));
    tally.refused(Request::new().query("session=nonsense"));
    for (outcome, refused) in [
        ("accepted", 1.0),
        ("full", 1.0),
        ("path", 1.0),
        ("method", 2.0),
        ("upgrade", 1.0),
        ("key", 1.0),
        ("origin", 1.0),
        ("session", 1.0),
        ("draining", 0.0),
    ] {
        tally.wait_for_metric(
            &format!("tally_handshakes_total{{outcome=\"{outcome}\"}}"),
            refused,
        );
    }
}

#[test]
fn many_headers_are_refused_not_obeyed() {
    let tally = Tally::start();
    let crowded = (0..500).fold(Request::new(), |request, number| {
        request.also(&format!("X-{number}"), "x")
    });
    let answer = exchange(&tally, &crowded.bytes());
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    tally.connect();
}

#[test]
fn a_peer_that_says_nothing_is_hung_up_on_after_five_seconds() {
    let tally = Tally::start();
    let began = Instant::now();
    let answer = exchange(&tally, b"");
    assert!(answer.is_empty() || answer.contains(" 408 "), "{answer}");
    let waited = began.elapsed();
    assert!((4..8).contains(&waited.as_secs()), "{waited:?}");
}

#[test]
fn a_trickled_handshake_is_ended_after_five_seconds_and_holds_nobody_up() {
    let tally = Tally::with(&[("TALLY_WORKERS", "1")]);
    let began = Instant::now();
    let mut trickle = TcpStream::connect(tally.public).unwrap();
    trickle
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    trickle
        .write_all(b"GET /ws/chat/ HTTP/1.1\r\nX-Slow: ")
        .unwrap();
    let idle: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(tally.public).unwrap())
        .collect();
    let mut other = tally.connect();
    // Each byte would begin a new wait, if the wait were for the next byte.
    for count in 1.. {
        other.send_text("x");
        other.expect_count(count);
        let ended = match trickle.write_all(b"x") {
            Err(_) => true,
            Ok(()) => !matches!(trickle.read(&mut [0; 512]), Err(error)
                if error.kind() == std::io::ErrorKind::WouldBlock),
        };
        if ended {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "it goes on for ever"
        );
        thread::sleep(Duration::from_millis(100));
    }
    assert!(
        began.elapsed() > Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    drop(idle);
}
