//! The input of a socket: reads, has every frame judged at its header, and hands the frames on one
//! by one.

use std::{
    cell::RefCell,
    io::{self, Read},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use actix_http::error::PayloadError;
use bytes::Bytes;
use futures_core::Stream;
use socket2::SockRef;

use crate::{
    frame::Limits,
    wire::{Ending, Wire},
};

/// One read takes at most this much, so a flooding peer holds its worker only for so long.
const READ_BYTES_MAX: usize = 16 * 1024;

/// How much of what had arrived at the last call is still counted.
const LAST_CALL_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    /// A worker reads one socket at a time: one buffer serves them all.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice());
}

pub struct Guard {
    wire: Rc<Wire>,
    limits: Limits,
    /// Read, not yet scanned.
    rest: Bytes,
    /// A whole frame was handed on; the codec decodes it before it asks for the next.
    frame_complete: bool,
    last_call_bytes: usize,
}

impl Guard {
    /// `rest` is what came with the handshake's last read.
    pub fn new(wire: Rc<Wire>, limits: Limits, rest: Bytes) -> Self {
        Self {
            wire,
            limits,
            rest,
            frame_complete: false,
            last_call_bytes: 0,
        }
    }

    /// The next piece of a frame out of what was read.
    fn next_piece(&mut self) -> Option<Bytes> {
        let mut scanner = self.wire.scanner.borrow_mut();
        match scanner.scan(&self.rest, &self.limits) {
            Ok(scanned) => {
                self.frame_complete = scanned.complete;
                Some(self.rest.split_to(scanned.length))
            }
            Err(refused) => {
                self.wire.end(Ending::ServerClosed(refused.goodbye));
                scanner.skim(&self.rest[refused.consumed..]);
                self.rest.clear();
                None
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(goodbye) = self.wire.last_call() {
            return Poll::Ready(self.read_arrived().map(|()| {
                if self.rest.is_empty() {
                    self.wire.end(Ending::ServerClosed(goodbye));
                }
            }));
        }
        if self.wire.clogged() {
            // The pump polls again once the peer has read.
            return Poll::Pending;
        }
        loop {
            ready!(self.wire.stream.poll_read_ready(cx))?;
            match self.read_with(|wire, buffer| wire.stream.try_read(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Reads past the runtime's idea of readiness: at the last call, what counts is what the
    /// kernel has.
    fn read_arrived(&mut self) -> io::Result<()> {
        if self.last_call_bytes >= LAST_CALL_BYTES_MAX {
            return Ok(());
        }
        let outcome = self.read_with(|wire, buffer| (&*SockRef::from(&wire.stream)).read(buffer));
        self.last_call_bytes += self.rest.len();
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            outcome => outcome,
        }
    }

    fn read_with(
        &mut self,
        read: impl FnOnce(&Wire, &mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            let length = read(&self.wire, scratch)?;
            if length == 0 {
                self.wire.end(Ending::PeerGone);
            }
            self.rest = Bytes::copy_from_slice(&scratch[..length]);
            Ok(())
        })
    }
}

/// Yields frames whole or in pieces, but never two frames without a `Pending` between them: the
/// codec behind takes in all it can get before it decodes, and would pile up what a flooding peer
/// sends. It decodes on that `Pending` and asks again, so no wake-up is owed for it.
impl Stream for Guard {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.frame_complete) {
            return Poll::Pending;
        }
        if self.rest.is_empty()
            && let Err(broken) = ready!(self.poll_read(cx))
        {
            self.wire.end(Ending::of_broken(&broken));
        }
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(self.next_piece().map(Ok))
    }
}
