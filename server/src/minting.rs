//! Fresh sessions on their way to the Hub. To wake its thread for each would cost more than the
//! whole of the Hub's work, so the handshakes that a worker has before it share one message.
//!
//! The Hub hears of a session before its client does: who comes back at once is known.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use tokio::task::yield_now;
use uuid::Uuid;

use crate::{
    hub::{Open, OpenAll},
    lease::{Desk, Holder, Lease},
};

#[derive(Default)]
struct Batch {
    /// Not more than the connections that may be open.
    sessions: RefCell<Vec<Open>>,
    /// Whether the Hub took it, once it was sent.
    taken: Cell<Option<bool>>,
}

pub struct Mint {
    desk: Arc<Desk>,
    batch: RefCell<Rc<Batch>>,
}

impl Mint {
    pub fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            batch: RefCell::default(),
        }
    }

    /// A session for a client that brings none. `None` when the Hub is too far behind to be told.
    pub async fn open(&self, holder: Holder) -> Option<Lease> {
        let session = Uuid::new_v4();
        let batch = self.batch.borrow().clone();
        batch.sessions.borrow_mut().push(Open { session, holder });
        // The others that are ready have their turn; the first to go on tells for all.
        yield_now().await;
        let taken = batch.taken.get().unwrap_or_else(|| self.send(&batch));
        taken.then(|| Lease::new(session, 1, 0, holder, &self.desk))
    }

    fn send(&self, batch: &Batch) -> bool {
        self.batch.take();
        let open = OpenAll(batch.sessions.take());
        let taken = self.desk.hub.try_send(open).is_ok();
        batch.taken.set(Some(taken));
        taken
    }
}
