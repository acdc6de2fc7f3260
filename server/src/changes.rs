//! What was counted on a worker since its last checkpoint.

use std::cell::{Cell, RefCell};

use tokio::sync::Notify;

use crate::{lease::Lease, session::Save, sockets::ConnectionId};

/// A session that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub connection: ConnectionId,
    pub save: Save,
}

impl Change {
    fn of(lease: &Lease) -> Self {
        Self {
            connection: lease.connection(),
            save: lease.save(),
        }
    }
}

/// Where a session stands among the changes, if it has changed in this round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    round: u32,
    index: u32,
}

/// Not more than the connections of the worker that were open in the round.
#[derive(Debug)]
pub struct Changes {
    changes: RefCell<Vec<Change>>,
    /// Fresh sessions, which nobody else knows yet.
    births: RefCell<Vec<Change>>,
    round: Cell<u32>,
    /// Told when there is a change, where that cannot wait for the next round.
    urgent: Option<Notify>,
}

impl Changes {
    /// `urgent`: every change has to be stored before its message is answered.
    pub fn new(urgent: bool) -> Self {
        Self {
            changes: RefCell::default(),
            births: RefCell::default(),
            round: Cell::new(1),
            urgent: urgent.then(Notify::new),
        }
    }

    /// Whether messages are answered only once their count is stored.
    pub fn are_urgent(&self) -> bool {
        self.urgent.is_some()
    }

    pub fn note(&self, lease: &Lease, mark: &mut Mark) {
        let mut changes = self.changes.borrow_mut();
        if mark.round == self.round.get() {
            changes[mark.index as usize].save.count = lease.count;
            return;
        }
        *mark = Mark {
            round: self.round.get(),
            index: changes.len() as u32,
        };
        changes.push(Change::of(lease));
        self.press();
    }

    /// A fresh session.
    pub fn note_birth(&self, lease: &Lease) {
        self.births.borrow_mut().push(Change::of(lease));
        self.press();
    }

    fn press(&self) {
        if let Some(urgent) = &self.urgent {
            urgent.notify_one();
        }
    }

    /// Ends the round.
    pub fn take(&self) -> Vec<Change> {
        // After four thousand million rounds an old mark might be taken for a new one, but a
        // session is noted anew long before.
        self.round.set(self.round.get().wrapping_add(1).max(1));
        let mut changes = self.take_births();
        changes.append(&mut self.changes.take());
        changes
    }

    pub fn take_births(&self) -> Vec<Change> {
        self.births.take()
    }

    /// Resolves when there is an urgent change; never where none is.
    pub async fn pressing(&self) {
        match &self.urgent {
            Some(urgent) => urgent.notified().await,
            None => std::future::pending().await,
        }
    }
}
