//! Has the store hear what was counted on a worker, round after round.

use std::{rc::Rc, time::Duration};

use actix_rt::time::sleep;
use tokio::{sync::oneshot, task::yield_now};

use crate::{changes::Changes, keeper::Keeper, sockets::Sockets};

/// How much a crash may cost: `TALLY_CHECKPOINT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// What was counted since the last round.
    Every(Duration),
    /// Nothing: a message is answered once its count is stored. Those that come while the store is
    /// busy share the next round.
    Message,
}

/// Never ends while the keeper lives. A round begins when the last one is stored, so there is never
/// more than one on its way; what is counted meanwhile waits in the changes.
pub async fn checkpoint(
    every: Checkpoint,
    changes: Rc<Changes>,
    keeper: Keeper,
    sockets: Rc<Sockets>,
) {
    loop {
        match every {
            Checkpoint::Every(interval) => sleep(interval).await,
            Checkpoint::Message => {
                changes.pressing().await;
                // Whoever is ready has its turn, and shares the round.
                yield_now().await;
            }
        }
        let changed = changes.take();
        if changed.is_empty() {
            continue;
        }
        let (done, stored) = oneshot::channel();
        let saves = changed.iter().map(|change| change.save).collect();
        keeper.checkpoint(saves, move || {
            let _ = done.send(());
        });
        if stored.await.is_err() {
            return;
        }
        if every == Checkpoint::Message {
            for change in changed {
                sockets.stored(change.connection, change.save.count);
            }
        }
    }
}
