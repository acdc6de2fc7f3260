//! All sockets in one thread: opens them, waits for them, and ends them. `inbound.rs` is what they
//! are told, `outbound.rs` what they say.

use std::{cmp::Reverse, collections::BinaryHeap, io, sync::Arc};

use crate::{
    beats::Beats,
    clock::{Clock, MILLISECOND, Nanos, SECOND},
    drain::Drain,
    fault::Fault,
    frame, handshake,
    link::Link,
    pacer::Pacer,
    poller::{Poller, Ready},
    recorder::Recorder,
    socket::{Socket, State},
    target::{self, Target},
    tls,
};

/// Read into by all sockets in turn.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long a handshake may take; a server that gives up on slow ones does so within half of it.
const HANDSHAKE_MAX: Nanos = 10 * SECOND;

/// How long the end may take, once Close was said.
const CLOSING_MAX: Nanos = 10 * SECOND;

/// Full jitter: a return waits anything up to this time, which doubles with each failure up to the
/// second one, and beyond what the server asked for. Who was sent away politely does not wait at all:
/// the server paces that.
const RETRY_MIN: Nanos = 200 * MILLISECOND;
const RETRY_MAX: Nanos = 5 * SECOND;

/// Messages that are sent in one go before the sockets are looked at again.
pub const BURST_MAX: usize = 256;

/// What the sockets say.
pub enum Load {
    Silent,
    Paced(Pacer),
    /// Each sends its next message when the last is answered.
    Closed,
}

pub struct Client {
    pub clock: Clock,
    pub sockets: Vec<Socket>,
    pub recorder: Recorder,
    pub beats: Beats,
    /// Since the server was told to send the sockets away.
    pub drain: Option<Drain>,
    pub load: Load,
    /// Whether messages are sent; answers are waited for either way.
    pub talking: bool,
    /// Handshakes under way.
    pub opening: usize,
    /// Sockets that come back, and when; each is in here once at most.
    pub returning: BinaryHeap<Reverse<(Nanos, usize)>>,
    /// How often clients forget what was acknowledged.
    pub forget_interval: Nanos,
    forgot: Nanos,
    pub(crate) message: Vec<u8>,
    pub(crate) target: Target,
    tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) buffer: Vec<u8>,
    poller: Poller,
    swept: Nanos,
}

