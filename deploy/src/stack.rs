//! Where the stack of this clone lives: its folders, its ports, its record.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    colour::Colour,
    door::Door,
    engine::Kind,
    error::{Error, Result},
    kubernetes::cluster::Cluster,
    ports::Ports,
    store::Store,
};

/// Files that Traefik is given, in a folder that it may see under another name.
pub const CERTIFICATE: &str = "door.pem";
pub const AUTHORITY: &str = "authority.pem";

/// What `up` decided, and every later verb has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Names what lives outside the clone: containers, networks, images. Another clone on this
    /// machine has another one, and this clone keeps it.
    pub name: String,
    pub engine: Kind,
    pub ports: Ports,
    /// The address of this machine that the front door is at.
    pub bind: IpAddr,
    #[serde(default)]
    pub door: Door,
    #[serde(default)]
    pub store: Store,
    /// Files that a colour may open.
    pub files_max: u64,
    /// Of a stack that is not on this machine.
    #[serde(default)]
    pub cluster: Option<Cluster>,
}

/// A record with the clone that it is about.
#[derive(Clone, Debug)]
pub struct Stack {
    root: PathBuf,
    record: Record,
}

impl Deref for Stack {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
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
        let record = serde_json::from_str(&text).map_err(|error| Error::Record {
            path,
            reason: error.to_string(),
        })?;
        Ok(Self::new(root, record))
    }

    fn new(root: &Path, record: Record) -> Self {
        Self {
            root: root.to_owned(),
            record,
        }
    }

    /// A stack as `up` decided, recorded.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn create(root: &Path, record: Record) -> Result<Self> {
        let text = serde_json::to_string_pretty(&record).expect("plain fields serialise");
        let stack = Self::new(root, record);
        for folder in [stack.run(), stack.logs(), stack.state()] {
            fs::create_dir_all(&folder).map_err(Error::file(folder))?;
        }
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

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// What outlives a process, shared by the colours.
    pub fn state(&self) -> PathBuf {
        self.run().join("state")
    }

    /// The engine's own store, where that is a file.
    pub fn sessions(&self) -> PathBuf {
        self.state().join("sessions.db")
    }

    pub fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    pub fn lock(&self) -> PathBuf {
        Self::lock_of(&self.root)
    }

    /// The lock is there before the stack is.
    pub fn lock_of(root: &Path) -> PathBuf {
        root.join(".tally").join("lock")
    }

    pub fn history(&self) -> PathBuf {
        self.run().join("history.jsonl")
    }

    /// The files of what watches the stack.
    pub fn monitoring(&self) -> PathBuf {
        self.run().join("monitoring")
    }

    /// What that keeps.
    pub fn monitoring_data(&self) -> PathBuf {
        self.run().join("monitoring-data")
    }

    /// Tells until when an idle colour is kept for a rollback.
    pub fn warm(&self, colour: Colour) -> PathBuf {
        self.run().join(format!("{colour}.warm"))
    }

    /// What Traefik is given for its front door, and its alone.
    pub fn tls(&self) -> PathBuf {
        self.run().join("tls")
    }

    /// The certificate with its key, copied for Traefik.
    pub fn certificate(&self) -> PathBuf {
        self.tls().join(CERTIFICATE)
    }

    /// Whom to believe about the authority that issues certificates.
    pub fn authority(&self) -> PathBuf {
        self.tls().join(AUTHORITY)
    }

    /// Where Traefik keeps the certificates that it has asked for.
    pub fn acme(&self) -> PathBuf {
        self.run().join("acme")
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

    /// Where this machine reaches it.
    pub fn front_door(&self) -> String {
        let address = match self.bind {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        SocketAddr::new(address, self.ports.front_door).to_string()
    }

    pub fn public(&self, colour: Colour) -> String {
        format!("127.0.0.1:{}", self.public_port(colour))
    }

    pub fn preview(&self) -> String {
        format!("127.0.0.1:{}", self.ports.preview)
    }

    pub fn internal(&self) -> String {
        format!("127.0.0.1:{}", self.ports.internal)
    }
}

/// FNV-1a of the folder: the same on every machine and with every compiler.
pub fn name_of(root: &Path) -> String {
    let bytes = root.as_os_str().as_bytes().iter();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("tally-{:06x}", hash >> 40)
}

fn record_path(root: &Path) -> PathBuf {
    root.join(".tally").join("stack.json")
}

/// A stack for tests, recorded.
#[cfg(test)]
pub fn sample(root: &Path, door: Door) -> Stack {
    let ports = Ports {
        front_door: 1,
        internal: 2,
        preview: 7,
        blue: 3,
        blue_operator: 4,
        green: 5,
        green_operator: 6,
        monitoring: None,
    };
    let record = Record {
        name: name_of(root),
        engine: Kind::Docker,
        ports,
        bind: Ipv4Addr::UNSPECIFIED.into(),
        door,
        store: Store::Own,
        files_max: 20_000,
        cluster: None,
    };
    Stack::create(root, record).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(Stack::load(root.path()), Err(Error::NotUp)));
        let door = Door {
            handshake_rate: Some(10),
            ..Door::default()
        };
        let created = sample(root.path(), door);
        assert_eq!(*Stack::load(root.path()).unwrap(), *created);
    }

    #[test]
    fn a_record_from_before_the_door_had_settings_is_understood() {
        let root = tempfile::tempdir().unwrap();
        sample(root.path(), Door::default());
        let path = record_path(root.path());
        let text = fs::read_to_string(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record.as_object_mut().unwrap().remove("door").unwrap();
        fs::write(&path, record.to_string()).unwrap();
        assert_eq!(Stack::load(root.path()).unwrap().door, Door::default());
    }

    #[test]
    fn the_front_door_is_reached_from_this_machine() {
        let root = tempfile::tempdir().unwrap();
        let mut stack = sample(root.path(), Door::default());
        for (bind, reached) in [
            ("0.0.0.0", "127.0.0.1:1"),
            ("192.0.2.1", "192.0.2.1:1"),
            ("::", "[::1]:1"),
        ] {
            stack.record.bind = bind.parse().unwrap();
            assert_eq!(stack.front_door(), reached);
        }
    }

    #[test]
    fn a_clone_has_a_name_of_its_own() {
        let [here, there] = ["/srv/tally", "/srv/tally2"].map(|root| name_of(Path::new(root)));
        assert_eq!(here, "tally-615da6");
        assert_ne!(here, there);
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
