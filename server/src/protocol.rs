//! What goes over the wire: the four JSON texts, and why a server says goodbye.

use actix_http::ws::{CloseCode, CloseReason};
use bytestring::ByteString;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use uuid::Uuid;

/// The first frame of a connection that asked for it with `?hello=1`: browsers cannot read the
/// headers of a handshake.
#[derive(Serialize)]
pub struct Hello<'a> {
    pub session: Uuid,
    pub resumed: bool,
    pub count: u64,
    pub colour: &'a str,
}

impl Hello<'_> {
    pub fn to_text(&self) -> ByteString {
        serde_json::to_string(self)
            .expect("a struct of plain fields serialises")
            .into()
    }
}

/// `{"count":n}`: acknowledges the n-th message of a session.
pub fn count_text(count: u64) -> ByteString {
    format!("{{\"count\":{count}}}").into()
}

/// `{"bye":true,"total":n}`: the last text of a connection; nothing is counted after it.
pub fn bye_text(total: u64) -> ByteString {
    format!("{{\"bye\":true,\"total\":{total}}}").into()
}

/// `{"ts":"…"}`: RFC 3339, UTC, milliseconds.
pub fn heartbeat_text(now: DateTime<Utc>) -> ByteString {
    let ts = now.to_rfc3339_opts(SecondsFormat::Millis, true);
    format!("{{\"ts\":\"{ts}\"}}").into()
}

/// Why the server ends a connection politely. Each reason has one close code
/// (RFC 6455 section 7.4.1; 4001 is from the private range of section 7.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// The process is going away.
    Shutdown,
    /// The peer broke the framing rules.
    Protocol,
    /// A kind of message that this service does not take.
    Unsupported,
    /// Text that is no UTF-8.
    InvalidText,
    /// More messages than the rate limit allows.
    TooFast,
    /// A frame, a message or a number of fragments over the limit.
    TooBig,
    /// The session goes on over another connection.
    TakenOver,
}

impl Goodbye {
    pub const ALL: [Self; 7] = [
        Self::Shutdown,
        Self::Protocol,
        Self::Unsupported,
        Self::InvalidText,
        Self::TooFast,
        Self::TooBig,
        Self::TakenOver,
    ];

    pub fn code(self) -> u16 {
        match self {
            Self::Shutdown => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::InvalidText => 1007,
            Self::TooFast => 1008,
            Self::TooBig => 1009,
            Self::TakenOver => 4001,
        }
    }

    /// The name that logs and metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Protocol => "protocol",
            Self::Unsupported => "unsupported",
            Self::InvalidText => "invalid_text",
            Self::TooFast => "too_fast",
            Self::TooBig => "too_big",
            Self::TakenOver => "taken_over",
        }
    }

    /// Whether the peer did something wrong.
    pub fn is_error(self) -> bool {
        !matches!(self, Self::Shutdown | Self::TakenOver)
    }

    pub fn close_reason(self) -> CloseReason {
        CloseReason::from(CloseCode::from(self.code()))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn texts_are_compact_and_have_exactly_their_keys() {
        assert_eq!(count_text(7), "{\"count\":7}");
        assert_eq!(bye_text(7), "{\"bye\":true,\"total\":7}");
        let beat = Utc.with_ymd_and_hms(2026, 11, 23, 8, 0, 0).unwrap();
        assert_eq!(
            heartbeat_text(beat),
            "{\"ts\":\"2026-11-23T08:00:00.000Z\"}"
        );
        let hello = Hello {
            session: Uuid::nil(),
            resumed: true,
            count: 3,
            colour: "green",
        };
        assert_eq!(
            hello.to_text(),
            "{\"session\":\"00000000-0000-0000-0000-000000000000\",\
             \"resumed\":true,\"count\":3,\"colour\":\"green\"}"
        );
    }

    #[test]
    fn each_goodbye_has_a_code_and_a_name_of_its_own() {
        for (index, one) in Goodbye::ALL.iter().enumerate() {
            for other in &Goodbye::ALL[index + 1..] {
                assert_ne!(one.code(), other.code());
                assert_ne!(one.name(), other.name());
            }
        }
    }
}
