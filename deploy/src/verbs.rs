//! What a person asks for.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    certificate,
    colour::Colour,
    deploy::{self, progress},
    door::{Door, Tls},
    engine::{self, Engine, Kind},
    entrance::Entrance,
    error::{Error, Result},
    flip::{Plan, Source, Step},
    handover,
    history::{self, Outcome},
    interrupt,
    kubernetes::{self, cluster::Cluster},
    lock::{self, Holder, Lock},
    monitoring,
    ports::{self, Ports},
    preflight,
    scrape::{self, StoreState, Version},
    settings::Settings,
    smoke,
    stack::{self, Record, Stack},
    store::{self, Store},
    terminal::{say, show},
    traefik, wait,
};

/// Between two looks at what a colour is kept warm for.
const RETIRE_PAUSE: Duration = Duration::from_millis(200);

/// For a flip that is told to stop: it may have to go back first.
const STOP_FLIP_TIMEOUT: Duration = Duration::from_secs(60);

/// An authority looks at the door from outside before it issues a certificate, perhaps twice.
const ACME_TIMEOUT: Duration = Duration::from_secs(90);

/// Sockets a second that are sent away, unless a person says otherwise.
pub const DRAIN_RATE: u32 = 500;

/// Takes the lock; says so when somebody left it behind.
fn take_lock(place: &lock::Place, verb: &str) -> Result<Lock> {
    let began = Instant::now();
    let (lock, before) = Lock::take(place, verb)?;
    if let Some(Holder { verb, process, .. }) = before {
        let what = format!("the lock of a {verb} that has ended (process {process}) is taken over");
        progress(&what, began);
    }
    Ok(lock)
}

/// The engine for the stack of this clone, with ports and all decided.
///
/// One that runs keeps what it has: other ports would leave its processes behind. One that does not
/// gets new ones for those that somebody has taken meanwhile.
fn place(root: &Path, settings: &Settings) -> Result<Box<dyn Engine>> {
    let recorded = match Stack::load(root) {
        Err(Error::NotUp) => None,
        stack => Some(engine::of(stack?)),
    };
    if let Some(engine) = &recorded {
        stop_leftovers(engine.as_ref())?;
        if engine.running()? {
            return stays(engine.stack(), settings).map(engine::of);
        }
    }
    let before = recorded.map(|engine| engine.stack().clone());
    let before = before.as_ref();
    if kind_of(before, settings) == Kind::Kubernetes {
        return roll_out(root, settings, before).map(engine::of);
    }
    let port = before.map_or(ports::FRONT_DOOR, |stack| stack.ports.front_door);
    let port = settings.port.unwrap_or(port);
    let kind = kind_of(before, settings);
    let record = Record {
        name: before.map_or_else(|| stack::name_of(root), |stack| stack.name.clone()),
        engine: kind,
        ports: Ports::pick(
            SocketAddr::new(settings.bind, port),
            kind,
            before.map(|stack| stack.ports),
            settings.ports.clone(),
        )?,
        bind: settings.bind,
        door: settings.door.clone(),
        store: Store::of(settings.store.clone()),
        files_max: settings.files_max,
        cluster: None,
    };
    Stack::create(root, record).map(engine::of)
}

fn kind_of(before: Option<&Stack>, settings: &Settings) -> Kind {
    let kind = settings.engine.or(before.map(|stack| stack.engine));
    kind.unwrap_or_else(Kind::found_here)
}

/// A stack of a cluster takes nothing of this machine.
fn roll_out(root: &Path, settings: &Settings, before: Option<&Stack>) -> Result<Stack> {
    if settings.door != Door::default() {
        let cure = "the door is the cluster's: see the README for TLS there";
        return Err(Error::NotOnKubernetes(
            "TALLY_TLS_*, TALLY_ACME_* or TALLY_HANDSHAKE_RATE",
            cure,
        ));
    }
    let shared = |store: &String| store.starts_with("redis");
    if !settings.store.as_ref().is_none_or(shared) {
        let cure = "its pods share nothing but a Redis; leave it alone, or name one";
        return Err(Error::NotOnKubernetes(store::VARIABLE, cure));
    }
    let cluster = cluster_of(before, settings);
    let store = match &settings.store {
        None => kubernetes::store_of(&cluster)?,
        store => store.clone(),
    };
    let record = Record {
        name: stack::name_of(root),
        engine: Kind::Kubernetes,
        ports: Ports::default(),
        bind: settings.bind,
        door: Door::default(),
        store: Store::of(store),
        files_max: settings.files_max,
        cluster: Some(cluster),
    };
    Stack::create(root, record)
}

