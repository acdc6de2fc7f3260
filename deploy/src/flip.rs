//! The flip: one straight line with one switch point.

use std::time::Instant;

use crate::{
    colour::Colour,
    error::{Error, Result},
};

/// What a flip is made of; the engine and Traefik do it, a test can pretend to.
pub trait Steps {
    fn start(&mut self, colour: Colour) -> Result<()>;
    fn wait_ready(&mut self, colour: Colour) -> Result<()>;
    fn smoke(&mut self, colour: Colour) -> Result<()>;
    /// The switch point: whatever fails before it leaves the old colour untouched.
    fn switch(&mut self, to: Colour) -> Result<()>;
    fn confirm(&mut self, colour: Colour) -> Result<()>;
    fn settle(&mut self, old: Colour) -> Result<()>;
    fn stop(&mut self, colour: Colour) -> Result<()>;
    fn report(&mut self, what: &str, since: Instant);
}

/// Moves the traffic from one colour to the other.
///
/// # Errors
/// Why it did not; `from` then goes on serving, unless even going back failed.
pub fn flip(from: Colour, to: Colour, steps: &mut impl Steps) -> Result<()> {
    let began = Instant::now();
    if let Err(source) = prepare(to, steps) {
        let _ = steps.stop(to);
        return Err(failed(from, to, source));
    }
    if let Err(source) = timed(steps, &format!("the front door leads to {to}"), |steps| {
        steps.switch(to)?;
        steps.confirm(to)
    }) {
        return Err(go_back(from, to, source, steps));
    }
    // The new colour is live: nothing below takes that back, or spares the old one.
    let_settle(from, steps);
    timed(steps, &format!("{from} is drained and stopped"), |steps| {
        steps.stop(from)
    })
    .map_err(|source| Error::OldStays {
        from,
        to,
        source: Box::new(source),
    })?;
    steps.report(&format!("{to} is live"), began);
    Ok(())
}

/// A colour that is about to stop takes what Traefik has on its way to it. One that has crashed
/// cannot be asked, and one that somebody talks to directly never stands still: it stops too.
fn let_settle(colour: Colour, steps: &mut impl Steps) {
    let began = Instant::now();
    let what = match steps.settle(colour) {
        Ok(()) => format!("no handshake reaches {colour} any more"),
        Err(error) => format!("{colour} has to stop all the same, although: {error}"),
    };
    steps.report(&what, began);
}

fn prepare(to: Colour, steps: &mut impl Steps) -> Result<()> {
    timed(steps, &format!("{to} is started"), |steps| steps.start(to))?;
    timed(steps, &format!("{to} is ready"), |steps| {
        steps.wait_ready(to)
    })?;
    timed(steps, &format!("{to} passes the smoke test"), |steps| {
        steps.smoke(to)
    })
}

fn timed<S: Steps>(
    steps: &mut S,
    what: &str,
    step: impl FnOnce(&mut S) -> Result<()>,
) -> Result<()> {
    let began = Instant::now();
    step(steps)?;
    steps.report(what, began);
    Ok(())
}

fn go_back(from: Colour, to: Colour, source: Error, steps: &mut impl Steps) -> Error {
    match steps.switch(from).and_then(|()| steps.confirm(from)) {
        Ok(()) => {
            let_settle(to, steps);
            let _ = steps.stop(to);
            failed(from, to, source)
        }
        // Both colours stay up: whichever Traefik leads to, somebody answers.
        Err(back) => Error::FlipStuck {
            from,
            to,
            source: Box::new(source),
            back: Box::new(back),
        },
    }
}

fn failed(from: Colour, to: Colour, source: Error) -> Error {
    Error::Flip {
        from,
        to,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Colour::{Blue, Green};

    /// Writes down what is done, and fails where it is told to.
    struct Pretend {
        fails: Vec<&'static str>,
        done: Vec<String>,
    }

    impl Pretend {
        fn failing(fails: &[&'static str]) -> Self {
            Self {
                fails: fails.to_vec(),
                done: vec![],
            }
        }

        fn act(&mut self, what: &str, colour: Colour) -> Result<()> {
            let act = format!("{what} {colour}");
            let fails = self.fails.iter().any(|fail| *fail == act);
            self.done.push(act);
            if fails { Err(Error::NotUp) } else { Ok(()) }
        }
    }

    impl Steps for Pretend {
        fn start(&mut self, colour: Colour) -> Result<()> {
            self.act("start", colour)
        }
        fn wait_ready(&mut self, colour: Colour) -> Result<()> {
            self.act("ready", colour)
        }
        fn smoke(&mut self, colour: Colour) -> Result<()> {
            self.act("smoke", colour)
        }
        fn switch(&mut self, to: Colour) -> Result<()> {
            self.act("switch", to)
        }
        fn confirm(&mut self, colour: Colour) -> Result<()> {
            self.act("confirm", colour)
        }
        fn settle(&mut self, old: Colour) -> Result<()> {
            self.act("settle", old)
        }
        fn stop(&mut self, colour: Colour) -> Result<()> {
            self.act("stop", colour)
        }
        fn report(&mut self, _what: &str, _since: Instant) {}
    }

    #[test]
    fn a_flip_is_a_straight_line() {
        let mut steps = Pretend::failing(&[]);
        flip(Blue, Green, &mut steps).unwrap();
        assert_eq!(
            steps.done,
            [
                "start green",
                "ready green",
                "smoke green",
                "switch green",
                "confirm green",
                "settle blue",
                "stop blue"
            ]
        );
    }

    #[test]
    fn a_failure_before_the_switch_leaves_the_old_colour_untouched() {
        for fails in ["start green", "ready green", "smoke green"] {
            let mut steps = Pretend::failing(&[fails]);
            let error = flip(Blue, Green, &mut steps).unwrap_err();
            assert!(matches!(error, Error::Flip { from: Blue, .. }), "{error}");
            assert_eq!(steps.done.last().unwrap(), "stop green");
            assert!(!steps.done.iter().any(|act| act.contains("blue")));
            assert!(!steps.done.iter().any(|act| act.contains("switch")));
        }
    }

    #[test]
    fn a_switch_that_does_not_show_is_taken_back() {
        for fails in ["switch green", "confirm green"] {
            let mut steps = Pretend::failing(&[fails]);
            let error = flip(Blue, Green, &mut steps).unwrap_err();
            assert!(matches!(error, Error::Flip { from: Blue, .. }), "{error}");
            let end = ["switch blue", "confirm blue", "settle green", "stop green"];
            assert_eq!(steps.done[steps.done.len() - end.len()..], end);
        }
    }

    #[test]
    fn an_old_colour_that_cannot_be_asked_is_stopped_all_the_same() {
        let mut steps = Pretend::failing(&["settle blue"]);
        flip(Blue, Green, &mut steps).unwrap();
        assert_eq!(steps.done.last().unwrap(), "stop blue");
    }

    #[test]
    fn an_old_colour_that_does_not_stop_is_told() {
        let mut steps = Pretend::failing(&["stop blue"]);
        let error = flip(Blue, Green, &mut steps).unwrap_err();
        assert!(error.to_string().starts_with("green is live"), "{error}");
    }

    #[test]
    fn when_even_going_back_fails_both_colours_stay_up() {
        let mut steps = Pretend::failing(&["confirm green", "confirm blue"]);
        let error = flip(Blue, Green, &mut steps).unwrap_err();
        assert!(matches!(error, Error::FlipStuck { .. }), "{error}");
        assert!(!steps.done.iter().any(|act| act.starts_with("stop")));
    }
}
