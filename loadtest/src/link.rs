//! A TCP connection that never blocks.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    io::{Errno, Result, read, write},
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt},
};

/// Begins to connect.
///
/// # Errors
/// No file or no port is left, or nobody listens.
pub fn open(from: Option<Ipv4Addr>, to: SocketAddrV4) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let link = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // A message is one small write, and has to leave at once.
    sockopt::set_tcp_nodelay(&link, true)?;
    if let Some(from) = from {
        bind(&link, &SocketAddrV4::new(from, 0))?;
    }
    match connect(&link, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(link),
        Err(error) => Err(error),
    }
}

/// Why it did not connect, if it did not.
pub fn failure(link: &OwnedFd) -> Option<Errno> {
    match sockopt::socket_error(link) {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error),
    }
}

/// Reads what is there; `None` for nothing now, zero for the end.
///
/// # Errors
/// The connection was reset.
pub fn receive(link: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    later(read(link, buffer))
}

/// Writes as much as the kernel takes now.
///
/// # Errors
/// The connection is gone.
pub fn send(link: &OwnedFd, bytes: &[u8]) -> Result<usize> {
    Ok(later(write(link, bytes))?.unwrap_or(0))
}

/// Closes without a goodbye and without a trace: no port waits for its last packets.
pub fn abort(link: OwnedFd) {
    let _ = sockopt::set_socket_linger(&link, Some(Duration::ZERO));
    drop(link);
}

fn later(outcome: Result<usize>) -> Result<Option<usize>> {
    match outcome {
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        outcome => outcome.map(Some),
    }
}
