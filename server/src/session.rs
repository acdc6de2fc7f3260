//! The rules of a session: who holds it, who wants it, and what its count is.
//!
//! One pure state machine, without a clock, a network or an actor. Every store keeps a [`Session`]
//! for each id and changes it by these rules alone; DESIGN.md has them in words. Each claim raises
//! the session's epoch, and a word from an older epoch is a late one: it may hand over the count
//! that is awaited of it, and changes nothing else.
//!
//! Within an epoch the order of the words does not matter: the count never falls, and who has
//! parked stays parked. So a checkpoint may overtake the end of its connection, or come after it.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Counts the claims of a session, from 1 with its first holder.
pub type Epoch = u32;

/// A process that holds sessions. Another run of the same process is another owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner(String);

impl Owner {
    /// A name that nobody has had before, beginning with the colour for whoever looks into a store.
    pub fn new(colour: &str) -> Self {
        Self(format!("{colour}-{}", Uuid::new_v4().simple()))
    }

    /// As a store has kept it.
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a session's holder says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Save {
    pub id: Uuid,
    pub epoch: Epoch,
    /// Messages counted.
    pub count: u64,
    /// Whether the holder is done with it.
    pub parked: bool,
}

/// The old holder's count, which has to be there before the new holder may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    pub epoch: Epoch,
    pub from: Owner,
}

/// A session as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub epoch: Epoch,
    pub count: u64,
    /// Who counts. `None`: parked.
    pub holder: Option<Owner>,
    pub awaited: Option<Awaited>,
}

/// What has become of a word about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Saved,
    /// The session has gone on to another holder.
    Fenced,
    /// It is held by the one who asked from now on.
    Held {
        epoch: Epoch,
        count: u64,
    },
    /// Claimed, but the old holder's count is not there yet: collect it.
    Awaiting {
        epoch: Epoch,
        awaited: Awaited,
    },
    /// Never heard of, or forgotten.
    Unknown,
    /// Somebody else has claimed it since.
    Lost,
}

/// A word from the session's holder. Makes up a session that the store does not know: it may be
/// fresh, and it may be that the store was wiped.
pub fn save(session: &mut Option<Session>, save: &Save, by: &Owner) -> Outcome {
    let holder = || (!save.parked).then(|| by.clone());
    let Some(known) = session else {
        *session = Some(Session {
            epoch: save.epoch,
            count: save.count,
            holder: holder(),
            awaited: None,
        });
        return Outcome::Saved;
    };
    if save.epoch < known.epoch {
        return save_late(known, save);
    }
    let held_by_other = known.holder.as_ref().is_some_and(|holder| holder != by);
    if save.epoch == known.epoch && held_by_other && !save.parked {
        // After a wipe, two may have been given the same epoch. What is parked may be told by the
        // next process of the same colour, in the place of one that could not.
        return Outcome::Fenced;
    }
    if save.epoch > known.epoch {
        // The store has gone back in time.
        known.epoch = save.epoch;
        known.holder = holder();
        known.awaited = None;
    } else if save.parked {
        known.holder = None;
    }
    known.count = known.count.max(save.count);
    Outcome::Saved
}

/// The holder has changed. The one before may still hand over.
fn save_late(known: &mut Session, save: &Save) -> Outcome {
    let awaited = known.awaited.as_ref().map(|awaited| awaited.epoch);
    if awaited != Some(save.epoch) {
        return Outcome::Fenced;
    }
    known.count = known.count.max(save.count);
    if !save.parked {
        return Outcome::Fenced;
    }
    known.awaited = None;
    Outcome::Saved
}

/// A client comes back to `by`, which wants to hold its session.
pub fn claim(session: &mut Option<Session>, by: &Owner) -> Outcome {
    let Some(known) = session else {
        return Outcome::Unknown;
    };
    let before = known.epoch;
    known.epoch += 1;
    let holder = known.holder.replace(by.clone());
    // Who claims while the count is still awaited waits for the same count.
    if let (None, Some(from)) = (&known.awaited, holder) {
        known.awaited = Some(Awaited {
            epoch: before,
            from,
        });
    }
    answer(known)
}

/// The claimant of `epoch` asks whether the old holder's count is there; `last` where it waits no
/// longer, and takes the last count that was saved.
pub fn collect(session: &mut Option<Session>, epoch: Epoch, last: bool, by: &Owner) -> Outcome {
    let Some(known) = session else {
        return Outcome::Unknown;
    };
    let held_by_other = known.holder.as_ref() != Some(by);
    if known.epoch > epoch || (known.epoch == epoch && held_by_other) {
        return Outcome::Lost;
    }
    if known.epoch < epoch {
        // The store was wiped since the claim, and the old holder has told of the session again.
        let from = known.holder.replace(by.clone());
        let before = known.epoch;
        known.awaited = from.map(|from| Awaited {
            epoch: before,
            from,
        });
        known.epoch = epoch;
    }
    if last {
        known.awaited = None;
    }
    answer(known)
}

