//! The steps of a flip, done for real: an engine, a Traefik, a lock, and what is told of it.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use chrono::Utc;

use crate::{
    bake,
    colour::Colour,
    engine::{BUILD_TIMEOUT, Engine},
    entrance::Entrance,
    error::{Error, Result},
    flip::{self, Plan, Source, Step, Steps},
    history::{self, Audited, Entry, Outcome, Timing},
    interrupt,
    lock::{self, Lock},
    outage::Outage,
    scrape::{self, SAMPLE_INTERVAL, Version},
    smoke,
    stack::Stack,
    store,
    terminal::say,
    traefik, wait,
};

/// Beside the time that the rate asks for: peers may be slow to answer a goodbye.
const DRAIN_SLACK: Duration = Duration::from_secs(10);

/// How long a drain waits for a session store that is down. Then SIGTERM ends what is left, and what
/// cannot be stored is left for the next process of the colour.
const OUTAGE_MAX: Duration = Duration::from_secs(600);

pub fn progress(what: &str, since: Instant) {
    say(format!(
        "==> {what} ({:.2} s)",
        since.elapsed().as_secs_f32()
    ));
}

/// Flips, and writes down how it went.
///
/// # Errors
/// Why it did not; the history says so too.
pub fn run(verb: &str, plan: &Plan, engine: &dyn Engine, lock: &mut Lock) -> Result<()> {
    let began = Instant::now();
    let at = Utc::now();
    let mut deploy = Deploy::new(plan, engine, lock);
    let from_version = version(engine, plan.from);
    let outcome = flip::flip(plan, &mut deploy);
    let told = deploy.told;
    let entry = Entry {
        at,
        verb: verb.to_owned(),
        who: lock::user(),
        host: lock::host(),
        engine: engine.kind().to_string(),
        from: plan.from,
        to: plan.to,
        from_version,
        to_version: told.version,
        outcome: judge(&outcome),
        reason: outcome
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default(),
        total_ms: millis(began.elapsed()),
        switch_ms: told.switch_ms,
        steps: told.steps,
        drained: told.drained,
        handshakes_per_second_max: told.handshakes_per_second_max,
        audit: None,
    };
    write_down(engine, &entry);
    if outcome.is_ok() {
        progress(&format!("{} is live", plan.to), began);
    }
    outcome
}

/// Writes down that a colour is live because nothing was before.
pub fn note_up(engine: &dyn Engine, live: Colour, took: Duration) {
    let version = version(engine, live);
    let entry = Entry {
        at: Utc::now() - took,
        verb: "up".into(),
        who: lock::user(),
        host: lock::host(),
        engine: engine.kind().to_string(),
        from: live,
        to: live,
        from_version: version.clone(),
        to_version: version,
        outcome: Outcome::Done,
        reason: String::new(),
        total_ms: millis(took),
        switch_ms: None,
        steps: Vec::new(),
        drained: 0,
        handshakes_per_second_max: 0,
        audit: None,
    };
    write_down(engine, &entry);
}

/// Writes down what the ledger of the last release says, under that release.
pub fn note_audit(engine: &dyn Engine, audited: Audited, well: bool, took: Duration) {
    let last = engine.history().last(1).unwrap_or_default().pop();
    let Some(release) = last else { return };
    let live = match release.outcome {
        Outcome::Done | Outcome::Unfinished => release.to,
        _ => release.from,
    };
    let entry = Entry {
        at: Utc::now(),
        verb: history::AUDIT.into(),
        who: lock::user(),
        host: lock::host(),
        from: live,
        to: live,
        outcome: if well { Outcome::Done } else { Outcome::Failed },
        reason: String::new(),
        total_ms: millis(took),
        switch_ms: None,
        steps: Vec::new(),
        drained: 0,
        handshakes_per_second_max: 0,
        audit: Some(audited),
        ..release
    };
    write_down(engine, &entry);
}

/// What is live is live, written down or not.
fn write_down(engine: &dyn Engine, entry: &Entry) {
    if let Err(error) = engine.history().append(entry) {
        say(format!("==> not written down: {error}"));
    }
}

fn judge(outcome: &Result<()>) -> Outcome {
    match outcome {
        Ok(()) => Outcome::Done,
        Err(Error::Refused { .. }) => Outcome::Refused,
        Err(Error::TakenBack { .. }) => Outcome::TakenBack,
        Err(Error::OldStays { .. }) => Outcome::Unfinished,
        Err(_) => Outcome::Stuck,
    }
}

