//! What a person asks for.
#![expect(
    clippy::print_stdout,
    reason = "what the verbs print is what they are for"
)]

use std::{
    env,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    colour::Colour,
    engine::Engine,
    error::{Error, Result},
    flip::{self, Steps},
    http, logs,
    native::Native,
    ports::{self, Ports},
    router::Router,
    smoke,
    stack::Stack,
    traefik, wait,
};

/// The hard promise is 3 s; a machine that is busy building may take longer to get there.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at the logs that a person follows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

fn progress(what: &str, since: Instant) {
    println!("==> {what} ({:.1} s)", since.elapsed().as_secs_f32());
}

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

fn is_ready(stack: &Stack, colour: Colour) -> Result<()> {
    http::get_ok(&format!("http://{}/readyz", stack.operator(colour))).map(drop)
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
    wait::until(&what, READY_TIMEOUT, || is_ready(stack, live))?;
    progress(&format!("{live} is ready"), began);
    Ok(())
}

pub fn up(root: &Path) -> Result<()> {
    let began = Instant::now();
    check_engine()?;
    let stack = place(root, wanted_port()?)?;
    let engine = Native::new(stack.clone());
    let router = Router::new(&stack.dynamic());
    engine.prepare()?;
    progress("tools and supervisor are there", began);
    let live = router.live().unwrap_or(Colour::Blue);
    raise(&stack, &engine, live)?;
    if router.live().is_none() {
        router.point_to(live)?;
    }
    let started = Instant::now();
    engine.start_traefik()?;
    wait::until(
        "a conversation through the front door",
        READY_TIMEOUT,
        || smoke::talk(&stack.front_door(), live),
    )?;
    progress("a client gets through the front door", started);
    println!();
    status(root)
}

/// The flip on a real engine behind a real Traefik.
struct RealSteps<'a> {
    stack: &'a Stack,
    engine: Native,
    router: Router,
}

impl Steps for RealSteps<'_> {
    fn start(&mut self, colour: Colour) -> Result<()> {
        self.engine.build(colour)?;
        self.engine.start(colour)
    }

    fn wait_ready(&mut self, colour: Colour) -> Result<()> {
        let what = format!("{colour} being ready");
        wait::until(&what, READY_TIMEOUT, || is_ready(self.stack, colour))
    }

    fn smoke(&mut self, colour: Colour) -> Result<()> {
        smoke::talk(&self.stack.public(colour), colour)
    }

    fn switch(&mut self, to: Colour) -> Result<()> {
        self.router.point_to(to)
    }

    fn confirm(&mut self, colour: Colour) -> Result<()> {
        traefik::confirm(self.stack, colour)
    }

    fn settle(&mut self, old: Colour) -> Result<()> {
        traefik::settle(self.stack, old)
    }

    fn stop(&mut self, colour: Colour) -> Result<()> {
        self.engine.stop(colour)
    }

    fn report(&mut self, what: &str, since: Instant) {
        progress(what, since);
    }
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

pub fn flip(root: &Path) -> Result<()> {
    check_engine()?;
    let stack = running(root)?;
    let from = traefik::live(&stack)?;
    let mut steps = RealSteps {
        stack: &stack,
        engine: Native::new(stack.clone()),
        router: Router::new(&stack.dynamic()),
    };
    flip::flip(from, from.other(), &mut steps)
}

pub fn down(root: &Path) -> Result<()> {
    let began = Instant::now();
    let stack = match Stack::load(root) {
        Err(Error::NotUp) => {
            println!("==> nothing runs here");
            return Ok(());
        }
        stack => stack?,
    };
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
    for colour in Colour::ALL {
        let state = match is_ready(&stack, colour) {
            Ok(()) => version(&stack, colour),
            Err(_) => "not running".into(),
        };
        println!("{:<11} {state}", colour.name());
    }
    println!("traefik     http://{}/api/rawdata", stack.internal());
    println!("logs        {}", stack.logs().display());
    live.map(drop)
}

fn version(stack: &Stack, colour: Colour) -> String {
    let operator = stack.operator(colour);
    let version = http::get_ok(&format!("http://{operator}/version")).unwrap_or_default();
    format!(
        "ready at {}, metrics at http://{operator}/metrics, {version}",
        stack.public(colour)
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
