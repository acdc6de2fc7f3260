//! Standard output, which may be a terminal that is gone or a pipe that nobody reads any more.

use std::{
    fmt::Display,
    io::{self, Write},
};

use crate::error::{Error, Result};

/// Tells what is going on. Whoever is not there to hear it, such as a terminal that was closed, ends
/// no deploy.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints what was asked for.
///
/// # Errors
/// [`Error::NobodyReads`] where somebody, such as `head`, has had enough; or it cannot be written.
pub fn show(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    // A pipe is not flushed at each line, and the next one may be long in coming.
    let shown = write!(out, "{text}").and_then(|()| out.flush());
    shown.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::NobodyReads,
        _ => Error::file("standard output")(error),
    })
}
