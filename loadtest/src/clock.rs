//! The time of a run.

use std::time::{Duration, Instant};

/// Nanoseconds since the run began: eight bytes, where an `Instant` takes sixteen.
pub type Nanos = u64;

pub const SECOND: Nanos = 1_000_000_000;
pub const MILLISECOND: Nanos = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    pub fn now(self) -> Nanos {
        nanos(self.began.elapsed())
    }
}

/// Of more than 500 years, the most there is.
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub fn seconds(nanos: Nanos) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}
