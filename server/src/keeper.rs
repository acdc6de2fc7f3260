//! The thread that talks to the store, so that nobody else waits for it: neither a worker nor the
//! Hub. It works through what it is told in batches, keeps what the store does not take until it
//! does, and hears who wants a session that is held here.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    session::{Epoch, Outcome, Save},
    spill::Spill,
    store::{Op, Store, StoreError},
    telemetry::Telemetry,
};

/// Sessions in one round trip. More would keep those waiting who come back meanwhile.
const BATCH_MAX: usize = 1000;

/// How often the store is asked who wants a session of this process.
const WANTED_INTERVAL: Duration = Duration::from_millis(50);

/// How often the store is told to tidy up.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// A store that is down is tried again after this time, which doubles up to the second one.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What the keeper has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Others want these sessions, or have them already.
    Wanted(Vec<(Uuid, Epoch)>),
    /// The store has forgotten everything: whatever is open has to be saved again.
    Wiped,
}

type Listener = Box<dyn Fn(News) + Send>;
type Answer = Box<dyn FnOnce(Option<Outcome>) + Send>;
type Done = Box<dyn FnOnce() + Send>;

enum Request {
    Park(Save, Option<oneshot::Sender<()>>),
    Checkpoint(Vec<Save>, Done),
    Ask(Op, Answer),
    /// The process is going to end.
    Hurry,
    End,
}

/// The way to the keeper. Nothing here waits.
///
/// What is on its way is bounded by whoever sends: a park and a claim for each connection, a
/// checkpoint for each worker.
#[derive(Clone)]
pub struct Keeper {
    requests: Sender<Request>,
    up: Arc<AtomicBool>,
}

impl Keeper {
    /// A session that its holder is done with. The receiver resolves once it is safe: stored, or
    /// spilled, or, with the store down and no end in sight, kept here.
    pub fn park(&self, save: Save) -> oneshot::Receiver<()> {
        let (safe, parked) = oneshot::channel();
        let _ = self.requests.send(Request::Park(save, Some(safe)));
        parked
    }

    /// The same where nobody waits.
    pub fn park_alone(&self, save: Save) {
        let _ = self.requests.send(Request::Park(save, None));
    }

    /// Sessions that are held here, with their counts; `done` is called once they are stored.
    pub fn checkpoint(&self, saves: Vec<Save>, done: impl FnOnce() + Send + 'static) {
        let _ = self
            .requests
            .send(Request::Checkpoint(saves, Box::new(done)));
    }

    /// Asks for a session; `None` is the answer while the store is down.
    pub fn ask(&self, op: Op, answer: impl FnOnce(Option<Outcome>) + Send + 'static) {
        let _ = self.requests.send(Request::Ask(op, Box::new(answer)));
    }

    /// From now on what the store does not take is spilled at once.
    pub fn hurry(&self) {
        let _ = self.requests.send(Request::Hurry);
    }

    /// Whether the store answered when it was last asked.
    pub fn up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }
}

pub struct KeeperSettings {
    pub spill: Spill,
    /// Sessions that are kept for a store that is down, at most.
    pub unsaved_max: usize,
    /// Whether anybody else uses the store.
    pub shared: bool,
}

/// A keeper that nobody listens to yet.
pub struct Ready {
    pub keeper: Keeper,
    requests: Receiver<Request>,
    store: Box<dyn Store>,
    settings: KeeperSettings,
    telemetry: Arc<Telemetry>,
}

/// A running keeper.
pub struct Running {
    requests: Sender<Request>,
    thread: JoinHandle<()>,
}

impl Ready {
    pub fn new(store: Box<dyn Store>, settings: KeeperSettings, telemetry: Arc<Telemetry>) -> Self {
        let (sender, requests) = channel();
        Self {
            keeper: Keeper {
                requests: sender,
                up: Arc::new(AtomicBool::new(true)),
            },
            requests,
            store,
            settings,
            telemetry,
        }
    }

    /// Starts the thread; `listener` is called on it.
    ///
    /// # Errors
    /// The thread cannot be started, or what was spilled cannot be read.
    pub fn start(self, listener: impl Fn(News) + Send + 'static) -> std::io::Result<Running> {
        let spilled = self.settings.spill.read()?;
        let requests = self.keeper.requests.clone();
        let mut work = Work {
            unsaved: Unsaved::new(self.settings.unsaved_max),
            spilled: !spilled.is_empty(),
            store: self.store,
            settings: self.settings,
            telemetry: self.telemetry,
            up: self.keeper.up,
            listener: Box::new(listener),
            asks: Vec::new(),
            parked: Vec::new(),
            done: Vec::new(),
            trouble: None,
            hurried: false,
            generation: None,
            next_wanted: Instant::now(),
            next_tidy: Instant::now(),
        };
        work.telemetry.sessions_found_spilled(spilled.len());
        for save in spilled {
            work.unsaved.add(save);
        }
        let thread = thread::Builder::new().name("keeper".into());
        let thread = thread.spawn(move || work.run(&self.requests))?;
        Ok(Running { requests, thread })
    }
}