/// Where it was rolled out before, or where kubectl leads to now.
fn cluster_of(before: Option<&Stack>, settings: &Settings) -> Cluster {
    let recorded = before.and_then(|stack| stack.cluster.clone());
    let recorded = recorded.filter(|cluster| is_meant(cluster, settings));
    recorded.unwrap_or_else(|| {
        let [namespace, overlay] = [
            (&settings.namespace, "tally"),
            (&settings.overlay, "production"),
        ]
        .map(|(setting, default)| setting.clone().unwrap_or_else(|| default.to_owned()));
        Cluster::of_now(namespace, overlay)
    })
}

fn is_meant(cluster: &Cluster, settings: &Settings) -> bool {
    cluster.fits(settings.namespace.as_deref(), settings.overlay.as_deref())
}

/// Before a stack is decided on, its lock has to be found.
fn lock_for_up(root: &Path, settings: &Settings) -> Result<lock::Place> {
    let before = Stack::load(root).ok();
    if kind_of(before.as_ref(), settings) == Kind::Kubernetes {
        if let Some(stack) = &before
            && let Some(cluster) = &stack.cluster
            && !is_meant(cluster, settings)
            && engine::of(stack.clone()).running()?
        {
            return Err(Error::RolledOutElsewhere(cluster.clone()));
        }
        let cluster = cluster_of(before.as_ref(), settings);
        cluster.provide_namespace()?;
        return Ok(lock::Place::Lease(cluster));
    }
    let path = Stack::lock_of(root);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
    }
    Ok(lock::Place::File(path))
}

/// A stack that runs stays where it is. Only its door may become another one.
fn stays(stack: &Stack, settings: &Settings) -> Result<Stack> {
    let (engine, port) = (stack.engine, stack.ports.front_door);
    if settings.engine.is_some_and(|wanted| wanted != engine) {
        Err(Error::OtherEngine(engine))
    } else if stack.cluster.is_none() && settings.port.is_some_and(|wanted| wanted != port) {
        Err(Error::RunsElsewhere(port))
    } else if let Err(error) = stack.store.fits(settings.store.clone()) {
        Err(error)
    } else if !stack.door.becomes(&settings.door) {
        Err(Error::OtherAccount)
    } else if stack.door == settings.door {
        Ok(stack.clone())
    } else {
        let (from, to) = (stack.door.told(), settings.door.told());
        say(format!("==> the front door changes from {from} to {to}"));
        let record: &Record = stack;
        let record = Record {
            door: settings.door.clone(),
            ..record.clone()
        };
        Stack::create(stack.root(), record)
    }
}

fn stop_leftovers(engine: &dyn Engine) -> Result<()> {
    let began = Instant::now();
    let stopped = engine.stop_leftovers()?;
    if stopped > 0 {
        let what = format!("{stopped} processes that ran unsupervised are stopped");
        progress(&what, began);
    }
    Ok(())
}

/// Starts the live colour if it does not run. One that runs is left alone, however busy it is.
/// Returns whether it was started.
fn raise(engine: &dyn Engine, live: Colour) -> Result<bool> {
    let began = Instant::now();
    let fresh = !engine.runs(live);
    if fresh {
        engine.build(live)?;
        engine.start(live)?;
        progress(&format!("{live} is built and started"), began);
    }
    let began = Instant::now();
    let what = format!("{live} being ready");
    // An earlier flip may have been ended in the middle of a drain, and this one is live after all.
    wait::until(&what, engine.ready_timeout(), || {
        match scrape::ready(engine, live) {
            // Taken back, it says so itself the next time.
            Err(error) if !error.is_final() => {
                scrape::take_drain_back(engine, live).and(Err(error))
            }
            outcome => outcome,
        }
    })?;
    progress(&format!("{live} is ready"), began);
    Ok(fresh)
}

