//! Where sessions are kept: one small trait, and the stores behind it. The rules are in
//! `session.rs`; the thread that talks to a store is in `keeper.rs`.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use uuid::Uuid;

use crate::session::{Epoch, Outcome, Owner, Save};

pub mod format;
mod memory;
mod redis;
mod sqlite;

pub use memory::Memory;
pub use redis::Redis;
pub use sqlite::Sqlite;

/// A store may take this long for a round trip; then it counts as down.
pub const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);

/// Something to do to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Save(Save),
    Claim(Uuid),
    Collect {
        id: Uuid,
        epoch: Epoch,
        /// Whether the claimant waits no longer.
        last: bool,
    },
}

/// What a store has to tell about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Another one after a wipe: everything that is open has to be saved again.
    pub generation: Uuid,
    /// Sessions that nobody holds, where the store can tell.
    pub parked: Option<u64>,
    /// Forgotten just now, because their time was over.
    pub expired: u64,
    /// Forgotten just now, because more were parked than may be.
    pub evicted: u64,
}

/// Keeps sessions for several owners; each of them has a handle of its own to the same store.
///
/// A handle blocks while it works, for [`ROUND_TRIP_MAX`] or not much longer. After an error it can
/// be used again, and connects anew by itself. A session that was not saved for the time to live is
/// forgotten, whoever held it.
pub trait Store: Send {
    /// Does it all in order and in one round trip; an outcome each. What others claim in between is
    /// seen by one of the two as later. After an error some of it may have been done: a save can be
    /// repeated as often as one likes, a claim too.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses.
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, StoreError>;

    /// Sessions that others have claimed from this owner, with its epoch: it has to let go of them.
    /// May name one twice, or one that was let go of already. Asked some twenty times a second.
    ///
    /// # Errors
    /// As above.
    fn wanted(&mut self) -> Result<Vec<(Uuid, Epoch)>, StoreError>;

    /// Forgets what is due, and looks after itself. Asked once a second.
    ///
    /// # Errors
    /// As above.
    fn tidy(&mut self) -> Result<Tidied, StoreError>;
}

/// Why a store did not do what it was asked, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Which store it is: `TALLY_SESSION_STORE`.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// The memory of this process: sessions end with it.
    Memory,
    /// A file that the processes of one host share.
    Sqlite(PathBuf),
    /// A Redis that all hosts share, or a cluster, as a URL. It may hold a password, so it is not shown.
    Redis(String),
}

impl Place {
    pub const EXPECTED: &str = "`memory`, `sqlite:` with a file's path, or a URL such as redis://127.0.0.1:6379/0 or \
         redis-cluster://127.0.0.1:7000,127.0.0.1:7001";

    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite(_) => "sqlite",
            Self::Redis(_) => "redis",
        }
    }

    /// Whether other processes see what is kept there.
    pub fn is_shared(&self) -> bool {
        *self != Self::Memory
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            Some(("redis" | "rediss" | "redis-cluster", _)) if redis::is_url(text) => {
                Ok(Self::Redis(text.into()))
            }
            _ => Err(()),
        }
    }
}

/// As it is written in a setting, but for what only a Redis is to know.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Redis(url) => f.write_str(&redis::redacted(url)),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a store is told when it is opened.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub owner: Owner,
    /// A session is kept this long after it was last saved.
    pub ttl: Duration,
    /// Parked sessions, at most, where the store can count them.
    pub parked_max: usize,
    /// Whether what was applied has to outlive the machine's sudden end, too.
    pub durable: bool,
}

/// Opens a store. One that is somewhere else need not be there yet.
///
/// # Errors
/// A file cannot be opened, or is no store of ours.
pub fn open(place: &Place, settings: StoreSettings) -> Result<Box<dyn Store>, StoreError> {
    match place {
        Place::Memory => Ok(Box::new(Memory::new(settings))),
        Place::Sqlite(path) => Ok(Box::new(Sqlite::open(path, settings)?)),
        Place::Redis(url) => Ok(Box::new(Redis::open(url, settings)?)),
    }
}
