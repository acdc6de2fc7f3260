//! What bad input gets, row by row.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    client::{BINARY, CLOSE, Client, PING, Request, TEXT, frame, header},
    tally::Tally,
};

/// Counts one message, then sends the bytes; expects the right total and the code.
fn expect_closed(bytes: &[u8], code: u16) {
    let tally = Tally::start();
    let mut client = tally.connect();
    let mut all = frame(0x80 | TEXT, b"one");
    all.extend(bytes);
    client.send(&all);
    client.expect_count(1);
    client.expect_goodbye(1, code);
}

#[test]
fn another_method_gets_405() {
    let tally = Tally::start();
    for method in ["POST", "PUT", "DELETE"] {
        let with = tally.refused(Request::new().method(method));
        let without = tally.refused(Request::new().method(method).without("Upgrade"));
        for refused in [with, without] {
            assert_eq!((refused.status, refused.header("allow")), (405, "GET"));
        }
    }
}

#[test]
fn a_plain_get_or_a_wrong_version_gets_426() {
    let tally = Tally::start();
    let wrong = [
        Request::new().without("Upgrade"),
        Request::new().header("Upgrade", "h2c"),
        Request::new().header("Connection", "keep-alive"),
        Request::new().without("Sec-WebSocket-Version"),
        Request::new().header("Sec-WebSocket-Version", "8"),
        Request::new().header("Sec-WebSocket-Version", "14"),
    ];
    for request in wrong {
        let refused = tally.refused(request);
        assert_eq!(refused.status, 426);
        assert_eq!(refused.header("upgrade"), "websocket");
        assert_eq!(refused.header("sec-websocket-version"), "13");
    }
}

#[test]
fn a_missing_or_malformed_key_gets_400() {
    let tally = Tally::start();
    let good = "dGhlIHNhbXBsZSBub25jZQ==";
    let wrong = [
        Request::new().without("Sec-WebSocket-Key"),
        Request::new().header("Sec-WebSocket-Key", ""),
        Request::new().header("Sec-WebSocket-Key", "c2hvcnQ="),
        Request::new().header("Sec-WebSocket-Key", "!!!!IHNhbXBsZSBub25jZQ=="),
        Request::new().also("Sec-WebSocket-Key", good),
    ];
    for request in wrong {
        assert_eq!(tally.refused(request).status, 400);
    }
}

#[test]
fn a_foreign_origin_gets_403() {
    let tally = Tally::with(&[("TALLY_ALLOWED_ORIGINS", "https://ally.example")]);
    for foreign in [
        "https://evil.example",
        "null",
        "http://tally.test.evil.example",
    ] {
        let refused = tally.refused(Request::new().header("Origin", foreign));
        assert_eq!(refused.status, 403, "{foreign}");
    }
    for welcome in [
        "https://tally.test",
        "http://TALLY.test",
        "https://ally.example",
    ] {
        tally.connect_with(Request::new().header("Origin", welcome));
    }
}

#[test]
fn a_full_house_gets_503_and_a_place_comes_free() {
    let tally = Tally::with(&[("TALLY_CONNECTIONS_MAX", "2")]);
    let (first, _second) = (tally.connect(), tally.connect());
    let refused = tally.refused(Request::new());
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(tally.get(tally.operator, "/healthz").0, 200);
    drop(first);
    tally.wait_for_metric("tally_active_connections", 1.0);
    tally.connect();
}

#[test]
fn a_session_that_is_no_uuid_gets_400_with_the_parameters_name() {
    let tally = Tally::start();
    let id = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let wrong = [
        "session=".to_owned(),
        "session".to_owned(),
        "session=nonsense".to_owned(),
        format!("session={}", id.replace('-', "")),
        format!("session={{{id}}}"),
        format!("session={id}&session={id}"),
    ];
    for query in wrong {
        let refused = tally.refused(Request::new().query(&query));
        assert_eq!(refused.status, 400, "{query}");
        assert_eq!(refused.header("content-type"), "application/problem+json");
        let problem: serde_json::Value = serde_json::from_str(&refused.body).unwrap();
        assert_eq!(problem["parameter"], "session");
    }
}