/// Starts Traefik if it does not run, and waits until a client gets through.
fn open_door(engine: &dyn Engine, live: Colour) -> Result<()> {
    let began = Instant::now();
    engine.start_traefik()?;
    let stack = engine.stack();
    let door = Entrance::front_door(engine)?;
    let patience = match &stack.door.tls {
        Some(Tls::Acme(_)) => ACME_TIMEOUT,
        _ => engine.ready_timeout(),
    };
    let what = "a conversation through the front door";
    let talk = wait::until(what, patience, || smoke::talk(&door, live));
    talk.map_err(|error| blame_store(engine, live, error))?;
    progress("a client gets through the front door", began);
    Ok(())
}

/// Whoever comes back is sent away while the store is down, which says more than that does.
fn blame_store(engine: &dyn Engine, colour: Colour, error: Error) -> Error {
    match error {
        Error::Timeout { .. } if scrape::misses_store(engine, colour) => {
            store::down(engine.stack(), colour)
        }
        error => error,
    }
}

pub fn up(root: &Path) -> Result<()> {
    let began = Instant::now();
    interrupt::catch()?;
    let settings = Settings::read(root)?;
    let mut lock = take_lock(&lock_for_up(root, &settings)?, "up")?;
    let engine = place(root, &settings)?;
    let (engine, stack) = (engine.as_ref(), engine.stack());
    handover::hand_over(engine)?;
    engine.prepare()?;
    progress(&format!("the {} engine is there", engine.kind()), began);
    if let Some(warning) = stack.store.warning() {
        say(format!("==> {warning}"));
    }
    let live = engine.pointed_to().unwrap_or(Colour::Blue);
    engine.forget_warm(live);
    let fresh = raise(engine, live)?;
    engine.point_to(live)?;
    open_door(engine, live)?;
    let plan = Plan {
        from: live.other(),
        to: live,
        source: Source::Warm,
        bake: Duration::ZERO,
        drain_rate: DRAIN_RATE,
        keep_warm: None,
    };
    deploy::finish(engine, &mut lock, &plan)?;
    if fresh {
        deploy::note_up(engine, live, began.elapsed());
    }
    let monitoring = monitoring::prepare(engine, &settings.monitoring);
    // From here on others may deploy: the stack serves, watched or not.
    drop(lock);
    if let Some(monitoring) = monitoring {
        monitoring.start();
    }
    say("");
    status(root)
}

/// The engine of the stack, if it is up.
fn running(root: &Path) -> Result<Box<dyn Engine>> {
    let engine = engine::of(Stack::load(root)?);
    if engine.running()? {
        Ok(engine)
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

impl FlipOptions {
    /// The same flip, as it is typed.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![
            "flip".to_owned(),
            format!("--bake={}", humantime::format_duration(self.bake)),
            format!("--drain-rate={}", self.drain_rate),
        ];
        if let Some(time) = self.keep_warm {
            words.push(format!("--keep-warm={}", humantime::format_duration(time)));
        }
        words
    }
}

pub fn flip(root: &Path, options: FlipOptions) -> Result<()> {
    interrupt::catch()?;
    let engine = running(root)?;
    let engine = engine.as_ref();
    let plan = |from: Colour| Plan {
        from,
        to: from.other(),
        source: Source::Build,
        bake: options.bake,
        drain_rate: options.drain_rate,
        keep_warm: options.keep_warm,
    };
    if options.dry_run {
        return tell_plan(engine, &plan(traefik::live(engine)?));
    }
    let began = Instant::now();
    let mut lock = take_lock(&engine.lock(), "flip")?;
    let plan = plan(traefik::live(engine)?);
    preflight::check(engine, plan.from)?;
    handover::hand_over(engine)?;
    progress("the lock is taken, and nothing stands in the way", began);
    deploy::run("flip", &plan, engine, &mut lock)
}

