//! What the three parts of one socket share: the guard reads, the pump writes, the actor decides.
//!
//! All three live in one task on one thread, so a `Cell` is all it takes.

use std::{
    cell::{Cell, RefCell},
    io,
};

use actix_rt::net::TcpStream;

use crate::{frame::Scanner, protocol::Goodbye};

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
    /// quicker than the pump's where little was written.
    pub(crate) fn of_broken(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::SlowReader,
            _ => Self::PeerGone,
        }
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

pub struct Wire {
    pub(crate) stream: TcpStream,
    pub(crate) scanner: RefCell<Scanner>,
    last_call: Cell<Option<Goodbye>>,
    ending: Cell<Option<Ending>>,
    clogged: Cell<bool>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            scanner: RefCell::default(),
            last_call: Cell::new(None),
            ending: Cell::new(None),
            clogged: Cell::new(false),
        }
    }

    /// Asks the guard to hand over what has arrived and then to end the input: goodbye follows.
    pub fn call_last(&self, goodbye: Goodbye) {
        if self.last_call.get().is_none() {
            self.last_call.set(Some(goodbye));
        }
    }

    pub fn last_call(&self) -> Option<Goodbye> {
        self.last_call.get()
    }

    pub fn end(&self, ending: Ending) {
        if self.ending.get().is_none() {
            self.ending.set(Some(ending));
        }
    }

    pub fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    /// While output waits for the peer to read, no more of its input is taken.
    pub(crate) fn set_clogged(&self, clogged: bool) {
        self.clogged.set(clogged);
    }

    pub(crate) fn clogged(&self) -> bool {
        self.clogged.get()
    }
}
