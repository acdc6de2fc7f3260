//! Whether a request becomes a WebSocket, and what it is told if not.
//!
//! Two doors lead here: actix-http's upgrade hook sees the requests whose `Upgrade` header is
//! `websocket`, the `App` sees all others. Both ask [`check`], so both refuse alike.

use std::fmt::Write;

use actix_http::{
    RequestHead, StatusCode,
    header::{self, HeaderMap, HeaderName},
    ws::hash_key,
};
use actix_web::http::Method;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use uuid::Uuid;

use crate::{admission::Closed, telemetry::RequestId};

pub const OUTCOME_ACCEPTED: &str = "accepted";

/// Seconds after which a refused client may try again.
const RETRY_AFTER: &str = "1";

pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub static COLOUR: HeaderName = HeaderName::from_static("x-colour");

/// Why a handshake is refused, in the order in which it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("There is no WebSocket at this address; it is at /ws/chat/.")]
    Path,
    #[error("A WebSocket handshake is a GET.")]
    Method,
    #[error("This address speaks WebSocket, version 13 (RFC 6455), and nothing else.")]
    Upgrade,
    #[error("Sec-WebSocket-Key must be given once and be 16 bytes in Base64.")]
    Key,
    #[error("Pages of this Origin may not connect; TALLY_ALLOWED_ORIGINS lists those that may.")]
    Origin,
    #[error("This server is going away; try again, another one answers.")]
    Draining,
    #[error("All connections are taken; try again later.")]
    Full,
    #[error("The query parameter `session` must be one UUID with hyphens, or be left out.")]
    Session,
    #[error("The session is still open elsewhere and was not handed over in time; try again.")]
    SessionBusy,
    #[error(
        "The session store cannot be reached, so nobody knows the session's count; keep it and try again."
    )]
    StoreDown,
    #[error("The server is overloaded; try again later.")]
    Overloaded,
}

impl Refusal {
    pub const OUTCOMES: [&str; 11] = [
        "path",
        "method",
        "upgrade",
        "key",
        "origin",
        "draining",
        "full",
        "session",
        "session_busy",
        "store_down",
        "overloaded",
    ];

    /// The name that logs and metrics use.
    pub fn outcome(self) -> &'static str {
        Self::OUTCOMES[self as usize]
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade => StatusCode::UPGRADE_REQUIRED,
            Self::Key | Self::Session => StatusCode::BAD_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Draining
            | Self::Full
            | Self::SessionBusy
            | Self::StoreDown
            | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What the answer carries beside the problem.
    pub fn headers(self) -> Vec<(HeaderName, &'static str)> {
        match self {
            Self::Method => vec![(header::ALLOW, "GET")],
            Self::Upgrade => vec![
                (header::UPGRADE, "websocket"),
                (header::SEC_WEBSOCKET_VERSION, "13"),
            ],
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                vec![(header::RETRY_AFTER, RETRY_AFTER)]
            }
            _ => vec![],
        }
    }

    /// `application/problem+json` (RFC 9457).
    pub fn problem(self) -> String {
        let status = self.status();
        let mut problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.to_string(),
        });
        if self == Self::Session {
            problem["parameter"] = json!("session");
        }
        problem.to_string()
    }

    /// The whole response, for the door that has no `App` behind it.
    pub fn response(self, method: &Method, request_id: &RequestId, colour: &str) -> String {
        let (status, problem) = (self.status(), self.problem());
        let mut response = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\n\
             Content-Length: {}\r\nConnection: close\r\nX-Request-Id: {request_id}\r\n\
             X-Colour: {colour}\r\n",
            problem.len()
        );
        for (name, value) in self.headers() {
            let _ = write!(response, "{name}: {value}\r\n");
        }
        response += "\r\n";
        if method != Method::HEAD {
            response += &problem;
        }
        response
    }
}

impl From<Closed> for Refusal {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Draining => Self::Draining,
            Closed::Full => Self::Full,
        }
    }
}

/// What a good handshake asks for. `P` is the place it was given.
#[derive(Debug)]
pub struct Handshake<P> {
    pub place: P,
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: [u8; 28],
    pub session: Option<Uuid>,
    pub hello: bool,
}

