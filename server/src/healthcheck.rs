//! Asks a server from outside whether it is alive: for images that hold no shell and no curl.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use thiserror::Error;

/// More than the second that `/healthz` gives the Hub, so that its refusal is heard; less than the
/// 2 s after which the image's check is ended unheard. For connecting and for each read, because
/// the peer is a server of ours that answers at once or not at all.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// A status line is far shorter; a peer that never ends its line is none of ours.
const STATUS_LINE_BYTES_MAX: u64 = 256;

#[derive(Debug, Error)]
pub enum Unhealthy {
    #[error("GET http://{0}/healthz was answered with {1:?}")]
    Refused(SocketAddr, String),
    #[error("GET http://{0}/healthz was not answered within {TIMEOUT:?}")]
    Silent(SocketAddr),
    #[error("GET http://{0}/healthz failed: {1}")]
    Failed(SocketAddr, io::Error),
}

/// Asks the operator's listener that was told to bind this address.
///
/// # Errors
/// Any answer but a 200, or none.
pub fn ask(listener: SocketAddr) -> Result<(), Unhealthy> {
    let address = reachable(listener);
    let status = status_line(address).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Unhealthy::Silent(address),
        _ => Unhealthy::Failed(address, error),
    })?;
    if status.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(Unhealthy::Refused(address, status))
    }
}

/// Who listens everywhere is asked on loopback.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let host = match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    SocketAddr::new(host, listener.port())
}

fn status_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // In one write, because a peer may answer the first and close before the next.
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(STATUS_LINE_BYTES_MAX)).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
