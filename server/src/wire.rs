//! A socket as its two users see it: the socket's own task, and the roster, which writes beats and
//! pings to it. Both run on one thread, so a `Cell` is all it takes.

use std::{
    cell::{Cell, RefCell, RefMut},
    io,
    task::{Context, Poll},
    time::Instant,
};

use actix_codec::Encoder;
use actix_http::ws::Codec;
use actix_rt::net::TcpStream;
use actix_web_actors::ws::Message;
use bytes::{Buf, Bytes, BytesMut};

use crate::protocol::Goodbye;

/// What may wait for a peer that does not read. Input is not taken meanwhile, so only heartbeats
/// and pings add to it; the answers to one read fit several times.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// Commands that a socket may have before it. It handles them in its next turn, so one that is so
/// far behind has no turns any more.
const COMMANDS_MAX: u8 = 16;

/// Why a connection ended. The first reason wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer sent Close, with this code if any.
    ClientClosed(Option<u16>),
    /// We said goodbye.
    ServerClosed(Goodbye),
    /// The peer went without a Close.
    PeerGone,
    /// No frame for the peer timeout.
    Silent,
    /// The peer did not take what we wrote.
    SlowReader,
    /// Cut off: the drain's deadline had come.
    Aborted,
}

impl Ending {
    /// What a broken socket tells of its peer. The kernel's own timeout (`TCP_USER_TIMEOUT`) is
    /// quicker than ours where little was written.
    pub(crate) fn of_broken(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::SlowReader,
            _ => Self::PeerGone,
        }
    }

    /// Whether both sides are told with a Close.
    pub(crate) fn is_polite(self) -> bool {
        matches!(self, Self::ClientClosed(_) | Self::ServerClosed(_))
    }

    /// The name that logs and metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientClosed(_) => "client",
            Self::ServerClosed(goodbye) => goodbye.name(),
            Self::PeerGone => "peer_gone",
            Self::Silent => "silent",
            Self::SlowReader => "slow_reader",
            Self::Aborted => "aborted",
        }
    }
}

/// A message as it goes over the wire. Made once where many sockets get the same.
pub fn encode(message: Message) -> Bytes {
    let mut frame = BytesMut::new();
    append(&mut frame, message);
    frame.freeze()
}

fn append(output: &mut BytesMut, message: Message) {
    Codec::new()
        .encode(message, output)
        .expect("only fragments can be out of place, and none is sent");
}

pub struct Wire {
    stream: RefCell<TcpStream>,
    /// Whole frames, but for the first, which the kernel may have in part.
    output: RefCell<BytesMut>,
    /// When the last whole frame came.
    last_seen: Cell<Instant>,
    ending: Cell<Option<Ending>>,
    /// Commands sent to the socket that it has not handled yet.
    unheard: Cell<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream: RefCell::new(stream),
            output: RefCell::default(),
            last_seen: Cell::new(Instant::now()),
            ending: Cell::new(None),
            unheard: Cell::new(0),
        }
    }

    pub fn end(&self, ending: Ending) {
        if self.ending.get().is_none() {
            self.ending.set(Some(ending));
        }
    }

    pub fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    pub fn last_seen(&self) -> Instant {
        self.last_seen.get()
    }

    pub(crate) fn seen(&self, now: Instant) {
        self.last_seen.set(now);
    }

    /// A command was sent to the socket; false when too many wait already.
    pub(crate) fn commanded(&self) -> bool {
        let waiting = self.unheard.get() < COMMANDS_MAX;
        self.unheard.set(self.unheard.get() + u8::from(waiting));
        waiting
    }

    /// The socket has handled a command.
    pub(crate) fn heard(&self) {
        self.unheard.set(self.unheard.get().saturating_sub(1));
    }

    /// For reading.
    pub(crate) fn stream(&self) -> RefMut<'_, TcpStream> {
        self.stream.borrow_mut()
    }

    /// Puts a message behind what waits; the socket's task sees it out before it rests.
    pub(crate) fn queue(&self, message: Message) {
        append(&mut self.output.borrow_mut(), message);
    }

    /// Sends a whole frame on behalf of somebody else than the socket's task, at once where
    /// nothing waits before it. False when the task has to go on from there.
    pub fn push(&self, frame: &[u8]) -> bool {
        if self.ending().is_some() {
            // A goodbye has the last word.
            return true;
        }
        let mut output = self.output.borrow_mut();
        if !output.is_empty() {
            output.extend_from_slice(frame);
            return true;
        }
        match self.stream.borrow().try_write(frame) {
            Ok(written) => output.extend_from_slice(&frame[written..]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                output.extend_from_slice(frame);
            }
            // A socket tells only once why it broke.
            Err(broken) => {
                self.end(Ending::of_broken(&broken));
                return false;
            }
        }
        output.is_empty()
    }

    /// Whether more waits than a peer that reads would let wait.
    pub(crate) fn overflows(&self) -> bool {
        self.output.borrow().len() > OUTPUT_BYTES_MAX
    }

    /// Writes what waits; returns how much the kernel took, and whether that was all.
    ///
    /// # Errors
    /// The peer has gone.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> io::Result<(usize, Poll<()>)> {
        let mut output = self.output.borrow_mut();
        let stream = self.stream.borrow();
        let mut taken = 0;
        while !output.is_empty() {
            match stream.try_write(&output) {
                Ok(written) => {
                    output.advance(written);
                    taken += written;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stream.poll_write_ready(cx)?.is_pending() {
                        return Ok((taken, Poll::Pending));
                    }
                }
                Err(broken) => return Err(broken),
            }
        }
        if taken > 0 {
            // An idle socket keeps no buffer.
            *output = BytesMut::new();
        }
        Ok((taken, Poll::Ready(())))
    }
}
