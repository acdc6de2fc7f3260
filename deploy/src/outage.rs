//! The times when the session store is down: nobody can be sent away then, and nobody who comes back
//! is let in.

use std::time::{Duration, Instant};

use crate::{deploy::progress, scrape::StoreState};

/// What a step looks at, over and over.
pub struct Outage {
    /// What becomes of the step when the store goes, and when it is back.
    gone: &'static str,
    back: &'static str,
    since: Option<Instant>,
    before: Duration,
}

impl Outage {
    pub fn new(gone: &'static str, back: &'static str) -> Self {
        Self {
            gone,
            back,
            since: None,
            before: Duration::ZERO,
        }
    }

    /// Takes down how the store is; returns for how long it was away so far. Says when it goes and
    /// when it is back.
    pub fn look(&mut self, store: StoreState) -> Duration {
        match (store, self.since) {
            (StoreState::Down, None) => {
                let since = *self.since.insert(Instant::now());
                progress(&format!("the session store is down: {}", self.gone), since);
            }
            (StoreState::Up, Some(since)) => {
                self.before += since.elapsed();
                self.since = None;
                progress(&format!("the session store is back: {}", self.back), since);
            }
            _ => {}
        }
        let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.before + now
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn only_the_time_of_the_outage_counts() {
        const PAUSE: Duration = Duration::from_millis(20);
        let mut outage = Outage::new("waiting", "going on");
        assert_eq!(outage.look(StoreState::Up), Duration::ZERO);
        outage.look(StoreState::Down);
        thread::sleep(PAUSE);
        assert!(outage.look(StoreState::Down) >= PAUSE);
        let first = outage.look(StoreState::Up);
        assert!(first >= PAUSE);
        thread::sleep(PAUSE);
        assert_eq!(outage.look(StoreState::Up), first);
        assert!(outage.look(StoreState::Down) >= first);
    }
}
