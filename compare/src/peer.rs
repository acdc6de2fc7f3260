//! Who is compared.

/// In the order of the table.
pub const PEERS: [Peer; 9] = [
    Peer {
        name: "floor",
        title: "bare epoll loop",
        kind: Kind::Rust("peer-floor"),
    },
    Peer {
        name: "tally",
        title: "Tally",
        kind: Kind::Tally,
    },
    Peer {
        name: "uws",
        title: "uWebSockets (C++)",
        kind: Kind::Rust("peer-uws"),
    },
    Peer {
        name: "actix",
        title: "actix-web-actors, ws::start",
        kind: Kind::Rust("peer-actix"),
    },
    Peer {
        name: "axum",
        title: "axum, small buffers",
        kind: Kind::Rust("peer-axum"),
    },
    Peer {
        name: "gws",
        title: "Go, gws",
        kind: Kind::Go("gws"),
    },
    Peer {
        name: "gorilla",
        title: "Go, gorilla/websocket",
        kind: Kind::Go("gorilla"),
    },
    Peer {
        name: "node",
        title: "Node.js, ws",
        kind: Kind::Node,
    },
    Peer {
        name: "channels",
        title: "Django Channels, uvicorn",
        kind: Kind::Channels,
    },
];

/// What everybody else is measured by.
pub const FLOOR: &str = "floor";
pub const TALLY: &str = "tally";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
}

/// How it is built and started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tally,
    /// A package of `peers/rust`.
    Rust(&'static str),
    /// A folder of `peers/go`.
    Go(&'static str),
    Node,
    Channels,
}

/// The peers of these names, in the order of the table, the floor always among them.
///
/// # Errors
/// A name that nobody has.
pub fn named(names: &[String]) -> Result<Vec<Peer>, String> {
    let known = |name: &String| PEERS.iter().any(|peer| peer.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let all: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        return Err(format!(
            "no peer is called {unknown}; there are {}",
            all.join(", ")
        ));
    }
    let wanted = |peer: &&Peer| {
        names.is_empty() || peer.name == FLOOR || names.iter().any(|name| peer.name == name)
    };
    Ok(PEERS.iter().filter(wanted).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        named(&wanted)
            .unwrap()
            .iter()
            .map(|peer| peer.name)
            .collect()
    }

    #[test]
    fn the_floor_is_always_there() {
        assert_eq!(names(&["node", "tally"]), ["floor", "tally", "node"]);
        assert_eq!(names(&[]).len(), PEERS.len());
        assert!(named(&["nobody".into()]).unwrap_err().contains("channels"));
    }
}
