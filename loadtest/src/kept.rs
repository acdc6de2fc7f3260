//! What a client keeps of its session across connections, so that it can send again what the server
//! does not have; pure.
//!
//! Messages have numbers, from 1 on, and the server's count is its acknowledgement of all up to that
//! number. Across a release that is final; across a crash it is final once it is older than the
//! server's checkpoint interval. So a message is kept for at least twice that long after its
//! acknowledgement.

use crate::ledger::Ledger;

/// Numbers alone: the messages of a load are all alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The last message that was sent.
    sent: u32,
    /// The last one that was acknowledged.
    acknowledged: u32,
    /// The last one that was when messages were last forgotten.
    aged: u32,
    /// Messages up to this one are kept no longer.
    forgotten: u32,
}

/// What a client finds when it comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Messages to send again, before any new one.
    pub resend: u32,
    /// Messages that the server does not have, and the client neither.
    pub lost: u32,
    /// Messages that the server has counted and nobody sent.
    pub duplicated: u32,
    /// Whether the server takes back what it had acknowledged.
    pub taken_back: bool,
}

impl Kept {
    /// A connection has ended with this ledger.
    pub fn part(&mut self, ledger: &Ledger) {
        self.acknowledged = ledger.total();
        self.sent = self.acknowledged + ledger.unanswered();
    }

    /// Forgets what had been acknowledged when this was last called. To be called every second
    /// checkpoint interval.
    pub fn age(&mut self, acknowledged: u32) {
        self.forgotten = self.aged;
        self.aged = acknowledged.max(self.aged);
    }

    /// The client is back, with the session or with a fresh one.
    pub fn resume(&mut self, resumed: bool, count: u32) -> Found {
        if !resumed {
            // What is still kept is sent to the fresh session, which begins at 0.
            let lost = self.forgotten;
            let sent = self.sent - lost;
            *self = Self {
                sent,
                ..Self::default()
            };
            return Found {
                resend: sent.saturating_sub(count),
                lost,
                duplicated: count.saturating_sub(sent),
                taken_back: false,
            };
        }
        let found = Found {
            resend: self.sent.saturating_sub(count.max(self.forgotten)),
            lost: self.forgotten.saturating_sub(count),
            duplicated: count.saturating_sub(self.sent),
            taken_back: count < self.acknowledged,
        };
        *self = Self {
            sent: count + found.resend,
            acknowledged: count,
            aged: self.aged.min(count),
            forgotten: self.forgotten.min(count),
        };
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(sent: u32, acknowledged: u32, forgotten: u32) -> Kept {
        Kept {
            sent,
            acknowledged,
            aged: forgotten,
            forgotten,
        }
    }

    #[test]
    fn what_was_not_counted_is_sent_again() {
        let found = kept(10, 7, 2).resume(true, 7);
        assert_eq!(
            found,
            Found {
                resend: 3,
                ..Found::default()
            }
        );
        // Counted, but the answers were lost.
        let found = kept(10, 7, 2).resume(true, 9);
        assert_eq!(
            found,
            Found {
                resend: 1,
                ..Found::default()
            }
        );
    }

    #[test]
    fn what_a_crash_took_back_is_sent_again_while_it_is_kept() {
        let mut client = kept(10, 7, 2);
        let found = client.resume(true, 3);
        let expected = Found {
            resend: 7,
            taken_back: true,
            ..Found::default()
        };
        assert_eq!(found, expected);
        let found = kept(10, 7, 5).resume(true, 3);
        let expected = Found {
            resend: 5,
            lost: 2,
            taken_back: true,
            duplicated: 0,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_fresh_session_gets_all_that_is_kept() {
        let found = kept(10, 7, 0).resume(false, 0);
        assert_eq!(
            found,
            Found {
                resend: 10,
                ..Found::default()
            }
        );
        let found = kept(10, 7, 4).resume(false, 0);
        assert_eq!(
            found,
            Found {
                resend: 6,
                lost: 4,
                ..Found::default()
            }
        );
    }

    #[test]
    fn a_count_beyond_what_was_sent_is_a_duplicate() {
        let found = kept(10, 10, 0).resume(true, 12);
        assert_eq!(found.duplicated, 2);
    }

    /// What a server and its client go through.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Send,
        Answer,
        Checkpoint,
        /// The server says goodbye with the right count; or it is killed, and the last checkpoint
        /// counts.
        Drain,
        Kill,
    }

    proptest! {
        /// The client ages at every second checkpoint, so nothing is ever lost or counted twice.
        #[test]
        fn nothing_is_lost(events in proptest::collection::vec(
            prop_oneof![
                5 => Just(Event::Send),
                5 => Just(Event::Answer),
                2 => Just(Event::Checkpoint),
                1 => Just(Event::Drain),
                1 => Just(Event::Kill),
            ],
            0..200,
        )) {
            let (mut kept, mut ledger) = (Kept::default(), Ledger::default());
            let (mut meant, mut stored, mut checkpoints) = (0, 0, 0);
            for event in events {
                match event {
                    Event::Send => {
                        ledger.send();
                        meant += 1;
                    }
                    Event::Answer if ledger.unanswered() > 0 => {
                        ledger.count(u64::from(ledger.total()) + 1).unwrap();
                    }
                    Event::Answer => {}
                    Event::Checkpoint => {
                        stored = ledger.total();
                        checkpoints += 1;
                        if checkpoints % 2 == 0 {
                            kept.age(ledger.total());
                        }
                    }
                    Event::Drain | Event::Kill => {
                        if matches!(event, Event::Drain) {
                            stored = ledger.total();
                        }
                        kept.part(&ledger);
                        let found = kept.resume(true, stored);
                        prop_assert_eq!((found.lost, found.duplicated), (0, 0));
                        ledger = Ledger::starting_at(stored.into());
                        (0..found.resend).for_each(|_| ledger.send());
                        prop_assert_eq!(ledger.total() + ledger.unanswered(), meant);
                    }
                }
            }
        }
    }
}
