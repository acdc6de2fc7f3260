//! A run from its first handshake to its last goodbye: one phase after the other.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    client::{Client, Load},
    clock::{MILLISECOND, Nanos, SECOND, nanos},
    drain::Drain,
    ending::Ending,
    fault::Fault,
    options::{Leave, Mode, Options},
    pacer::Pacer,
    process,
    progress::Progress,
    series::Series,
    socket::State,
    target::Target,
    watch::{Look, Watch},
};

/// All handshakes together; a server that takes longer than this is not worth waiting for.
const RAMP_MAX: Nanos = 300 * SECOND;

/// For the server to be done with what the handshakes left behind, before its memory counts.
const QUIET: Nanos = SECOND / 2;

/// How long answers may take that are still missing when the last message is sent.
const SETTLE_MAX: Nanos = 10 * SECOND;

/// All goodbyes together.
const LEAVE_MAX: Nanos = 30 * SECOND;

/// The server's memory with few sockets is taken when a tenth of them is open, or this many.
const FEW_MAX: usize = 500;

/// How long a process may take to end after its last goodbye; twice what a server promises.
const EXIT_MAX: Nanos = 20 * SECOND;

/// What was found at the end of a phase.
pub struct Mark {
    pub phase: &'static str,
    pub at: Nanos,
    pub look: Look,
    pub counts: crate::recorder::Counts,
}

pub struct Run<'a> {
    pub options: &'a Options,
    pub client: Client,
    pub watch: Watch,
    pub marks: Vec<Mark>,
    pub series: Series,
    /// The memory of the servers with few sockets, and how many those were.
    pub few: Option<(usize, Look)>,
    /// What went wrong with the drain's trigger.
    pub trouble: Option<String>,
    pub interrupted: Arc<AtomicBool>,
    progress: Progress,
}

