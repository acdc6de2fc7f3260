//! What one connection has sent and been told; pure.

use crate::fault::Fault;

/// Numbers are 32 bits wide, for there are many ledgers and no run sends so many messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The session's count when this connection took it over.
    base: u32,
    sent: u32,
    answered: u32,
}

impl Ledger {
    pub fn starting_at(count: u64) -> Self {
        Self {
            base: narrow(count),
            ..Self::default()
        }
    }

    pub fn send(&mut self) {
        self.sent += 1;
    }

    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Messages that wait for their answer.
    pub fn unanswered(&self) -> u32 {
        self.sent - self.answered
    }

    /// Takes an answer to the oldest message that waits for one, whatever number it has.
    ///
    /// # Errors
    /// Nothing waits, or the number is not the next one.
    pub fn count(&mut self, count: u64) -> Result<(), Fault> {
        if self.unanswered() == 0 {
            return Err(Fault::UnaskedCount);
        }
        self.answered += 1;
        if count == u64::from(self.total()) {
            Ok(())
        } else {
            Err(Fault::WrongCount)
        }
    }

    /// Messages of this connection that were answered.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// What the bye has to say: a server counts nothing that it does not answer.
    pub fn total(&self) -> u32 {
        self.base + self.answered
    }

    /// # Errors
    /// The total is another one.
    pub fn bye(&self, total: u64) -> Result<(), Fault> {
        if total == u64::from(self.total()) {
            Ok(())
        } else {
            Err(Fault::WrongTotal)
        }
    }
}

pub fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_from_the_sessions() {
        let mut ledger = Ledger::starting_at(7);
        ledger.send();
        ledger.send();
        assert_eq!(ledger.count(8), Ok(()));
        assert_eq!(ledger.unanswered(), 1);
        assert_eq!(ledger.bye(8), Ok(()));
        assert_eq!(ledger.bye(9), Err(Fault::WrongTotal));
    }

    #[test]
    fn a_lie_is_found_and_does_not_spoil_the_rest() {
        let mut ledger = Ledger::default();
        for _ in 0..3 {
            ledger.send();
        }
        assert_eq!(ledger.count(1), Ok(()));
        assert_eq!(ledger.count(1), Err(Fault::WrongCount));
        assert_eq!(ledger.count(3), Ok(()));
        assert_eq!(ledger.count(4), Err(Fault::UnaskedCount));
    }
}
