//! The per-socket actor: frames in, frames out, the close handshake. What a message means is the
//! business of the [`Conversation`] it carries.
//!
//! `actix-web-actors` is deprecated upstream, so this is the only file that names it.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Handler, Running, StreamHandler};
use actix_http::ws::{CloseReason, Codec, Item, Message, ProtocolError};
use actix_rt::net::TcpStream;
use actix_web_actors::ws::WebsocketContext;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use futures_util::{
    FutureExt,
    future::{AbortHandle, Abortable},
};

use crate::{
    frame::{CONTROL_BYTES_MAX, Limits},
    guard::Guard,
    protocol::Goodbye,
    pump::Pump,
    roster::{Command, ConnectionId, Enter, Leave, Roster},
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

    /// The last text before any Close.
    fn farewell(&mut self) -> Option<ByteString> {
        None
    }

    /// Nothing more will be handed over. Called exactly once, before the farewell if there is one.
    fn ended(&mut self, ending: Ending);
}

/// Input that has arrived is read within this time.
const SILENCE_GRACE: Duration = Duration::from_millis(50);

/// Durations and sizes that hold for every socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketSettings {
    pub limits: Limits,
    pub peer_timeout: Duration,
    pub ping_interval: Duration,
    pub write_timeout: Duration,
}

/// Runs a conversation on an upgraded stream until the socket can be closed.
///
/// `rest` is what the peer sent behind its handshake. Not an `async fn`: its future would keep
/// room for every step of the building, and there is one for each socket.
pub fn converse<C: Conversation>(
    stream: TcpStream,
    rest: Bytes,
    conversation: C,
    id: ConnectionId,
    roster: Addr<Roster>,
    settings: SocketSettings,
) -> impl Future<Output = ()> {
    let wire = Rc::new(Wire::new(stream));
    let (abort, registration) = AbortHandle::new_pair();
    let guard = Guard::new(wire.clone(), settings.limits, rest);
    let socket = Socket {
        conversation,
        wire: wire.clone(),
        roster,
        id,
        abort,
        settings,
        last_seen: Instant::now(),
        assembly: None,
        ended: false,
    };
    // The guard has judged every size; the codec's own bound holds for control frames too.
    let codec = Codec::new().max_size(settings.limits.message_bytes_max.max(CONTROL_BYTES_MAX));
    let frames = WebsocketContext::with_codec(socket, guard, codec);
    let pump = Pump::new(wire, frames, settings.write_timeout);
    // An abort drops the actor, which parks its session; there is nothing else to report.
    Abortable::new(pump, registration).map(|_| ())
}

struct Socket<C: Conversation> {
    conversation: C,
    wire: Rc<Wire>,
    roster: Addr<Roster>,
    id: ConnectionId,
    abort: AbortHandle,
    settings: SocketSettings,
    last_seen: Instant,
    /// A fragmented message in progress.
    assembly: Option<Box<Assembly>>,
    ended: bool,
}

type SocketContext<C> = WebsocketContext<Socket<C>>;

impl<C: Conversation> Actor for Socket<C> {
    type Context = SocketContext<C>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.roster.do_send(Enter {
            connection: self.id,
            commands: ctx.address().recipient(),
            abort: self.abort.clone(),
        });
        if let Some(text) = self.conversation.opening() {
            ctx.text(text);
        }
    }

    fn stopping(&mut self, _ctx: &mut Self::Context) -> Running {
        Running::Stop
    }

    /// Also runs when the context is dropped, so every ended connection comes by here.
    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.settle(self.wire.ending().unwrap_or(Ending::Aborted));
        self.roster.do_send(Leave {
            connection: self.id,
        });
    }
}

impl<C: Conversation> Socket<C> {
    fn settle(&mut self, ending: Ending) {
        if !std::mem::replace(&mut self.ended, true) {
            self.wire.end(ending);
            self.conversation.ended(ending);
        }
    }

    /// The last words, a Close, and the end of the actor; the pump sees them out.
    fn close(&mut self, ending: Ending, reason: Option<CloseReason>, ctx: &mut SocketContext<C>) {
        self.settle(ending);
        if let Some(text) = self.conversation.farewell() {
            ctx.text(text);
        }
        ctx.close(reason);
        ctx.stop();
    }

    fn say_goodbye(&mut self, goodbye: Goodbye, ctx: &mut SocketContext<C>) {
        let reason = Some(goodbye.close_reason());
        self.close(Ending::ServerClosed(goodbye), reason, ctx);
    }

    fn deliver(&mut self, message: Data, ctx: &mut SocketContext<C>) {
        match self.conversation.message(message, self.last_seen) {
            Ok(Some(Data::Text(text))) => ctx.text(text),
            Ok(Some(Data::Binary(bytes))) => ctx.binary(bytes),
            Ok(None) => {}
            Err(goodbye) => self.say_goodbye(goodbye, ctx),
        }
    }

