//! Bounded waiting.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    interrupt,
};

pub const PAUSE: Duration = Duration::from_millis(20);

/// Tries until it succeeds.
///
/// # Errors
/// `what` did not come true in time (the last reason is kept), cannot come true by waiting, or
/// somebody asked to stop.
pub fn until<T>(
    what: &str,
    timeout: Duration,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        interrupt::check()?;
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if error.is_final() => return Err(error),
            Err(last) if began.elapsed() >= timeout => {
                return Err(Error::Timeout {
                    what: what.to_owned(),
                    waited: timeout,
                    last: last.to_string(),
                });
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