fn version(engine: &dyn Engine, colour: Colour) -> String {
    Version::of(engine, colour).map_or_else(|_| String::new(), |version| version.told())
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// What the history will tell.
#[derive(Default)]
struct Told {
    version: String,
    switch_ms: Option<u64>,
    steps: Vec<Timing>,
    drained: u64,
    handshakes_per_second_max: u64,
}

struct Deploy<'a> {
    plan: &'a Plan,
    stack: &'a Stack,
    engine: &'a dyn Engine,
    lock: &'a mut Lock,
    /// The revision that was built.
    meant: Option<String>,
    /// When the router's file was written last.
    written: Option<Instant>,
    told: Told,
}

impl<'a> Deploy<'a> {
    fn new(plan: &'a Plan, engine: &'a dyn Engine, lock: &'a mut Lock) -> Self {
        Self {
            plan,
            stack: engine.stack(),
            engine,
            lock,
            meant: None,
            written: None,
            told: Told::default(),
        }
    }

    /// Sees to it that nothing of the colour runs that this flip did not start.
    fn clear(&mut self, colour: Colour) -> Result<()> {
        self.engine.forget_warm(colour);
        if self.engine.runs(colour) {
            let plan = *self.plan;
            self.drain(colour, &plan)?;
            self.engine.stop(colour)?;
        }
        Ok(())
    }

    fn preview(&self, colour: Colour) -> Result<Entrance> {
        self.engine.preview(colour).map(Entrance::plain)
    }

    fn converse(&self, colour: Colour) -> Result<()> {
        smoke::talk(&self.preview(colour)?, colour)?;
        smoke::health(self.engine, colour)
    }

    /// One of the live colour's sessions goes on in the other, unless they end with their process
    /// anyway.
    fn move_session(&self, to: Colour) -> Result<()> {
        let from = to.other();
        let [live, next] = [from, to].map(|colour| Version::of(self.engine, colour));
        let (live, next) = (live?, next?);
        if !live.shares_sessions() {
            return Ok(());
        }
        if live.store != next.store {
            return Err(Error::SessionsStay {
                from,
                to,
                live: live.store,
                next: next.store_told().to_owned(),
            });
        }
        let front_door = Entrance::front_door_for_now(self.engine)?;
        smoke::move_over(&front_door, &self.preview(to)?, to)
    }

    /// One that is shutting down for good already has to be started again.
    fn wake(&self, colour: Colour) -> Result<()> {
        self.engine.forget_warm(colour);
        scrape::take_drain_back(self.engine, colour).or_else(|_| self.engine.start(colour))
    }

    /// Until nobody is left, or time is up. SIGTERM ends what is. While the session store is down
    /// the drain rests, and its time does not run.
    fn watch_drain(&mut self, colour: Colour, deadline: Duration) -> Result<u64> {
        let other = colour.other();
        let began = Instant::now();
        let mut handshakes = scrape::handshakes(self.engine, other).unwrap_or_default();
        let mut outage = Outage::new("the drain waits for it", "the drain goes on");
        loop {
            let state = scrape::drain_state(self.engine, colour)?;
            let left = state.connections;
            let paused = outage.look(state.store).min(OUTAGE_MAX);
            if left == 0 || began.elapsed() >= deadline + paused {
                return Ok(left);
            }
            interrupt::check()?;
            self.lock.keep(Duration::ZERO)?;
            let since = Instant::now();
            thread::sleep(SAMPLE_INTERVAL);
            if let Ok(now) = scrape::handshakes(self.engine, other) {
                let rate = (now - handshakes).max(0.0) / since.elapsed().as_secs_f64();
                let peak = &mut self.told.handshakes_per_second_max;
                *peak = (*peak).max(rate as u64);
                handshakes = now;
            }
        }
    }
}

