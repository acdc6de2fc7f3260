//! Where the stack of this clone lives: its folders, its ports, its record.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    colour::Colour,
    error::{Error, Result},
};

const FRONT_DOOR: u16 = 8080;

/// Picked once, recorded, and used again, so that several clones run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub front_door: u16,
    /// Traefik's API, ping and metrics.
    pub internal: u16,
    pub blue: u16,
    pub blue_operator: u16,
    pub green: u16,
    pub green_operator: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    engine: String,
    ports: Ports,
}

#[derive(Clone, Debug)]
pub struct Stack {
    root: PathBuf,
    pub ports: Ports,
}

impl Stack {
    /// The stack that `up` recorded.
    ///
    /// # Errors
    /// Nothing was recorded here, or it cannot be read.
    pub fn load(root: &Path) -> Result<Self> {
        let path = record_path(root);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) => return Err(Error::NotUp),
        };
        let record: Record = serde_json::from_str(&text).map_err(|error| Error::Record {
            path,
            reason: error.to_string(),
        })?;
        if record.engine != "native" {
            return Err(Error::Engine(record.engine));
        }
        Ok(Self {
            root: root.to_owned(),
            ports: record.ports,
        })
    }

    /// The recorded stack, or a new one. `front_door` is a port asked for by name.
    ///
    /// # Errors
    /// The front door's port is taken by somebody else, or the record cannot be written.
    pub fn load_or_create(root: &Path, front_door: Option<u16>) -> Result<Self> {
        match Self::load(root) {
            Ok(stack) if front_door.is_none_or(|port| port == stack.ports.front_door) => {
                return Ok(stack);
            }
            Ok(_) | Err(Error::NotUp) => {}
            Err(error) => return Err(error),
        }
        let stack = Self {
            root: root.to_owned(),
            ports: pick_ports(front_door.unwrap_or(FRONT_DOOR))?,
        };
        for folder in [stack.run(), stack.logs(), stack.state()] {
            fs::create_dir_all(&folder).map_err(Error::file(folder))?;
        }
        let record = Record {
            engine: "native".into(),
            ports: stack.ports,
        };
        let text = serde_json::to_string_pretty(&record).expect("plain fields serialise");
        let path = record_path(root);
        fs::write(&path, text + "\n").map_err(Error::file(path))?;
        Ok(stack)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that is made while the stack runs.
    pub fn run(&self) -> PathBuf {
        self.root.join(".tally")
    }

    pub fn logs(&self) -> PathBuf {
        self.run().join("logs")
    }

    /// What outlives a process, shared by the colours.
    pub fn state(&self) -> PathBuf {
        self.run().join("state")
    }

    pub fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// The folder that Traefik watches.
    pub fn dynamic(&self) -> PathBuf {
        self.root.join("traefik").join("dynamic")
    }

    pub fn binary(&self, colour: Colour) -> PathBuf {
        self.run().join(format!("tally-server-{colour}"))
    }

    pub fn public_port(&self, colour: Colour) -> u16 {
        match colour {
            Colour::Blue => self.ports.blue,
            Colour::Green => self.ports.green,
        }
    }

    pub fn operator_port(&self, colour: Colour) -> u16 {
        match colour {
            Colour::Blue => self.ports.blue_operator,
            Colour::Green => self.ports.green_operator,
        }
    }

    pub fn front_door(&self) -> String {
        format!("127.0.0.1:{}", self.ports.front_door)
    }

    pub fn public(&self, colour: Colour) -> String {
        format!("127.0.0.1:{}", self.public_port(colour))
    }

    pub fn operator(&self, colour: Colour) -> String {
        format!("127.0.0.1:{}", self.operator_port(colour))
    }

    pub fn internal(&self) -> String {
        format!("127.0.0.1:{}", self.ports.internal)
    }
}

fn record_path(root: &Path) -> PathBuf {
    root.join(".tally").join("stack.json")
}

/// Holds all ports at once while picking, so that none is picked twice.
fn pick_ports(front_door: u16) -> Result<Ports> {
    let taken = |_| Error::PortTaken(front_door);
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, front_door)).map_err(taken)?;
    let listeners: Vec<TcpListener> = (0..5)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(taken))
        .collect::<Result<_>>()?;
    let port = |listener: &TcpListener| listener.local_addr().map_or(0, |address| address.port());
    Ok(Ports {
        front_door: port(&held),
        internal: port(&listeners[0]),
        blue: port(&listeners[1]),
        blue_operator: port(&listeners[2]),
        green: port(&listeners[3]),
        green_operator: port(&listeners[4]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_picked_once_and_used_again() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(Stack::load(root.path()), Err(Error::NotUp)));
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let front_door = free.local_addr().unwrap().port();
        drop(free);
        let first = Stack::load_or_create(root.path(), Some(front_door)).unwrap();
        let again = Stack::load_or_create(root.path(), None).unwrap();
        assert_eq!(first.ports, again.ports);
        assert_eq!(first.ports.front_door, front_door);
    }

    #[test]
    fn a_taken_front_door_is_named() {
        let root = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Stack::load_or_create(root.path(), Some(port)).unwrap_err();
        assert!(matches!(error, Error::PortTaken(named) if named == port));
    }

    #[test]
    fn a_broken_record_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".tally")).unwrap();
        fs::write(record_path(root.path()), "{").unwrap();
        assert!(matches!(
            Stack::load(root.path()),
            Err(Error::Record { .. })
        ));
    }
}