    fn fragment(&mut self, item: Item, ctx: &mut SocketContext<C>) {
        let (text, bytes, last) = match item {
            Item::FirstText(bytes) => (Some(true), bytes, false),
            Item::FirstBinary(bytes) => (Some(false), bytes, false),
            Item::Continue(bytes) => (None, bytes, false),
            Item::Last(bytes) => (None, bytes, true),
        };
        let mut assembly = match text {
            Some(text) => Box::new(Assembly::new(text)),
            // The guard lets no continuation through that continues nothing.
            None => self.assembly.take().expect("a message in progress"),
        };
        if let Err(goodbye) = assembly.push(&bytes, last) {
            self.say_goodbye(goodbye, ctx);
        } else if last {
            self.deliver(assembly.finish(), ctx);
        } else {
            self.assembly = Some(assembly);
        }
    }

    /// Drops a peer that has been silent for the peer timeout. Only a peer that will be overdue
    /// before its next ping gets a timer, so healthy sockets need none.
    fn check_silence(&mut self, ctx: &mut SocketContext<C>) {
        let silence = self.last_seen.elapsed();
        let left = self.settings.peer_timeout.saturating_sub(silence);
        if left < self.settings.ping_interval {
            // A process that did not run for a while has yet to read what came meanwhile.
            ctx.run_later(left.max(SILENCE_GRACE), |socket, ctx| {
                if socket.last_seen.elapsed() >= socket.settings.peer_timeout {
                    socket.wire.end(Ending::Silent);
                    ctx.stop();
                }
            });
        }
    }
}

impl<C: Conversation> Handler<Command> for Socket<C> {
    type Result = ();

    fn handle(&mut self, command: Command, ctx: &mut Self::Context) {
        if self.ended {
            return;
        }
        match command {
            Command::Push(text) => ctx.text(text),
            Command::Ping => {
                ctx.ping(b"");
                self.check_silence(ctx);
            }
            // The guard first hands over what has arrived; `finished` says goodbye.
            Command::Dismiss(goodbye) => self.wire.call_last(goodbye),
        }
    }
}

impl<C: Conversation> StreamHandler<Result<Message, ProtocolError>> for Socket<C> {
    fn handle(&mut self, item: Result<Message, ProtocolError>, ctx: &mut Self::Context) {
        if self.ended {
            return;
        }
        self.last_seen = Instant::now();
        match item {
            Ok(Message::Text(text)) => self.deliver(Data::Text(text), ctx),
            Ok(Message::Binary(bytes)) => self.deliver(Data::Binary(bytes), ctx),
            Ok(Message::Continuation(item)) => self.fragment(item, ctx),
            Ok(Message::Ping(payload)) => ctx.pong(&payload),
            Ok(Message::Pong(_) | Message::Nop) => {}
            Ok(Message::Close(reason)) => {
                let code = reason.as_ref().map(|reason| reason.code.into());
                self.close(Ending::ClientClosed(code), reason, ctx);
            }
            // Behind the guard the codec has one complaint left: a text that is no UTF-8.
            Err(ProtocolError::Io(_)) => self.say_goodbye(Goodbye::InvalidText, ctx),
            Err(ProtocolError::Overflow) => self.say_goodbye(Goodbye::TooBig, ctx),
            Err(_) => self.say_goodbye(Goodbye::Protocol, ctx),
        }
    }

    /// The input is over: the peer has gone, or the guard has refused a frame, or all that had
    /// arrived at the last call is handled.
    fn finished(&mut self, ctx: &mut Self::Context) {
        match self.wire.ending() {
            Some(Ending::ServerClosed(goodbye)) if !self.ended => self.say_goodbye(goodbye, ctx),
            _ => ctx.stop(),
        }
    }
}

/// A message that comes in fragments. Its size and their number are the guard's business.
struct Assembly {
    text: bool,
    bytes: BytesMut,
    /// How far the text is known to be UTF-8.
    valid: usize,
}

impl Assembly {
    fn new(text: bool) -> Self {
        Self {
            text,
            bytes: BytesMut::new(),
            valid: 0,
        }
    }

    /// Refuses a text as soon as it can no longer become UTF-8; a character may still be cut in
    /// two between fragments.
    fn push(&mut self, bytes: &[u8], last: bool) -> Result<(), Goodbye> {
        self.bytes.extend_from_slice(bytes);
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.valid..]) {
            Ok(_) => {
                self.valid = self.bytes.len();
                Ok(())
            }
            Err(error) if error.error_len().is_none() && !last => {
                self.valid += error.valid_up_to();
                Ok(())
            }
            Err(_) => Err(Goodbye::InvalidText),
        }
    }

    fn finish(self) -> Data {
        let bytes = self.bytes.freeze();
        if self.text {
            Data::Text(ByteString::try_from(bytes).expect("checked fragment by fragment"))
        } else {
            Data::Binary(bytes)
        }
    }
}
