//! How the server sent the sockets away, and how they came back.

use std::collections::{BTreeMap, HashMap};

use crate::{
    clock::Nanos,
    kept::Found,
    recorder::{Durations, durations},
};

pub struct Drain {
    pub began: Nanos,
    /// Sockets that were open then.
    pub sockets: u64,
    /// Whether they come back.
    pub reconnect: bool,
    /// Goodbyes whose total was right.
    pub byes: u64,
    pub codes: BTreeMap<u16, u64>,
    /// Connections that ended without a Close.
    pub cut: u64,
    /// When the last goodbye came.
    pub last_bye: Nanos,
    /// When those who are not back yet were sent away.
    pub left: HashMap<usize, Nanos>,
    pub gaps: Durations,
    pub resumed: u64,
    /// Sockets whose session was not known any more.
    pub fresh: u64,
    /// Sessions that came back with less than was acknowledged.
    pub taken_back: u64,
    /// Messages that were sent again.
    pub resent: u64,
    /// Messages that neither the server nor the client had any more.
    pub lost: u64,
    /// Messages that were counted and not sent.
    pub duplicated: u64,
    /// Handshakes that had to be tried again.
    pub retries: u64,
    /// When the process that was told to end had ended.
    pub exit: Option<Nanos>,
}

impl Drain {
    pub fn begin(now: Nanos, sockets: u64, reconnect: bool) -> Self {
        Self {
            began: now,
            sockets,
            reconnect,
            byes: 0,
            codes: BTreeMap::new(),
            cut: 0,
            last_bye: now,
            left: HashMap::new(),
            gaps: durations(),
            resumed: 0,
            fresh: 0,
            taken_back: 0,
            resent: 0,
            lost: 0,
            duplicated: 0,
            retries: 0,
            exit: None,
        }
    }

    /// The server has said Close, with its bye before it or not.
    pub fn dismissed(&mut self, index: usize, code: u16, bye: bool, now: Nanos) {
        self.left.insert(index, now);
        *self.codes.entry(code).or_default() += 1;
        self.byes += u64::from(bye);
        self.last_bye = now;
    }

    /// The connection ended without a word.
    pub fn cut_off(&mut self, index: usize, now: Nanos) {
        self.left.insert(index, now);
        self.cut += 1;
    }

    /// Connections that were sent away, politely or not.
    pub fn gone(&self) -> u64 {
        self.codes.values().sum::<u64>() + self.cut
    }

    /// A socket is back, with its session or with a fresh one.
    pub fn back(&mut self, index: usize, resumed: bool, found: &Found, now: Nanos) {
        if let Some(left) = self.left.remove(&index) {
            self.gaps.saturating_record(now.saturating_sub(left));
        }
        self.resumed += u64::from(resumed);
        self.fresh += u64::from(!resumed);
        self.taken_back += u64::from(found.taken_back);
        self.resent += u64::from(found.resend);
        self.lost += u64::from(found.lost);
        self.duplicated += u64::from(found.duplicated);
    }

    /// Whether everybody who has to go has been sent away and, where they come back, is back.
    /// `all`: everybody has to go. Else that is the business of whoever makes them go.
    pub fn is_over(&self, open: u64, all: bool) -> bool {
        let back = if self.reconnect { self.sockets } else { 0 };
        (!all || self.gone() >= self.sockets) && open >= back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_over_when_the_last_is_gone_and_back() {
        let mut drain = Drain::begin(0, 2, true);
        drain.dismissed(0, 1001, true, 5);
        assert!(!drain.is_over(2, true));
        drain.cut_off(1, 6);
        assert!(!drain.is_over(1, true));
        assert!(drain.is_over(2, true));
        assert_eq!((drain.byes, drain.gone(), drain.last_bye), (1, 2, 5));
    }

    #[test]
    fn who_is_sent_away_again_and_again_is_counted_each_time() {
        let mut drain = Drain::begin(0, 1, true);
        for _ in 0..3 {
            drain.dismissed(0, 1001, true, 10);
            assert!(!drain.is_over(0, false));
            drain.back(0, true, &Found::default(), 30);
            assert!(drain.is_over(1, false));
        }
        assert_eq!((drain.gone(), drain.resumed, drain.gaps.len()), (3, 3, 3));
    }
}
