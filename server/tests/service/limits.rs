//! The edges of what a peer may send.

use std::time::Duration;

use crate::{
    client::{BINARY, CLOSE, PING, PONG, Request, TEXT, frame, header},
    tally::Tally,
};

#[test]
fn the_size_of_a_message_is_a_setting() {
    let tally = Tally::with(&[("TALLY_MESSAGE_BYTES_MAX", "10")]);
    let mut client = tally.connect();
    client.send_text("0123456789");
    client.expect_count(1);
    client.send(&[frame(TEXT, b"01234"), frame(0x80, b"56789")].concat());
    client.expect_count(2);
    client.send_text("0123456789a");
    client.expect_goodbye(2, 1009);
    let mut client = tally.connect();
    client.send(&[frame(TEXT, b"01234"), frame(0x80, b"56789a")].concat());
    client.expect_goodbye(0, 1009);
}

#[test]
fn the_number_of_fragments_is_a_setting() {
    let tally = Tally::with(&[("TALLY_FRAGMENTS_MAX", "2")]);
    let mut client = tally.connect();
    client.send(&[frame(TEXT, b"a"), frame(0x80, b"b")].concat());
    client.expect_count(1);
    client.send(&[frame(TEXT, b"a"), frame(0x00, b"b"), frame(0x80, b"c")].concat());
    client.expect_goodbye(1, 1009);
}

#[test]
fn empty_fragments_count_like_any_other() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send(&[frame(TEXT, b""), frame(0x00, b"").repeat(128)].concat());
    client.expect_goodbye(0, 1009);
}

#[test]
fn the_fragment_that_would_be_too_much_is_refused_at_its_header() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send(&frame(TEXT, &[b'x'; 60_000]));
    // Not a byte of its payload follows.
    client.send(&header(0x80, 6_000));
    client.expect_goodbye(0, 1009);
}

#[test]
fn pings_between_fragments_are_answered_and_cost_nothing() {
    let tally = Tally::with(&[
        ("TALLY_MESSAGE_BYTES_MAX", "10"),
        ("TALLY_FRAGMENTS_MAX", "2"),
    ]);
    let mut client = tally.connect();
    client.send(&frame(TEXT, b"01234"));
    for _ in 0..10 {
        client.send_frame(PING, b"twenty bytes of ping");
        client.expect_frame(PONG, b"twenty bytes of ping");
    }
    client.send(&frame(0x80, b"56789"));
    client.expect_count(1);
}

#[test]
fn only_messages_are_rated() {
    let tally = Tally::with(&[("TALLY_MESSAGE_RATE", "1")]);
    let mut client = tally.connect();
    for _ in 0..50 {
        client.send_frame(PING, b"");
        client.expect_frame(PONG, b"");
    }
    client.send_text("one");
    client.expect_count(1);
    client.send_text("two at once");
    client.expect_goodbye(1, 1008);
}

/// Sends the bytes on a connection of their own.
fn expect_goodbye(tally: &Tally, bytes: &[u8], code: u16) {
    let mut client = tally.connect();
    client.send(bytes);
    client.expect_text("{\"bye\":true,\"total\":0}");
    let told = format!("{bytes:x?}");
    let close = client.read_frame().expect("a Close");
    assert_eq!(
        (close.opcode, &close.payload),
        (CLOSE, &code.to_be_bytes().into()),
        "{told}"
    );
    client.send_close(code);
    client.expect_end();
}

#[test]
fn every_reserved_opcode_gets_1002() {
    let tally = Tally::start();
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        expect_goodbye(&tally, &frame(0x80 | opcode, b""), 1002);
        expect_goodbye(&tally, &frame(opcode, b""), 1002);
    }
}

#[test]
fn reserved_bits_get_1002_on_every_kind_of_frame() {
    let tally = Tally::start();
    for bit in [0x40, 0x20, 0x10] {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            expect_goodbye(&tally, &frame(0x80 | bit | opcode, b""), 1002);
        }
    }
}

