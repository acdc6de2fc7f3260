//! The frames of RFC 6455 as a client sees them; pure.

use crate::fault::Fault;

pub const TEXT: u8 = 0x1;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// Close codes of RFC 6455 section 7.4.1.
pub const NORMAL: u16 = 1000;
pub const GOING_AWAY: u16 = 1001;

/// One mask for all frames: legal, and a frame is then made once for all sockets. Not zero, or
/// the server's unmasking would be cheaper than it is in life.
const MASK: [u8; 4] = [0x1b, 0x2c, 0x3d, 0x4e];

/// Longer than anything that the protocol knows, far shorter than the buffer that it is read into.
const PAYLOAD_BYTES_MAX: usize = 4096;

/// A whole frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
}

/// The first frame of the bytes and how many of them it takes; `None` where it has not come whole.
///
/// # Errors
/// What comes is no frame that a server may send to somebody who negotiated no extension.
pub fn take(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Fault> {
    let [first, second, ..] = *bytes else {
        return Ok(None);
    };
    // Whole, no reserved bit; and not masked. The service never fragments.
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(Fault::Framing);
    }
    let (start, length) = match (second, bytes) {
        (126, [_, _, high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        (126, _) => return Ok(None),
        (127, _) => return Err(Fault::Framing),
        (short, _) => (2, usize::from(short)),
    };
    if length > PAYLOAD_BYTES_MAX {
        return Err(Fault::Framing);
    }
    Ok(bytes.get(start..start + length).map(|payload| {
        let opcode = first & 0x0f;
        (Frame { opcode, payload }, start + length)
    }))
}

/// A masked frame.
///
/// # Panics
/// The payload is longer than 65,535 bytes; the options allow no such thing.
pub fn make(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match u16::try_from(payload.len()).expect("options bound the payload") {
        length @ 0..=125 => bytes.push(0x80 | length.to_be_bytes()[1]),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The code of a Close frame; 1005 stands for none (RFC 6455 section 7.1.5).
pub fn close_code(payload: &[u8]) -> u16 {
    match payload {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 1005,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_one_by_one_and_only_whole() {
        let bytes = [0x81, 2, b'h', b'i', 0x88, 2, 3, 0xe9];
        let (text, length) = take(&bytes).unwrap().unwrap();
        assert_eq!((text.opcode, text.payload), (TEXT, b"hi".as_slice()));
        let (close, _) = take(&bytes[length..]).unwrap().unwrap();
        assert_eq!((close.opcode, close_code(close.payload)), (CLOSE, 1001));
        for cut in 0..length {
            assert_eq!(take(&bytes[..cut]), Ok(None), "{cut} bytes");
        }
    }

    #[test]
    fn a_longer_frame_has_its_length_in_two_more_bytes() {
        let bytes = [vec![0x81, 126, 0, 200], vec![b'x'; 200]].concat();
        let (frame, length) = take(&bytes).unwrap().unwrap();
        assert_eq!((frame.payload.len(), length), (200, 204));
        assert_eq!(take(&bytes[..3]), Ok(None));
    }

    #[test]
    fn what_no_server_may_send_is_a_fault() {
        let masked = make(TEXT, b"hi");
        for bytes in [&masked[..], &[0xc1, 0], &[0x01, 0], &[0x81, 127]] {
            assert_eq!(take(bytes), Err(Fault::Framing));
        }
    }

    #[test]
    fn a_made_frame_is_masked() {
        let bytes = make(TEXT, b"hello");
        assert_eq!(bytes[..2], [0x81, 0x80 | 5]);
        let unmasked = bytes[6..].iter().zip(MASK.iter().cycle());
        assert!(unmasked.map(|(byte, mask)| byte ^ mask).eq(*b"hello"));
        assert_eq!(make(TEXT, &[0; 200])[..4], [0x81, 0x80 | 126, 0, 200]);
    }

    #[test]
    fn a_close_without_a_code_says_so() {
        assert_eq!(close_code(&[]), 1005);
    }
}
