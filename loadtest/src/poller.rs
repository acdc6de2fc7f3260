//! Waits for sockets, to the microsecond: `epoll_wait` itself counts in milliseconds, and a
//! message that leaves that late would look like a slow server.

use std::{io, os::fd::OwnedFd};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::clock::{MILLISECOND, Nanos, SECOND};

/// Events that are taken at a time.
const EVENTS_MAX: usize = 1024;

/// Longer waits need no precise timer.
const PRECISE_BELOW: Nanos = 20 * MILLISECOND;

/// The timer among the sockets.
const TIMER: u64 = u64::MAX;

/// What happened at a socket.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub socket: usize,
    pub readable: bool,
    pub writable: bool,
    /// The peer sends no more: what comes has to be read to its end.
    pub ends: bool,
}

pub struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    /// # Errors
    /// The process may open no more files.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Edge-triggered, so that nobody has to read how often it went off.
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), flags)?;
        Ok(Self {
            epoll,
            timer,
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    /// Once for both directions and edge-triggered: one system call in a socket's life.
    ///
    /// # Errors
    /// The kernel has no room for it.
    pub fn add(&self, file: &OwnedFd, socket: usize) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, file, EventData::new_u64(socket as u64), flags)?;
        Ok(())
    }

    /// Waits for events, at most this long.
    ///
    /// # Errors
    /// None that is known, beside signals, which are no error here.
    pub fn wait(&mut self, time: Nanos) -> io::Result<()> {
        self.events.clear();
        let mut timeout = timespec(time);
        if 0 < time && time < PRECISE_BELOW {
            let due = Itimerspec {
                it_interval: timespec(0),
                it_value: timeout,
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &due)?;
            timeout = timespec(PRECISE_BELOW);
        }
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Err(rustix::io::Errno::INTR) => Ok(()),
            outcome => outcome.map(drop).map_err(io::Error::from),
        }
    }

    /// The events that the wait brought, one by one, so that none is borrowed while it is handled.
    pub fn event(&self, index: usize) -> Option<Ready> {
        let event = self.events.get(index)?;
        let flags = event.flags;
        let over = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        let data = event.data.u64();
        Some(Ready {
            socket: usize::try_from(data).unwrap_or(usize::MAX),
            readable: data != TIMER && flags.intersects(EventFlags::IN | over),
            writable: data != TIMER && flags.contains(EventFlags::OUT),
            ends: flags.intersects(over),
        })
    }
}

fn timespec(time: Nanos) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time / SECOND).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(time % SECOND).expect("below a second"),
    }
}
