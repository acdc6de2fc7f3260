//! Ctrl-C: asked for at every wait, and put off while the front door is on its way.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// A signal reaches the process, not one of its values, so these two are global.
static SEEN: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static SHIELDS: AtomicUsize = AtomicUsize::new(0);

/// What a shell says of a program that Ctrl-C has ended.
const EXIT_CODE: i32 = 130;

/// From now on SIGINT, SIGTERM and SIGHUP end the next wait instead of the process. One more of
/// them ends the process all the same.
///
/// # Errors
/// The handlers cannot be installed.
pub fn catch() -> Result<()> {
    let seen = SEEN.get_or_init(Arc::default);
    let install = || -> std::io::Result<()> {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, EXIT_CODE, seen.clone())?;
            signal_hook::flag::register(signal, seen.clone())?;
        }
        Ok(())
    };
    install().map_err(Error::file("the signal handlers"))
}

/// Whether somebody asked to stop.
///
/// # Errors
/// Somebody did, and nothing is shielded.
pub fn check() -> Result<()> {
    let seen = SEEN.get().is_some_and(|seen| seen.load(Ordering::SeqCst));
    if seen && SHIELDS.load(Ordering::SeqCst) == 0 {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}

/// Does something that is worse half done than done, such as going back.
pub fn shielded<T>(act: impl FnOnce() -> T) -> T {
    SHIELDS.fetch_add(1, Ordering::SeqCst);
    let outcome = act();
    SHIELDS.fetch_sub(1, Ordering::SeqCst);
    outcome
}
