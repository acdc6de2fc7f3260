//! The sockets of one thread: they sign in and out by themselves, and whoever has something to say
//! to many of them, which is the roster, says it here.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Bound,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use actix::{Message, WeakRecipient};
use tokio::task::AbortHandle;

use crate::{protocol::Goodbye, socket::SocketSettings, telemetry::Telemetry, wire::Wire};

/// Counts the connections of a process from 1 on; later connections have higher numbers.
pub type ConnectionId = u64;

/// Pings are spread over the interval in this many portions.
pub const PING_SLICES: u32 = 25;

/// A ping without a payload, as it goes over the wire.
const PING: [u8; 2] = [0x89, 0];

/// What a socket is told.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub enum Command {
    /// Output waits: see it out.
    Flush,
    /// The peer seems to be silent: drop it, unless there is a word of it to read.
    CheckSilence,
    /// Have the count saved, changed or not.
    Save,
    /// The store has this count.
    Stored(u64),
    /// Handle what has arrived, then say goodbye.
    Dismiss(Goodbye),
}

pub struct Entry {
    wire: Rc<Wire>,
    commands: WeakRecipient<Command>,
    /// Cuts a socket off that does not even take commands any more.
    abort: AbortHandle,
    /// The portion of the pings it belongs to: the one that was served as it entered, so that its
    /// first ping comes a whole interval later.
    ping_slice: u32,
}

impl Entry {
    pub fn new(wire: Rc<Wire>, commands: WeakRecipient<Command>, abort: AbortHandle) -> Self {
        Self {
            wire,
            commands,
            abort,
            ping_slice: 0,
        }
    }
}

pub struct Sockets {
    pub settings: SocketSettings,
    pub telemetry: Arc<Telemetry>,
    /// Ordered, so that a sweep can stop anywhere and go on behind the last connection it served,
    /// whoever has come or gone meanwhile.
    entries: RefCell<BTreeMap<ConnectionId, Entry>>,
    dismissed: Cell<Option<Goodbye>>,
    /// Connections up to this one were dismissed by a paced drain.
    dismissed_to: Cell<ConnectionId>,
    ping_slice: Cell<u32>,
}

impl Sockets {
    pub fn new(settings: SocketSettings, telemetry: Arc<Telemetry>) -> Rc<Self> {
        Rc::new(Self {
            settings,
            telemetry,
            entries: RefCell::default(),
            dismissed: Cell::new(None),
            dismissed_to: Cell::new(0),
            ping_slice: Cell::new(0),
        })
    }

    /// A socket has begun.
    pub fn enter(&self, connection: ConnectionId, mut entry: Entry) {
        entry.ping_slice = self.ping_slice.get();
        // One that was let in before the drain, and is late to enter, goes with those of its age.
        let overtaken = connection <= self.dismissed_to.get();
        let goodbye = self
            .dismissed
            .get()
            .or_else(|| overtaken.then_some(Goodbye::Shutdown));
        if let Some(goodbye) = goodbye {
            self.tell(&entry, Command::Dismiss(goodbye));
        }
        self.entries.borrow_mut().insert(connection, entry);
    }

    /// A socket has ended.
    pub fn leave(&self, connection: ConnectionId) {
        self.entries.borrow_mut().remove(&connection);
    }

    /// Never waits: a socket that is too far behind is beyond help, and is cut off.
    fn tell(&self, entry: &Entry, command: Command) -> bool {
        let told = entry.wire.commanded()
            && entry
                .commands
                .upgrade()
                .is_some_and(|commands| commands.try_send(command).is_ok());
        if !told {
            self.telemetry.socket_unresponsive();
            entry.abort.abort();
        }
        told
    }

    /// Writes a whole frame to a socket, ahead of its next turn.
    fn push(&self, entry: &Entry, frame: &[u8]) {
        if !entry.wire.push(frame) {
            self.tell(entry, Command::Flush);
        }
    }

