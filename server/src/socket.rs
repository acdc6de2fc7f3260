//! The per-socket actor: frames in, frames out, the close handshake. What a message means is the
//! business of the [`Conversation`] it carries.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, Handler};
use actix_http::ws::Item;
use actix_rt::net::TcpStream;
use actix_web_actors::ws::{CloseReason, Frame, Message};
use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    assembly::Assembly,
    connection::Connection,
    context::SocketContext,
    frame::Limits,
    protocol::Goodbye,
    sockets::{Command, ConnectionId, Entry, Sockets},
    wire::{Ending, Wire},
};

/// A whole message, either way.
#[derive(Debug, Clone)]
pub enum Data {
    Text(ByteString),
    Binary(Bytes),
}

/// What runs on a socket. The socket calls it on one thread, one call at a time.
pub trait Conversation: Unpin + 'static {
    /// The frame that opens the conversation, if any.
    fn opening(&mut self) -> Option<ByteString> {
        None
    }

    /// One message, whole, text checked to be UTF-8; `now` is when it was read. The answer is
    /// sent as it is.
    ///
    /// # Errors
    /// The goodbye that ends the connection.
    fn message(&mut self, message: Data, now: Instant) -> Result<Option<Data>, Goodbye>;

    /// Whether no message is taken for now: too many are without an answer. It will be told that
    /// they are stored.
    fn is_full(&self) -> bool {
        false
    }

    /// The store has counted as far as this; `say` sends a text.
    fn stored(&mut self, _count: u64, _say: &mut dyn FnMut(ByteString)) {}

    /// Time to save, changed or not.
    fn save(&mut self) {}

    /// Nothing more will be handed over. Called exactly once, before the farewell if there is one.
    fn ended(&mut self, ending: Ending);

    /// Ready when what has been done is safe: the farewell promises it. Does not take long.
    fn poll_safe(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The last texts before any Close; `say` sends one.
    fn farewell(&mut self, _say: &mut dyn FnMut(ByteString)) {}
}

/// Durations and sizes that hold for every socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketSettings {
    pub limits: Limits,
    pub peer_timeout: Duration,
    pub ping_interval: Duration,
    pub write_timeout: Duration,
}

/// Runs a conversation on an upgraded stream, as a task of this thread, until the socket can be
/// closed. `rest` is what the peer sent behind its handshake.
pub fn converse<C: Conversation>(
    stream: TcpStream,
    rest: &[u8],
    conversation: C,
    id: ConnectionId,
    sockets: &Rc<Sockets>,
) {
    let wire = Rc::new(Wire::new(stream));
    let socket = Socket {
        conversation,
        wire: wire.clone(),
        sockets: sockets.clone(),
        id,
        hurry: None,
        assembly: None,
        last_words: None,
        ended: false,
    };
    let connection = Connection::start(socket, wire.clone(), rest);
    let commands = connection.commands();
    let abort = actix_rt::spawn(connection).abort_handle();
    sockets.enter(id, Entry::new(wire, commands, abort));
}

/// A reason to read what the kernel has by now, past the runtime's idea of readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hurry {
    /// What has arrived is still counted; goodbye follows.
    LastCall(Goodbye),
    /// The peer is overdue, unless a word of it waits to be read: the process may not have run
    /// for a while.
    Overdue,
}

pub struct Socket<C: Conversation> {
    conversation: C,
    wire: Rc<Wire>,
    sockets: Rc<Sockets>,
    id: ConnectionId,
    pub(crate) hurry: Option<Hurry>,
    /// A fragmented message in progress.
    assembly: Option<Box<Assembly>>,
    /// The Close that is due once the farewell can be said.
    last_words: Option<Box<Option<CloseReason>>>,
    ended: bool,
}

impl<C: Conversation> Actor for Socket<C> {
    type Context = SocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(text) = self.conversation.opening() {
            ctx.send(Message::Text(text));
        }
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.settle(self.wire.ending().unwrap_or(Ending::Aborted));
        self.sockets.leave(self.id);
    }
}

impl<C: Conversation> Socket<C> {
    pub(crate) fn settings(&self) -> &SocketSettings {
        &self.sockets.settings
    }

    fn settle(&mut self, ending: Ending) {
        if !std::mem::replace(&mut self.ended, true) {
            self.wire.end(ending);
            self.conversation.ended(ending);
        }
    }