#[test]
fn unmasked_frames_get_1002_whatever_their_kind() {
    let tally = Tally::start();
    // Binary is refused for what it is, one byte earlier.
    for opcode in [TEXT, CLOSE, PING, PONG] {
        expect_goodbye(&tally, &[0x80 | opcode, 0], 1002);
    }
    // The broken rule is named, not the size that comes with it.
    let huge = [&[0x80 | TEXT, 127][..], &(1u64 << 40).to_be_bytes()].concat();
    expect_goodbye(&tally, &huge, 1002);
}

#[test]
fn a_control_frame_that_declares_a_terabyte_gets_1002() {
    let tally = Tally::start();
    for opcode in [CLOSE, PING, PONG] {
        expect_goodbye(&tally, &header(0x80 | opcode, 1 << 40), 1002);
        expect_goodbye(&tally, &frame(opcode, b""), 1002);
    }
}

#[test]
fn every_code_a_client_may_send_comes_back() {
    let tally = Tally::start();
    let codes = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4001, 4999,
    ];
    for code in codes {
        let mut client = tally.connect();
        client.send_frame(
            CLOSE,
            &[&u16::to_be_bytes(code), "schön".as_bytes()].concat(),
        );
        client.expect_text("{\"bye\":true,\"total\":0}");
        let close = client.read_frame().expect("a Close");
        assert_eq!(
            (close.opcode, &close.payload[..2]),
            (CLOSE, &code.to_be_bytes()[..])
        );
        client.expect_end();
    }
}

#[test]
fn no_code_that_must_not_be_sent_comes_back() {
    let tally = Tally::start();
    let codes = [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
    ];
    for code in codes {
        expect_goodbye(&tally, &frame(0x80 | CLOSE, &u16::to_be_bytes(code)), 1002);
    }
}

#[test]
fn a_refusal_in_the_middle_of_a_message_takes_back_nothing() {
    let tally = Tally::start();
    let mut client = tally.connect();
    let bytes = [
        frame(0x80 | TEXT, b"x").repeat(500),
        frame(TEXT, b"begun"),
        frame(0xc0, b"broken"),
        frame(0x80 | TEXT, b"late").repeat(500),
    ];
    client.send(&bytes.concat());
    for count in 1..=500 {
        client.expect_count(count);
    }
    client.expect_goodbye(500, 1002);
    tally.resume(&client.session()).assert_session(true, 500);
    tally.wait_for_metric("tally_messages_total", 500.0);
}

#[test]
fn a_close_in_the_middle_of_a_message_is_a_close() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send(&frame(TEXT, b"begun"));
    client.send_close(1000);
    client.expect_text("{\"bye\":true,\"total\":0}");
    client.expect_frame(CLOSE, &1000u16.to_be_bytes());
    client.expect_end();
}

#[test]
fn what_follows_a_refused_frame_does_not_eat_the_goodbye() {
    let tally = Tally::start();
    let mut client = tally.connect();
    client.send(&header(0x80 | TEXT, 1 << 40));
    // It arrives while the goodbye is on its way; a reset would take that along.
    for _ in 0..20 {
        client.send(&[0; 4096]);
        std::thread::sleep(Duration::from_millis(5));
    }
    client.expect_text("{\"bye\":true,\"total\":0}");
    client.expect_frame(CLOSE, &1009u16.to_be_bytes());
}

#[test]
fn half_messages_of_many_peers_take_no_more_than_they_sent() {
    const PEERS: usize = 300;
    const SENT: usize = 30_000;
    let tally = Tally::start();
    let before = tally.rss();
    let peers: Vec<_> = (0..PEERS)
        .map(|_| {
            let mut client = tally.connect_with(Request::new());
            let whole = frame(0x80 | TEXT, &[b'x'; 65536]);
            client.send(&whole[..SENT]);
            client
        })
        .collect();
    // Whatever came before it has been read when the operator hears of all of them.
    tally.wait_for_metric("tally_active_connections", PEERS as f64);
    let grown = tally.rss().saturating_sub(before);
    let bound = 3 * PEERS * SENT + (4 << 20);
    assert!(grown < bound as u64, "grown by {grown} bytes");
    drop(peers);
}