impl Client {
    /// # Errors
    /// The process may open no more files.
    pub fn new(target: Target, sockets: usize, message_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            clock: Clock::start(),
            sockets: std::iter::repeat_with(Socket::default)
                .take(sockets)
                .collect(),
            recorder: Recorder::default(),
            beats: Beats::default(),
            drain: None,
            load: Load::Silent,
            talking: false,
            opening: 0,
            returning: BinaryHeap::new(),
            forget_interval: Nanos::MAX,
            forgot: 0,
            message: frame::make(frame::TEXT, &vec![b'x'; message_bytes]),
            tls: target.secure.then(tls::config),
            target,
            buffer: vec![0; BUFFER_BYTES],
            poller: Poller::new()?,
            swept: 0,
        })
    }

    /// Does what there is to do, or waits for it until `limit` at most.
    ///
    /// # Errors
    /// The kernel's, of waiting; none is known.
    pub fn turn(&mut self, limit: Nanos) -> io::Result<()> {
        let now = self.clock.now();
        let next = match &self.load {
            Load::Paced(pacer) if self.talking => pacer.next_at().min(limit),
            _ => limit,
        };
        self.poller.wait(next.saturating_sub(now))?;
        let mut index = 0;
        while let Some(ready) = self.poller.event(index) {
            self.handle(ready);
            index += 1;
        }
        self.send_due();
        self.come_back();
        let now = self.clock.now();
        if now > self.swept + SECOND {
            self.swept = now;
            self.sweep(now);
        }
        Ok(())
    }

    /// Begins a handshake.
    pub fn open(&mut self, index: usize) {
        let here = self.target.is_here();
        let from = here
            .then(|| target::source(index, self.sockets.len()))
            .flatten();
        let now = self.clock.now();
        let opened = Link::open(from, self.target.address, self.tls.as_ref());
        let socket = &mut self.sockets[index];
        socket.since = now;
        socket.state = State::Connecting;
        self.opening += 1;
        let outcome = opened.and_then(|link| {
            self.poller.add(link.file(), index)?;
            socket.link = Some(link);
            Ok(())
        });
        if let Err(error) = outcome {
            self.failed(index, Fault::Connect, &error.to_string());
        }
    }

    fn handle(&mut self, ready: Ready) {
        let Some(socket) = self.sockets.get(ready.socket) else {
            return;
        };
        if ready.writable || (ready.ends && socket.state == State::Connecting) {
            match socket.state {
                State::Connecting => self.connected(ready.socket),
                _ if socket.blocked() => self.flush(ready.socket),
                _ => {}
            }
        }
        if ready.readable {
            self.read(ready.socket, ready.ends);
        }
    }

    fn connected(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        let failure = socket.link.as_ref().and_then(Link::failure);
        if let Some(failure) = failure {
            return self.failed(index, Fault::Connect, &failure.to_string());
        }
        socket.state = State::Upgrading;
        // A socket that has a session wants it back.
        let request = handshake::request(&self.target, socket.session.as_ref());
        self.say(index, &request);
    }

    /// A handshake that came to nothing. Who is on the way back tries again.
    pub(crate) fn failed(&mut self, index: usize, fault: Fault, reason: &str) {
        self.opening -= 1;
        self.sockets[index].reset();
        let now = self.clock.now();
        match &mut self.drain {
            Some(drain) if drain.reconnect => {
                drain.retries += 1;
                self.try_again(index, now);
            }
            _ => self
                .recorder
                .faults
                .add(fault, 1, || format!("socket {index}: {reason}")),
        }
    }

    /// Has a socket come back some time from `from` on.
    fn try_again(&mut self, index: usize, from: Nanos) {
        let failures = &mut self.sockets[index].failures;
        let bound = RETRY_MIN << u32::from(*failures).min(16);
        *failures = failures.saturating_add(1);
        let wait = fastrand::u64(0..=bound.min(RETRY_MAX));
        self.returning.push(Reverse((from + wait, index)));
    }

    /// A socket is no longer open for talk.
    pub(crate) fn part(&mut self, index: usize, now: Nanos) {
        self.recorder.counts.open -= 1;
        let socket = &mut self.sockets[index];
        socket.kept.part(&socket.ledger);
        let missing = self.beats.leave(&self.sockets[index].seen, now);
        self.fault(index, Fault::MissingBeat, u64::from(missing), "at its end");
    }

    /// The connection is over, in whatever state it was.
    pub(crate) fn ended(&mut self, index: usize, how: &str) {
        let now = self.clock.now();
        match self.sockets[index].state {
            State::Gone => return,
            State::Connecting => return self.failed(index, Fault::Connect, how),
            State::Upgrading => return self.failed(index, Fault::Handshake, how),
            State::Open => {
                self.part(index, now);
                self.lost(index, now, how);
            }
            State::Leaving if !self.sockets[index].closed => {
                self.fault(index, Fault::NoClose, 1, how);
            }
            State::Leaving | State::Dismissed => {}
        }
        let came = self.sockets[index].state;
        self.sockets[index].reset();
        if self.drain.as_ref().is_some_and(|drain| drain.reconnect) {
            match came {
                State::Leaving => {}
                State::Dismissed => self.returning.push(Reverse((now, index))),
                _ => self.try_again(index, now),
            }
        }
    }

    fn lost(&mut self, index: usize, now: Nanos, how: &str) {
        if let Some(drain) = &mut self.drain {
            drain.cut_off(index, now);
            if !drain.reconnect {
                self.fault(index, Fault::NoClose, 1, how);
            }
        } else {
            self.fault(index, Fault::Lost, 1, how);
        }
    }

    pub(crate) fn fault(&mut self, index: usize, fault: Fault, number: u64, what: &str) {
        let example = || format!("socket {index}: {what}");
        self.recorder.faults.add(fault, number, example);
    }

    /// Begins the handshakes of those who come back and whose time has come.
    fn come_back(&mut self) {
        let now = self.clock.now();
        while self.opening < BURST_MAX {
            match self.returning.peek() {
                Some(Reverse((at, index))) if *at <= now => {
                    let index = *index;
                    self.returning.pop();
                    self.open(index);
                }
                _ => return,
            }
        }
    }

    /// Ends what takes too long.
    fn sweep(&mut self, now: Nanos) {
        if now.saturating_sub(self.forgot) > self.forget_interval {
            self.forgot = now;
            self.sockets.iter_mut().for_each(Socket::age);
        }
        for index in 0..self.sockets.len() {
            let socket = &self.sockets[index];
            let age = now.saturating_sub(socket.since);
            match socket.state {
                State::Connecting | State::Upgrading if age > HANDSHAKE_MAX => {
                    self.failed(index, Fault::HandshakeTimeout, "no answer to the handshake");
                }
                State::Leaving | State::Dismissed if age > CLOSING_MAX => {
                    self.fault(index, Fault::Stuck, 1, "no end of the stream after Close");
                    self.sockets[index].closed = true;
                    self.ended(index, "stuck");
                }
                _ => {}
            }
        }
    }

    /// Ends everything at once.
    pub fn abort(&mut self) {
        let now = self.clock.now();
        for index in 0..self.sockets.len() {
            if self.sockets[index].state == State::Open {
                self.part(index, now);
            }
            if let Some(link) = self.sockets[index].reset() {
                link.abort();
            }
        }
        self.opening = 0;
        self.returning.clear();
    }
}
