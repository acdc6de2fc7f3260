//! The output of a socket, and its end: writes what the actor's context encodes, bounds the wait
//! for a peer that does not read, and decides the moment of the TCP close.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use actix_rt::time::{Sleep, sleep};
use bytes::{Buf, Bytes, BytesMut};
use futures_core::Stream;

use crate::wire::{Ending, Wire};

/// After our Close, the peer's answer is awaited this long: closing earlier on unread input would
/// send a reset, which may eat the goodbye on its way.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A peer that goes on reading what waits for it may take longer, up to this; it is below the
/// drain's own limit.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(4);

/// What may wait for a peer that does not read. Input is not taken meanwhile, so only heartbeats
/// and pings add to it; the answers to one read fit several times.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

pub struct Pump<F> {
    wire: Rc<Wire>,
    /// The actor's context: a stream of encoded frames. Gone once it has ended.
    frames: Option<F>,
    /// What the kernel did not take yet.
    output: BytesMut,
    write_timeout: Duration,
    /// Armed while output waits, and again while the peer's Close is awaited.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the actor was done.
    closing_since: Option<Instant>,
}

impl<F, E> Pump<F>
where
    F: Stream<Item = Result<Bytes, E>> + Unpin,
{
    pub fn new(wire: Rc<Wire>, frames: F, write_timeout: Duration) -> Self {
        Self {
            wire,
            frames: Some(frames),
            output: BytesMut::new(),
            write_timeout,
            timer: None,
            closing_since: None,
        }
    }

    /// Runs the actor until its context ends, or until the peer must be dropped.
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(broken)) => return self.drop_peer(Ending::of_broken(&broken)),
                Poll::Pending => {
                    if self.output.len() > OUTPUT_BYTES_MAX
                        || self.poll_timer(cx, self.write_timeout).is_ready()
                    {
                        return self.drop_peer(Ending::SlowReader);
                    }
                }
            }
            let Some(frames) = self.frames.as_mut() else {
                return Poll::Ready(());
            };
            match ready!(Pin::new(frames).poll_next(cx)) {
                Some(Ok(bytes)) => self.write(&bytes),
                // The codec refuses to encode only what this program never sends.
                Some(Err(_)) => return self.drop_peer(Ending::Aborted),
                None => {
                    self.frames = None;
                    self.timer = None;
                    self.closing_since = Some(Instant::now());
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Writes at once what the kernel takes; keeps the rest.
    fn write(&mut self, bytes: &[u8]) {
        let mut written = 0;
        if self.output.is_empty() {
            match self.wire.stream.try_write(bytes) {
                Ok(length) => written = length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A socket tells only once why it broke; the next flush ends the connection.
                Err(broken) => self.wire.end(Ending::of_broken(&broken)),
            }
        }
        self.output.extend_from_slice(&bytes[written..]);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            if self.wire.stream.poll_write_ready(cx)?.is_pending() {
                self.wire.set_clogged(true);
                return Poll::Pending;
            }
            match self.wire.stream.try_write(&self.output) {
                Ok(written) => {
                    self.output.advance(written);
                    self.timer = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.wire.clogged() {
            self.wire.set_clogged(false);
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        self.timer
            .get_or_insert_with(|| Box::pin(sleep(timeout)))
            .as_mut()
            .poll(cx)
    }

    /// Ends the actor without another frame.
    fn drop_peer(&mut self, ending: Ending) -> Poll<()> {
        self.wire.end(ending);
        self.frames = None;
        Poll::Ready(())
    }

    /// Gets the goodbye out, then waits for the peer's Close or end of stream.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polite = matches!(
            self.wire.ending(),
            Some(Ending::ClientClosed(_) | Ending::ServerClosed(_))
        );
        if !polite {
            return Poll::Ready(());
        }
        let done = match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.poll_peer_closed(cx),
            Poll::Ready(Err(_reset)) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        };
        let overdue = |since: Instant| since.elapsed() >= FLUSH_TIMEOUT + CLOSE_TIMEOUT;
        if done.is_ready() || self.closing_since.is_some_and(overdue) {
            return Poll::Ready(());
        }
        self.poll_timer(cx, CLOSE_TIMEOUT)
    }

    fn poll_peer_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.wire.scanner.borrow().close_seen() {
            match ready!(self.poll_discard(cx)) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        Poll::Ready(())
    }

    /// Reads input that is no longer counted; only a Close among it matters.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = [0; 1024];
        loop {
            ready!(self.wire.stream.poll_read_ready(cx))?;
            match self.wire.stream.try_read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(length) => {
                    self.wire.scanner.borrow_mut().skim(&buffer[..length]);
                    return Poll::Ready(Ok(length));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl<F, E> Future for Pump<F>
where
    F: Stream<Item = Result<Bytes, E>> + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.frames.is_some() {
            ready!(self.poll_frames(cx));
        }
        self.poll_close(cx)
    }
}
