//! A store of each kind to test with, and short words for what is done to it.

use std::{cell::OnceCell, path::PathBuf, time::Duration};

use tally_server::{
    session::{Awaited, Epoch, Outcome, Owner, Save},
    store::{self, Memory, Op, Place, Store, StoreSettings},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::redis_server::{RedisCluster, RedisServer};

/// Longer than any test.
const TTL: Duration = Duration::from_secs(600);

pub struct Bench {
    pub ttl: Duration,
    pub parked_max: usize,
    pub durable: bool,
    kind: Kind,
}

enum Kind {
    /// Made with the first handle, when the settings are known.
    Memory(OnceCell<Memory>),
    Sqlite(TempDir),
    Redis(RedisServer),
    Cluster(Box<RedisCluster>),
}

pub fn with_memory(test: impl FnOnce(&mut Bench)) {
    test(&mut Bench::new(Kind::Memory(OnceCell::new())));
}

pub fn with_redis(test: impl FnOnce(&mut Bench)) {
    if let Some(server) = RedisServer::start() {
        test(&mut Bench::new(Kind::Redis(server)));
    }
}

pub fn with_cluster(test: impl FnOnce(&mut Bench)) {
    if let Some(cluster) = RedisCluster::start() {
        test(&mut Bench::new(Kind::Cluster(Box::new(cluster))));
    }
}

pub fn with_sqlite(test: impl FnOnce(&mut Bench)) {
    test(&mut Bench::new(Kind::Sqlite(TempDir::new().unwrap())));
}

impl Bench {
    fn new(kind: Kind) -> Self {
        Self {
            ttl: TTL,
            parked_max: usize::MAX,
            durable: false,
            kind,
        }
    }

    pub fn settings(&self, owner: &str) -> StoreSettings {
        StoreSettings {
            owner: Owner::named(owner),
            ttl: self.ttl,
            parked_max: self.parked_max,
            durable: self.durable,
        }
    }

    pub fn place(&self) -> Place {
        match &self.kind {
            Kind::Memory(_) => Place::Memory,
            Kind::Sqlite(_) => Place::Sqlite(self.file()),
            Kind::Redis(server) => Place::Redis(server.url()),
            Kind::Cluster(cluster) => Place::Redis(cluster.url()),
        }
    }

    pub fn server(&mut self) -> &mut RedisServer {
        match &mut self.kind {
            Kind::Redis(server) => server,
            _ => panic!("only Redis has a server"),
        }
    }

    pub fn cluster(&mut self) -> &mut RedisCluster {
        match &mut self.kind {
            Kind::Cluster(cluster) => cluster,
            _ => panic!("only a cluster has nodes"),
        }
    }

    pub fn file(&self) -> PathBuf {
        match &self.kind {
            Kind::Sqlite(directory) => directory.path().join("sessions.sqlite"),
            _ => panic!("only SQLite has a file"),
        }
    }

    /// A handle for an owner: another process's, as far as the store can tell.
    pub fn open(&self, owner: &str) -> Box<dyn Store> {
        match &self.kind {
            Kind::Memory(memory) => {
                let memory = memory.get_or_init(|| Memory::new(self.settings(owner)));
                Box::new(memory.shared_with(self.settings(owner)))
            }
            _ => store::open(&self.place(), self.settings(owner)).unwrap(),
        }
    }

    /// Everything is forgotten, behind the backs of all handles.
    pub fn wipe(&self) {
        match &self.kind {
            Kind::Memory(memory) => memory.get().unwrap().wipe(),
            Kind::Sqlite(_) => std::fs::remove_file(self.file()).unwrap(),
            Kind::Redis(server) => server.wipe(),
            Kind::Cluster(cluster) => cluster.wipe(),
        }
    }
}

/// What is done to a store, one at a time.
pub trait Words {
    fn one(&mut self, op: Op) -> Outcome;

    fn save(&mut self, id: Uuid, epoch: Epoch, count: u64) -> Outcome {
        self.one(saved(id, epoch, count, false))
    }

    fn park(&mut self, id: Uuid, epoch: Epoch, count: u64) -> Outcome {
        self.one(saved(id, epoch, count, true))
    }

    fn claim(&mut self, id: Uuid) -> Outcome {
        self.one(Op::Claim(id))
    }

    fn collect(&mut self, id: Uuid, epoch: Epoch) -> Outcome {
        self.one(Op::Collect {
            id,
            epoch,
            last: false,
        })
    }

    fn take(&mut self, id: Uuid, epoch: Epoch) -> Outcome {
        self.one(Op::Collect {
            id,
            epoch,
            last: true,
        })
    }
}

impl Words for Box<dyn Store> {
    fn one(&mut self, op: Op) -> Outcome {
        let outcomes = self.apply(&[op]).unwrap();
        assert_eq!(outcomes.len(), 1);
        outcomes.into_iter().next().unwrap()
    }
}

pub fn saved(id: Uuid, epoch: Epoch, count: u64, parked: bool) -> Op {
    Op::Save(Save {
        id,
        epoch,
        count,
        parked,
    })
}

pub fn held(epoch: Epoch, count: u64) -> Outcome {
    Outcome::Held { epoch, count }
}

/// Claimed as `epoch`, and `from` has to hand over first, as the holder of epoch `before`.
pub fn awaiting(epoch: Epoch, before: Epoch, from: &str) -> Outcome {
    Outcome::Awaiting {
        epoch,
        awaited: Awaited {
            epoch: before,
            from: Owner::named(from),
        },
    }
}
