//! One of the thousands: as small as it can be, for there are thousands.

use crate::{
    beats::Seen, clock::Nanos, handshake::SessionId, kept::Kept, ledger::Ledger, link::Link,
};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not begun, or over.
    #[default]
    Gone,
    /// The connection is being made.
    Connecting,
    /// The request is sent.
    Upgrading,
    Open,
    /// We have said Close.
    Leaving,
    /// The server has said Close, and we have answered.
    Dismissed,
}

#[derive(Debug, Default)]
pub struct Socket {
    pub link: Option<Link>,
    pub state: State,
    /// Whether the bye of this connection has come.
    pub bye: bool,
    /// Whether its total was another one.
    pub false_bye: bool,
    /// Whether the server's Close has.
    pub closed: bool,
    pub ledger: Ledger,
    /// Messages of this connection that became due; those that are not sent yet wait for room.
    pub due: u32,
    /// Those of them that were sent before, over another connection; they come first.
    pub resent: u32,
    /// The pacer's round of the first one after them.
    pub first_round: u32,
    /// Handshakes in a row that came to nothing.
    pub failures: u8,
    /// Since when it is in its state; in a closed loop, when its message was sent.
    pub since: Nanos,
    pub seen: Seen,
    pub session: Option<SessionId>,
    pub kept: Kept,
    /// The begin of a frame that has not come whole; empty nearly always.
    pub inbox: Vec<u8>,
    /// What the kernel did not take; empty nearly always.
    pub outbox: Vec<u8>,
}

impl Socket {
    /// Whether a message could be sent now.
    pub fn free(&self) -> bool {
        self.state == State::Open && !self.bye && self.outbox.is_empty()
    }

    /// Whether something waits for the kernel to take more.
    pub fn blocked(&self) -> bool {
        !self.outbox.is_empty() || self.link.as_ref().is_some_and(Link::is_behind)
    }

    /// What the session's client keeps moves on; what is old is forgotten.
    pub fn age(&mut self) {
        if self.state == State::Open {
            self.kept.age(self.ledger.total());
        }
    }

    /// Forgets the connection, and keeps the session.
    pub fn reset(&mut self) -> Option<Link> {
        let link = self.link.take();
        *self = Self {
            session: self.session,
            kept: self.kept,
            failures: self.failures,
            since: self.since,
            ..Self::default()
        };
        link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_takes_a_few_hundred_bytes() {
        assert!(size_of::<Socket>() <= 208, "{}", size_of::<Socket>());
    }
}