    /// Serves a chunk of the sockets behind `after`; returns the last one served.
    fn sweep(
        &self,
        after: ConnectionId,
        chunk: usize,
        serve: impl Fn(&Entry),
    ) -> Option<ConnectionId> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let mut last = None;
        for (connection, entry) in self.entries.borrow().range(behind).take(chunk) {
            serve(entry);
            last = Some(*connection);
        }
        last
    }

    /// Sends a frame to a chunk of the sockets behind `after`; returns the last one served.
    pub fn push_some(
        &self,
        after: ConnectionId,
        chunk: usize,
        frame: &[u8],
    ) -> Option<ConnectionId> {
        self.sweep(after, chunk, |entry| self.push(entry, frame))
    }

    /// Dismisses a chunk of the sockets behind `after`; returns the last one served.
    pub fn dismiss_some(
        &self,
        after: ConnectionId,
        chunk: usize,
        goodbye: Goodbye,
    ) -> Option<ConnectionId> {
        self.sweep(after, chunk, |entry| {
            self.tell(entry, Command::Dismiss(goodbye));
        })
    }

    /// Has a chunk of the sockets behind `after` saved; returns the last one served.
    pub fn save_some(&self, after: ConnectionId, chunk: usize) -> Option<ConnectionId> {
        self.sweep(after, chunk, |entry| {
            self.tell(entry, Command::Save);
        })
    }

    pub fn dismiss(&self, connection: ConnectionId, goodbye: Goodbye) {
        self.tell_one(connection, Command::Dismiss(goodbye));
    }

    /// The store has this count of the connection's session.
    pub fn stored(&self, connection: ConnectionId, count: u64) {
        self.tell_one(connection, Command::Stored(count));
    }

    fn tell_one(&self, connection: ConnectionId, command: Command) {
        if let Some(entry) = self.entries.borrow().get(&connection) {
            self.tell(entry, command);
        }
    }

    /// Whoever enters from now on is dismissed at once.
    pub fn turn_away(&self, goodbye: Goodbye) {
        self.dismissed.set(Some(goodbye));
    }

    /// Dismisses so many of those that were not yet, the oldest first; returns how many there were.
    pub fn dismiss_oldest(&self, sockets: usize) -> usize {
        let told = Cell::new(0);
        let last = self.sweep(self.dismissed_to.get(), sockets, |entry| {
            self.tell(entry, Command::Dismiss(Goodbye::Shutdown));
            told.set(told.get() + 1);
        });
        if let Some(last) = last {
            self.dismissed_to.set(last);
        }
        told.get()
    }

    /// Whoever was not dismissed stays.
    pub fn spare(&self) {
        self.dismissed_to.set(0);
    }

    /// Pings the next portion, and has a look at everybody: who is overdue is told to check.
    pub fn ping_some(&self, now: Instant) {
        let slice = (self.ping_slice.get() + 1) % PING_SLICES;
        self.ping_slice.set(slice);
        for entry in self.entries.borrow().values() {
            if entry.ping_slice == slice {
                self.push(entry, &PING);
            }
            let silence = now.saturating_duration_since(entry.wire.last_seen());
            if silence >= self.settings.peer_timeout {
                self.tell(entry, Command::CheckSilence);
            }
        }
    }

    /// Cuts off whoever is still there.
    pub fn abort_all(&self) {
        for entry in self.entries.borrow().values() {
            entry.abort.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use actix::{Actor, Context, Handler};
    use actix_rt::net::{TcpListener, TcpStream};
    use slog::{Discard, Logger, o};

    use super::*;
    use crate::{frame::Limits, metrics::Metrics};

    const SETTINGS: SocketSettings = SocketSettings {
        limits: Limits {
            message_bytes_max: 1000,
            fragments_max: 4,
            binary: false,
        },
        peer_timeout: Duration::from_secs(75),
        ping_interval: Duration::from_secs(25),
        write_timeout: Duration::from_secs(60),
    };

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
        let sockets = Sockets::new(SETTINGS, Arc::new(telemetry));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap());
        let wire = Rc::new(Wire::new(stream.await.unwrap()));
        let task = actix_rt::spawn(pending::<()>());
        let stuck = Stuck.start();
        let commands = stuck.downgrade().recipient();
        let entry = Entry::new(wire, commands, task.abort_handle());
        let told = (0..100)
            .take_while(|_| sockets.tell(&entry, Command::Flush))
            .count();
        assert!((16..=17).contains(&told), "{told} commands fit a mailbox");
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
        let metrics = sockets.telemetry.metrics.render();
        assert!(metrics.contains("tally_errors_total{kind=\"unresponsive\"} 1"));
    }
}
