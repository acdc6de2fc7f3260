//! Who may still come in: the connection limit, and the door that a drain closes.
//!
//! The one number that all workers change. It is a counter, not a lock, and taking a place never
//! waits.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    Draining,
    Full,
}

pub struct Admission {
    open: AtomicUsize,
    connections_max: usize,
    draining: AtomicBool,
    left: Notify,
}

impl Admission {
    pub fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            connections_max,
            draining: AtomicBool::new(false),
            left: Notify::new(),
        })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// Tells a drain from a full house: one is final, the other may pass.
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
        self.draining.load(Ordering::SeqCst)
    }

    pub fn close(&self) {
        self.draining.store(true, Ordering::SeqCst);
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
    fn a_drain_closes_the_door_for_good() {
        let admission = Admission::new(1);
        admission.close();
        assert_eq!(admission.enter().err(), Some(Closed::Draining));
    }
}
