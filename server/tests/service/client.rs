//! A WebSocket client made by hand, for it must be able to do everything wrong.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::tally::PATIENCE;

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// A handshake; correct until changed.
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    /// What is sent behind the head, without waiting for an answer.
    rest: Vec<u8>,
}

impl Request {
    pub fn new() -> Self {
        let headers = [
            ("Host", "tally.test"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        Self {
            method: "GET".into(),
            path: "/ws/chat/".into(),
            headers: headers.map(|(n, v)| (n.into(), v.into())).into(),
            rest: Vec::new(),
        }
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    pub fn query(mut self, query: &str) -> Self {
        self.path = format!("/ws/chat/?{query}");
        self
    }

    /// Replaces a header, or adds it.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.without(name).also(name, value)
    }

    /// Adds a header, even a second time.
    pub fn also(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    /// Sends these bytes in one go with the head.
    pub fn followed_by(mut self, rest: &[u8]) -> Self {
        self.rest = rest.to_owned();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        [(text + "\r\n").as_bytes(), &self.rest].concat()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

pub struct Client {
    pub stream: TcpStream,
    /// Read, not yet taken.
    buffer: Vec<u8>,
    pub status: u16,
    pub headers: HashMap<String, String>,
    /// What a refusal says.
    pub body: String,
}

impl Client {
    pub fn open(address: SocketAddr, request: &Request) -> Self {
        Self::reach(address, request).expect("an answer to the handshake")
    }

    /// `None` if nobody listens any more, or hangs up without an answer.
    pub fn reach(address: SocketAddr, request: &Request) -> Option<Self> {
        Self::shake_hands(TcpStream::connect(address).ok()?, request)
    }

    /// Shakes hands on a stream of the caller's making.
    pub fn shake_hands(stream: TcpStream, request: &Request) -> Option<Self> {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self {
            stream,
            buffer: Vec::new(),
            status: 0,
            headers: HashMap::new(),
            body: String::new(),
        };
        client.stream.write_all(&request.bytes()).ok()?;
        client.read_head()?;
        Some(client)
    }

    fn read_head(&mut self) -> Option<()> {
        let end = loop {
            match self
                .buffer
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                Some(end) => break end,
                None if self.fill() == 0 => return None,
                None => {}
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        self.status = status.parse().unwrap();
        self.headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = self.headers.get("content-length");
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < length && self.fill() > 0 {}
        self.body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        Some(())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn session(&self) -> String {
        self.header("x-session-id").to_owned()
    }

    pub fn assert_session(&self, resumed: bool, count: u64) {
        assert_eq!(self.header("x-session-resumed"), resumed.to_string());
        assert_eq!(self.header("x-session-count"), count.to_string());
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.send(&frame(0x80 | opcode, payload));
    }

    pub fn send_text(&mut self, text: &str) {
        self.send_frame(TEXT, text.as_bytes());
    }

    pub fn send_close(&mut self, code: u16) {
        self.send_frame(CLOSE, &code.to_be_bytes());
    }

    /// Sends messages and reads no answer, until neither side of the socket takes more.
    pub fn clog(&self) {
        let mut stream = self.stream.try_clone().unwrap();
        stream.set_nonblocking(true).unwrap();
        let messages = frame(0x80 | TEXT, b"").repeat(1000);
        let mut last_taken = Instant::now();
        while last_taken.elapsed() < Duration::from_millis(50) {
            let taken = stream.write(&messages).unwrap_or(0);
            if taken > 0 {
                last_taken = Instant::now();
            } else {
                thread::yield_now();
            }
        }
        stream.set_nonblocking(false).unwrap();
    }

    fn fill(&mut self) -> usize {
        let mut chunk = [0; 4096];
        let length = match self.stream.read(&mut chunk) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("nothing comes: {error}"),
        };
        self.buffer.extend_from_slice(&chunk[..length]);
        length
    }

    /// The next frame; `None` at the end of the stream.
    pub fn read_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if self.fill() == 0 {
                assert!(self.buffer.is_empty(), "the stream ends within a frame");
                return None;
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let [first, second, ..] = *self.buffer.as_slice() else {
            return None;
        };
        assert_eq!(first & 0xf0, 0x80, "whole frames without extensions");
        let (start, length) = match second {
            126 => {
                let field = self.buffer.get(2..4)?;
                (
                    4,
                    usize::from(u16::from_be_bytes(field.try_into().unwrap())),
                )
            }
            short => (2, usize::from(short)),
        };
        if self.buffer.len() < start + length {
            return None;
        }
        let payload = self.buffer.drain(..start + length).skip(start).collect();
        Some(Frame {
            opcode: first & 0x0f,
            payload,
        })
    }

    pub fn expect_frame(&mut self, opcode: u8, payload: &[u8]) {
        let frame = self.read_frame().expect("a frame, not the end");
        let told = String::from_utf8_lossy(&frame.payload).into_owned();
        assert_eq!(
            (frame.opcode, frame.payload.as_slice()),
            (opcode, payload),
            "{told}"
        );
    }

    pub fn expect_text(&mut self, text: &str) {
        self.expect_frame(TEXT, text.as_bytes());
    }

    pub fn expect_count(&mut self, count: u64) {
        self.expect_text(&format!("{{\"count\":{count}}}"));
    }

    pub fn read_json(&mut self) -> Value {
        let frame = self.read_frame().expect("a frame, not the end");
        assert_eq!(frame.opcode, TEXT);
        serde_json::from_slice(&frame.payload).unwrap()
    }

    /// The whole polite end: bye with this total, Close with this code, our Close, end of stream.
    pub fn expect_goodbye(&mut self, total: u64, code: u16) {
        self.expect_text(&format!("{{\"bye\":true,\"total\":{total}}}"));
        self.expect_frame(CLOSE, &code.to_be_bytes());
        let _ = self
            .stream
            .write_all(&frame(0x80 | CLOSE, &code.to_be_bytes()));
        self.expect_end();
    }

    pub fn expect_end(&mut self) {
        assert_eq!(self.read_frame(), None, "the end of the stream");
    }

    /// Nothing comes for this long.
    pub fn expect_silence(&mut self, length: Duration) {
        self.stream.set_read_timeout(Some(length)).unwrap();
        let began = Instant::now();
        let read = self.stream.read(&mut [0; 1]);
        assert!(read.is_err(), "something came: {read:?}");
        assert!(began.elapsed() >= length / 2);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

/// Ends a stream when dropped, so that threads that read or write it end too, even where the test
/// fails in between.
pub struct HangUp<'a>(pub &'a TcpStream);

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A masked frame with its true length.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    let mask = [0x1b, 0x2c, 0x3d, 0x4e];
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// A masked frame's header, up to the length.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}
