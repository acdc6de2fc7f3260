//! The scanner against arbitrary bytes and arbitrary cuts: it must never panic, never let through
//! more than was agreed, and judge alike however the bytes arrive.

use proptest::prelude::*;
use tally_server::{
    frame::{Limits, Scanner},
    protocol::Goodbye,
};

const LIMITS: Limits = Limits {
    message_bytes_max: 1000,
    fragments_max: 4,
    binary: false,
};

/// Feeds the bytes in pieces that end at the cuts; returns the bytes let through, the frames among
/// them, and the verdict.
fn feed(bytes: &[u8], cuts: &[usize]) -> (usize, usize, Option<Goodbye>) {
    let mut scanner = Scanner::default();
    let (mut passed, mut frames) = (0, 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    for end in ends {
        while passed < end {
            match scanner.scan(&bytes[passed..end], &LIMITS) {
                Ok(scanned) => {
                    assert!(scanned.length > 0, "no progress");
                    passed += scanned.length;
                    frames += usize::from(scanned.complete);
                }
                Err(refused) => {
                    assert!(refused.consumed <= end - passed);
                    scanner.skim(&bytes[passed + refused.consumed..]);
                    return (passed, frames, Some(refused.goodbye));
                }
            }
        }
    }
    (passed, frames, None)
}

fn frame(first: u8, declared: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match declared {
        0..=125 => frame.push(0x80 | declared as u8),
        126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((declared as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend(declared.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Mostly frames with plausible headers, so that the scanner gets somewhere.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        Just(0x81),
        Just(0x01),
        Just(0x00),
        Just(0x80),
        Just(0x89),
        any::<u8>()
    ];
    let one = (first, prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(first, payload)| frame(first, payload.len() as u64, &payload));
    prop::collection::vec(one, 0..8).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_judged_alike_however_they_are_cut(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), frames()],
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let (_, whole_frames, whole) = feed(&bytes, &[]);
        let (_, cut_frames, cut) = feed(&bytes, &cuts);
        let every: Vec<usize> = (0..bytes.len()).collect();
        let (_, byte_frames, byte) = feed(&bytes, &every);
        prop_assert_eq!((whole_frames, whole), (cut_frames, cut));
        prop_assert_eq!((whole_frames, whole), (byte_frames, byte));
    }

    #[test]
    fn an_oversize_declaration_is_refused_before_any_payload(declared in 1001u64..=u64::MAX) {
        let bytes = frame(0x81, declared, &[]);
        let expected = if declared > i64::MAX as u64 { Goodbye::Protocol } else { Goodbye::TooBig };
        prop_assert_eq!(feed(&bytes, &[]).2, Some(expected));
    }
}

#[test]
fn a_close_is_found_behind_whatever_was_refused() {
    let mut scanner = Scanner::default();
    let mut bytes = frame(0x82, 3, b"abc");
    bytes.extend(frame(0x88, 2, &1000u16.to_be_bytes()));
    let refused = scanner.scan(&bytes, &LIMITS).expect_err("binary");
    assert_eq!(refused.goodbye, Goodbye::Unsupported);
    scanner.skim(&bytes[refused.consumed..]);
    assert!(scanner.close_seen());
}

/// Once crashed a parser of this kind: eight bytes of length with the highest bit set.
#[test]
fn a_length_with_its_highest_bit_set_breaks_the_protocol() {
    let bytes = [
        0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xeb, 0x0e, 0x8f,
    ];
    assert_eq!(feed(&bytes, &[]).2, Some(Goodbye::Protocol));
}

/// Found by the property above: a header that is refused with its last byte was never completed.
#[test]
fn skimming_goes_on_behind_a_header_that_was_refused_whole() {
    let mut scanner = Scanner::default();
    let unmasked_close = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let refused = scanner
        .scan(&unmasked_close, &LIMITS)
        .expect_err("unmasked");
    assert_eq!(refused.goodbye, Goodbye::Protocol);
    scanner.skim(&unmasked_close[refused.consumed..]);
    assert!(scanner.close_seen());
}
