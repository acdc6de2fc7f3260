//! What a server can do wrong.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A promise that was not kept. One is enough for the run to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The connection cannot be made.
    Connect,
    /// The handshake was refused, or is no handshake.
    Handshake,
    /// The handshake takes longer than it may.
    HandshakeTimeout,
    /// Bytes that are no frame, or a frame that no server may send.
    Framing,
    /// A text that the protocol does not know.
    UnknownText,
    /// A count that is not the one after the last.
    WrongCount,
    /// A count that nobody asked for.
    UnaskedCount,
    /// A message that was never answered.
    Unanswered,
    /// A total that is not the number of messages that were counted.
    WrongTotal,
    /// A connection that ended without its bye.
    NoBye,
    /// A connection that ended without a Close.
    NoClose,
    /// A Close with a code that does not fit.
    WrongCloseCode,
    /// A heartbeat that others got, and this socket did not.
    MissingBeat,
    /// The same heartbeat again, or an older one.
    RepeatedBeat,
    /// No heartbeat for longer than there may be none.
    LateBeat,
    /// A connection that ended while it was needed.
    Lost,
    /// A message that the server took back when the client had forgotten it.
    MessageLost,
    /// A message that was counted and never sent.
    MessageDuplicated,
    /// A connection that does not end, or does not come back, in time.
    Stuck,
}

impl Fault {
    pub const ALL: [Self; 19] = [
        Self::Connect,
        Self::Handshake,
        Self::HandshakeTimeout,
        Self::Framing,
        Self::UnknownText,
        Self::WrongCount,
        Self::UnaskedCount,
        Self::Unanswered,
        Self::WrongTotal,
        Self::NoBye,
        Self::NoClose,
        Self::WrongCloseCode,
        Self::MissingBeat,
        Self::RepeatedBeat,
        Self::LateBeat,
        Self::Lost,
        Self::MessageLost,
        Self::MessageDuplicated,
        Self::Stuck,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Framing => "framing",
            Self::UnknownText => "unknown_text",
            Self::WrongCount => "wrong_count",
            Self::UnaskedCount => "unasked_count",
            Self::Unanswered => "unanswered",
            Self::WrongTotal => "wrong_total",
            Self::NoBye => "no_bye",
            Self::NoClose => "no_close",
            Self::WrongCloseCode => "wrong_close_code",
            Self::MissingBeat => "missing_beat",
            Self::RepeatedBeat => "repeated_beat",
            Self::LateBeat => "late_beat",
            Self::Lost => "lost",
            Self::MessageLost => "message_lost",
            Self::MessageDuplicated => "message_duplicated",
            Self::Stuck => "stuck",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_place_and_its_name() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
            let written = serde_json::to_string(&fault).unwrap();
            assert_eq!(written, format!("\"{fault}\""));
        }
    }
}