impl Running {
    /// Stores what is left, or spills it, and ends the thread. Blocks for as long as that takes:
    /// about two round trips.
    pub fn end(self) {
        let _ = self.requests.send(Request::End);
        let _ = self.thread.join();
    }
}

/// What the store has not taken yet: the latest word about each session.
struct Unsaved {
    parked: HashMap<Uuid, Save>,
    /// A session may be in both.
    open: HashMap<Uuid, Save>,
    max: usize,
}

impl Unsaved {
    fn new(max: usize) -> Self {
        Self {
            parked: HashMap::new(),
            open: HashMap::new(),
            max,
        }
    }

    fn len(&self) -> usize {
        self.parked.len() + self.open.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// False where there is no room for it.
    fn add(&mut self, save: Save) -> bool {
        let (sort, max) = match save.parked {
            true => (&mut self.parked, self.max),
            // At most one for each connection.
            false => (&mut self.open, usize::MAX),
        };
        let room = sort.len() < max;
        match sort.entry(save.id) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                if (save.epoch, save.count) > (known.epoch, known.count) {
                    *known = save;
                }
            }
            Entry::Vacant(unknown) if room => {
                unknown.insert(save);
            }
            Entry::Vacant(_) => return false,
        }
        true
    }

    /// The parked ones first: clients wait for them.
    fn batch(&self, max: usize) -> Vec<Op> {
        let saves = self.parked.values().chain(self.open.values());
        saves.take(max).map(|save| Op::Save(*save)).collect()
    }

    fn saved(&mut self, save: &Save) {
        let sort = match save.parked {
            true => &mut self.parked,
            false => &mut self.open,
        };
        sort.remove(&save.id);
    }

    fn all(&self) -> impl Iterator<Item = &Save> {
        self.parked.values().chain(self.open.values())
    }

    fn clear(&mut self) {
        self.parked.clear();
        self.open.clear();
    }
}

/// A store that is down.
struct Trouble {
    since: Instant,
    retry: Instant,
    wait: Duration,
}

struct Work {
    store: Box<dyn Store>,
    settings: KeeperSettings,
    telemetry: Arc<Telemetry>,
    up: Arc<AtomicBool>,
    listener: Listener,
    unsaved: Unsaved,
    asks: Vec<(Op, Answer)>,
    /// Who waits for the parked ones to be safe.
    parked: Vec<oneshot::Sender<()>>,
    /// Who waits for all of it to be stored.
    done: Vec<Done>,
    trouble: Option<Trouble>,
    /// Whether something that an earlier process has spilled is among the unsaved.
    spilled: bool,
    hurried: bool,
    generation: Option<Uuid>,
    next_wanted: Instant,
    next_tidy: Instant,
}

