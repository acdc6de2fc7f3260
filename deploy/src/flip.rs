//! The flip: one straight line with one switch point.

use std::{fmt, time::Duration, time::Instant};

use crate::{
    colour::Colour,
    error::{Error, Result},
    interrupt::{self, shielded},
};

/// Where the colour that is to go live comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The sources of now.
    Build,
    /// What it ran before.
    Again,
    /// It still runs.
    Warm,
}

/// A flip that was decided on.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub from: Colour,
    pub to: Colour,
    pub source: Source,
    /// How long the new colour is watched before the old one is drained.
    pub bake: Duration,
    /// Sockets a second that are sent away from the old colour.
    pub drain_rate: u32,
    /// How long the old colour is kept for a rollback.
    pub keep_warm: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Build,
    Start,
    Ready,
    Smoke,
    Switch,
    Settle,
    Bake,
    Drain,
    Retire,
}

impl Step {
    pub const ALL: [Self; 9] = [
        Self::Build,
        Self::Start,
        Self::Ready,
        Self::Smoke,
        Self::Switch,
        Self::Settle,
        Self::Bake,
        Self::Drain,
        Self::Retire,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Start => "start",
            Self::Ready => "ready",
            Self::Smoke => "smoke",
            Self::Switch => "switch",
            Self::Settle => "settle",
            Self::Bake => "bake",
            Self::Drain => "drain",
            Self::Retire => "retire",
        }
    }

    /// What is true once the step is done.
    pub fn goal(self, plan: &Plan) -> String {
        let Plan { from, to, .. } = plan;
        match self {
            Self::Build => match plan.source {
                Source::Build => format!("{to} is built"),
                Source::Again => format!("{to} is what it was before"),
                Source::Warm => format!("{to} still runs"),
            },
            Self::Start => format!("{to} is started"),
            Self::Ready => format!("{to} is ready, and the version that was meant"),
            Self::Smoke => format!("{to} passes the smoke test at the preview door"),
            Self::Switch => format!("the front door leads to {to}"),
            Self::Settle => format!("no handshake reaches {from} any more"),
            Self::Bake => {
                let time = humantime::format_duration(plan.bake);
                format!("{to} has held out for {time}")
            }
            Self::Drain => format!("{from} is drained, {} sockets a second", plan.drain_rate),
            Self::Retire => match plan.keep_warm {
                None => format!("{from} is stopped"),
                Some(time) => {
                    let time = humantime::format_duration(time);
                    format!("{from} is kept warm for {time}")
                }
            },
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a flip is made of; the engine and Traefik do it, a test can pretend to.
pub trait Steps {
    /// Asks before each step whether the flip may go on.
    fn enter(&mut self, step: Step) -> Result<()>;
    fn build(&mut self, plan: &Plan) -> Result<()>;
    fn start(&mut self, plan: &Plan) -> Result<()>;
    fn wait_ready(&mut self, colour: Colour) -> Result<()>;
    fn smoke(&mut self, colour: Colour) -> Result<()>;
    /// The switch point: whatever fails before it leaves the old colour untouched.
    fn switch(&mut self, to: Colour) -> Result<()>;
    fn confirm(&mut self, colour: Colour) -> Result<()>;
    fn settle(&mut self, old: Colour) -> Result<()>;
    fn bake(&mut self, plan: &Plan) -> Result<()>;
    /// Sends the sockets of a colour away, at the plan's rate.
    fn drain(&mut self, colour: Colour, plan: &Plan) -> Result<()>;
    /// Stops the old colour, or keeps it warm.
    fn retire(&mut self, plan: &Plan) -> Result<()>;
    fn stop(&mut self, colour: Colour) -> Result<()>;
    fn report(&mut self, step: Step, what: &str, since: Instant);
}

/// Moves the traffic from one colour to the other.
///
/// # Errors
/// Why it did not; `from` then goes on serving, unless even going back failed.
pub fn flip(plan: &Plan, steps: &mut impl Steps) -> Result<()> {
    let Plan { from, to, .. } = *plan;
    if let Err(source) = prepare(plan, steps).map_err(or_interrupted) {
        // Whoever took the lock may be using that colour by now.
        if !matches!(source, Error::LockLost) {
            let _ = shielded(|| steps.stop(to));
        }
        return Err(Error::Refused {
            from,
            to,
            source: Box::new(source),
        });
    }
    let switched = Instant::now();
    if let Err(source) = go_live(plan, steps).map_err(or_interrupted) {
        if matches!(source, Error::LockLost) {
            return Err(source);
        }
        return Err(shielded(|| go_back(plan, source, switched, steps)));
    }
    // The new colour is live: nothing below takes that back.
    leave(plan, steps).map_err(|source| Error::OldStays {
        from,
        to,
        source: Box::new(source),
    })
}

/// A signal ends a system call, which then looks like something that went wrong by itself.
fn or_interrupted(error: Error) -> Error {
    match error {
        Error::LockLost => error,
        error => interrupt::check().err().unwrap_or(error),
    }
}

fn prepare(plan: &Plan, steps: &mut impl Steps) -> Result<()> {
    take(Step::Build, plan, steps, |steps| steps.build(plan))?;
    take(Step::Start, plan, steps, |steps| steps.start(plan))?;
    take(Step::Ready, plan, steps, |steps| steps.wait_ready(plan.to))?;
    take(Step::Smoke, plan, steps, |steps| steps.smoke(plan.to))?;
    steps.enter(Step::Switch)
}

fn go_live(plan: &Plan, steps: &mut impl Steps) -> Result<()> {
    let began = Instant::now();
    steps.switch(plan.to)?;
    steps.confirm(plan.to)?;
    steps.report(Step::Switch, &Step::Switch.goal(plan), began);
    steps.enter(Step::Settle)?;
    let_settle(plan.from, steps);
    take(Step::Bake, plan, steps, |steps| steps.bake(plan))
}

fn leave(plan: &Plan, steps: &mut impl Steps) -> Result<()> {
    take(Step::Drain, plan, steps, |steps| {
        steps.drain(plan.from, plan)
    })?;
    take(Step::Retire, plan, steps, |steps| steps.retire(plan))
}

/// A colour that is about to stop takes what Traefik has on its way to it. One that has crashed
/// cannot be asked, and one that somebody talks to directly never stands still: neither keeps a
/// flip from going on.
fn let_settle(colour: Colour, steps: &mut impl Steps) {
    let began = Instant::now();
    let what = match steps.settle(colour) {
        Ok(()) => format!("no handshake reaches {colour} any more"),
        Err(error) => format!("{colour} is left all the same, although: {error}"),
    };
    steps.report(Step::Settle, &what, began);
}

fn take<S: Steps>(
    step: Step,
    plan: &Plan,
    steps: &mut S,
    act: impl FnOnce(&mut S) -> Result<()>,
) -> Result<()> {
    steps.enter(step)?;
    let began = Instant::now();
    act(steps)?;
    steps.report(step, &step.goal(plan), began);
    Ok(())
}

fn go_back(plan: &Plan, source: Error, switched: Instant, steps: &mut impl Steps) -> Error {
    let Plan { from, to, .. } = *plan;
    let source = Box::new(source);
    match steps.switch(from).and_then(|()| steps.confirm(from)) {
        Ok(()) => {
            let away = switched.elapsed();
            let_settle(to, steps);
            let _ = steps.drain(to, plan);
            let _ = steps.stop(to);
            Error::TakenBack {
                from,
                to,
                source,
                away,
            }
        }
        // Both colours stay up: whichever Traefik leads to, somebody answers.
        Err(back) => Error::FlipStuck {
            from,
            to,
            source,
            back: Box::new(back),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Colour::{Blue, Green};

    const PLAN: Plan = Plan {
        from: Blue,
        to: Green,
        source: Source::Build,
        bake: Duration::ZERO,
        drain_rate: 500,
        keep_warm: None,
    };

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

        fn end(&self, count: usize) -> &[String] {
            &self.done[self.done.len() - count..]
        }
    }

    impl Steps for Pretend {
        fn enter(&mut self, step: Step) -> Result<()> {
            if self.fails.contains(&step.name()) {
                Err(Error::LockLost)
            } else {
                Ok(())
            }
        }
        fn build(&mut self, plan: &Plan) -> Result<()> {
            self.act("build", plan.to)
        }
        fn start(&mut self, plan: &Plan) -> Result<()> {
            self.act("start", plan.to)
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
        fn bake(&mut self, plan: &Plan) -> Result<()> {
            self.act("bake", plan.to)
        }
        fn drain(&mut self, colour: Colour, _plan: &Plan) -> Result<()> {
            self.act("drain", colour)
        }
        fn retire(&mut self, plan: &Plan) -> Result<()> {
            self.act("retire", plan.from)
        }
        fn stop(&mut self, colour: Colour) -> Result<()> {
            self.act("stop", colour)
        }
        fn report(&mut self, _step: Step, _what: &str, _since: Instant) {}
    }

    #[test]
    fn a_flip_is_a_straight_line() {
        let mut steps = Pretend::failing(&[]);
        flip(&PLAN, &mut steps).unwrap();
        assert_eq!(
            steps.done,
            [
                "build green",
                "start green",
                "ready green",
                "smoke green",
                "switch green",
                "confirm green",
                "settle blue",
                "bake green",
                "drain blue",
                "retire blue"
            ]
        );
    }

    #[test]
    fn a_failure_before_the_switch_leaves_the_old_colour_untouched() {
        for fails in ["build green", "start green", "ready green", "smoke green"] {
            let mut steps = Pretend::failing(&[fails]);
            let error = flip(&PLAN, &mut steps).unwrap_err();
            assert!(
                matches!(error, Error::Refused { from: Blue, .. }),
                "{error}"
            );
            assert_eq!(steps.done.last().unwrap(), "stop green");
            assert!(!steps.done.iter().any(|act| act.contains("blue")));
            assert!(!steps.done.iter().any(|act| act.contains("switch")));
        }
    }

    #[test]
    fn a_failure_after_the_switch_is_taken_back() {
        for fails in ["switch green", "confirm green", "bake green"] {
            let mut steps = Pretend::failing(&[fails]);
            let error = flip(&PLAN, &mut steps).unwrap_err();
            assert!(
                matches!(error, Error::TakenBack { from: Blue, .. }),
                "{error}"
            );
            assert_eq!(
                steps.end(5),
                [
                    "switch blue",
                    "confirm blue",
                    "settle green",
                    "drain green",
                    "stop green"
                ]
            );
            assert!(!steps.done.contains(&"drain blue".to_owned()));
        }
    }

    #[test]
    fn an_old_colour_that_cannot_be_asked_is_left_all_the_same() {
        let mut steps = Pretend::failing(&["settle blue"]);
        flip(&PLAN, &mut steps).unwrap();
        assert_eq!(steps.done.last().unwrap(), "retire blue");
    }

    #[test]
    fn an_old_colour_that_does_not_go_is_told() {
        for fails in ["drain blue", "retire blue"] {
            let mut steps = Pretend::failing(&[fails]);
            let error = flip(&PLAN, &mut steps).unwrap_err();
            assert!(error.to_string().starts_with("green is live"), "{error}");
        }
    }

    #[test]
    fn when_even_going_back_fails_both_colours_stay_up() {
        let mut steps = Pretend::failing(&["confirm green", "confirm blue"]);
        let error = flip(&PLAN, &mut steps).unwrap_err();
        assert!(matches!(error, Error::FlipStuck { .. }), "{error}");
        assert!(!steps.done.iter().any(|act| act.starts_with("stop")));
    }

    #[test]
    fn who_lost_the_lock_touches_nothing_any_more() {
        for step in Step::ALL {
            let mut steps = Pretend::failing(&[step.name()]);
            flip(&PLAN, &mut steps).unwrap_err();
            assert!(!steps.done.contains(&"stop green".to_owned()), "{step}");
            assert!(!steps.done.contains(&"switch blue".to_owned()), "{step}");
        }
    }
}
