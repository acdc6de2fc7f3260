//! How a task that has more to do lets the others have their turn first.

use std::{future::Future, pin::pin, task::Context};

use tokio::task::yield_now;

/// Has the task polled again, once the runtime has looked what there is to read and write. A plain
/// wake-up comes dozens of times before that, and sockets with news would wait for all of them.
pub fn come_again(cx: &mut Context<'_>) {
    let asked = pin!(yield_now()).poll(cx);
    debug_assert!(asked.is_pending());
}
