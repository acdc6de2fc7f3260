//! The task of one socket: gives its actor what comes, sees out what the actor says, bounds the
//! wait for a peer that does not read, and decides the moment of the TCP close.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, ActorState, WeakRecipient, dev::Mailbox};
use actix_rt::time::{Sleep, sleep};

use crate::{
    context::SocketContext,
    input::{self, Input, READ_BYTES_MAX},
    protocol::Goodbye,
    socket::{Conversation, Hurry, Socket},
    sockets::Command,
    turn::come_again,
    wire::{Ending, Wire},
};

/// After our Close, the peer's answer is awaited this long: closing earlier on unread input would
/// send a reset, which may eat the goodbye on its way.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A peer that goes on reading what waits for it may take longer, up to this; it is below the
/// drain's own limit.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(4);

/// How much of what had arrived at the last call is still counted.
const LAST_CALL_BYTES_MAX: usize = 256 * 1024;

pub struct Connection<C: Conversation> {
    socket: Socket<C>,
    ctx: SocketContext<Socket<C>>,
    mailbox: Mailbox<Socket<C>>,
    wire: Rc<Wire>,
    input: Input,
    last_call_bytes: usize,
    /// Armed while output waits, and again while the peer's Close is awaited.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the actor was done.
    closing_since: Option<Instant>,
}

impl<C: Conversation> Connection<C> {
    /// Starts the actor; `rest` is what the peer sent behind its handshake.
    pub fn start(mut socket: Socket<C>, wire: Rc<Wire>, rest: &[u8]) -> Self {
        let mailbox = Mailbox::default();
        let mut ctx = SocketContext::new(wire.clone(), &mailbox);
        socket.started(&mut ctx);
        let mut connection = Self {
            input: Input::new(&socket.settings().limits),
            socket,
            ctx,
            mailbox,
            wire,
            last_call_bytes: 0,
            timer: None,
            closing_since: None,
        };
        connection.take_frames(rest);
        connection
    }

    pub fn commands(&self) -> WeakRecipient<Command> {
        self.mailbox.address().downgrade().recipient()
    }

    /// One turn: the mailbox, then one read, then all that there is to write.
    fn poll_actor(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.mailbox.poll(&mut self.socket, &mut self.ctx, cx);
        if self.wire.ending().is_some() && !self.socket.is_closing() {
            // A beat found the socket broken.
            self.ctx.stop();
        }
        // No input is taken while output waits: that is all the backpressure there is.
        if (self.flush(cx) || self.socket.hurry.is_some()) && self.takes_frames() {
            self.read(cx);
            self.flush(cx);
        }
        if self.ctx.running() {
            self.socket.poll_last_words(&mut self.ctx, cx);
        }
        if self.ctx.running() {
            return Poll::Pending;
        }
        self.stop_actor();
        Poll::Ready(())
    }

    fn takes_frames(&self) -> bool {
        self.ctx.running() && self.socket.takes_frames()
    }

    fn stop_actor(&mut self) {
        self.ctx.terminate();
        self.socket.stopped(&mut self.ctx);
        self.timer = None;
        self.closing_since = Some(Instant::now());
    }

    /// Ends the actor without another frame.
    fn drop_peer(&mut self, ending: Ending) {
        self.wire.end(ending);
        self.ctx.stop();
    }

