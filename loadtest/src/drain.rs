//! How the server sent the sockets away, and how they came back.

use std::collections::{BTreeMap, HashMap};

use crate::{
    clock::Nanos,
    handshake::Answer,
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

    /// A socket is back; whether its session has the count that it left with.
    pub fn back(&mut self, index: usize, answer: &Answer, total: u64, now: Nanos) -> bool {
        if let Some(left) = self.left.remove(&index) {
            self.gaps.saturating_record(now.saturating_sub(left));
        }
        if answer.resumed {
            self.resumed += 1;
            answer.count == total
        } else {
            self.fresh += 1;
            answer.count == 0
        }
    }

    /// Whether everybody has been sent away and, where they come back, is back.
    pub fn is_over(&self, open: u64) -> bool {
        let back = if self.reconnect { self.sockets } else { 0 };
        self.gone() >= self.sockets && open >= back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_over_when_the_last_is_gone_and_back() {
        let mut drain = Drain::begin(0, 2, true);
        drain.dismissed(0, 1001, true, 5);
        assert!(!drain.is_over(2));
        drain.cut_off(1, 6);
        assert!(!drain.is_over(1));
        assert!(drain.is_over(2));
        assert_eq!((drain.byes, drain.gone(), drain.last_bye), (1, 2, 5));
    }

    #[test]
    fn who_comes_back_brings_the_count_along_or_begins_anew() {
        let mut drain = Drain::begin(0, 1, true);
        let answer = |resumed, count| Answer {
            resumed,
            count,
            ..Answer::default()
        };
        drain.left.insert(3, 10);
        assert!(drain.back(3, &answer(true, 7), 7, 30));
        assert!(!drain.back(3, &answer(true, 6), 7, 30));
        assert!(drain.back(3, &answer(false, 0), 7, 30));
        assert_eq!((drain.resumed, drain.fresh, drain.gaps.len()), (2, 1, 1));
    }
}
