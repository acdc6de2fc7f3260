//! The sessions of this process: who is open, who is parked, who has to be forgotten.
//!
//! Pure: no actor, no clock of its own. Times are handed in.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::sockets::ConnectionId;

/// Where an open session's socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub connection: ConnectionId,
    pub worker: usize,
}

#[derive(Debug)]
enum Session {
    Open(Holder),
    /// Its number in the order of parking.
    Parked(u64),
}

#[derive(Debug)]
struct Parked {
    id: Uuid,
    count: u64,
    since: Instant,
}

/// What a client that comes back finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Never minted here, or forgotten.
    Unknown,
    /// Its count; the session is open from now on, held by the one who asked.
    Parked(u64),
    /// Another connection holds it.
    Open(Holder),
}

pub struct Sessions {
    by_id: HashMap<Uuid, Session>,
    /// In the order of parking, which is also the order of expiry.
    parked: BTreeMap<u64, Parked>,
    next_parking: u64,
    ttl: Duration,
    parked_max: usize,
}

impl Sessions {
    /// Parked sessions are kept for `ttl`, and at most `parked_max` of them.
    pub fn new(ttl: Duration, parked_max: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            parked: BTreeMap::new(),
            next_parking: 0,
            ttl,
            parked_max,
        }
    }

    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    pub fn open(&self) -> usize {
        self.by_id.len() - self.parked.len()
    }

    /// A session is held by this connection from now on.
    pub fn hold(&mut self, id: Uuid, holder: Holder) {
        self.by_id.insert(id, Session::Open(holder));
    }

    /// Opens a parked session for whoever asks.
    pub fn resume(&mut self, id: Uuid, holder: Holder, now: Instant) -> Found {
        self.forget_expired(now);
        match self.by_id.get_mut(&id) {
            None => Found::Unknown,
            Some(Session::Open(held)) => Found::Open(*held),
            Some(session) => {
                let Session::Parked(parking) = std::mem::replace(session, Session::Open(holder))
                else {
                    unreachable!("open sessions were answered above")
                };
                let parked = self.parked.remove(&parking);
                Found::Parked(parked.expect("listed while parked").count)
            }
        }
    }

    /// A connection is done with its session: the session is parked. False where the session has
    /// gone on to another connection, or is parked already: a late word changes nothing.
    pub fn park(&mut self, id: Uuid, connection: ConnectionId, count: u64, now: Instant) -> bool {
        let Some(session) = self.by_id.get_mut(&id) else {
            return false;
        };
        if !matches!(session, Session::Open(holder) if holder.connection == connection) {
            return false;
        }
        *session = Session::Parked(self.next_parking);
        let parked = Parked {
            id,
            count,
            since: now,
        };
        self.parked.insert(self.next_parking, parked);
        self.next_parking += 1;
        true
    }

    /// Forgets what has been parked for the time to live; returns how many.
    pub fn forget_expired(&mut self, now: Instant) -> usize {
        let ttl = self.ttl;
        self.forget_oldest_while(|parked, _| now.duration_since(parked.since) >= ttl)
    }

    /// Forgets the oldest where more are parked than may be; returns how many.
    pub fn forget_surplus(&mut self) -> usize {
        let parked_max = self.parked_max;
        self.forget_oldest_while(|_, parked_count| parked_count > parked_max)
    }

    fn forget_oldest_while(&mut self, mut out: impl FnMut(&Parked, usize) -> bool) -> usize {
        let mut forgotten = 0;
        loop {
            let count = self.parked.len();
            match self.parked.first_entry() {
                Some(oldest) if out(oldest.get(), count) => {
                    self.by_id.remove(&oldest.remove().id);
                    forgotten += 1;
                }
                _ => return forgotten,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(900);

    fn holder(connection: ConnectionId) -> Holder {
        Holder {
            connection,
            worker: 0,
        }
    }

    #[test]
    fn a_parked_session_goes_on_again_and_again() {
        let (mut sessions, id, now) = (Sessions::new(TTL, 10), Uuid::new_v4(), Instant::now());
        sessions.hold(id, holder(1));
        for connection in 1..5 {
            assert!(sessions.park(id, connection, connection * 10, now));
            let found = sessions.resume(id, holder(connection + 1), now);
            assert_eq!(found, Found::Parked(connection * 10));
        }
        assert_eq!((sessions.open(), sessions.parked()), (1, 0));
    }

    #[test]
    fn an_open_session_names_its_holder() {
        let (mut sessions, id, now) = (Sessions::new(TTL, 10), Uuid::new_v4(), Instant::now());
        sessions.hold(id, holder(1));
        assert_eq!(sessions.resume(id, holder(2), now), Found::Open(holder(1)));
    }

    #[test]
    fn late_and_doubled_endings_change_nothing() {
        let (mut sessions, id, now) = (Sessions::new(TTL, 10), Uuid::new_v4(), Instant::now());
        sessions.hold(id, holder(2));
        assert!(!sessions.park(id, 1, 5, now));
        assert!(sessions.park(id, 2, 7, now));
        assert!(!sessions.park(id, 2, 9, now));
        assert!(!sessions.park(Uuid::new_v4(), 2, 9, now));
        assert_eq!(sessions.resume(id, holder(3), now), Found::Parked(7));
    }

    #[test]
    fn sessions_expire_after_their_time_to_live() {
        let (mut sessions, id, now) = (Sessions::new(TTL, 10), Uuid::new_v4(), Instant::now());
        sessions.hold(id, holder(1));
        sessions.park(id, 1, 5, now);
        assert_eq!(sessions.forget_expired(now + TTL / 2), 0);
        assert_eq!(sessions.forget_expired(now + TTL), 1);
        assert_eq!(sessions.resume(id, holder(2), now + TTL), Found::Unknown);
    }

    #[test]
    fn the_oldest_go_first_when_too_many_are_parked() {
        let (mut sessions, now) = (Sessions::new(TTL, 2), Instant::now());
        let ids = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
        for (connection, id) in (1..).zip(ids) {
            sessions.hold(id, holder(connection));
            sessions.park(id, connection, connection, now);
        }
        assert_eq!(sessions.forget_surplus(), 1);
        assert_eq!(sessions.resume(ids[0], holder(9), now), Found::Unknown);
        assert_eq!(sessions.resume(ids[1], holder(9), now), Found::Parked(2));
        assert_eq!(sessions.resume(ids[2], holder(9), now), Found::Parked(3));
    }
}
