//! Heartbeats: whether each reached everybody, how fast, and whether they came at all; pure.

use crate::clock::{Nanos, SECOND};

/// A socket that opened this close to a beat may have it or not.
const MARGIN: Nanos = SECOND;

/// How late a beat may be, and how long it may take to reach everybody, before it is missed.
pub const GRACE: Nanos = 5 * SECOND;

/// Beats that are under way at a time; more are a server that tells everybody another time.
const UNDER_WAY_MAX: usize = 8;

/// Of one origin. Twelve hours of a beat a second; what comes later is judged no more.
const BEATS_MAX: usize = 43_200;

/// Colours, or whatever else sends beats of its own.
const ORIGINS_MAX: usize = 16;

/// One heartbeat as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub ts: String,
    pub first: Nanos,
    pub last: Nanos,
    pub receipts: u32,
}

/// A process that sends heartbeats: behind one door two colours may be answering.
#[derive(Debug, Default)]
struct Origin {
    colour: String,
    beats: Vec<Beat>,
    open: u32,
    /// Since when it has had a socket, and until when.
    since: Nanos,
    until: Nanos,
}

/// What one socket knows of beats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    origin: u8,
    opened: Nanos,
    last: Option<u32>,
}

/// What became of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Since the first socket had it.
    pub lag: Nanos,
    /// Beats before it that never came.
    pub missing: u32,
    /// Whether it had been there before, or a later one had.
    pub repeated: bool,
}

#[derive(Debug, Default)]
pub struct Beats {
    origins: Vec<Origin>,
    /// Whether nobody is owed any: where a colour is several processes, each has beats of its own.
    pub owed_to_nobody: bool,
}

impl Beats {
    /// A socket opened, and is answered by this colour.
    pub fn join(&mut self, colour: &str, now: Nanos) -> Seen {
        let known = self
            .origins
            .iter()
            .position(|origin| origin.colour == colour);
        let place = known.unwrap_or_else(|| {
            if self.origins.len() < ORIGINS_MAX {
                self.origins.push(Origin {
                    colour: colour.to_owned(),
                    since: now,
                    ..Origin::default()
                });
            }
            self.origins.len() - 1
        });
        self.origins[place].open += 1;
        Seen {
            origin: u8::try_from(place).expect("bounded by ORIGINS_MAX"),
            opened: now,
            last: None,
        }
    }

    /// A socket ended; returns how many beats it had missed by then.
    pub fn leave(&mut self, seen: &Seen, now: Nanos) -> u32 {
        let origin = &mut self.origins[usize::from(seen.origin)];
        origin.open -= 1;
        origin.until = now;
        if self.owed_to_nobody {
            0
        } else {
            origin.overdue(seen, now)
        }
    }

    /// Takes a beat that a socket received.
    pub fn receive(&mut self, seen: &mut Seen, ts: &str, now: Nanos) -> Receipt {
        let origin = &mut self.origins[usize::from(seen.origin)];
        let index = origin.find_or_add(ts, now);
        let beat = &mut origin.beats[index];
        beat.last = now;
        beat.receipts += 1;
        let lag = now - beat.first;
        let index = u32::try_from(index).expect("bounded by BEATS_MAX");
        let repeated = seen.last.is_some_and(|last| last >= index);
        let missing = if repeated || self.owed_to_nobody {
            0
        } else {
            origin.between(seen, index)
        };
        seen.last = seen.last.max(Some(index));
        Receipt {
            lag,
            missing,
            repeated,
        }
    }

    /// Times when there was no beat for longer than the interval and its grace.
    pub fn late(&self, interval: Nanos, now: Nanos) -> u32 {
        let late = |origin: &Origin| origin.late(interval, now);
        self.origins.iter().map(late).sum()
    }

    pub fn all(&self) -> impl Iterator<Item = &Beat> {
        self.origins.iter().flat_map(|origin| &origin.beats)
    }
}

impl Origin {
    fn find_or_add(&mut self, ts: &str, now: Nanos) -> usize {
        let recent = self.beats.len().saturating_sub(UNDER_WAY_MAX);
        let known = self.beats[recent..].iter().rposition(|beat| beat.ts == ts);
        if let Some(place) = known {
            return recent + place;
        }
        if self.beats.len() < BEATS_MAX {
            self.beats.push(Beat {
                ts: ts.to_owned(),
                first: now,
                last: now,
                receipts: 0,
            });
        }
        self.beats.len() - 1
    }

    /// Beats before `index` that the socket should have had and has not.
    fn between(&self, seen: &Seen, index: u32) -> u32 {
        let from = self.owed_from(seen);
        index.saturating_sub(from)
    }

    /// The first beat that the socket may not do without.
    fn owed_from(&self, seen: &Seen) -> u32 {
        let first = match seen.last {
            Some(last) => last as usize + 1,
            None => self
                .beats
                .partition_point(|beat| beat.first < seen.opened + MARGIN),
        };
        u32::try_from(first).expect("bounded by BEATS_MAX")
    }

