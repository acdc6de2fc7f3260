//! One actor a worker: the sockets of this thread. What the Hub has to say to all of them reaches
//! a worker as one message, and is passed on here without crossing threads again.

use std::{
    collections::BTreeMap,
    ops::Bound,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use actix::{Actor, ActorFuture, AsyncContext, Context, Handler, Message, Recipient};
use bytestring::ByteString;
use futures_util::future::AbortHandle;

use crate::{hub::Unspent, protocol::Goodbye, telemetry::Telemetry};

/// Counts the connections of a process from 1 on; later connections have higher numbers.
pub type ConnectionId = u64;

/// A beat serves this many sockets, then lets the others of its thread have a turn.
const SWEEP_CHUNK: usize = 64;

/// Pings are spread over the interval in this many portions.
const PING_SLICES: u32 = 25;

/// What a socket is told.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub enum Command {
    /// Send this text.
    Push(ByteString),
    /// Send a ping, and see whether the peer is still there.
    Ping,
    /// Handle what has arrived, then say goodbye.
    Dismiss(Goodbye),
}

/// A socket has begun.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Enter {
    pub connection: ConnectionId,
    pub commands: Recipient<Command>,
    /// Cuts a socket off that does not even take commands any more.
    pub abort: AbortHandle,
}

/// A socket has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave {
    pub connection: ConnectionId,
}

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

/// The drain's deadline has come: whoever is still there is cut off.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct AbortAll;

struct Entry {
    commands: Recipient<Command>,
    abort: AbortHandle,
    /// The portion of the pings it belongs to: the one that was served as it entered, so that its
    /// first ping comes a whole interval later.
    ping_slice: u32,
}

pub struct Roster {
    /// Ordered, so that a sweep can stop anywhere and go on behind the last connection it served,
    /// whoever has come or gone meanwhile.
    sockets: BTreeMap<ConnectionId, Entry>,
    dismissed: Option<Goodbye>,
    /// Connections up to this one were dismissed by a paced drain.
    dismissed_to: ConnectionId,
    ping_interval: Duration,
    ping_slice: u32,
    telemetry: Arc<Telemetry>,
}

impl Roster {
    pub fn new(ping_interval: Duration, telemetry: Arc<Telemetry>) -> Self {
        Self {
            sockets: BTreeMap::new(),
            dismissed: None,
            dismissed_to: 0,
            ping_interval,
            ping_slice: 0,
            telemetry,
        }
    }

    /// Never waits: a socket whose mailbox is full is beyond help, and is cut off.
    fn tell(&self, entry: &Entry, command: Command) -> bool {
        let told = entry.commands.try_send(command).is_ok();
        if !told {
            self.telemetry.socket_unresponsive();
            entry.abort.abort();
        }
        told
    }

    /// Tells the sockets behind `after`, a chunk of them; returns the last one told.
    fn tell_chunk(&self, after: ConnectionId, command: &Command) -> Option<ConnectionId> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let mut last = None;
        for (connection, entry) in self.sockets.range(behind).take(SWEEP_CHUNK) {
            self.tell(entry, command.clone());
            last = Some(*connection);
        }
        last
    }

    /// One after the other: an interval would make up for a time when the process did not run.
    fn schedule_pings(&self, ctx: &mut Context<Self>) {
        ctx.run_later(self.ping_interval / PING_SLICES, |roster, ctx| {
            roster.ping_some();
            roster.schedule_pings(ctx);
        });
    }

    fn ping_some(&mut self) {
        self.ping_slice = (self.ping_slice + 1) % PING_SLICES;
        for entry in self.sockets.values() {
            if entry.ping_slice == self.ping_slice {
                self.tell(entry, Command::Ping);
            }
        }
    }
}

impl Actor for Roster {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule_pings(ctx);
    }
}

/// Tells every socket, chunk by chunk, with a turn for the others in between.
struct Sweep {
    command: Command,
    after: ConnectionId,
    beat: Option<Instant>,
}

impl ActorFuture<Roster> for Sweep {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        roster: &mut Roster,
        _ctx: &mut Context<Roster>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        match roster.tell_chunk(self.after, &self.command) {
            Some(last) => {
                self.after = last;
                task.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                if let Some(began) = self.beat {
                    roster.telemetry.heartbeat_swept(began.elapsed());
                }
                Poll::Ready(())
            }
        }
    }
}