#[test]
fn a_handshake_is_checked_in_its_order() {
    let tally = Tally::with(&[("TALLY_CONNECTIONS_MAX", "1")]);
    let _only = tally.connect();
    let all_wrong = || {
        Request::new()
            .query("session=nonsense")
            .method("POST")
            .header("Sec-WebSocket-Version", "8")
            .header("Sec-WebSocket-Key", "short")
            .header("Origin", "https://evil.example")
    };
    let right_method = || all_wrong().method("GET");
    let right_version = || right_method().header("Sec-WebSocket-Version", "13");
    let right_key = || right_version().header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let right_origin = || right_key().without("Origin");
    let answers = [
        all_wrong(),
        right_method(),
        right_version(),
        right_key(),
        right_origin(),
    ]
    .map(|request| tally.refused(request).status);
    assert_eq!(answers, [405, 426, 400, 403, 503]);
}

#[test]
fn a_websocket_elsewhere_gets_404() {
    let tally = Tally::start();
    assert_eq!(tally.refused(Request::new().path("/elsewhere")).status, 404);
}

#[test]
fn every_refusal_carries_the_request_id_and_the_colour() {
    let tally = Tally::start();
    let requests = [
        Request::new().method("POST"),
        Request::new().without("Upgrade"),
        Request::new().without("Sec-WebSocket-Key"),
        Request::new().path("/elsewhere"),
        Request::new().path("/elsewhere").without("Upgrade"),
    ];
    for request in requests {
        let refused = tally.refused(request.header("X-Request-Id", "mine-1"));
        assert_eq!(refused.header("x-request-id"), "mine-1");
        assert_eq!(refused.header("x-colour"), "blue");
    }
    let minted = tally.refused(
        Request::new()
            .method("POST")
            .header("X-Request-Id", "not mine"),
    );
    assert_eq!(minted.header("x-request-id").len(), 36);
}

#[test]
fn a_slow_handshake_is_ended_after_five_seconds() {
    let tally = Tally::start();
    let mut stream = TcpStream::connect(tally.public).unwrap();
    stream
        .write_all(b"GET /ws/chat/ HTTP/1.1\r\nHost: x\r\n")
        .unwrap();
    let began = Instant::now();
    let mut answer = String::new();
    let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
    assert!(answer.is_empty() || answer.contains(" 408 "), "{answer}");
    let waited = began.elapsed();
    assert!((4..8).contains(&waited.as_secs()), "{waited:?}");
}

#[test]
fn endless_headers_get_431() {
    let tally = Tally::start();
    let refused = tally.refused(Request::new().header("X-Long", &"x".repeat(200_000)));
    assert_eq!(refused.status, 431);
}

#[test]
fn a_binary_message_gets_1003() {
    expect_closed(&frame(0x80 | BINARY, b"\x01"), 1003);
    expect_closed(&frame(BINARY, b"\x01"), 1003);
}

#[test]
fn text_that_is_no_utf8_gets_1007() {
    expect_closed(&frame(0x80 | TEXT, b"\xff"), 1007);
    expect_closed(&frame(0x80 | TEXT, b"cut \xce"), 1007);
}

#[test]
fn text_that_is_no_utf8_over_fragments_gets_1007() {
    expect_closed(&[frame(TEXT, b"\xce"), frame(0x80, b"x")].concat(), 1007);
    expect_closed(&[frame(TEXT, b"x"), frame(0x80, b"\xce")].concat(), 1007);
    // No later fragment can mend this one, so it is refused at once.
    expect_closed(&frame(TEXT, b"\xed\xa0\x80"), 1007);
}

