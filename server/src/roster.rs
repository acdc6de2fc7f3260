//! One actor a worker: what the Hub has to say to all the sockets of a thread reaches it as one
//! message, and is passed on here without crossing threads again.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use actix::{Actor, ActorFuture, AsyncContext, Context, Handler, Message, Recipient};
use actix_web_actors::ws;
use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    hub::Unspent,
    protocol::Goodbye,
    sockets::{ConnectionId, PING_SLICES, Sockets},
    turn::come_again,
    wire,
};

/// A sweep serves this many sockets, then lets the others of its thread have a turn.
const SWEEP_CHUNK: usize = 64;

/// A beat of the heart, the same for every socket.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct Beat {
    pub text: ByteString,
    pub began: Instant,
}

/// One connection has to go.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Dismiss {
    pub connection: ConnectionId,
    pub goodbye: Goodbye,
}

/// Every connection has to go, and whoever comes later too.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct DismissAll(pub Goodbye);

/// So many connections have to go, the oldest first.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct DismissSome {
    pub sockets: usize,
    /// Who is told when there are not so many.
    pub unspent: Recipient<Unspent>,
}

/// The paced drain was taken back: whoever was not dismissed stays.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Spare;

/// Every session has to be saved, changed or not.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct SaveAll;

/// The drain's deadline has come: whoever is still there is cut off.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct AbortAll;

pub struct Roster {
    sockets: Rc<Sockets>,
}

impl Roster {
    pub fn new(sockets: Rc<Sockets>) -> Self {
        Self { sockets }
    }

    /// One after the other: an interval would make up for a time when the process did not run.
    fn schedule_pings(&self, ctx: &mut Context<Self>) {
        let wait = self.sockets.settings.ping_interval / PING_SLICES;
        ctx.run_later(wait, |roster, ctx| {
            roster.sockets.ping_some(Instant::now());
            roster.schedule_pings(ctx);
        });
    }
}

impl Actor for Roster {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule_pings(ctx);
    }
}

/// What every socket is to get.
enum Word {
    Beat { frame: Bytes, began: Instant },
    Save,
    Goodbye(Goodbye),
}

/// Gives it to them chunk by chunk, with a turn for the others in between.
struct Sweep {
    word: Word,
    after: ConnectionId,
}

impl ActorFuture<Roster> for Sweep {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        roster: &mut Roster,
        _ctx: &mut Context<Roster>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let sockets = &roster.sockets;
        let last = match &self.word {
            Word::Beat { frame, .. } => sockets.push_some(self.after, SWEEP_CHUNK, frame),
            Word::Save => sockets.save_some(self.after, SWEEP_CHUNK),
            Word::Goodbye(goodbye) => sockets.dismiss_some(self.after, SWEEP_CHUNK, *goodbye),
        };
        if let Some(last) = last {
            self.after = last;
            come_again(task);
            return Poll::Pending;
        }
        if let Word::Beat { began, .. } = self.word {
            sockets.telemetry.heartbeat_swept(began.elapsed());
        }
        Poll::Ready(())
    }
}

impl Handler<Beat> for Roster {
    type Result = ();

    fn handle(&mut self, Beat { text, began }: Beat, ctx: &mut Self::Context) {
        let frame = wire::encode(ws::Message::Text(text));
        ctx.spawn(Sweep {
            word: Word::Beat { frame, began },
            after: 0,
        });
    }
}

impl Handler<Dismiss> for Roster {
    type Result = ();

    fn handle(&mut self, dismiss: Dismiss, _: &mut Self::Context) {
        self.sockets.dismiss(dismiss.connection, dismiss.goodbye);
    }
}

impl Handler<DismissAll> for Roster {
    type Result = ();

    fn handle(&mut self, DismissAll(goodbye): DismissAll, ctx: &mut Self::Context) {
        self.sockets.turn_away(goodbye);
        ctx.spawn(Sweep {
            word: Word::Goodbye(goodbye),
            after: 0,
        });
    }
}

impl Handler<DismissSome> for Roster {
    type Result = ();

    fn handle(&mut self, some: DismissSome, _: &mut Self::Context) {
        let told = self.sockets.dismiss_oldest(some.sockets);
        if told < some.sockets {
            some.unspent.do_send(Unspent(some.sockets - told));
        }
    }
}

impl Handler<Spare> for Roster {
    type Result = ();

    fn handle(&mut self, _: Spare, _: &mut Self::Context) {
        self.sockets.spare();
    }
}

impl Handler<SaveAll> for Roster {
    type Result = ();

    fn handle(&mut self, _: SaveAll, ctx: &mut Self::Context) {
        ctx.spawn(Sweep {
            word: Word::Save,
            after: 0,
        });
    }
}

impl Handler<AbortAll> for Roster {
    type Result = ();

    fn handle(&mut self, _: AbortAll, _: &mut Self::Context) {
        self.sockets.abort_all();
    }
}