/// Says what a flip would do, and changes nothing.
fn tell_plan(engine: &dyn Engine, plan: &Plan) -> Result<()> {
    say(format!(
        "{} is live; a flip would see to it, one after the other, that",
        plan.from
    ));
    for (number, step) in (1..).zip(Step::ALL) {
        say(format!("{number:>3}. {}", step.goal(plan)));
    }
    say("\nbefore it begins it would look at");
    for (name, found) in preflight::look(engine, plan.from) {
        let found = found.unwrap_or_else(|wrong| format!("NOT GOOD: {wrong}"));
        say(format!("     {name}: {found}"));
    }
    preflight::check(engine, plan.from)
}

/// Goes back to the colour that was live before; a flip that is under way is told to stop first.
pub fn rollback(root: &Path, drain_rate: u32) -> Result<()> {
    let began = Instant::now();
    interrupt::catch()?;
    let engine = running(root)?;
    let engine = engine.as_ref();
    if stop_flip(engine)? {
        let live = traefik::live(engine)?;
        progress(
            &format!("the flip went back by itself: {live} is live"),
            began,
        );
        return Ok(());
    }
    let mut lock = take_lock(&engine.lock(), "rollback")?;
    let from = traefik::live(engine)?;
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
    deploy::run("rollback", &plan, engine, &mut lock)
}

/// Tells a flip of this machine to stop, and waits until it has. Returns whether it went back, so
/// that there is nothing left to do.
fn stop_flip(engine: &dyn Engine) -> Result<bool> {
    let lock = engine.lock();
    let under_way = |holder: &Holder| {
        ["flip", "rollback"].contains(&holder.verb.as_str()) && holder.is_here() && holder.lives()
    };
    let Some(holder) = lock.holder()?.filter(under_way) else {
        return Ok(false);
    };
    let asked = Utc::now();
    let process = i32::try_from(holder.process).ok().and_then(Pid::from_raw);
    if let Some(process) = process {
        // One that has just ended needs no telling.
        let _ = kill_process(process, Signal::INT);
    }
    wait::until("the end of the flip", STOP_FLIP_TIMEOUT, || {
        match lock.holder()?.filter(under_way) {
            None => Ok(()),
            Some(holder) => Err(Error::Locked(Box::new(holder))),
        }
    })?;
    Ok(went_back(engine, asked))
}

fn went_back(engine: &dyn Engine, asked: DateTime<Utc>) -> bool {
    // An audit may have written its line behind the flip's.
    let last = engine.history().last(2).unwrap_or_default();
    let mut releases = last.iter().filter(|entry| entry.verb != history::AUDIT);
    releases.next_back().is_some_and(|entry| {
        let ended = entry.at + Duration::from_millis(entry.total_ms);
        ended >= asked && [Outcome::Refused, Outcome::TakenBack].contains(&entry.outcome)
    })
}

/// Stops a colour that was kept warm once its time is up; does nothing when it was needed after
/// all.
pub fn retire(root: &Path, colour: Colour) -> Result<()> {
    let engine = engine::of(Stack::load(root)?);
    let engine = engine.as_ref();
    let Some(until) = engine.warm_until(colour) else {
        return Ok(());
    };
    let still_meant = || engine.warm_until(colour).as_ref() == Some(&until);
    let end = DateTime::parse_from_rfc3339(&until).map_err(|error| Error::Record {
        path: engine.stack().warm(colour),
        reason: error.to_string(),
    })?;
    while still_meant() && Utc::now() < end {
        thread::sleep(RETIRE_PAUSE);
    }
    // Whoever is at it now may want this colour, or take it down anyway.
    let mut lock = None;
    while still_meant() && lock.is_none() {
        lock = take_lock(&engine.lock(), "retire").ok();
        thread::sleep(RETIRE_PAUSE);
    }
    if still_meant() && traefik::live(engine)? != colour {
        engine.forget_warm(colour);
        engine.stop(colour)?;
    }
    Ok(())
}

pub fn history(root: &Path, count: usize) -> Result<()> {
    let entries = engine::of(Stack::load(root)?).history().last(count)?;
    show(history::table(&entries))
}

