//! The bake: for a while the new colour is live, and the old one is still there to go back to.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    colour::Colour,
    engine::Engine,
    entrance::Entrance,
    error::{Error, Result},
    http, interrupt,
    scrape::{self, Samples},
    smoke,
    stack::Stack,
    traefik,
};

const INTERVAL: Duration = Duration::from_millis(250);

/// Looks in a row that may fail before the bake does: one can be lost to a busy machine.
const FAILURES_MAX: u32 = 1;

/// For Traefik to be started again. Longer without it is an outage, with either colour.
const TRAEFIK_AWAY_MAX: Duration = Duration::from_secs(10);

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
pub fn bake(engine: &dyn Engine, colour: Colour, time: Duration) -> Result<()> {
    let began = Instant::now();
    let first = Samples::of(engine, colour).map_err(|error| fail(colour, error))?;
    let mut failures = 0;
    let mut traefik_seen = began;
    loop {
        match look(engine, colour, &first) {
            Ok(true) if began.elapsed() >= time => return Ok(()),
            Ok(true) => {
                failures = 0;
                traefik_seen = Instant::now();
            }
            // The colour is not to blame.
            Ok(false) if traefik_seen.elapsed() < TRAEFIK_AWAY_MAX => {}
            Ok(false) => return Err(fail(colour, "Traefik does not answer any more")),
            // No second look makes these better.
            Err(error @ Error::Bake { .. }) => return Err(error),
            Err(_) if failures < FAILURES_MAX => failures += 1,
            Err(error) => return Err(fail(colour, error)),
        }
        interrupt::check()?;
        thread::sleep(INTERVAL);
    }
}

fn fail(colour: Colour, reason: impl ToString) -> Error {
    Error::Bake {
        colour,
        reason: reason.to_string(),
    }
}

/// Returns whether there was a Traefik to look through.
fn look(engine: &dyn Engine, colour: Colour, first: &Samples) -> Result<bool> {
    let samples = Samples::of(engine, colour)?;
    compare(colour, first, &samples)?;
    scrape::ready(engine, colour)?;
    let stack = engine.stack();
    match look_through_the_door(stack, colour) {
        Err(_) if !traefik::answers(stack) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn look_through_the_door(stack: &Stack, colour: Colour) -> Result<()> {
    let door = Entrance::front_door(stack)?;
    traefik::probe(&door, &http::agent(), colour)?;
    smoke::greet(&door, colour)
}

fn compare(colour: Colour, first: &Samples, now: &Samples) -> Result<()> {
    if first.get(STARTED) != now.get(STARTED) {
        let reason = "its process ended, and another one was started";
        return Err(fail(colour, reason));
    }
    for metric in MUST_NOT_RISE {
        let rise = now.get(metric) - first.get(metric);
        if rise > 0.0 {
            return Err(fail(colour, format!("{metric} rose by {rise}")));
        }
    }
    Ok(())
}
