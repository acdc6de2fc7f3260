//! What a person asks for.
#![expect(
    clippy::print_stdout,
    reason = "what the verbs print is what they are for"
)]

use std::{
    env, fs,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    colour::Colour,
    deploy::{self, READY_TIMEOUT, forget_warm, progress, warm_until},
    engine::Engine,
    error::{Error, Result},
    flip::{Plan, Source, Step},
    history::{self, Outcome},
    interrupt,
    lock::{self, Holder, Lock},
    logs,
    native::Native,
    ports::{self, Ports},
    preflight,
    router::Router,
    scrape::{self, Version},
    smoke,
    stack::Stack,
    traefik, wait,
};

/// Between two looks at the logs that a person follows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

/// For a flip that is told to stop: it may have to go back first.
const STOP_FLIP_TIMEOUT: Duration = Duration::from_secs(60);

/// Sockets a second that are sent away, unless a person says otherwise.
pub const DRAIN_RATE: u32 = 500;

fn check_engine() -> Result<()> {
    match env::var("ENGINE").as_deref() {
        Err(_) | Ok("" | "native") => Ok(()),
        Ok("docker") => Err(Error::EngineToCome("docker".into())),
        Ok(other) => Err(Error::Engine(other.to_owned())),
    }
}

fn wanted_port() -> Result<Option<u16>> {
    match env::var("TALLY_PORT").as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok(text) => match text.parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(Error::Port(text.to_owned())),
        },
    }
}

/// Takes the lock; says so when somebody left it behind.
fn take_lock(root: &Path, verb: &str) -> Result<Lock> {
    let path = Stack::lock_of(root);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
    }
    let began = Instant::now();
    let (lock, before) = Lock::take(&path, verb)?;
    if let Some(Holder { verb, process, .. }) = before {
        let what = format!("the lock of a {verb} that has ended (process {process}) is taken over");
        progress(&what, began);
    }
    Ok(lock)
}

/// The stack of this clone. One that runs keeps its ports: others would leave its processes
/// behind. One that does not gets new ones for those that somebody has taken meanwhile.
fn place(root: &Path, wanted: Option<u16>) -> Result<Stack> {
    let stack = match Stack::load(root) {
        Err(Error::NotUp) => {
            let ports = Ports::pick(wanted.unwrap_or(ports::FRONT_DOOR), None)?;
            return Stack::create(root, ports);
        }
        stack => stack?,
    };
    let engine = Native::new(stack.clone());
    let began = Instant::now();
    let stopped = engine.stop_leftovers()?;
    if stopped > 0 {
        let what = format!("{stopped} processes that ran unsupervised are stopped");
        progress(&what, began);
    }
    let door = stack.ports.front_door;
    match (engine.running(), wanted) {
        (true, Some(port)) if port != door => Err(Error::RunsElsewhere(door)),
        (true, _) => Ok(stack),
        (false, wanted) => {
            let ports = Ports::pick(wanted.unwrap_or(door), Some(stack.ports))?;
            Stack::create(root, ports)
        }
    }
}

/// Starts the live colour if it does not run. One that runs is left alone, however busy it is.
fn raise(stack: &Stack, engine: &impl Engine, live: Colour) -> Result<()> {
    let began = Instant::now();
    if !engine.runs(live) {
        engine.build(live)?;
        engine.start(live)?;
        progress(&format!("{live} is built and started"), began);
    }
    let began = Instant::now();
    let what = format!("{live} being ready");
    // An earlier flip may have been ended in the middle of a drain, and this one is live after all.
    wait::until(&what, READY_TIMEOUT, || {
        scrape::ready(stack, live).or_else(|_| scrape::take_drain_back(stack, live))
    })?;
    progress(&format!("{live} is ready"), began);
    Ok(())
}

pub fn up(root: &Path) -> Result<()> {
    let began = Instant::now();
    interrupt::catch()?;
    check_engine()?;
    let wanted = wanted_port()?;
    let mut lock = take_lock(root, "up")?;
    let stack = place(root, wanted)?;
    let engine = Native::new(stack.clone());
    let router = Router::new(&stack.dynamic());
    engine.prepare()?;
    progress("tools and supervisor are there", began);
    let live = router.live().unwrap_or(Colour::Blue);
    forget_warm(&stack, live);
    raise(&stack, &engine, live)?;
    router.point_to(live)?;
    let started = Instant::now();
    engine.start_traefik()?;
    wait::until(
        "a conversation through the front door",
        READY_TIMEOUT,
        || smoke::talk(&stack.front_door(), live),
    )?;
    progress("a client gets through the front door", started);
    let plan = Plan {
        from: live.other(),
        to: live,
        source: Source::Warm,
        bake: Duration::ZERO,
        drain_rate: DRAIN_RATE,
        keep_warm: None,
    };
    deploy::finish(&stack, &engine, &mut lock, &plan)?;
    drop(lock);
    println!();
    status(root)
}

