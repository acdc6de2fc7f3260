//! The bake: for a while the new colour is live, and the old one is still there to go back to.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use crate::{
    colour::Colour,
    engine::Engine,
    entrance::Entrance,
    error::{Error, Result},
    http, interrupt,
    outage::Outage,
    scrape::{self, Samples, StoreState},
    smoke, traefik,
};

const INTERVAL: Duration = Duration::from_millis(250);

/// Looks in a row that may fail before the bake does: one can be lost to a busy machine.
const FAILURES_MAX: u32 = 1;

/// For Traefik to be started again. Longer without it is an outage, with either colour.
const TRAEFIK_AWAY_MAX: Duration = Duration::from_secs(10);

/// For both colours to notice that the session store is gone, or back. A new colour that misses it
/// for longer, while the old one has it, is to blame for that itself.
const STORE_NOTICED_MAX: Duration = Duration::from_secs(5);

/// What a new colour must not do at all: each is the server's doing, not a client's.
const MUST_NOT_RISE: [&str; 5] = [
    "tally_log_records_total{level=\"CRITICAL\"}",
    "tally_errors_total{kind=\"hub\"}",
    "tally_errors_total{kind=\"unresponsive\"}",
    "tally_handshakes_total{outcome=\"full\"}",
    "tally_handshakes_total{outcome=\"overloaded\"}",
];

const ERRORS: &str = "tally_log_records_total{level=\"ERROR\"}";

/// An outage of the session store has one record in the log of each colour.
const STORE_ERRORS: &str = "tally_errors_total{kind=\"store\"}";

/// Changes when the process is another one.
const STARTED: &str = "process_start_time_seconds";

/// Watches a colour's metrics and readiness, and talks to it through the front door. It always
/// looks once, however short the time. That the session store is down is nobody's fault.
///
/// # Errors
/// What the colour did wrong, or that somebody asked to stop.
pub fn bake(engine: &dyn Engine, colour: Colour, time: Duration) -> Result<()> {
    let began = Instant::now();
    let first = Samples::by_process(engine, colour).map_err(|error| fail(colour, error))?;
    let mut failures = 0;
    let mut traefik_seen = began;
    let mut store = StoreWatch::new();
    loop {
        match look(engine, colour, &first, &mut store) {
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

/// Whose fault it is that a colour misses the session store.
struct StoreWatch {
    outage: Outage,
    /// Since when the old colour has what the new one misses.
    alone: Option<Instant>,
}

impl StoreWatch {
    fn new() -> Self {
        Self {
            outage: Outage::new(
                "the bake goes on without what needs it",
                "the bake looks at everything again",
            ),
            alone: None,
        }
    }

    fn look(&mut self, engine: &dyn Engine, colour: Colour) -> Result<StoreState> {
        let store = scrape::store_state(engine, colour)?;
        self.outage.look(store);
        let old = colour.other();
        // One that has crashed, or is draining, cannot be asked, and is no witness.
        let alone = store == StoreState::Down
            && scrape::store_state(engine, old).is_ok_and(|store| store == StoreState::Up);
        match self.alone {
            _ if !alone => self.alone = None,
            None => self.alone = Some(Instant::now()),
            Some(since) if since.elapsed() < STORE_NOTICED_MAX => {}
            Some(_) => {
                let reason = format!("it cannot reach the session store, and {old} can");
                return Err(fail(colour, reason));
            }
        }
        Ok(store)
    }
}

fn fail(colour: Colour, reason: impl ToString) -> Error {
    Error::Bake {
        colour,
        reason: reason.to_string(),
    }
}

/// Returns whether there was a Traefik to look through.
fn look(
    engine: &dyn Engine,
    colour: Colour,
    first: &HashMap<String, Samples>,
    store: &mut StoreWatch,
) -> Result<bool> {
    // One that has come meanwhile, or has gone, is the doing of whoever runs them.
    for (process, now) in Samples::by_process(engine, colour)? {
        if let Some(first) = first.get(&process) {
            compare(colour, first, &now)?;
        }
    }
    scrape::ready(engine, colour)?;
    let store = store.look(engine, colour)?;
    match look_through_the_door(engine, colour, store) {
        Err(_) if !traefik::answers(engine) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn look_through_the_door(engine: &dyn Engine, colour: Colour, store: StoreState) -> Result<()> {
    let door = Entrance::front_door(engine)?;
    traefik::probe(&door, &http::agent(), colour)?;
    match store {
        StoreState::Up => smoke::greet(&door, colour),
        // Where each message is stored before its answer, there is none now.
        StoreState::Down => smoke::shake_hands(&door, colour),
    }
}

fn compare(colour: Colour, first: &Samples, now: &Samples) -> Result<()> {
    if first.get(STARTED) != now.get(STARTED) {
        let reason = "its process ended, and another one was started";
        return Err(fail(colour, reason));
    }
    let rise = |metric| now.get(metric) - first.get(metric);
    for metric in MUST_NOT_RISE {
        let rise = rise(metric);
        if rise > 0.0 {
            return Err(fail(colour, format!("{metric} rose by {rise}")));
        }
    }
    let errors = rise(ERRORS) - rise(STORE_ERRORS);
    if errors > 0.0 {
        return Err(fail(colour, format!("{ERRORS} rose by {errors}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(errors: u32, of_the_store: u32) -> Result<()> {
        let now = format!("{ERRORS} {errors}\n{STORE_ERRORS} {of_the_store}\n");
        compare(Colour::Green, &Samples::parse(""), &Samples::parse(&now))
    }

    #[test]
    fn an_error_in_the_log_ends_a_bake_unless_the_store_is_to_blame() {
        assert!(compared(0, 0).is_ok());
        assert!(compared(2, 2).is_ok());
        let error = compared(3, 2).unwrap_err().to_string();
        assert!(error.contains("green did not hold out"), "{error}");
    }
}
