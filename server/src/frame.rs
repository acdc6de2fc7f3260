//! Reads frame headers as they arrive and judges them before anything is buffered.
//!
//! actix-http compares a frame with its limit only once the whole frame is in memory
//! (3.20.0, `ws/frame.rs`), so a peer that declares 2^40 bytes fills the machine. This scanner
//! stands in front of that codec, knows nothing of sockets, and refuses at the header.

use crate::protocol::Goodbye;

/// Two bytes, eight of extended length, four of masking key (RFC 6455 section 5.2).
const HEADER_BYTES_MAX: usize = 14;

/// A control frame's payload fits the 7-bit length (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// What a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Payload bytes of a message, over all its fragments.
    pub message_bytes_max: usize,
    /// Frames of one message.
    pub fragments_max: usize,
    /// Whether binary messages are taken at all.
    pub binary: bool,
}

/// What a run of bytes turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// How many of the bytes belong to the current frame.
    pub length: usize,
    /// Whether the frame ends with them.
    pub complete: bool,
}

/// The place in the stream of frames, and in the message they make up.
#[derive(Debug, Default)]
pub struct Scanner {
    header: [u8; HEADER_BYTES_MAX],
    header_length: u8,
    /// Payload bytes of the current frame still to come; meaningless inside a header.
    payload_left: u64,
    in_payload: bool,
    /// The fragmented message in progress.
    message: Option<Message>,
    /// The payload of a Close frame, which the codec cannot judge (it reports bad UTF-8 and bad
    /// codes alike).
    close: Vec<u8>,
    close_seen: bool,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    bytes: u64,
    fragments: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn parse(first: u8) -> Option<Self> {
        match first & 0x0f {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl Scanner {
    /// Takes bytes up to the end of the current frame.
    ///
    /// # Errors
    /// The goodbye that the frame deserves. The offending header is then consumed, so that
    /// [`Scanner::skim`] can go on behind it with the rest; `consumed` tells how far.
    pub fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Scanned, Refused> {
        let mut length = 0;
        if !self.in_payload {
            while length < bytes.len() && !self.header_complete() {
                self.push_header(bytes[length]);
                length += 1;
                self.judge(limits).map_err(|goodbye| Refused {
                    goodbye,
                    consumed: length,
                })?;
            }
            if !self.header_complete() {
                return Ok(Scanned {
                    length,
                    complete: false,
                });
            }
            self.begin_payload();
        }
        let start = length;
        length += self.take_payload(bytes.len() - start);
        if self.opcode() == Some(Opcode::Close) {
            self.close.extend_from_slice(&bytes[start..length]);
        }
        let complete = self.payload_left == 0;
        if complete {
            self.end_frame().map_err(|goodbye| Refused {
                goodbye,
                consumed: length,
            })?;
        }
        Ok(Scanned { length, complete })
    }

    /// Follows the frames without judging them, to find the Close that answers ours.
    pub fn skim(&mut self, mut bytes: &[u8]) {
        loop {
            if !self.in_payload {
                // The refused header may be complete already.
                if !self.header_complete() {
                    let Some((first, rest)) = bytes.split_first() else {
                        return;
                    };
                    self.push_header(*first);
                    bytes = rest;
                    continue;
                }
                self.begin_payload();
            }
            bytes = &bytes[self.take_payload(bytes.len())..];
            if self.payload_left > 0 {
                return;
            }
            self.close_seen |= self.opcode() == Some(Opcode::Close);
            self.header_length = 0;
            self.in_payload = false;
        }
    }

    /// Whether a whole Close frame has come by.
    pub fn close_seen(&self) -> bool {
        self.close_seen
    }

    fn opcode(&self) -> Option<Opcode> {
        Opcode::parse(self.header[0])
    }

    fn push_header(&mut self, byte: u8) {
        self.header[usize::from(self.header_length)] = byte;
        self.header_length += 1;
    }

    /// Bytes of extended payload length behind the first two.
    fn extended_bytes(&self) -> usize {
        match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn header_complete(&self) -> bool {
        let masked = self.header[1] & 0x80 != 0;
        let mask_bytes = if masked { 4 } else { 0 };
        self.header_length >= 2
            && usize::from(self.header_length) == 2 + self.extended_bytes() + mask_bytes
    }

    /// The declared payload length, once the header has reached it.
    fn declared(&self) -> Option<u64> {
        let extended = self.extended_bytes();
        if usize::from(self.header_length) < 2 + extended {
            return None;
        }
        let field = &self.header[2..2 + extended];
        Some(match extended {
            0 => u64::from(self.header[1] & 0x7f),
            _ => field
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        })
    }

    /// Judges the header as far as it has come; called after each of its bytes.
    fn judge(&mut self, limits: &Limits) -> Result<(), Goodbye> {
        match usize::from(self.header_length) {
            1 => self.judge_first(limits),
            2 => {
                self.judge_second()?;
                self.judge_length(limits)
            }
            n if n == 2 + self.extended_bytes() => self.judge_length(limits),
            _ => Ok(()),
        }
    }

    fn judge_first(&self, limits: &Limits) -> Result<(), Goodbye> {
        let first = self.header[0];
        let finished = first & 0x80 != 0;
        let reserved_bits = first & 0x70 != 0;
        let opcode = self.opcode().ok_or(Goodbye::Protocol)?;
        let misplaced = match opcode {
            Opcode::Continuation => self.message.is_none(),
            Opcode::Text | Opcode::Binary => self.message.is_some(),
            Opcode::Close | Opcode::Ping | Opcode::Pong => !finished,
        };
        if reserved_bits || misplaced {
            return Err(Goodbye::Protocol);
        }
        if opcode == Opcode::Binary && !limits.binary {
            return Err(Goodbye::Unsupported);
        }
        Ok(())
    }

    fn judge_second(&self) -> Result<(), Goodbye> {
        let masked = self.header[1] & 0x80 != 0;
        let control = self.opcode().is_some_and(Opcode::is_control);
        let too_long = usize::from(self.header[1] & 0x7f) > CONTROL_BYTES_MAX;
        if !masked || (control && too_long) {
            return Err(Goodbye::Protocol);
        }
        Ok(())
    }

    fn judge_length(&mut self, limits: &Limits) -> Result<(), Goodbye> {
        let Some(declared) = self.declared() else {
            return Ok(());
        };
        if declared > i64::MAX as u64 {
            return Err(Goodbye::Protocol);
        }
        if self.opcode().is_some_and(Opcode::is_control) {
            return Ok(());
        }
        let before = self.message.unwrap_or(Message {
            bytes: 0,
            fragments: 0,
        });
        let message = Message {
            bytes: before.bytes.saturating_add(declared),
            fragments: before.fragments + 1,
        };
        if message.bytes > limits.message_bytes_max as u64
            || message.fragments > limits.fragments_max
        {
            return Err(Goodbye::TooBig);
        }
        self.message = Some(message);
        Ok(())
    }

    fn begin_payload(&mut self) {
        self.payload_left = self.declared().unwrap_or(0);
        self.in_payload = true;
    }

    fn take_payload(&mut self, available: usize) -> usize {
        let taken = self.payload_left.min(available as u64);
        self.payload_left -= taken;
        usize::try_from(taken).expect("no more than what is available")
    }

    fn end_frame(&mut self) -> Result<(), Goodbye> {
        let finished = self.header[0] & 0x80 != 0;
        let opcode = self.opcode();
        self.header_length = 0;
        self.in_payload = false;
        match opcode {
            Some(Opcode::Close) => {
                self.close_seen = true;
                self.judge_close()
            }
            Some(Opcode::Ping | Opcode::Pong) => Ok(()),
            _ => {
                if finished {
                    self.message = None;
                }
                Ok(())
            }
        }
    }

    /// A Close is empty, or a permitted code and a UTF-8 reason (RFC 6455 sections 5.5.1, 7.4).
    fn judge_close(&mut self) -> Result<(), Goodbye> {
        let mask = &self.header[2..6];
        let mut payload = std::mem::take(&mut self.close);
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[index % 4];
        }
        let [high, low, reason @ ..] = payload.as_slice() else {
            return if payload.is_empty() {
                Ok(())
            } else {
                Err(Goodbye::Protocol)
            };
        };
        match u16::from_be_bytes([*high, *low]) {
            1000..=1003 | 1007..=1014 | 3000..=4999 => match std::str::from_utf8(reason) {
                Ok(_) => Ok(()),
                Err(_) => Err(Goodbye::InvalidText),
            },
            _ => Err(Goodbye::Protocol),
        }
    }
}

/// A frame that was refused, and how many of the bytes were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub goodbye: Goodbye,
    pub consumed: usize,
}