    /// The last words and a Close are due; no frame is handed over any more.
    fn close(&mut self, ending: Ending, reason: Option<CloseReason>) {
        self.settle(ending);
        self.last_words = Some(Box::new(reason));
    }

    pub(crate) fn say_goodbye(&mut self, goodbye: Goodbye) {
        let reason = Some(goodbye.close_reason());
        self.close(Ending::ServerClosed(goodbye), reason);
    }

    /// Whether the end has begun.
    pub(crate) fn is_closing(&self) -> bool {
        self.last_words.is_some()
    }

    /// Whether frames are handed over.
    pub(crate) fn takes_frames(&self) -> bool {
        !self.is_closing() && !self.conversation.is_full()
    }

    /// Says the last words once they are true, and ends the actor; the connection sees them out.
    pub(crate) fn poll_last_words(&mut self, ctx: &mut SocketContext<Self>, cx: &mut Context<'_>) {
        if self.is_closing()
            && self.conversation.poll_safe(cx).is_ready()
            && let Some(reason) = self.last_words.take()
        {
            self.conversation
                .farewell(&mut |text| ctx.send(Message::Text(text)));
            ctx.send(Message::Close(*reason));
            ctx.stop();
        }
    }

    /// One frame, which was read at that time.
    pub(crate) fn take(&mut self, frame: Frame, now: Instant, ctx: &mut SocketContext<Self>) {
        self.wire.seen(now);
        match frame {
            Frame::Text(bytes) => match ByteString::try_from(bytes) {
                Ok(text) => self.deliver(Data::Text(text), now, ctx),
                Err(_) => self.say_goodbye(Goodbye::InvalidText),
            },
            Frame::Binary(bytes) => self.deliver(Data::Binary(bytes), now, ctx),
            Frame::Continuation(item) => self.fragment(item, now, ctx),
            Frame::Ping(payload) => ctx.send(Message::Pong(payload)),
            Frame::Pong(_) => {}
            Frame::Close(reason) => {
                let code = reason.as_ref().map(|reason| reason.code.into());
                self.close(Ending::ClientClosed(code), reason);
            }
        }
    }

    fn deliver(&mut self, message: Data, now: Instant, ctx: &mut SocketContext<Self>) {
        match self.conversation.message(message, now) {
            Ok(Some(Data::Text(text))) => ctx.send(Message::Text(text)),
            Ok(Some(Data::Binary(bytes))) => ctx.send(Message::Binary(bytes)),
            Ok(None) => {}
            Err(goodbye) => self.say_goodbye(goodbye),
        }
    }

    fn fragment(&mut self, item: Item, now: Instant, ctx: &mut SocketContext<Self>) {
        let (text, bytes, last) = match item {
            Item::FirstText(bytes) => (Some(true), bytes, false),
            Item::FirstBinary(bytes) => (Some(false), bytes, false),
            Item::Continue(bytes) => (None, bytes, false),
            Item::Last(bytes) => (None, bytes, true),
        };
        let mut assembly = match text {
            Some(text) => Box::new(Assembly::new(text)),
            // The scanner lets no continuation through that continues nothing.
            None => self.assembly.take().expect("a message in progress"),
        };
        if let Err(goodbye) = assembly.push(&bytes, last) {
            self.say_goodbye(goodbye);
        } else if last {
            self.deliver(assembly.finish(), now, ctx);
        } else {
            self.assembly = Some(assembly);
        }
    }
}

impl<C: Conversation> Handler<Command> for Socket<C> {
    type Result = ();

    fn handle(&mut self, command: Command, ctx: &mut Self::Context) {
        self.wire.heard();
        match (command, self.hurry) {
            (Command::Save, _) => self.conversation.save(),
            (Command::Stored(count), _) => self
                .conversation
                .stored(count, &mut |text| ctx.send(Message::Text(text))),
            (Command::Dismiss(goodbye), None | Some(Hurry::Overdue)) => {
                self.hurry = Some(Hurry::LastCall(goodbye));
            }
            (Command::CheckSilence, None) => self.hurry = Some(Hurry::Overdue),
            // To be woken is all there is to a `Flush`; who was dismissed once stays dismissed.
            (Command::Flush | Command::Dismiss(_) | Command::CheckSilence, _) => {}
        }
    }
}
