//! An open session in the hands of its connection.

use std::sync::Arc;

use actix::Addr;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    hub::{Hub, Release},
    keeper::Keeper,
    session::{Epoch, Save},
    sockets::ConnectionId,
};

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub connection: ConnectionId,
    pub worker: u32,
}

/// Whom a connection turns to about its session.
pub struct Desk {
    pub hub: Addr<Hub>,
    pub keeper: Keeper,
}

/// The session with its live count. However the connection ends, its drop parks the session.
pub struct Lease {
    pub session: Uuid,
    pub count: u64,
    epoch: Epoch,
    holder: Holder,
    handed_back: bool,
    desk: Arc<Desk>,
}

impl Lease {
    /// For a session that the Hub knows of.
    pub fn new(session: Uuid, epoch: Epoch, count: u64, holder: Holder, desk: &Arc<Desk>) -> Self {
        Self {
            session,
            count,
            epoch,
            holder,
            handed_back: false,
            desk: desk.clone(),
        }
    }

    pub fn connection(&self) -> ConnectionId {
        self.holder.connection
    }

    /// What the store is told while the session is open.
    pub fn save(&self) -> Save {
        Save {
            id: self.session,
            epoch: self.epoch,
            count: self.count,
            parked: false,
        }
    }

    fn parked(&self) -> Save {
        Save {
            parked: true,
            ..self.save()
        }
    }

    /// Hands the session back; resolves once its count is safe.
    pub fn park(mut self) -> oneshot::Receiver<()> {
        self.handed_back = true;
        self.desk.keeper.park(self.parked())
    }
}

impl Drop for Lease {
    /// The keeper first: who claims the session once the Hub has let go of it finds the count. Both
    /// are told past any limit, for this must not get lost: there is one for each connection, and
    /// their number is limited.
    fn drop(&mut self) {
        if !self.handed_back {
            self.desk.keeper.park_alone(self.parked());
        }
        self.desk.hub.do_send(Release {
            session: self.session,
            connection: self.holder.connection,
        });
    }
}