impl<'a> Run<'a> {
    /// # Errors
    /// The process may open no more files, or cannot be told to end.
    pub fn new(options: &'a Options, target: Target, progress: Progress) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        // The first asks for an end with a report, the second for an end.
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, interrupted.clone())?;
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        let watch = Watch::new(&options.report.server_pid, &target);
        let sockets = options.load.sockets as usize;
        let mut client = Client::new(target, sockets, options.load.size as usize)?;
        client.beats.owed_to_nobody = options.expect.heartbeat.is_zero();
        client.forget_interval = nanos(options.drain.checkpoint).saturating_mul(2);
        let mut run = Self {
            options,
            client,
            watch,
            marks: Vec::new(),
            series: Series::default(),
            few: None,
            trouble: None,
            interrupted,
            progress,
        };
        run.mark("start");
        Ok(run)
    }

    /// # Errors
    /// The kernel's, of waiting.
    pub fn go(&mut self) -> io::Result<()> {
        self.ramp()?;
        if self.client.recorder.counts.open == 0 {
            // There is nobody to talk with, and the faults say why.
            self.progress.finish();
            return Ok(());
        }
        self.talk()?;
        if self.options.load.mode == Mode::Drain {
            self.drain()?;
        }
        self.settle()?;
        self.judge_beats();
        self.leave()?;
        self.progress.finish();
        Ok(())
    }

    fn ramp(&mut self) -> io::Result<()> {
        let sockets = self.client.sockets.len();
        let window = self.options.load.window as usize;
        self.progress.phase("opening", sockets as u64);
        let few = (sockets / 10).clamp(1, FEW_MAX);
        let mut next = 0;
        self.until(RAMP_MAX, |run| {
            while next < sockets && run.client.opening < window {
                run.client.open(next);
                next += 1;
            }
            if run.few.is_none() && run.client.recorder.counts.open as usize >= few {
                let open = run.client.recorder.counts.open as usize;
                run.few = Some((open, run.watch.look()));
            }
            next == sockets && run.client.opening == 0
        })?;
        self.until(QUIET, |_| false)?;
        self.mark("ramp");
        Ok(())
    }

    fn talk(&mut self) -> io::Result<()> {
        let load = &self.options.load;
        let sockets = self.client.sockets.len();
        let duration = nanos(load.duration);
        self.progress.phase("talking", load.duration.as_secs());
        self.client.talking = true;
        match (load.mode, load.rate) {
            (Mode::Peak, _) => {
                self.client.load = Load::Closed;
                self.client.send_first();
            }
            (_, 0) => {}
            (_, rate) => {
                let now = self.client.clock.now();
                self.client.load = Load::Paced(Pacer::new(now, f64::from(rate), sockets));
            }
        }
        self.until(duration, |_| false)?;
        self.mark("talk");
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        let options = &self.options.drain;
        let open = self.client.recorder.counts.open;
        self.progress.phase("draining", open);
        // The ramp is over; what counts now is the return.
        self.client.recorder.handshakes_peak = 0;
        let now = self.client.clock.now();
        self.client.drain = Some(Drain::begin(now, open, options.reconnect));
        let ending = match Ending::begin(options) {
            Ok(ending) => ending,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return Ok(());
            }
        };
        // Whom a command sends away, and how often, is its own business.
        let all = !(options.reconnect && options.end_command.is_some());
        let over = |run: &mut Self| {
            let open = run.client.recorder.counts.open;
            let drain = run.client.drain.as_ref();
            ending.is_over() && drain.is_some_and(|drain| drain.is_over(open, all))
        };
        if !self.until(nanos(options.drain_timeout), over)? {
            self.blame_who_is_not_done();
        }
        self.trouble = ending.finish().err();
        if let Some(pid) = options.end_pid {
            self.wait_for_exit(pid)?;
        }
        self.mark("drain");
        Ok(())
    }

    fn wait_for_exit(&mut self, pid: u32) -> io::Result<()> {
        if self.until(EXIT_MAX, |_| process::ended(pid))? {
            let now = self.client.clock.now();
            if let Some(drain) = &mut self.client.drain {
                drain.exit = Some(now);
            }
        }
        Ok(())
    }

    fn blame_who_is_not_done(&mut self) {
        let Some(drain) = &self.client.drain else {
            return;
        };
        let (gone, away) = (drain.gone(), drain.left.len() as u64);
        let to_go = match drain.reconnect {
            true => 0,
            false => drain.sockets,
        };
        let stayed = to_go.saturating_sub(gone);
        let lost = if drain.reconnect { away } else { 0 };
        let faults = &mut self.client.recorder.faults;
        faults.add(Fault::Stuck, stayed, || {
            format!("{stayed} sockets were not sent away")
        });
        faults.add(Fault::Stuck, lost, || {
            format!("{lost} sockets are not back")
        });
    }

    /// Waits for the answers that are still on their way.
    fn settle(&mut self) -> io::Result<()> {
        self.client.talking = false;
        self.until(SETTLE_MAX, |run| {
            let unanswered = |socket: &crate::socket::Socket| {
                socket.state == State::Open && socket.due > socket.ledger.answered()
            };
            !run.client.sockets.iter().any(unanswered)
        })?;
        for index in 0..self.client.sockets.len() {
            let socket = &self.client.sockets[index];
            if socket.state == State::Open {
                let missing = u64::from(socket.due - socket.ledger.answered());
                self.client
                    .fault(index, Fault::Unanswered, missing, "no answer to a message");
            }
        }
        self.mark("settle");
        Ok(())
    }

    fn judge_beats(&mut self) {
        let interval = nanos(self.options.expect.heartbeat);
        if interval > 0 {
            let late = self.client.beats.late(interval, self.client.clock.now());
            let told = || {
                format!(
                    "no heartbeat for more than {:?}",
                    self.options.expect.heartbeat
                )
            };
            self.client
                .recorder
                .faults
                .add(Fault::LateBeat, u64::from(late), told);
        }
    }

    fn leave(&mut self) -> io::Result<()> {
        if self.options.load.leave == Leave::Close && !self.is_interrupted() {
            self.progress
                .phase("leaving", self.client.recorder.counts.open);
            self.say_goodbye()?;
        }
        self.client.abort();
        self.mark("leave");
        Ok(())
    }

    /// A window of sockets after the other: one begins when everybody of the last has ended, which
    /// the client's sweep bounds.
    fn say_goodbye(&mut self) -> io::Result<()> {
        let sockets = self.client.sockets.len();
        let window = self.options.load.window as usize;
        let mut next = 0_usize;
        self.until(LEAVE_MAX, |run| {
            let begun = &run.client.sockets[next.saturating_sub(window)..next];
            if begun.iter().any(|socket| socket.state == State::Leaving) {
                return false;
            }
            let until = (next + window).min(sockets);
            for index in next..until {
                if run.client.sockets[index].state == State::Open {
                    run.client.leave(index);
                }
            }
            let done = next == sockets;
            next = until;
            done
        })?;
        Ok(())
    }

    /// Turns until `done` says so, or the time is up, or somebody wants an end; whether it was
    /// done.
    fn until(&mut self, time: Nanos, mut done: impl FnMut(&mut Self) -> bool) -> io::Result<bool> {
        let deadline = self.client.clock.now().saturating_add(time);
        loop {
            if done(self) {
                return Ok(true);
            }
            let now = self.client.clock.now();
            if now >= deadline || self.is_interrupted() {
                return Ok(false);
            }
            self.sample(now);
            // Often enough for what no socket tells: a process that ends, a thread, a signal.
            self.client.turn(deadline.min(now + 20 * MILLISECOND))?;
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn sample(&mut self, now: Nanos) {
        if self.series.is_due(now) {
            let look = self.watch.look();
            self.series.take(now, &mut self.client.recorder, &look);
            self.progress
                .tell(&self.client.recorder, self.series.last());
        }
    }

    fn mark(&mut self, phase: &'static str) {
        self.marks.push(Mark {
            phase,
            at: self.client.clock.now(),
            look: self.watch.look(),
            counts: self.client.recorder.counts,
        });
    }
}
