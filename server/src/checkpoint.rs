//! Has the store hear what was counted on a worker, round after round.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use actix_rt::time::sleep;
use tokio::{sync::oneshot, task::yield_now};

use crate::{changes::Changes, keeper::Keeper, sockets::Sockets};

/// A fresh session is known to other processes after this time, however long a round is.
pub const BIRTH_INTERVAL: Duration = Duration::from_millis(50);

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
    let mut round = Instant::now();
    loop {
        let changed = match every {
            Checkpoint::Every(interval) => {
                sleep(interval.min(BIRTH_INTERVAL)).await;
                if round.elapsed() < interval {
                    changes.take_births()
                } else {
                    round = Instant::now();
                    changes.take()
                }
            }
            Checkpoint::Message => {
                changes.pressing().await;
                // Whoever is ready has its turn, and shares the round.
                yield_now().await;
                changes.take()
            }
        };
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