    /// True when nothing waits any more.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        let (taken, flushed) = match self.wire.poll_flush(cx) {
            Ok(outcome) => outcome,
            Err(broken) => {
                self.drop_peer(Ending::of_broken(&broken));
                return false;
            }
        };
        if taken > 0 {
            self.timer = None;
        }
        let write_timeout = self.socket.settings().write_timeout;
        if flushed.is_pending()
            && (self.wire.overflows() || self.poll_timer(cx, write_timeout).is_ready())
        {
            self.drop_peer(Ending::SlowReader);
        }
        flushed.is_ready()
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        self.timer
            .get_or_insert_with(|| Box::pin(sleep(timeout)))
            .as_mut()
            .poll(cx)
    }

    fn read(&mut self, cx: &mut Context<'_>) {
        let wire = self.wire.clone();
        let outcome = match self.socket.hurry {
            None => match input::poll_read(&wire, cx, |bytes| self.take(bytes)) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => return,
            },
            Some(Hurry::LastCall(goodbye)) => {
                input::read_arrived(&wire, |bytes| self.take_last(goodbye, bytes))
            }
            Some(Hurry::Overdue) => input::read_arrived(&wire, |bytes| self.take_overdue(bytes)),
        };
        if let Err(broken) = outcome {
            self.drop_peer(Ending::of_broken(&broken));
        }
        // What is left waits for the next turn, behind everybody else's.
        if self.socket.hurry.is_some() || wire.stream().poll_read_ready(cx).is_ready() {
            come_again(cx);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.drop_peer(Ending::PeerGone);
        } else {
            self.take_frames(bytes);
        }
    }

    fn take_last(&mut self, goodbye: Goodbye, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.take(bytes);
            self.last_call_bytes += bytes.len();
        }
        let over = bytes.is_none() || self.last_call_bytes >= LAST_CALL_BYTES_MAX;
        if over && self.ctx.running() && !self.socket.is_closing() {
            self.socket.say_goodbye(goodbye);
        }
    }

    fn take_overdue(&mut self, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.take(bytes);
        }
        if bytes.is_some_and(|bytes| bytes.len() == READ_BYTES_MAX) {
            return;
        }
        self.socket.hurry = None;
        if self.wire.last_seen().elapsed() >= self.socket.settings().peer_timeout {
            self.drop_peer(Ending::Silent);
        }
    }

    fn take_frames(&mut self, mut bytes: &[u8]) {
        let now = Instant::now();
        let limits = self.socket.settings().limits;
        while self.ctx.running() && !self.socket.is_closing() {
            match self.input.next_frame(&mut bytes, &limits) {
                Ok(Some(frame)) => self.socket.take(frame, now, &mut self.ctx),
                Ok(None) => return,
                Err(goodbye) => self.socket.say_goodbye(goodbye),
            }
        }
        self.input.skim(bytes);
    }

    /// Gets the goodbye out, then waits for the peer's Close or end of stream.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.wire.ending().is_some_and(Ending::is_polite) {
            return Poll::Ready(());
        }
        let done = match self.wire.poll_flush(cx) {
            Ok((_, Poll::Ready(()))) => self.poll_peer_closed(cx),
            Ok((taken, Poll::Pending)) => {
                if taken > 0 {
                    self.timer = None;
                }
                Poll::Pending
            }
            Err(_reset) => Poll::Ready(()),
        };
        let overdue = |since: Instant| since.elapsed() >= FLUSH_TIMEOUT + CLOSE_TIMEOUT;
        if done.is_ready() || self.closing_since.is_some_and(overdue) {
            return Poll::Ready(());
        }
        self.poll_timer(cx, CLOSE_TIMEOUT)
    }

    /// Reads input that is no longer counted; only a Close among it matters.
    fn poll_peer_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { input, wire, .. } = self;
        while !input.close_seen() {
            let read = input::poll_read(wire, cx, |bytes| {
                input.skim(bytes);
                bytes.len()
            });
            if let Ok(0) | Err(_) = ready!(read) {
                break;
            }
        }
        Poll::Ready(())
    }
}

impl<C: Conversation> Future for Connection<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.ctx.state() != ActorState::Stopped {
            ready!(self.poll_actor(cx));
        }
        self.poll_close(cx)
    }
}

/// Also when the task is cut off: every ended connection comes by its actor's end.
impl<C: Conversation> Drop for Connection<C> {
    fn drop(&mut self) {
        if self.ctx.state() != ActorState::Stopped {
            self.stop_actor();
        }
    }
}
