//! What the sockets say.

use crate::{
    client::{BURST_MAX, Client, Load},
    clock::Nanos,
    fault::Fault,
    frame,
    pacer::Due,
    socket::State,
};

/// A peer that takes no output gets this much kept for it: pongs, and the rest of a message.
const OUTBOX_BYTES_MAX: usize = 128 * 1024;

impl Client {
    /// Sends the messages whose time has come.
    pub(crate) fn send_due(&mut self) {
        if !self.talking {
            return;
        }
        let now = self.clock.now();
        for _ in 0..BURST_MAX {
            let Load::Paced(pacer) = &mut self.load else {
                return;
            };
            let Some(due) = pacer.take(now) else { return };
            self.owe(due);
        }
    }

    /// A socket that is open has one more message to send; a socket that is blocked sends it, and
    /// is late with it, once the server reads again.
    fn owe(&mut self, due: Due) {
        let socket = &mut self.sockets[due.socket];
        if socket.state != State::Open || socket.bye {
            return;
        }
        if socket.due == socket.resent {
            socket.first_round = due.round;
        }
        socket.due += 1;
        self.send_owed(due.socket);
    }

    fn send_owed(&mut self, index: usize) {
        loop {
            let socket = &self.sockets[index];
            let sent = socket.ledger.sent();
            if !socket.free() || sent >= socket.due {
                return;
            }
            let paced = matches!(self.load, Load::Paced(_));
            let intended = paced.then(|| self.intended(index, sent));
            self.send_message(index, intended);
        }
    }

    /// What the server did not count over the last connection.
    pub(crate) fn send_again(&mut self, index: usize) {
        self.send_owed(index);
        let (resent, talking) = (self.sockets[index].resent, self.talking);
        if talking && resent == 0 && matches!(self.load, Load::Closed) {
            self.send_next(index);
        }
    }

    /// When the message at this place of its connection was meant to be sent. What is sent again
    /// was meant for the moment of the return.
    pub(crate) fn intended(&self, index: usize, place: u32) -> Nanos {
        let socket = &self.sockets[index];
        match (&self.load, place.checked_sub(socket.resent)) {
            (Load::Paced(pacer), Some(place)) => pacer.intended(index, socket.first_round + place),
            _ => socket.since,
        }
    }

    /// In a closed loop: the first message of every open socket.
    pub fn send_first(&mut self) {
        for index in 0..self.sockets.len() {
            self.send_next(index);
        }
    }

    pub(crate) fn send_next(&mut self, index: usize) {
        if self.sockets[index].free() {
            self.sockets[index].since = self.clock.now();
            self.sockets[index].due += 1;
            self.send_message(index, None);
        }
    }

    fn send_message(&mut self, index: usize, intended: Option<Nanos>) {
        let now = self.clock.now();
        self.sockets[index].ledger.send();
        self.recorder
            .sent(intended.map(|intended| now.saturating_sub(intended)));
        let message = std::mem::take(&mut self.message);
        self.say(index, &message);
        self.message = message;
    }

    /// Says goodbye.
    pub fn leave(&mut self, index: usize) {
        let now = self.clock.now();
        self.part(index, now);
        self.sockets[index].state = State::Leaving;
        self.sockets[index].since = now;
        let code = frame::NORMAL.to_be_bytes();
        self.say(index, &frame::make(frame::CLOSE, &code));
    }

    /// Writes bytes, behind those that the kernel has not taken yet.
    pub(crate) fn say(&mut self, index: usize, bytes: &[u8]) {
        let socket = &mut self.sockets[index];
        let Some(link) = &mut socket.link else {
            return;
        };
        let mut written = 0;
        if socket.outbox.is_empty() {
            match link.send(bytes) {
                Ok(length) => written = length,
                // The read that follows tells the same, after what the server may have said before.
                Err(_) => return,
            }
        }
        socket.outbox.extend_from_slice(&bytes[written..]);
        if socket.outbox.len() > OUTBOX_BYTES_MAX {
            self.fault(index, Fault::Stuck, 1, "the server does not read");
            self.ended(index, "output does not drain");
        }
    }

    /// The kernel takes more.
    pub(crate) fn flush(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        let Some(link) = &mut socket.link else {
            return;
        };
        if let Ok(written) = link.send(&socket.outbox) {
            socket.outbox.drain(..written);
        }
        if !socket.blocked() {
            socket.outbox = Vec::new();
            self.send_owed(index);
        }
    }
}
