//! What a run finds out, as it goes.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::{
    clock::{MILLISECOND, Nanos, SECOND},
    fault::Fault,
};

/// Faults that are told one by one; of the others only the number is kept.
const EXAMPLES_MAX: usize = 5;

/// A microsecond to an hour in three digits; what is longer counts as an hour.
const SHORTEST: Nanos = MILLISECOND / 1000;
const LONGEST: Nanos = 3600 * SECOND;

/// After a heartbeat's first receipt, the server is busy with it for about this long.
const BEAT_TIME: Nanos = SECOND;

/// Durations, in nanoseconds.
pub type Durations = Histogram<u64>;

pub fn durations() -> Durations {
    Histogram::new_with_bounds(SHORTEST, LONGEST, 3).expect("bounds in order")
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handshakes that succeeded, the returns among them.
    pub opened: u64,
    pub open: u64,
    pub sent: u64,
    pub answered: u64,
    /// Heartbeats, one for each socket that received it.
    pub beats: u64,
    pub pings: u64,
}

pub struct Recorder {
    pub counts: Counts,
    pub handshake: Durations,
    /// From when a message was meant to be sent to its answer.
    pub latency: Durations,
    pub during_beats: Durations,
    /// From when a message was meant to be sent to when it was: what this program is to blame for.
    pub lateness: Durations,
    pub lag: Durations,
    /// Latencies since the last sample.
    pub recent: Durations,
    pub faults: Faults,
    last_beat: Option<Nanos>,
    /// The second of the last handshake, and how many there were in it so far.
    second: (Nanos, u64),
    /// Handshakes in a second, at most.
    pub handshakes_peak: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            handshake: durations(),
            latency: durations(),
            during_beats: durations(),
            lateness: durations(),
            lag: durations(),
            recent: durations(),
            faults: Faults::default(),
            last_beat: None,
            second: (0, 0),
            handshakes_peak: 0,
        }
    }
}

impl Recorder {
    pub fn opened(&mut self, took: Nanos, now: Nanos) {
        let second = now / SECOND;
        if self.second.0 != second {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        self.handshakes_peak = self.handshakes_peak.max(self.second.1);
        self.counts.opened += 1;
        self.counts.open += 1;
        self.handshake.saturating_record(took);
    }

    /// `late` is `None` in a closed loop, where a message is never late.
    pub fn sent(&mut self, late: Option<Nanos>) {
        self.counts.sent += 1;
        if let Some(late) = late {
            self.lateness.saturating_record(late);
        }
    }

    pub fn answered(&mut self, intended: Nanos, now: Nanos) {
        let latency = now.saturating_sub(intended);
        self.counts.answered += 1;
        self.latency.saturating_record(latency);
        self.recent.saturating_record(latency);
        if self.last_beat.is_some_and(|beat| now < beat + BEAT_TIME) {
            self.during_beats.saturating_record(latency);
        }
    }

    pub fn beat(&mut self, lag: Nanos, now: Nanos) {
        self.counts.beats += 1;
        self.lag.saturating_record(lag);
        if lag == 0 {
            self.last_beat = Some(now);
        }
    }
}

/// Faults by kind, the first of each with what happened.
#[derive(Debug, Default)]
pub struct Faults {
    counts: [u64; Fault::ALL.len()],
    examples: BTreeMap<Fault, Vec<String>>,
}

impl Faults {
    pub fn add(&mut self, fault: Fault, number: u64, example: impl FnOnce() -> String) {
        if number == 0 {
            return;
        }
        self.counts[fault as usize] += number;
        let examples = self.examples.entry(fault).or_default();
        if examples.len() < EXAMPLES_MAX {
            examples.push(example());
        }
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Those that there were, with their number and examples.
    pub fn all(&self) -> impl Iterator<Item = (Fault, u64, &[String])> {
        self.examples.iter().map(|(fault, examples)| {
            let number = self.counts[*fault as usize];
            (*fault, number, examples.as_slice())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_during_a_beat_are_told_apart() {
        let mut recorder = Recorder::default();
        recorder.answered(0, 10 * MILLISECOND);
        recorder.beat(0, SECOND);
        recorder.beat(MILLISECOND, SECOND + MILLISECOND);
        recorder.answered(SECOND, SECOND + 2 * MILLISECOND);
        recorder.answered(3 * SECOND, 3 * SECOND + MILLISECOND);
        assert_eq!(recorder.latency.len(), 3);
        assert_eq!(recorder.during_beats.len(), 1);
        assert_eq!(recorder.counts.beats, 2);
    }

    #[test]
    fn many_faults_leave_a_few_examples() {
        let mut faults = Faults::default();
        faults.add(Fault::Lost, 0, || unreachable!("none happened"));
        for number in 0..100 {
            faults.add(Fault::WrongCount, 1, || format!("example {number}"));
        }
        let [(fault, count, examples)] = faults.all().collect::<Vec<_>>()[..] else {
            panic!("one kind");
        };
        assert_eq!(
            (fault, count, examples.len()),
            (Fault::WrongCount, 100, EXAMPLES_MAX)
        );
        assert_eq!(faults.total(), 100);
    }
}