fn answer(known: &Session) -> Outcome {
    match &known.awaited {
        None => Outcome::Held {
            epoch: known.epoch,
            count: known.count,
        },
        Some(awaited) => Outcome::Awaiting {
            epoch: known.epoch,
            awaited: awaited.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners() -> [Owner; 3] {
        ["blue", "green", "red"].map(Owner::named)
    }

    fn word(epoch: Epoch, count: u64, parked: bool) -> Save {
        Save {
            id: Uuid::nil(),
            epoch,
            count,
            parked,
        }
    }

    fn opened(by: &Owner) -> Option<Session> {
        let mut session = None;
        assert_eq!(save(&mut session, &word(1, 0, false), by), Outcome::Saved);
        session
    }

    #[test]
    fn a_parked_session_goes_on_again_and_again() {
        let [blue, green, _] = owners();
        let mut session = opened(&blue);
        let mut holders = [(&blue, &green), (&green, &blue)].into_iter().cycle();
        for epoch in 1..5 {
            let (holder, next) = holders.next().unwrap();
            let count = u64::from(epoch) * 10;
            save(&mut session, &word(epoch, count, true), holder);
            let held = claim(&mut session, next);
            let epoch = epoch + 1;
            assert_eq!(held, Outcome::Held { epoch, count });
        }
    }

    #[test]
    fn a_holder_hands_over_before_the_next_one_goes_on() {
        let [blue, green, _] = owners();
        let mut session = opened(&blue);
        let awaiting = Outcome::Awaiting {
            epoch: 2,
            awaited: Awaited {
                epoch: 1,
                from: blue.clone(),
            },
        };
        assert_eq!(claim(&mut session, &green), awaiting);
        assert_eq!(collect(&mut session, 2, false, &green), awaiting);
        // A checkpoint of the old holder tells it that it has to go.
        assert_eq!(
            save(&mut session, &word(1, 5, false), &blue),
            Outcome::Fenced
        );
        assert_eq!(collect(&mut session, 2, false, &green), awaiting);
        assert_eq!(save(&mut session, &word(1, 7, true), &blue), Outcome::Saved);
        let held = Outcome::Held { epoch: 2, count: 7 };
        assert_eq!(collect(&mut session, 2, false, &green), held);
        assert_eq!(
            save(&mut session, &word(1, 9, true), &blue),
            Outcome::Fenced
        );
        assert_eq!(session.unwrap().count, 7);
    }

    #[test]
    fn who_waits_no_longer_takes_the_last_count_and_the_late_word_is_refused() {
        let [blue, green, _] = owners();
        let mut session = opened(&blue);
        save(&mut session, &word(1, 5, false), &blue);
        claim(&mut session, &green);
        let held = Outcome::Held { epoch: 2, count: 5 };
        assert_eq!(collect(&mut session, 2, true, &green), held);
        assert_eq!(
            save(&mut session, &word(1, 8, true), &blue),
            Outcome::Fenced
        );
        assert_eq!(session.unwrap().count, 5);
    }

    #[test]
    fn of_two_who_claim_at_once_the_later_one_gets_it() {
        let [blue, green, red] = owners();
        let mut session = opened(&blue);
        claim(&mut session, &green);
        assert!(matches!(
            claim(&mut session, &red),
            Outcome::Awaiting { epoch: 3, .. }
        ));
        assert_eq!(collect(&mut session, 2, true, &green), Outcome::Lost);
        save(&mut session, &word(1, 7, true), &blue);
        let held = Outcome::Held { epoch: 3, count: 7 };
        assert_eq!(collect(&mut session, 3, false, &red), held);
    }

    #[test]
    fn within_an_epoch_the_order_does_not_matter() {
        let [blue, ..] = owners();
        let mut words = [word(1, 3, false), word(1, 9, true), word(1, 7, false)];
        let settled = Some(Session {
            epoch: 1,
            count: 9,
            holder: None,
            awaited: None,
        });
        for _ in 0..words.len() {
            words.rotate_left(1);
            let mut session = opened(&blue);
            for word in &words {
                assert_eq!(save(&mut session, word, &blue), Outcome::Saved);
            }
            assert_eq!(session, settled);
        }
    }

    #[test]
    fn a_wiped_store_learns_again_and_nobody_loses_a_claim() {
        let [blue, green, _] = owners();
        let mut session = opened(&blue);
        claim(&mut session, &green);
        session = None;
        assert_eq!(collect(&mut session, 2, false, &green), Outcome::Unknown);
        save(&mut session, &word(1, 6, false), &blue);
        assert!(matches!(
            collect(&mut session, 2, false, &green),
            Outcome::Awaiting { epoch: 2, .. }
        ));
        save(&mut session, &word(1, 7, true), &blue);
        let held = Outcome::Held { epoch: 2, count: 7 };
        assert_eq!(collect(&mut session, 2, false, &green), held);
    }
}