/// Checks a handshake: path, method, upgrade and version, key, origin, then a place by `enter`,
/// then the session.
///
/// # Errors
/// The first thing that is wrong.
pub fn check<P>(
    head: &RequestHead,
    allowed_origins: &[String],
    enter: impl FnOnce() -> Result<P, Closed>,
) -> Result<Handshake<P>, Refusal> {
    if !matches!(head.uri.path(), "/ws/chat" | "/ws/chat/") {
        return Err(Refusal::Path);
    }
    if head.method != Method::GET {
        return Err(Refusal::Method);
    }
    check_upgrade(&head.headers)?;
    let accept = check_key(&head.headers)?;
    check_origin(&head.headers, allowed_origins)?;
    let place = enter()?;
    let query = head.uri.query().unwrap_or_default();
    Ok(Handshake {
        place,
        accept,
        session: parse_session(query)?,
        hello: parameters(query).any(|pair| pair == ("hello", "1")),
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim()
}

fn check_upgrade(headers: &HeaderMap) -> Result<(), Refusal> {
    let upgrade = text(headers, &header::UPGRADE).eq_ignore_ascii_case("websocket");
    let connection = headers
        .get_all(header::CONNECTION)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let version = text(headers, &header::SEC_WEBSOCKET_VERSION) == "13";
    if upgrade && connection && version {
        Ok(())
    } else {
        Err(Refusal::Upgrade)
    }
}

fn check_key(headers: &HeaderMap) -> Result<[u8; 28], Refusal> {
    let key = text(headers, &header::SEC_WEBSOCKET_KEY);
    let given = headers.get_all(header::SEC_WEBSOCKET_KEY).count();
    match BASE64_STANDARD.decode(key) {
        Ok(nonce) if given == 1 && nonce.len() == 16 => Ok(hash_key(key.as_bytes())),
        _ => Err(Refusal::Key),
    }
}

/// Browsers name the page's origin, other clients none. The request's own host may always
/// connect; its scheme is not compared, for a proxy in front may have ended TLS.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().map_err(|_| Refusal::Origin)?;
    let own = origin.split_once("://").is_some_and(|(scheme, host)| {
        let default_port = if scheme.eq_ignore_ascii_case("https") {
            ":443"
        } else {
            ":80"
        };
        let bare = |host: &str| host.strip_suffix(default_port).unwrap_or(host).to_owned();
        bare(host).eq_ignore_ascii_case(&bare(text(headers, &header::HOST)))
    });
    let listed = allowed.iter().any(|one| one.eq_ignore_ascii_case(origin));
    if own || listed {
        Ok(())
    } else {
        Err(Refusal::Origin)
    }
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Exactly one UUID in its hyphenated form, the only one of 36 characters, in any case; or none.
fn parse_session(query: &str) -> Result<Option<Uuid>, Refusal> {
    let mut given = parameters(query).filter(|(name, _)| *name == "session");
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some((_, id)), None) if id.len() == 36 => {
            Uuid::try_parse(id).map(Some).map_err(|_| Refusal::Session)
        }
        _ => Err(Refusal::Session),
    }
}

/// The answer that opens a WebSocket.
pub fn switching_protocols(
    accept: &[u8; 28],
    session: Uuid,
    resumed: bool,
    count: u64,
    request_id: &RequestId,
    colour: &str,
) -> String {
    let accept = std::str::from_utf8(accept).expect("Base64 is ASCII");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nX-Session-Id: {session}\r\n\
         X-Session-Resumed: {resumed}\r\nX-Session-Count: {count}\r\n\
         X-Request-Id: {request_id}\r\nX-Colour: {colour}\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_one_hyphenated_uuid() {
        let id = Uuid::new_v4();
        let upper = id.to_string().to_uppercase();
        assert_eq!(parse_session(""), Ok(None));
        assert_eq!(parse_session("hello=1"), Ok(None));
        assert_eq!(parse_session(&format!("session={id}")), Ok(Some(id)));
        assert_eq!(parse_session(&format!("a=b&session={upper}")), Ok(Some(id)));
        for bad in [
            "session".to_owned(),
            "session=".to_owned(),
            "session=1".to_owned(),
            format!("session={}", id.simple()),
            format!("session={id}&session={id}"),
            format!("session={}", "x".repeat(36)),
        ] {
            assert_eq!(parse_session(&bad), Err(Refusal::Session), "{bad}");
        }
    }

    #[test]
    fn origins_match_the_host_or_the_list() {
        let check = |origin: &str, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            check_origin(&headers, &["https://ally.example".to_owned()])
        };
        assert_eq!(check("http://a.example:8080", "a.example:8080"), Ok(()));
        assert_eq!(check("https://A.example", "a.example:443"), Ok(()));
        assert_eq!(check("https://ally.example", "a.example"), Ok(()));
        for evil in [
            "http://b.example",
            "null",
            "",
            "http://a.example.b.example",
            "a.example",
        ] {
            assert_eq!(check(evil, "a.example"), Err(Refusal::Origin), "{evil}");
        }
    }

    #[test]
    fn every_refusal_has_its_outcome() {
        assert_eq!(Refusal::Path.outcome(), "path");
        assert_eq!(Refusal::SessionBusy.outcome(), "session_busy");
        assert_eq!(Refusal::Overloaded.outcome(), "overloaded");
        assert_eq!(Refusal::Overloaded as usize + 1, Refusal::OUTCOMES.len());
    }
}