    /// Beats that should have reached the socket by now.
    fn overdue(&self, seen: &Seen, now: Nanos) -> u32 {
        let due = self.beats.partition_point(|beat| beat.first + GRACE < now);
        self.between(seen, u32::try_from(due).expect("bounded by BEATS_MAX"))
    }

    fn late(&self, interval: Nanos, now: Nanos) -> u32 {
        let until = if self.open > 0 { now } else { self.until };
        let mut before = self.since;
        let mut late = 0;
        for at in self.beats.iter().map(|beat| beat.first).chain([until]) {
            late += u32::from(at.saturating_sub(before) > interval + GRACE);
            before = at;
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: (u32, bool) = (0, false);

    fn receive(beats: &mut Beats, seen: &mut Seen, ts: &str, at: Nanos) -> (u32, bool) {
        let receipt = beats.receive(seen, ts, at * SECOND);
        (receipt.missing, receipt.repeated)
    }

    #[test]
    fn a_beat_spreads_from_its_first_receipt_to_its_last() {
        let mut beats = Beats::default();
        let mut seen = [(); 3].map(|()| beats.join("blue", 0));
        for (seen, at) in seen.iter_mut().zip(30..) {
            assert_eq!(receive(&mut beats, seen, "a", at), FINE);
        }
        let beat = beats.all().next().unwrap();
        assert_eq!((beat.receipts, beat.last - beat.first), (3, 2 * SECOND));
    }

    #[test]
    fn a_beat_that_only_others_get_is_missed() {
        let mut beats = Beats::default();
        let [mut one, mut other, another] = [(); 3].map(|()| beats.join("blue", 0));
        receive(&mut beats, &mut one, "a", 30);
        assert_eq!(beats.leave(&another, 31 * SECOND), 0, "it may yet come");
        receive(&mut beats, &mut one, "b", 60);
        assert_eq!(receive(&mut beats, &mut other, "b", 60), (1, false));
        receive(&mut beats, &mut one, "c", 90);
        assert_eq!(beats.leave(&other, 96 * SECOND), 1);
        assert_eq!(beats.leave(&one, 96 * SECOND), 0);
    }

    #[test]
    fn everybody_gets_the_same_beat_or_misses_the_others() {
        let mut beats = Beats::default();
        let [mut one, mut other] = [(); 2].map(|()| beats.join("blue", 0));
        receive(&mut beats, &mut one, "a", 30);
        assert_eq!(receive(&mut beats, &mut other, "a'", 30), (1, false));
        assert_eq!(beats.leave(&one, 60 * SECOND), 1);
    }

    #[test]
    fn the_same_beat_again_is_told() {
        let mut beats = Beats::default();
        let mut seen = beats.join("blue", 0);
        receive(&mut beats, &mut seen, "a", 30);
        receive(&mut beats, &mut seen, "b", 60);
        assert_eq!(receive(&mut beats, &mut seen, "b", 61), (0, true));
        assert_eq!(receive(&mut beats, &mut seen, "a", 62), (0, true));
    }

    #[test]
    fn a_newcomer_is_not_owed_what_was_before() {
        let mut beats = Beats::default();
        let mut old = beats.join("blue", 0);
        receive(&mut beats, &mut old, "a", 30);
        let mut new = beats.join("blue", 40 * SECOND);
        receive(&mut beats, &mut old, "b", 60);
        assert_eq!(receive(&mut beats, &mut new, "b", 60), FINE);
        assert_eq!(beats.leave(&new, 70 * SECOND), 0);
    }

    #[test]
    fn several_processes_of_a_colour_owe_nobody_the_others_beats() {
        let mut beats = Beats {
            owed_to_nobody: true,
            ..Beats::default()
        };
        let [mut one, mut other] = [(); 2].map(|()| beats.join("blue", 0));
        assert_eq!(receive(&mut beats, &mut one, "a", 30), FINE);
        assert_eq!(receive(&mut beats, &mut other, "b", 45), FINE);
        assert_eq!(receive(&mut beats, &mut one, "c", 60), FINE);
        assert_eq!(beats.leave(&other, 90 * SECOND), 0);
    }

    #[test]
    fn colours_have_beats_of_their_own() {
        let mut beats = Beats::default();
        let [mut blue, mut green] = ["blue", "green"].map(|colour| beats.join(colour, 0));
        receive(&mut beats, &mut blue, "a", 30);
        assert_eq!(receive(&mut beats, &mut green, "b", 31), FINE);
        assert_eq!(beats.leave(&blue, 40 * SECOND), 0);
    }

    #[test]
    fn silence_is_late_once_an_interval_and_its_grace_are_over() {
        let mut beats = Beats::default();
        let mut seen = beats.join("blue", 0);
        assert_eq!(beats.late(30 * SECOND, 34 * SECOND), 0);
        assert_eq!(beats.late(30 * SECOND, 36 * SECOND), 1);
        receive(&mut beats, &mut seen, "a", 30);
        assert_eq!(beats.late(30 * SECOND, 64 * SECOND), 0);
        beats.leave(&seen, 64 * SECOND);
        assert_eq!(beats.late(30 * SECOND, 500 * SECOND), 0, "nobody listens");
    }
}
