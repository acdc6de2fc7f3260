//! When messages are due: a schedule that no slow server holds up; pure.

use crate::clock::{Nanos, SECOND};

/// Sends message after message round the sockets, evenly spaced. Message `k` belongs to socket
/// `k % sockets`, so a socket and a round tell when a message was meant to go: nothing has to be
/// remembered of messages on their way, however many there are.
#[derive(Clone, Debug)]
pub struct Pacer {
    start: Nanos,
    /// Nanoseconds between two messages, not whole: a million would drift away by a second.
    gap: f64,
    sockets: u64,
    /// Messages that became due so far.
    next: u64,
}

/// A message that is due: which socket has to send it, and in which round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub socket: usize,
    pub round: u32,
}

impl Pacer {
    /// `rate` is in messages a second over all sockets, and above zero.
    pub fn new(start: Nanos, rate: f64, sockets: usize) -> Self {
        Self {
            start,
            gap: SECOND as f64 / rate,
            sockets: sockets as u64,
            next: 0,
        }
    }

    /// The next message if it is due by now.
    pub fn take(&mut self, now: Nanos) -> Option<Due> {
        if self.next_at() > now {
            return None;
        }
        let due = Due {
            socket: usize::try_from(self.next % self.sockets).expect("a socket's index"),
            round: u32::try_from(self.next / self.sockets).unwrap_or(u32::MAX),
        };
        self.next += 1;
        Some(due)
    }

    pub fn next_at(&self) -> Nanos {
        self.at(self.next)
    }

    /// When a socket's message of this round is meant to be sent.
    pub fn intended(&self, socket: usize, round: u32) -> Nanos {
        self.at(u64::from(round) * self.sockets + socket as u64)
    }

    fn at(&self, message: u64) -> Nanos {
        self.start + (message as f64 * self.gap) as Nanos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_round_the_sockets_evenly() {
        let mut pacer = Pacer::new(5, 4.0, 3);
        let mut due = std::iter::from_fn(|| pacer.take(5 + SECOND));
        let expected = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)];
        for (socket, round) in expected {
            assert_eq!(due.next(), Some(Due { socket, round }));
        }
        assert_eq!(due.next(), None);
        assert_eq!(pacer.next_at(), 5 + SECOND * 5 / 4);
    }

    #[test]
    fn an_intended_time_is_the_one_it_became_due() {
        let mut pacer = Pacer::new(0, 3.0, 7);
        for _ in 0..100 {
            let at = pacer.next_at();
            let due = pacer.take(at).unwrap();
            assert_eq!(pacer.intended(due.socket, due.round), at);
        }
    }

    #[test]
    fn a_stall_moves_nothing() {
        let mut pacer = Pacer::new(0, 1000.0, 1);
        assert_eq!(std::iter::from_fn(|| pacer.take(SECOND)).count(), 1001);
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let pacer = Pacer::new(0, 3.0, 1);
        assert_eq!(pacer.intended(0, 3_000_000), 1_000_000 * SECOND);
    }
}