/// The stack, if it is up.
fn running(root: &Path) -> Result<Stack> {
    let stack = Stack::load(root)?;
    if Native::new(stack.clone()).running() {
        Ok(stack)
    } else {
        Err(Error::NotUp)
    }
}

/// What a person may say about a flip.
#[derive(Clone, Copy, Debug)]
pub struct FlipOptions {
    pub bake: Duration,
    pub drain_rate: u32,
    pub keep_warm: Option<Duration>,
    pub dry_run: bool,
}

pub fn flip(root: &Path, options: FlipOptions) -> Result<()> {
    interrupt::catch()?;
    check_engine()?;
    let stack = running(root)?;
    let engine = Native::new(stack.clone());
    let plan = |from: Colour| Plan {
        from,
        to: from.other(),
        source: Source::Build,
        bake: options.bake,
        drain_rate: options.drain_rate,
        keep_warm: options.keep_warm,
    };
    if options.dry_run {
        return tell_plan(&stack, &engine, &plan(traefik::live(&stack)?));
    }
    let began = Instant::now();
    let mut lock = take_lock(root, "flip")?;
    let plan = plan(traefik::live(&stack)?);
    preflight::check(&stack, &engine, plan.from)?;
    progress("the lock is taken, and nothing stands in the way", began);
    deploy::run("flip", &plan, &stack, &engine, &mut lock)
}

/// Says what a flip would do, and changes nothing.
fn tell_plan(stack: &Stack, engine: &dyn Engine, plan: &Plan) -> Result<()> {
    println!(
        "{} is live; a flip would see to it, one after the other, that",
        plan.from
    );
    for (number, step) in (1..).zip(Step::ALL) {
        println!("{number:>3}. {}", step.goal(plan));
    }
    println!("\nbefore it begins it would look at");
    for (name, found) in preflight::look(stack, engine, plan.from) {
        let found = found.unwrap_or_else(|wrong| format!("NOT GOOD: {wrong}"));
        println!("     {name}: {found}");
    }
    preflight::check(stack, engine, plan.from)
}

/// Goes back to the colour that was live before; a flip that is under way is told to stop first.
pub fn rollback(root: &Path, drain_rate: u32) -> Result<()> {
    let began = Instant::now();
    interrupt::catch()?;
    check_engine()?;
    let stack = running(root)?;
    let engine = Native::new(stack.clone());
    if stop_flip(&stack)? {
        let live = traefik::live(&stack)?;
        progress(
            &format!("the flip went back by itself: {live} is live"),
            began,
        );
        return Ok(());
    }
    let mut lock = take_lock(root, "rollback")?;
    let from = traefik::live(&stack)?;
    let to = from.other();
    let source = match (engine.runs(to), engine.can_start(to)) {
        (true, _) => Source::Warm,
        (false, true) => Source::Again,
        (false, false) => return Err(Error::NothingBefore(to)),
    };
    let plan = Plan {
        from,
        to,
        source,
        bake: Duration::ZERO,
        drain_rate,
        keep_warm: None,
    };
    deploy::run("rollback", &plan, &stack, &engine, &mut lock)
}

/// Tells a flip of this machine to stop, and waits until it has. Returns whether it went back, so
/// that there is nothing left to do.
fn stop_flip(stack: &Stack) -> Result<bool> {
    let under_way = |holder: &Holder| {
        ["flip", "rollback"].contains(&holder.verb.as_str())
            && holder.host == lock::host()
            && holder.lives()
    };
    let Some(holder) = lock::holder(&stack.lock())?.filter(under_way) else {
        return Ok(false);
    };
    let asked = Utc::now();
    let process = i32::try_from(holder.process).ok().and_then(Pid::from_raw);
    if let Some(process) = process {
        // One that has just ended needs no telling.
        let _ = kill_process(process, Signal::INT);
    }
    wait::until(
        "the end of the flip",
        STOP_FLIP_TIMEOUT,
        || match lock::holder(&stack.lock())?.filter(under_way) {
            None => Ok(()),
            Some(holder) => Err(Error::Locked(Box::new(holder))),
        },
    )?;
    Ok(went_back(stack, asked))
}

