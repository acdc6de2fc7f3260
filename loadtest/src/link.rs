//! A connection that never blocks: TCP, and TLS over it where that is asked for.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use rustix::{
    io::{Errno, read, write},
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt},
};
use rustls::{ClientConfig, ClientConnection};

#[derive(Debug)]
pub struct Link {
    file: OwnedFd,
    /// Apart, for most sockets have none, and it takes a hundred times their bytes.
    tls: Option<Box<ClientConnection>>,
}

impl Link {
    /// Begins to connect.
    ///
    /// # Errors
    /// No file or no port is left, or nobody listens.
    pub fn open(
        from: Option<Ipv4Addr>,
        to: SocketAddrV4,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let file = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        // A message is one small write, and has to leave at once.
        sockopt::set_tcp_nodelay(&file, true)?;
        if let Some(from) = from {
            bind(&file, &SocketAddrV4::new(from, 0))?;
        }
        match connect(&file, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let name = std::net::IpAddr::V4(*to.ip()).into();
        let secure = |config: &Arc<ClientConfig>| ClientConnection::new(config.clone(), name);
        let tls = tls.map(secure).transpose().map_err(io::Error::other)?;
        Ok(Self {
            file,
            tls: tls.map(Box::new),
        })
    }

    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Why it did not connect, if it did not.
    pub fn failure(&self) -> Option<io::Error> {
        match sockopt::socket_error(&self.file) {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(error.into()),
        }
    }

    /// Reads what is there, up to the buffer's end; `None` for nothing now, zero for the end.
    ///
    /// # Errors
    /// The connection was reset, or what came is no TLS.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match &mut self.tls {
            None => later(Tcp(&self.file).read(buffer)),
            Some(tls) => receive(tls, Tcp(&self.file), buffer),
        }
    }

    /// Writes as much as is taken now.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut tcp = Tcp(&self.file);
        let Some(tls) = &mut self.tls else {
            return Ok(later(tcp.write(bytes))?.unwrap_or(0));
        };
        flush(tls, &mut tcp)?;
        if tls.wants_write() {
            return Ok(0);
        }
        // In the handshake it is kept until that is done.
        let length = tls.writer().write(bytes)?;
        flush(tls, &mut tcp)?;
        Ok(length)
    }

    /// Whether something that was taken has not left yet, and goes with the next `send`.
    pub fn is_behind(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Closes without a goodbye and without a trace: no port waits for its last packets.
    pub fn abort(self) {
        let _ = sockopt::set_socket_linger(&self.file, Some(Duration::ZERO));
    }
}

/// The kernel's side.
struct Tcp<'a>(&'a OwnedFd);

impl Read for Tcp<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(self.0, buffer)?)
    }
}

impl Write for Tcp<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn receive(
    tls: &mut ClientConnection,
    mut tcp: Tcp<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<usize>> {
    let mut filled = 0;
    while filled < buffer.len() {
        match tls.reader().read(&mut buffer[filled..]) {
            Ok(0) => return Ok(Some(filled)),
            Ok(length) => {
                filled += length;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // An end without TLS' own goodbye is one all the same: the WebSocket has its own.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Some(filled)),
            Err(error) => return Err(error),
        }
        if later(tls.read_tls(&mut tcp))?.is_none() {
            return Ok((filled > 0).then_some(filled));
        }
        let understood = tls.process_new_packets();
        // The next flight of the handshake, or what is wrong with the peer's.
        flush(tls, &mut tcp)?;
        understood.map_err(io::Error::other)?;
    }
    Ok(Some(filled))
}

fn flush(tls: &mut ClientConnection, tcp: &mut Tcp<'_>) -> io::Result<()> {
    while tls.wants_write() {
        if later(tls.write_tls(tcp))?.is_none() {
            break;
        }
    }
    Ok(())
}

fn later(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        outcome => outcome.map(Some),
    }
}
