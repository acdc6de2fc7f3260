//! Where the load goes, and where it comes from.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

/// Ports of one source address that are used at most. The kernel gives clients 28,232 by default,
/// and looks longer for each the fewer are left.
pub const SOCKETS_PER_SOURCE: usize = 10_000;

/// 127.0.0.2 to 127.0.0.254.
const SOURCES_MAX: usize = 253;

/// A WebSocket's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddrV4,
    /// With its query.
    pub path: String,
    /// Under TLS.
    pub secure: bool,
}

impl Target {
    /// Reads `ws://127.0.0.1:8080/ws/chat/`, or the same with `wss`.
    ///
    /// # Errors
    /// It is nothing of the kind.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let secure = match scheme {
            "ws" => false,
            "wss" => true,
            _ => return Err("it begins with ws:// or wss://".into()),
        };
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let host = host.replace("localhost", "127.0.0.1");
        let address: SocketAddrV4 = host.parse().map_err(|_| {
            format!("{host} is no IPv4 address with a port, such as 127.0.0.1:8080")
        })?;
        Ok(Self {
            address,
            path: path.to_owned(),
            secure,
        })
    }

    /// Whether it is on this machine.
    pub fn is_here(&self) -> bool {
        self.address.ip().is_loopback()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.address, self.path)
    }
}

/// The address of this machine that a socket to it comes from. Few sockets need no address of their
/// own, and a proxy that logs clients then sees what it always sees.
pub fn source(index: usize, sockets: usize) -> Option<Ipv4Addr> {
    if sockets <= SOCKETS_PER_SOURCE {
        return None;
    }
    let place = (index / SOCKETS_PER_SOURCE) % SOURCES_MAX;
    let last = u8::try_from(place + 2).expect("bounded by SOURCES_MAX");
    Some(Ipv4Addr::new(127, 0, 0, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read() {
        let target = Target::parse("ws://127.0.0.1:8080/ws/chat/?hello=1").unwrap();
        assert_eq!(target.address.port(), 8080);
        assert_eq!(target.path, "/ws/chat/?hello=1");
        assert!(!target.secure);
        let secure = Target::parse("wss://127.0.0.1:8443/").unwrap();
        assert!(secure.secure);
        assert_eq!(secure.to_string(), "wss://127.0.0.1:8443/");
        assert_eq!(Target::parse("ws://localhost:1").unwrap().path, "/");
    }

    #[test]
    fn what_is_no_address_is_told() {
        assert!(!Target::parse("ws://192.0.2.1:80/").unwrap().is_here());
        assert!(Target::parse("ws://example.org:80/").is_err());
        assert!(Target::parse("http://127.0.0.1:80/").is_err());
        assert!(Target::parse("127.0.0.1:80").is_err());
    }

    #[test]
    fn many_sockets_come_from_several_addresses() {
        assert_eq!(source(4999, 5000), None);
        assert_eq!(source(0, 19_000), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source(18_999, 19_000), Some(Ipv4Addr::new(127, 0, 0, 3)));
    }
}