impl Steps for Deploy<'_> {
    fn enter(&mut self, step: Step) -> Result<()> {
        interrupt::check()?;
        self.lock.keep(match step {
            Step::Build => BUILD_TIMEOUT,
            Step::Bake => self.plan.bake,
            _ => Duration::ZERO,
        })
    }

    fn build(&mut self, plan: &Plan) -> Result<()> {
        if plan.source == Source::Build {
            self.meant = self.engine.build(plan.to)?;
        }
        Ok(())
    }

    fn start(&mut self, plan: &Plan) -> Result<()> {
        if plan.source == Source::Warm {
            return self.wake(plan.to);
        }
        self.clear(plan.to)?;
        self.engine.start(plan.to)
    }

    fn wait_ready(&mut self, colour: Colour) -> Result<()> {
        let what = format!("{colour} being ready");
        let patience = self.engine.ready_timeout();
        wait::until(&what, patience, || scrape::ready(self.engine, colour))?;
        let found = Version::of(self.engine, colour)?;
        self.told.version = found.told();
        let differs = |meant: &String| *meant != found.revision;
        if let Some(meant) = self.meant.clone().filter(differs) {
            let found = found.revision;
            return Err(Error::OtherVersion {
                colour,
                found,
                meant,
            });
        }
        Ok(())
    }

    /// A new release is tried out as a whole. To go back is worth more than that: it depends on the
    /// colour that it leaves for nothing, and does not wait for the store.
    fn smoke(&mut self, colour: Colour) -> Result<()> {
        traefik::service(self.engine, colour)?;
        let began = Instant::now();
        let back = self.plan.source != Source::Build;
        let talk = self.converse(colour);
        let down = talk.is_err() && scrape::misses_store(self.engine, colour);
        if down && back {
            let what = "the session store is down: nobody can come back to a session yet";
            progress(what, began);
            smoke::shake_hands(&self.preview(colour)?, colour)?;
            return scrape::alive(self.engine, colour);
        } else if down {
            return Err(store::down(self.stack, colour));
        }
        talk?;
        match self.move_session(colour) {
            Err(error) if back => {
                let from = colour.other();
                progress(&format!("no session moves from {from}: {error}"), began);
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn switch(&mut self, to: Colour) -> Result<()> {
        self.written = Some(Instant::now());
        if to == self.plan.to {
            self.engine.try_out(to)
        } else {
            self.engine.point_to(to)
        }
    }

    fn confirm(&mut self, colour: Colour) -> Result<()> {
        traefik::confirm(self.engine, colour)?;
        if let Some(written) = self.written.filter(|_| colour == self.plan.to) {
            self.told.switch_ms = Some(millis(written.elapsed()));
        }
        Ok(())
    }

    fn settle(&mut self, old: Colour) -> Result<()> {
        traefik::settle(self.engine, old)
    }

    fn bake(&mut self, plan: &Plan) -> Result<()> {
        bake::bake(self.engine, plan.to, plan.bake)?;
        self.engine.point_to(plan.to)?;
        traefik::confirm(self.engine, plan.to)
    }

    /// A colour that cannot be drained, since it has crashed or is too old for that, is for
    /// SIGTERM.
    fn drain(&mut self, colour: Colour, plan: &Plan) -> Result<()> {
        let began = Instant::now();
        let begin = || {
            let before = scrape::drain_state(self.engine, colour)?.connections;
            scrape::begin_drain(self.engine, colour, plan.drain_rate).map(|()| before)
        };
        let before = match begin() {
            Ok(before) => before,
            Err(error) => {
                progress(&format!("{colour} cannot be drained: {error}"), began);
                return Ok(());
            }
        };
        let rate = f64::from(plan.drain_rate.max(1));
        let deadline = Duration::from_secs_f64(before as f64 / rate) + DRAIN_SLACK;
        let left = self.watch_drain(colour, deadline)?;
        self.told.drained += before.saturating_sub(left);
        if left > 0 {
            let what = format!("{left} sockets of {colour} are left to SIGTERM");
            progress(&what, began);
        }
        Ok(())
    }

    fn retire(&mut self, plan: &Plan) -> Result<()> {
        match plan.keep_warm {
            None => self.engine.stop(plan.from),
            Some(time) => keep_warm(self.engine, plan.from, time),
        }
    }

    fn stop(&mut self, colour: Colour) -> Result<()> {
        self.engine.stop(colour)
    }

    fn report(&mut self, step: Step, what: &str, since: Instant) {
        progress(what, since);
        self.told.steps.push(Timing {
            step: step.to_string(),
            ms: millis(since.elapsed()),
        });
    }
}

/// Leaves a drained colour running, with a process of its own that will stop it.
fn keep_warm(engine: &dyn Engine, colour: Colour, time: Duration) -> Result<()> {
    engine.keep_warm(colour, &(Utc::now() + time).to_rfc3339())?;
    let stack = engine.stack();
    let program = env::current_exe().map_err(Error::file("this program"))?;
    let mut retire = Command::new(&program);
    retire
        .arg("--root")
        .arg(stack.root())
        .args(["retire", colour.name()])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    retire.spawn().map(drop).map_err(Error::file(program))
}

/// Ends what a flip left running that somebody or something ended: the sockets are sent away at
/// the usual rate, and the colour stops.
///
/// # Errors
/// It does not stop.
pub fn finish(engine: &dyn Engine, lock: &mut Lock, plan: &Plan) -> Result<()> {
    let idle = plan.from;
    if !engine.runs(idle) || engine.warm_until(idle).is_some() {
        return Ok(());
    }
    let began = Instant::now();
    let mut deploy = Deploy::new(plan, engine, lock);
    deploy.drain(idle, plan)?;
    deploy.engine.stop(idle)?;
    progress(
        &format!("{idle}, which an earlier flip left, is stopped"),
        began,
    );
    Ok(())
}
