//! A real conversation with a server: what a client relies on, in a second.

use tungstenite::{
    Message, WebSocket,
    client::IntoClientRequest,
    error::Error as WsError,
    handshake::{
        HandshakeError,
        client::{ClientHandshake, Response},
    },
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use crate::{
    colour::Colour,
    engine::Engine,
    entrance::{Entrance, Stream},
    error::{Error, Result},
    scrape::{self, Samples},
};

type Step<T> = std::result::Result<T, String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

type Connection = Box<dyn Stream>;

type Handshake = std::result::Result<
    (WebSocket<Connection>, Response),
    HandshakeError<ClientHandshake<Connection>>,
>;

/// The outer error is for what comes before a request is sent.
fn handshake(entrance: &Entrance, session: Option<&str>) -> Step<Handshake> {
    let query = session.map_or(String::new(), |id| format!("?session={id}"));
    let request = entrance
        .url("ws", &format!("/ws/chat/{query}"))
        .into_client_request()
        .map_err(text)?;
    Ok(tungstenite::client(request, entrance.connect()?))
}

/// One connection of the conversation.
pub struct Talk {
    socket: WebSocket<Connection>,
    response: Response,
}

impl Talk {
    /// Shakes hands at `entrance`, resuming a session if one is given.
    ///
    /// # Errors
    /// What the handshake failed of.
    pub fn open(entrance: &Entrance, session: Option<&str>) -> Step<Self> {
        let (socket, response) = handshake(entrance, session)?.map_err(text)?;
        Ok(Self { socket, response })
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.response.headers().get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Sends a message and returns the answer's text.
    ///
    /// # Errors
    /// The socket failed, or something else than a text came.
    pub fn ask(&mut self, message: &str) -> Step<String> {
        self.socket.send(Message::text(message)).map_err(text)?;
        self.next_text()
    }

    /// Sends a message in two fragments and returns the answer's text.
    fn ask_in_fragments(&mut self) -> Step<String> {
        for (part, kind, last) in [("thr", Data::Text, false), ("ee", Data::Continue, true)] {
            let frame = Frame::message(part, OpCode::Data(kind), last);
            self.socket.send(Message::Frame(frame)).map_err(text)?;
        }
        self.next_text()
    }

    fn next_text(&mut self) -> Step<String> {
        loop {
            match self.socket.read().map_err(text)? {
                // A heartbeat may fall into any conversation.
                Message::Text(beat) if beat.starts_with("{\"ts\"") => {}
                Message::Text(answer) => return Ok(answer.to_string()),
                Message::Ping(_) => {}
                other => return Err(format!("{other:?} came instead of a text")),
            }
        }
    }

    fn ping(&mut self) -> Step<()> {
        self.socket
            .send(Message::Ping("tally".into()))
            .map_err(text)?;
        loop {
            match self.socket.read().map_err(text)? {
                Message::Pong(payload) if payload.as_ref() == b"tally" => return Ok(()),
                Message::Text(beat) if beat.starts_with("{\"ts\"") => {}
                Message::Ping(_) => {}
                other => return Err(format!("{other:?} came instead of the pong")),
            }
        }
    }

    fn bye(&mut self) -> Step<String> {
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        self.socket.close(Some(close)).map_err(text)?;
        let bye = self.next_text()?;
        match self.socket.read() {
            Ok(Message::Close(Some(frame))) if frame.code == CloseCode::Normal => Ok(bye),
            other => Err(format!("{other:?} came instead of the Close")),
        }
    }
}

fn expect(expected: &str, found: &str) -> Step<()> {
    if expected == found {
        Ok(())
    } else {
        Err(format!("{found:?} came instead of {expected:?}"))
    }
}

/// Checks what every accepted handshake carries.
fn expect_headers(talk: &Talk, colour: Colour, resumed: &str, count: &str) -> Step<()> {
    expect(colour.name(), talk.header("x-colour"))?;
    expect(resumed, talk.header("x-session-resumed"))?;
    expect(count, talk.header("x-session-count"))?;
    for name in ["x-session-id", "x-request-id"] {
        if talk.header(name).is_empty() {
            return Err(format!("{name} is missing"));
        }
    }
    Ok(())
}

/// A handshake with a session that is none must be refused as the contract says.
fn expect_refusal(entrance: &Entrance) -> Step<()> {
    match handshake(entrance, Some("nonsense"))? {
        Ok(_) => Err("it was accepted".into()),
        Err(HandshakeError::Failure(WsError::Http(response))) => {
            expect("400", response.status().as_str())?;
            let kind = response.headers().get("content-type");
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
            expect("application/problem+json", kind)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Talks to the server at `entrance`, which must be of this colour: counts, pings, comes back to
/// its session, says goodbye, and is refused when it is wrong.
///
/// # Errors
/// The first step that went wrong, and how.
pub fn talk(entrance: &Entrance, colour: Colour) -> Result<()> {
    let mut step = "the handshake";
    conversation(entrance, colour, &mut step).map_err(|reason| Error::Smoke {
        address: entrance.url("ws", ""),
        step,
        reason,
    })
}

/// What the operator's side of a colour shows.
///
/// # Errors
/// It is not alive, or its metrics do not know the conversations that it just had.
pub fn health(engine: &dyn Engine, colour: Colour) -> Result<()> {
    scrape::alive(engine, colour)?;
    let samples = Samples::by_process(engine, colour)?;
    let mut said = samples.values().map(|of| of.sum("tally_messages_total"));
    let mut built = samples.values().map(|of| of.sum("tally_build_info"));
    if said.any(|count| count > 0.0) && built.all(|count| count == 1.0) {
        Ok(())
    } else {
        Err(Error::Smoke {
            address: colour.to_string(),
            step: "the metrics",
            reason: "tally_messages_total or tally_build_info is missing".into(),
        })
    }
}

/// A session that is open at `from` goes on at `to`, which must be of this colour; the connection
/// that had it is told so.
///
/// # Errors
/// The first step that went wrong, and how.
pub fn move_over(from: &Entrance, to: &Entrance, colour: Colour) -> Result<()> {
    let mut step = "the session's first colour";
    hand_over(from, to, colour, &mut step).map_err(|reason| Error::Smoke {
        address: to.url("ws", ""),
        step,
        reason,
    })
}

fn hand_over(from: &Entrance, to: &Entrance, colour: Colour, step: &mut &'static str) -> Step<()> {
    let mut old = Talk::open(from, None)?;
    expect("{\"count\":1}", &old.ask("one")?)?;
    expect("{\"count\":2}", &old.ask("two")?)?;
    *step = "the session's move to it";
    let session = old.header("x-session-id").to_owned();
    let mut new = Talk::open(to, Some(&session))?;
    expect_headers(&new, colour, "true", "2")?;
    expect("{\"count\":3}", &new.ask("three")?)?;
    *step = "the goodbye of the connection that had it";
    expect("{\"bye\":true,\"total\":2}", &old.next_text()?)?;
    expect("{\"bye\":true,\"total\":3}", &new.bye()?)
}

/// A short conversation, such as a client's first: a count and a goodbye.
///
/// # Errors
/// The first step that went wrong, and how.
pub fn greet(entrance: &Entrance, colour: Colour) -> Result<()> {
    let greeting = || {
        let mut talk = Talk::open(entrance, None)?;
        expect(colour.name(), talk.header("x-colour"))?;
        expect("{\"count\":1}", &talk.ask("one")?)?;
        expect("{\"bye\":true,\"total\":1}", &talk.bye()?)
    };
    greeting().map_err(|reason| Error::Smoke {
        address: entrance.url("ws", ""),
        step: "the greeting",
        reason,
    })
}

/// No more than a handshake, which needs no session store.
///
/// # Errors
/// What it failed of.
pub fn shake_hands(entrance: &Entrance, colour: Colour) -> Result<()> {
    let shaken = Talk::open(entrance, None);
    shaken
        .and_then(|talk| expect_headers(&talk, colour, "false", "0"))
        .map_err(|reason| Error::Smoke {
            address: entrance.url("ws", ""),
            step: "the handshake",
            reason,
        })
}

fn conversation(entrance: &Entrance, colour: Colour, step: &mut &'static str) -> Step<()> {
    let mut first = Talk::open(entrance, None)?;
    expect_headers(&first, colour, "false", "0")?;
    *step = "counting";
    expect("{\"count\":1}", &first.ask("one")?)?;
    expect("{\"count\":2}", &first.ask("two")?)?;
    *step = "the fragments";
    expect("{\"count\":3}", &first.ask_in_fragments()?)?;
    *step = "the ping";
    first.ping()?;
    *step = "the goodbye";
    expect("{\"bye\":true,\"total\":3}", &first.bye()?)?;
    *step = "the resume";
    let session = first.header("x-session-id").to_owned();
    let mut second = Talk::open(entrance, Some(&session))?;
    expect_headers(&second, colour, "true", "3")?;
    expect(&session, second.header("x-session-id"))?;
    expect("{\"count\":4}", &second.ask("four")?)?;
    expect("{\"bye\":true,\"total\":4}", &second.bye()?)?;
    *step = "the refusal of a bad session";
    expect_refusal(entrance)
}
