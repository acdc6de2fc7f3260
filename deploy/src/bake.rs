//! The bake: for a while the new colour is live, and the old one is still there to go back to.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    colour::Colour,
    error::{Error, Result},
    interrupt,
    scrape::{self, Samples},
    smoke,
    stack::Stack,
    traefik,
};

const INTERVAL: Duration = Duration::from_millis(250);

/// Looks in a row that may fail before the bake does: one can be lost to a busy machine.
const FAILURES_MAX: u32 = 1;

/// What a new colour must not do at all: each is the server's doing, not a client's.
const MUST_NOT_RISE: [&str; 6] = [
    "tally_log_records_total{level=\"CRITICAL\"}",
    "tally_log_records_total{level=\"ERROR\"}",
    "tally_errors_total{kind=\"hub\"}",
    "tally_errors_total{kind=\"unresponsive\"}",
    "tally_handshakes_total{outcome=\"full\"}",
    "tally_handshakes_total{outcome=\"overloaded\"}",
];

/// Changes when the process is another one.
const STARTED: &str = "process_start_time_seconds";

/// Watches a colour's metrics and readiness, and talks to it through the front door. It always
/// looks once, however short the time.
///
/// # Errors
/// What the colour did wrong, or that somebody asked to stop.
pub fn bake(stack: &Stack, colour: Colour, time: Duration) -> Result<()> {
    let began = Instant::now();
    let first = Samples::of(stack, colour)?;
    let mut failures = 0;
    loop {
        match look(stack, colour, &first) {
            Ok(()) => failures = 0,
            // No second look makes these better.
            Err(error @ Error::Bake { .. }) => return Err(error),
            Err(_) if failures < FAILURES_MAX => failures += 1,
            Err(error) => {
                return Err(Error::Bake {
                    colour,
                    reason: error.to_string(),
                });
            }
        }
        interrupt::check()?;
        if began.elapsed() >= time && failures == 0 {
            return Ok(());
        }
        thread::sleep(INTERVAL.min(time));
    }
}

fn look(stack: &Stack, colour: Colour, first: &Samples) -> Result<()> {
    let samples = Samples::of(stack, colour)?;
    compare(colour, first, &samples)?;
    scrape::ready(stack, colour)?;
    traefik::probe(stack, &crate::http::agent(), colour)?;
    smoke::greet(&stack.front_door(), colour)
}

fn compare(colour: Colour, first: &Samples, now: &Samples) -> Result<()> {
    let fail = |reason| Err(Error::Bake { colour, reason });
    if first.get(STARTED) != now.get(STARTED) {
        return fail("its process ended, and another one was started".into());
    }
    for metric in MUST_NOT_RISE {
        let rise = now.get(metric) - first.get(metric);
        if rise > 0.0 {
            return fail(format!("{metric} rose by {rise}"));
        }
    }
    Ok(())
}