impl Handler<Enter> for Roster {
    type Result = ();

    fn handle(&mut self, enter: Enter, _: &mut Self::Context) {
        let entry = Entry {
            commands: enter.commands,
            abort: enter.abort,
            ping_slice: self.ping_slice,
        };
        // One that was let in before the drain, and is late to enter, goes with those of its age.
        let overtaken = enter.connection <= self.dismissed_to;
        let goodbye = self
            .dismissed
            .or_else(|| overtaken.then_some(Goodbye::Shutdown));
        if let Some(goodbye) = goodbye {
            self.tell(&entry, Command::Dismiss(goodbye));
        }
        self.sockets.insert(enter.connection, entry);
    }
}

impl Handler<Leave> for Roster {
    type Result = ();

    fn handle(&mut self, leave: Leave, _: &mut Self::Context) {
        self.sockets.remove(&leave.connection);
    }
}

impl Handler<Beat> for Roster {
    type Result = ();

    fn handle(&mut self, beat: Beat, ctx: &mut Self::Context) {
        ctx.spawn(Sweep {
            command: Command::Push(beat.text),
            after: 0,
            beat: Some(beat.began),
        });
    }
}

impl Handler<Dismiss> for Roster {
    type Result = ();

    fn handle(&mut self, dismiss: Dismiss, _: &mut Self::Context) {
        if let Some(entry) = self.sockets.get(&dismiss.connection) {
            self.tell(entry, Command::Dismiss(dismiss.goodbye));
        }
    }
}

impl Handler<DismissAll> for Roster {
    type Result = ();

    fn handle(&mut self, DismissAll(goodbye): DismissAll, ctx: &mut Self::Context) {
        self.dismissed = Some(goodbye);
        ctx.spawn(Sweep {
            command: Command::Dismiss(goodbye),
            after: 0,
            beat: None,
        });
    }
}

impl Handler<DismissSome> for Roster {
    type Result = ();

    fn handle(&mut self, some: DismissSome, _: &mut Self::Context) {
        let behind = (Bound::Excluded(self.dismissed_to), Bound::Unbounded);
        let mut told = 0;
        let mut last = self.dismissed_to;
        for (connection, entry) in self.sockets.range(behind).take(some.sockets) {
            self.tell(entry, Command::Dismiss(Goodbye::Shutdown));
            last = *connection;
            told += 1;
        }
        self.dismissed_to = last;
        if told < some.sockets {
            some.unspent.do_send(Unspent(some.sockets - told));
        }
    }
}

impl Handler<Spare> for Roster {
    type Result = ();

    fn handle(&mut self, _: Spare, _: &mut Self::Context) {
        self.dismissed_to = 0;
    }
}

impl Handler<AbortAll> for Roster {
    type Result = ();

    fn handle(&mut self, _: AbortAll, _: &mut Self::Context) {
        for entry in self.sockets.values() {
            entry.abort.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use slog::{Discard, Logger, o};

    use super::*;
    use crate::metrics::Metrics;

    /// A socket whose task does not run: nothing here lets it.
    struct Stuck;

    impl Actor for Stuck {
        type Context = Context<Self>;
    }

    impl Handler<Command> for Stuck {
        type Result = ();

        fn handle(&mut self, _: Command, _: &mut Self::Context) {}
    }

    #[actix_rt::test]
    async fn a_socket_whose_mailbox_is_full_is_cut_off() {
        let telemetry = Telemetry::new(Logger::root(Discard, o!()), Metrics::new("0", "0"));
        let telemetry = Arc::new(telemetry);
        let roster = Roster::new(Duration::from_secs(25), telemetry.clone());
        let (abort, _registration) = AbortHandle::new_pair();
        let entry = Entry {
            commands: Stuck.start().recipient(),
            abort: abort.clone(),
            ping_slice: 0,
        };
        let told = (0..100)
            .take_while(|_| roster.tell(&entry, Command::Ping))
            .count();
        assert!((16..=17).contains(&told), "{told} commands fit a mailbox");
        assert!(abort.is_aborted());
        let metrics = telemetry.metrics.render();
        assert!(metrics.contains("tally_errors_total{kind=\"unresponsive\"} 1"));
    }
}