fn went_back(stack: &Stack, asked: DateTime<Utc>) -> bool {
    let last = history::last(&stack.history(), 1).unwrap_or_default();
    last.last().is_some_and(|entry| {
        let ended = entry.at + Duration::from_millis(entry.total_ms);
        ended >= asked && [Outcome::Refused, Outcome::TakenBack].contains(&entry.outcome)
    })
}

/// Stops a colour that was kept warm once its time is up; does nothing when it was needed after
/// all.
pub fn retire(root: &Path, colour: Colour) -> Result<()> {
    let stack = Stack::load(root)?;
    let Some(until) = warm_until(&stack, colour) else {
        return Ok(());
    };
    let still_meant = || warm_until(&stack, colour).as_ref() == Some(&until);
    let end = DateTime::parse_from_rfc3339(&until).map_err(|error| Error::Record {
        path: stack.warm(colour),
        reason: error.to_string(),
    })?;
    while still_meant() && Utc::now() < end {
        thread::sleep(FOLLOW_PAUSE);
    }
    // Whoever is at it now may want this colour, or take it down anyway.
    let mut lock = None;
    while still_meant() && lock.is_none() {
        lock = take_lock(root, "retire").ok();
        thread::sleep(FOLLOW_PAUSE);
    }
    if still_meant() && traefik::live(&stack)? != colour {
        forget_warm(&stack, colour);
        Native::new(stack).stop(colour)?;
    }
    Ok(())
}

pub fn history(root: &Path, count: usize) -> Result<()> {
    let stack = Stack::load(root)?;
    let entries = history::last(&stack.history(), count)?;
    print!("{}", history::table(&entries));
    Ok(())
}

pub fn down(root: &Path) -> Result<()> {
    let began = Instant::now();
    interrupt::catch()?;
    let stack = match Stack::load(root) {
        Err(Error::NotUp) => {
            println!("==> nothing runs here");
            return Ok(());
        }
        stack => stack?,
    };
    let _lock = take_lock(root, "down")?;
    for colour in Colour::ALL {
        forget_warm(&stack, colour);
    }
    Native::new(stack).down()?;
    progress("everything is stopped", began);
    Ok(())
}

pub fn status(root: &Path) -> Result<()> {
    let stack = running(root)?;
    let live = traefik::live(&stack);
    println!(
        "front door  http://{}/  (native engine)",
        stack.front_door()
    );
    match &live {
        Ok(colour) => println!("live        {colour}, says Traefik"),
        Err(error) => println!("live        nobody: {error}"),
    }
    if let (Ok(live), Some(named)) = (&live, Router::new(&stack.dynamic()).live())
        && *live != named
    {
        println!("            but the router's file names {named}: look at ./just logs");
    }
    for colour in Colour::ALL {
        println!("{:<11} {}", colour.name(), state(&stack, colour));
    }
    println!("preview     http://{}/  (the idle colour)", stack.preview());
    println!("traefik     http://{}/api/rawdata", stack.internal());
    println!("logs        {}", stack.logs().display());
    if let Some(holder) = lock::holder(&stack.lock())?.filter(Holder::lives) {
        println!("under way   {}", Error::Locked(Box::new(holder)));
    }
    live.map(drop)
}

fn state(stack: &Stack, colour: Colour) -> String {
    let Ok(version) = Version::of(stack, colour) else {
        return "not running".into();
    };
    let connections = scrape::drain_state(stack, colour).map(|state| state.connections);
    let connections = connections.map_or("?".into(), |connections| connections.to_string());
    let warm = warm_until(stack, colour);
    let state = match (scrape::ready(stack, colour), warm) {
        (Ok(()), _) => "ready".to_owned(),
        (Err(_), Some(until)) => format!("kept warm until {until}"),
        (Err(_), None) => "draining".to_owned(),
    };
    format!(
        "{state}, {connections} connections, version {}, metrics at http://{}/metrics",
        version.told(),
        stack.operator(colour)
    )
}

pub fn logs(root: &Path, lines: usize, follow: bool) -> Result<()> {
    let stack = Stack::load(root)?;
    let engine = Native::new(stack);
    let mut tails = logs::Tails::default();
    print!("{}", tails.last(&engine.logs(), lines)?);
    if follow {
        go_on(&engine, &mut tails)
    } else {
        Ok(())
    }
}

/// Shows what is written, until the person has seen enough.
fn go_on(engine: &impl Engine, tails: &mut logs::Tails) -> Result<()> {
    loop {
        thread::sleep(FOLLOW_PAUSE);
        print!("{}", tails.since(&engine.logs())?);
        // A pipe is not flushed at each line, and the next one may be long in coming.
        let flushed = std::io::stdout().flush();
        flushed.map_err(Error::file("standard output"))?;
    }
}