impl Work {
    fn run(&mut self, requests: &Receiver<Request>) {
        loop {
            let mut ends = match requests.recv_timeout(self.wait()) {
                Ok(request) => self.take(request),
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            while self.asks.len() + self.parked.len() < BATCH_MAX
                && let Ok(request) = requests.try_recv()
            {
                ends |= self.take(request);
            }
            self.work();
            if ends {
                while !self.unsaved.is_empty() && self.trouble.is_none() {
                    self.work();
                }
                return self.spill();
            }
        }
    }

    /// How long there is nothing to do unless somebody asks.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let due = match &self.trouble {
            Some(_) if self.hurried => now + RETRY_MAX,
            Some(trouble) => trouble.retry,
            None if !self.unsaved.is_empty() => now,
            None if self.settings.shared => self.next_wanted.min(self.next_tidy),
            None => self.next_tidy,
        };
        due.saturating_duration_since(now)
    }

    /// True for the last request.
    fn take(&mut self, request: Request) -> bool {
        match request {
            Request::Park(save, safe) => {
                self.add(save);
                self.parked.extend(safe);
            }
            Request::Checkpoint(saves, done) => {
                for save in saves {
                    self.add(save);
                }
                self.done.push(done);
            }
            Request::Ask(op, answer) => self.asks.push((op, answer)),
            Request::Hurry => self.hurried = true,
            Request::End => {
                self.hurried = true;
                return true;
            }
        }
        false
    }

    fn add(&mut self, save: Save) {
        if !self.unsaved.add(save) {
            self.telemetry.session_given_up();
        }
    }

    /// One round: what is unsaved, then who asks; then who wants what, and tidying up.
    fn work(&mut self) {
        let now = Instant::now();
        let resting = |trouble: &Trouble| now < trouble.retry || self.hurried;
        if self.trouble.as_ref().is_some_and(resting) {
            return self.settle_without_store();
        }
        let worked = self.write().and_then(|()| self.answer());
        let worked = worked.and_then(|()| self.look_after(now));
        match worked {
            Ok(()) => self.recovered(),
            Err(error) => self.failed(&error),
        }
    }

    /// Writes until no parked session is left: who asks for one must find it.
    fn write(&mut self) -> Result<(), StoreError> {
        loop {
            self.apply()?;
            if self.unsaved.parked.is_empty() {
                break;
            }
        }
        for safe in self.parked.drain(..) {
            let _ = safe.send(());
        }
        if self.unsaved.is_empty() {
            self.done.drain(..).for_each(|done| done());
            if mem::take(&mut self.spilled)
                && let Err(error) = self.settings.spill.clear()
            {
                self.telemetry.records_unwritable(&error);
            }
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<(), StoreError> {
        let ops = self.unsaved.batch(BATCH_MAX);
        if ops.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let outcomes = self.store.apply(&ops)?;
        self.telemetry.sessions_saved(ops.len(), began.elapsed());
        let mut wanted = Vec::new();
        for (op, outcome) in ops.iter().zip(outcomes) {
            let Op::Save(save) = op else { continue };
            self.unsaved.saved(save);
            if outcome == Outcome::Fenced {
                self.telemetry.save_fenced();
                wanted.extend((!save.parked).then_some((save.id, save.epoch)));
            }
        }
        self.tell_wanted(wanted);
        Ok(())
    }

    fn tell_wanted(&self, wanted: Vec<(Uuid, Epoch)>) {
        if !wanted.is_empty() {
            (self.listener)(News::Wanted(wanted));
        }
    }

    fn answer(&mut self) -> Result<(), StoreError> {
        if self.asks.is_empty() {
            return Ok(());
        }
        let ops: Vec<Op> = self.asks.iter().map(|(op, _)| *op).collect();
        let outcomes = self.store.apply(&ops)?;
        for ((_, answer), outcome) in self.asks.drain(..).zip(outcomes) {
            answer(Some(outcome));
        }
        Ok(())
    }

    fn look_after(&mut self, now: Instant) -> Result<(), StoreError> {
        if self.settings.shared && now >= self.next_wanted {
            self.next_wanted = now + WANTED_INTERVAL;
            let wanted = self.store.wanted()?;
            self.tell_wanted(wanted);
        }
        if now >= self.next_tidy {
            self.next_tidy = now + TIDY_INTERVAL;
            let tidied = self.store.tidy()?;
            self.telemetry.store_tidied(&tidied);
            let before = self.generation.replace(tidied.generation);
            if before.is_some_and(|before| before != tidied.generation) {
                self.telemetry.store_wiped();
                (self.listener)(News::Wiped);
            }
        }
        Ok(())
    }

    fn recovered(&mut self) {
        self.telemetry.store_unsaved(self.unsaved.len());
        if let Some(trouble) = self.trouble.take() {
            self.up.store(true, Ordering::Relaxed);
            self.telemetry.store_up(trouble.since.elapsed());
        }
    }

    fn failed(&mut self, error: &StoreError) {
        let now = Instant::now();
        if self.trouble.is_none() {
            self.up.store(false, Ordering::Relaxed);
            self.telemetry.store_down(error);
        }
        let trouble = self.trouble.get_or_insert(Trouble {
            since: now,
            retry: now,
            wait: RETRY_MIN,
        });
        trouble.retry = now + trouble.wait;
        trouble.wait = (trouble.wait * 2).min(RETRY_MAX);
        self.settle_without_store();
    }

    /// Nobody waits for a store that is down.
    fn settle_without_store(&mut self) {
        for (_, answer) in self.asks.drain(..) {
            answer(None);
        }
        if self.hurried {
            self.spill();
        }
        self.telemetry.store_unsaved(self.unsaved.len());
        for safe in self.parked.drain(..) {
            let _ = safe.send(());
        }
    }

    fn spill(&mut self) {
        if self.unsaved.is_empty() {
            return;
        }
        match self.settings.spill.add(self.unsaved.all()) {
            Ok(()) => {
                self.telemetry.sessions_spilled(self.unsaved.len());
                self.unsaved.clear();
                self.done.drain(..).for_each(|done| done());
            }
            // Tried again with the next ones.
            Err(error) => self.telemetry.spill_failed(self.unsaved.len(), &error),
        }
    }
}
