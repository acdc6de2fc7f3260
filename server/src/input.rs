//! The input of a socket: reads, has every frame judged at its header, and hands the frames on one
//! by one.

use std::{
    cell::RefCell,
    io::{self, Read},
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_codec::{AsyncRead, Decoder, ReadBuf};
use actix_http::ws::Codec;
use actix_web_actors::ws::Frame;
use bytes::BytesMut;
use socket2::SockRef;

use crate::{
    frame::{CONTROL_BYTES_MAX, Limits, Scanner},
    protocol::Goodbye,
    wire::Wire,
};

/// One turn of a socket takes at most this much, so a flooding peer holds its worker only for so
/// long.
pub const READ_BYTES_MAX: usize = 16 * 1024;

thread_local! {
    /// A worker reads one socket at a time: one buffer serves them all.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice());
}

/// Reads once, when the runtime has heard that there is something to read; hands over what came.
///
/// # Errors
/// The peer has gone.
pub fn poll_read<T>(
    wire: &Wire,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        // A read that does not fill the buffer tells the runtime that nothing is left, which saves
        // a second one that would only find that out.
        ready!(Pin::new(&mut *wire.stream()).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(buffer.filled())))
    })
}

/// Reads past the runtime's idea of readiness: hands over what the kernel has by now, `None` if
/// nothing.
///
/// # Errors
/// The peer has gone.
pub fn read_arrived<T>(wire: &Wire, take: impl FnOnce(Option<&[u8]>) -> T) -> io::Result<T> {
    SCRATCH.with_borrow_mut(|scratch| {
        let outcome = (&*SockRef::from(&*wire.stream())).read(scratch);
        match outcome {
            Ok(length) => Ok(take(Some(&scratch[..length]))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(take(None)),
            Err(broken) => Err(broken),
        }
    })
}

/// Makes frames of bytes.
pub struct Input {
    scanner: Scanner,
    codec: Codec,
    /// A frame that has not come whole.
    partial: BytesMut,
}

impl Input {
    pub fn new(limits: &Limits) -> Self {
        // The scanner judges every size; the codec's own bound holds for control frames too.
        let frame_bytes_max = limits.message_bytes_max.max(CONTROL_BYTES_MAX);
        Self {
            scanner: Scanner::default(),
            codec: Codec::new().max_size(frame_bytes_max),
            partial: BytesMut::new(),
        }
    }

    /// Takes the next frame off the bytes; `None` when they end before it does.
    ///
    /// # Errors
    /// The goodbye that the frame deserves.
    pub fn next_frame(
        &mut self,
        bytes: &mut &[u8],
        limits: &Limits,
    ) -> Result<Option<Frame>, Goodbye> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let scanned = self.scanner.scan(bytes, limits).map_err(|refused| {
            *bytes = &bytes[refused.consumed..];
            refused.goodbye
        })?;
        let (piece, rest) = bytes.split_at(scanned.length);
        *bytes = rest;
        self.partial.extend_from_slice(piece);
        if !scanned.complete {
            return Ok(None);
        }
        let mut frame = std::mem::take(&mut self.partial);
        self.codec
            .decode(&mut frame)
            // Behind the scanner the codec has nothing left to complain of.
            .map_err(|_| Goodbye::Protocol)
    }

    /// Follows input that is no longer counted; only a Close among it matters.
    pub fn skim(&mut self, bytes: &[u8]) {
        self.scanner.skim(bytes);
    }

    pub fn close_seen(&self) -> bool {
        self.scanner.close_seen()
    }
}
