//! The handshake, asked and answered; pure.

use crate::target::Target;

/// The key of RFC 6455 section 1.3 with its answer: one key for all connections, so that neither
/// has to be computed. A server cannot tell.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Longer than any head that a server or a proxy in between sends.
pub const HEAD_BYTES_MAX: usize = 4096;

/// A hyphenated UUID.
pub type SessionId = [u8; 36];

/// What the answer to a handshake says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Whether it is a right answer to the key.
    pub accepted: bool,
    pub session: Option<SessionId>,
    pub resumed: bool,
    pub count: u64,
    /// Empty where the server has none.
    pub colour: String,
}

impl Answer {
    pub fn opens(&self) -> bool {
        self.status == 101 && self.accepted
    }
}

/// The request, for a session that goes on where there was one.
pub fn request(target: &Target, session: Option<&SessionId>) -> Vec<u8> {
    let mut path = target.path.clone();
    if let Some(session) = session {
        path.push(if path.contains('?') { '&' } else { '?' });
        path += "session=";
        path += &String::from_utf8_lossy(session);
    }
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
        target.address
    )
    .into_bytes()
}

/// The answer and how many bytes its head takes; `None` where it has not come whole.
///
/// # Errors
/// What comes is no HTTP, or has no end.
pub fn answer(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX {
            Err("a head without end".into())
        } else {
            Ok(None)
        };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(status).ok_or("no HTTP")?;
    let mut answer = Answer {
        status,
        ..Answer::default()
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        answer.take_in(name, value.trim());
    }
    Ok(Some((answer, end + 4)))
}

fn status(line: &str) -> Option<u16> {
    line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

impl Answer {
    fn take_in(&mut self, name: &str, value: &str) {
        if name.eq_ignore_ascii_case("sec-websocket-accept") {
            self.accepted = value == ACCEPT;
        } else if name.eq_ignore_ascii_case("x-session-id") {
            self.session = value.as_bytes().try_into().ok();
        } else if name.eq_ignore_ascii_case("x-session-resumed") {
            self.resumed = value == "true";
        } else if name.eq_ignore_ascii_case("x-session-count") {
            self.count = value.parse().unwrap_or(u64::MAX);
        } else if name.eq_ignore_ascii_case("x-colour") {
            value.clone_into(&mut self.colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
        X-Session-Id: 6f1c0000-0000-0000-0000-000000000000\r\nX-Session-Resumed: true\r\n\
        x-session-count: 7\r\nX-Colour: green\r\n\r\n";

    #[test]
    fn an_answer_is_read_with_what_follows_left_alone() {
        let bytes = [HEAD.as_bytes(), &[0x81, 0]].concat();
        let (answer, length) = answer(&bytes).unwrap().unwrap();
        assert_eq!(length, HEAD.len());
        assert!(answer.opens() && answer.resumed);
        assert_eq!((answer.count, answer.colour.as_str()), (7, "green"));
        assert!(answer.session.unwrap().starts_with(b"6f1c"));
    }

    #[test]
    fn half_an_answer_is_waited_for_but_not_for_ever() {
        assert_eq!(answer(&HEAD.as_bytes()[..100]), Ok(None));
        assert!(answer(&[b'x'; HEAD_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_refusal_and_a_wrong_key_open_nothing() {
        let refusal = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
        let (refusal, _) = answer(refusal).unwrap().unwrap();
        assert_eq!((refusal.status, refusal.opens()), (503, false));
        let wrong = HEAD.replace("s3pP", "xxxx");
        assert!(!answer(wrong.as_bytes()).unwrap().unwrap().0.opens());
        assert!(answer(b"SSH-2.0\r\n\r\n").is_err());
    }

    #[test]
    fn a_session_goes_into_the_query() {
        let session = *b"6f1c0000-0000-0000-0000-000000000000";
        let with = |path: &str| {
            let target = Target {
                path: path.into(),
                ..Target::parse("ws://127.0.0.1:8080/ws/chat/").unwrap()
            };
            String::from_utf8(request(&target, Some(&session))).unwrap()
        };
        assert!(with("/ws/").starts_with("GET /ws/?session=6f1c0000-"));
        assert!(with("/ws/?a=1").starts_with("GET /ws/?a=1&session=6f1c0000-"));
    }
}