#[test]
fn a_close_reason_that_is_no_utf8_gets_1007() {
    expect_closed(&frame(0x80 | CLOSE, b"\x03\xe8\xff"), 1007);
}

#[test]
fn an_oversize_frame_gets_1009_as_soon_as_its_header_says_so() {
    for length in [65537, 1 << 20, 1 << 40, i64::MAX as u64] {
        expect_closed(&header(0x80 | TEXT, length), 1009);
    }
}

#[test]
fn a_declared_terabyte_does_not_fill_the_memory() {
    const SENT: usize = 64 << 20;
    let tally = Tally::start();
    let mut client = tally.connect();
    let before = tally.rss();
    client.send(&header(0x80 | TEXT, 1 << 40));
    let chunk = vec![0; 1 << 16];
    let mut sent = 0;
    while sent < SENT {
        match client.stream.write(&chunk) {
            Ok(length) => sent += length,
            // It was cut off, as it may be.
            Err(_) => break,
        }
    }
    let grown = tally.rss().saturating_sub(before);
    assert!(grown < 4 << 20, "grown by {grown} bytes for {sent} sent");
    tally.wait_for_metric("tally_errors_total{kind=\"too_big\"}", 1.0);
}

#[test]
fn fragments_that_add_up_get_1009() {
    let half = frame(TEXT, &[b'x'; 40_000]);
    expect_closed(&[half, frame(0x80, &[b'x'; 40_000])].concat(), 1009);
}

#[test]
fn more_than_128_fragments_get_1009() {
    let fragments = [frame(TEXT, b"x"), frame(0x00, b"x").repeat(128)].concat();
    expect_closed(&fragments, 1009);
    let tally = Tally::start();
    let mut client = tally.connect();
    let most = [
        frame(TEXT, b"x"),
        frame(0x00, b"").repeat(126),
        frame(0x80, b""),
    ]
    .concat();
    client.send(&most);
    client.expect_count(1);
}

#[test]
fn broken_framing_gets_1002() {
    let unmasked = [0x81, 0x01, b'x'];
    let length_with_highest_bit = header(0x80 | TEXT, u64::MAX);
    for bytes in [
        unmasked.to_vec(),
        frame(0xc0 | TEXT, b"x"),
        frame(0xa0 | TEXT, b"x"),
        frame(0x90 | TEXT, b"x"),
        frame(0x83, b"x"),
        frame(0x8b, b"x"),
        frame(PING, b"fragmented"),
        header(0x80 | PING, 126),
        frame(0x80, b"continues nothing"),
        [frame(TEXT, b"begun"), frame(0x80 | TEXT, b"anew")].concat(),
        length_with_highest_bit,
    ] {
        expect_closed(&bytes, 1002);
    }
}

#[test]
fn a_malformed_close_gets_1002() {
    for payload in [
        b"\x03".as_slice(),
        b"\x03\xec",
        b"\x03\xe7",
        b"\x07\xd0",
        b"\x00\x00",
    ] {
        expect_closed(&frame(0x80 | CLOSE, payload), 1002);
    }
}

#[test]
fn more_messages_than_the_rate_get_1008() {
    let tally = Tally::with(&[("TALLY_MESSAGE_RATE", "5")]);
    let mut client = tally.connect();
    client.send(&frame(0x80 | TEXT, b"x").repeat(6));
    for count in 1..=5 {
        client.expect_count(count);
    }
    client.expect_goodbye(5, 1008);
}

#[test]
fn a_refused_frame_does_not_cost_the_session() {
    let tally = Tally::start();
    let mut client: Client = tally.connect();
    client.send_text("one");
    client.expect_count(1);
    client.send(&header(0x80 | TEXT, 1 << 40));
    client.expect_goodbye(1, 1009);
    tally.resume(&client.session()).assert_session(true, 1);
    tally.wait_for_metric("tally_errors_total{kind=\"too_big\"}", 1.0);
    assert!(tally.started_in < Duration::from_secs(3));
}