pub fn down(root: &Path) -> Result<()> {
    let began = Instant::now();
    interrupt::catch()?;
    let stack = match Stack::load(root) {
        Err(Error::NotUp) => {
            say("==> nothing runs here");
            return Ok(());
        }
        stack => stack?,
    };
    let engine = engine::of(stack);
    let _lock = take_lock(&engine.lock(), "down")?;
    for colour in Colour::ALL {
        engine.forget_warm(colour);
    }
    engine.down()?;
    progress("everything is stopped", began);
    Ok(())
}

pub fn status(root: &Path) -> Result<()> {
    let engine = running(root)?;
    let (engine, stack) = (engine.as_ref(), engine.stack());
    let live = traefik::live(engine);
    let scheme = stack.door.tls.as_ref().map_or("http", |_| "https");
    let mut lines = vec![(
        "front door",
        format!(
            "{scheme}://{}/  ({} engine)",
            engine.front_door()?,
            engine.kind()
        ),
    )];
    if let Some(tls) = &stack.door.tls {
        lines.push(("certificate", certificate_state(engine, tls)));
    }
    lines.push(match &live {
        Ok(colour) => ("live", format!("{colour}, says Traefik")),
        Err(error) => ("live", format!("nobody: {error}")),
    });
    if let (Ok(live), Some(named)) = (&live, engine.pointed_to())
        && *live != named
    {
        let differs = format!("but the router names {named}: look at ./just logs");
        lines.push(("", differs));
    }
    lines.extend(Colour::ALL.map(|colour| (colour.name(), state(engine, colour))));
    lines.push(("store", store_state(engine, live.as_ref().ok())));
    lines.extend(engine.ways());
    lines.push(("logs", "./just logs --follow".into()));
    lines.extend(monitoring::status(engine));
    if let Some(holder) = engine.lock().holder()?.filter(Holder::is_at_it) {
        lines.push(("under way", Error::Locked(Box::new(holder)).to_string()));
    }
    let lines = lines
        .iter()
        .map(|(name, told)| format!("{name:<12} {told}\n"));
    let shown = show(lines.collect::<String>());
    // Whoever reads no further gets the exit code all the same.
    live.and(shown)
}

/// Of the session store, as the live colour sees it.
fn store_state(engine: &dyn Engine, live: Option<&Colour>) -> String {
    let store = &engine.stack().store;
    match live.map(|live| scrape::store_state(engine, *live)) {
        Some(Ok(StoreState::Up)) => store.to_string(),
        Some(Ok(StoreState::Down)) => format!("NOT GOOD: {store} does not answer"),
        Some(Err(_)) | None => format!("{store}, as was decided"),
    }
}

/// Of the certificate that the front door really shows.
fn certificate_state(engine: &dyn Engine, tls: &Tls) -> String {
    let shown = Entrance::front_door(engine).and_then(|door| door.certificate());
    let state = match shown.map(|shown| shown.and_then(|shown| certificate::ends(&shown))) {
        Err(error) => format!("NOT GOOD: {error}"),
        Ok(None) => "with an end that cannot be read".to_owned(),
        Ok(Some(end)) if end < Utc::now() => format!("ENDED {end}"),
        Ok(Some(end)) => format!("ends {end}"),
    };
    match tls {
        Tls::Files(files) => format!("{state}; from {}", files.certificate.display()),
        Tls::Acme(acme) => format!("{state}; for {} by ACME", acme.domains.join(", ")),
    }
}

fn state(engine: &dyn Engine, colour: Colour) -> String {
    let (Ok(metrics), Ok(version)) = (engine.metrics(colour), Version::of(engine, colour)) else {
        return "not running".into();
    };
    let connections = scrape::drain_state(engine, colour).map(|state| state.connections);
    let connections = connections.map_or("?".into(), |connections| connections.to_string());
    let warm = engine.warm_until(colour);
    let state = match (scrape::ready(engine, colour), warm) {
        (Ok(()), _) => "ready".to_owned(),
        (Err(_), Some(until)) => format!("kept warm until {until}"),
        (Err(_), None) => "draining".to_owned(),
    };
    format!(
        "{state}, {connections} connections, version {}, {metrics}",
        version.told(),
    )
}

pub fn logs(root: &Path, lines: usize, follow: bool) -> Result<()> {
    engine::of(Stack::load(root)?).logs(lines, follow)
}
