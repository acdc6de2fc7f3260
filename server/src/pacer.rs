//! How many sockets a paced drain may send away by now.

use std::time::{Duration, Instant};

/// Between two portions.
pub const TICK: Duration = Duration::from_millis(20);

/// Time that a drain may catch up with after a stall. More would be the burst that pacing is there
/// to prevent.
const CATCH_UP: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Pacer {
    /// Sockets a second.
    pub rate: u32,
    credit: f64,
    last: Instant,
}

impl Pacer {
    pub fn new(rate: u32, now: Instant) -> Self {
        Self {
            rate,
            credit: 0.0,
            last: now,
        }
    }

    /// Whole sockets that are due.
    pub fn take(&mut self, now: Instant) -> usize {
        let earned = f64::from(self.rate) * now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.give_back(earned);
        let due = self.credit.floor();
        self.credit -= due;
        due as usize
    }

    /// Nobody can go just now, and what is not done is not made up for.
    pub fn rest(&mut self, now: Instant) {
        self.last = now;
    }

    /// What was due and not used, because a worker had nobody left; another one has.
    pub fn give_back(&mut self, sockets: f64) {
        let most = f64::from(self.rate) * CATCH_UP.as_secs_f64() + 1.0;
        self.credit = (self.credit + sockets).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_however_the_ticks_fall() {
        let began = Instant::now();
        for (rate, tick_ms) in [(1, 20), (7, 33), (500, 20), (10_000, 90)] {
            let mut pacer = Pacer::new(rate, began);
            let ticks = 10_000 / tick_ms;
            let sent: usize = (1..=ticks)
                .map(|tick| pacer.take(began + Duration::from_millis(tick * tick_ms)))
                .sum();
            let due = u64::from(rate) * ticks * tick_ms / 1000;
            assert!(due.abs_diff(sent as u64) <= 1, "{rate}: {sent} of {due}");
        }
    }

    #[test]
    fn a_stall_is_not_made_up_for() {
        let began = Instant::now();
        let mut pacer = Pacer::new(500, began);
        assert!(pacer.take(began + Duration::from_secs(60)) <= 51);
    }

    #[test]
    fn what_was_not_used_is_due_again() {
        let began = Instant::now();
        let mut pacer = Pacer::new(100, began);
        assert_eq!(pacer.take(began + TICK), 2);
        pacer.give_back(2.0);
        assert_eq!(pacer.take(began + TICK), 2);
    }
}
