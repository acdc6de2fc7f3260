//! Who may still come in: the connection limit, and the door that a drain closes.
//!
//! The one number that all workers change. It is a counter, not a lock, and taking a place never
//! waits.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    Draining,
    Full,
}

/// What the door can be. Nobody is let in unless it is open.
const OPEN: u8 = 0;
/// A paced drain closed it, and may be taken back.
const PAUSED: u8 = 1;
/// The process is ending.
const SHUT: u8 = 2;

pub struct Admission {
    open: AtomicUsize,
    connections_max: usize,
    door: AtomicU8,
    left: Notify,
}

impl Admission {
    pub fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            connections_max,
            door: AtomicU8::new(OPEN),
            left: Notify::new(),
        })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// Tells a drain from a full house.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Closed> {
        // Counted before the door is looked at: a drain that begins in between sees this place.
        let before = self.open.fetch_add(1, Ordering::SeqCst);
        let place = Place(self.clone());
        if self.draining() {
            Err(Closed::Draining)
        } else if before >= self.connections_max {
            Err(Closed::Full)
        } else {
            Ok(place)
        }
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub fn draining(&self) -> bool {
        self.door.load(Ordering::SeqCst) != OPEN
    }

    /// Closes the door for good.
    pub fn close(&self) {
        self.door.store(SHUT, Ordering::SeqCst);
    }

    /// Closes the door until [`Self::reopen`]; false when it is closed for good.
    pub fn pause(&self) -> bool {
        self.turn(OPEN, PAUSED)
    }

    /// Opens the door again; false when it is closed for good.
    pub fn reopen(&self) -> bool {
        self.turn(PAUSED, OPEN)
    }

    /// True when the door is as wished, turned just now or not.
    fn turn(&self, from: u8, to: u8) -> bool {
        let turned = self
            .door
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        turned.is_ok() || turned == Err(to)
    }

    /// Resolves once nobody is left.
    pub async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.open() == 0 {
                return;
            }
            left.await;
        }
    }
}

/// A connection's place; given back on drop.
pub struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_places_come_back() {
        let admission = Admission::new(1);
        let place = admission.enter();
        assert!(place.is_ok());
        assert_eq!(admission.enter().err(), Some(Closed::Full));
        drop(place);
        assert!(admission.enter().is_ok());
        assert_eq!(admission.open(), 0);
    }

    #[test]
    fn a_paced_drain_can_be_taken_back_and_the_end_cannot() {
        let admission = Admission::new(1);
        assert!(admission.reopen(), "it is open");
        assert!(admission.pause() && admission.pause());
        assert_eq!(admission.enter().err(), Some(Closed::Draining));
        assert!(admission.reopen());
        assert!(admission.enter().is_ok());
        admission.close();
        assert!(!admission.pause() && !admission.reopen());
        assert!(admission.draining());
    }

    #[test]
    fn a_drain_closes_the_door_for_good() {
        let admission = Admission::new(1);
        admission.close();
        assert_eq!(admission.enter().err(), Some(Closed::Draining));
    }
}
