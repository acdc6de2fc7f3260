//! A real conversation with a server: what a client relies on, in a second.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tungstenite::{
    Message, WebSocket,
    client::IntoClientRequest,
    handshake::client::Response,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{
    colour::Colour,
    error::{Error, Result},
    http,
};

const TIMEOUT: Duration = Duration::from_secs(3);

type Step<T> = std::result::Result<T, String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// One connection of the conversation.
pub struct Talk {
    socket: WebSocket<TcpStream>,
    response: Response,
}

impl Talk {
    /// Shakes hands with `address`, resuming a session if one is given.
    ///
    /// # Errors
    /// What the handshake failed of.
    pub fn open(address: &str, session: Option<&str>) -> Step<Self> {
        let address: SocketAddr = address.parse().map_err(text)?;
        let stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(text)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(text)?;
        let query = session.map_or(String::new(), |id| format!("?session={id}"));
        let request = format!("ws://{address}/ws/chat/{query}")
            .into_client_request()
            .map_err(text)?;
        let (socket, response) = tungstenite::client(request, stream).map_err(text)?;
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

/// Talks to the server at `address`, which must be of this colour: counts, pings, comes back to
/// its session, says goodbye, and is refused when it is wrong.
///
/// # Errors
/// The first step that went wrong, and how.
pub fn talk(address: &str, colour: Colour) -> Result<()> {
    let mut step = "the handshake";
    conversation(address, colour, &mut step).map_err(|reason| Error::Smoke {
        address: address.to_owned(),
        step,
        reason,
    })
}

fn conversation(address: &str, colour: Colour, step: &mut &'static str) -> Step<()> {
    let mut first = Talk::open(address, None)?;
    expect(colour.name(), first.header("x-colour"))?;
    expect("false", first.header("x-session-resumed"))?;
    *step = "counting";
    expect("{\"count\":1}", &first.ask("one")?)?;
    expect("{\"count\":2}", &first.ask("two")?)?;
    *step = "the ping";
    first.ping()?;
    *step = "the goodbye";
    expect("{\"bye\":true,\"total\":2}", &first.bye()?)?;
    *step = "the resume";
    let session = first.header("x-session-id").to_owned();
    let mut second = Talk::open(address, Some(&session))?;
    expect("true", second.header("x-session-resumed"))?;
    expect("{\"count\":3}", &second.ask("three")?)?;
    expect("{\"bye\":true,\"total\":3}", &second.bye()?)?;
    *step = "the refusal of a bad session";
    let url = format!("http://{address}/ws/chat/?session=nonsense");
    let refused = http::get(&http::agent(), &url).map_err(text)?;
    expect("426", refused.status().as_str())
}
