//! One suite for all stores: whatever is asked of them, they answer as the rules do.

use std::{
    collections::HashMap,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tally_server::{
    session::{self, Outcome, Owner, Save, Session},
    store::{self, Memory, Op, Place, Store, StoreSettings},
};
use tempfile::TempDir;
use uuid::Uuid;

#[path = "common/redis.rs"]
mod server;

use server::Redis;

const PATIENCE: Duration = Duration::from_secs(12);

fn settings(owner: &str) -> StoreSettings {
    StoreSettings {
        owner: Owner::named(owner),
        ttl: Duration::from_secs(900),
        parked_max: 100_000,
        durable: false,
    }
}

/// A store that owners share.
enum Kind {
    Memory(Memory),
    Sqlite(TempDir),
    Redis(Redis),
}

impl Kind {
    fn memory() -> Option<Self> {
        Some(Self::Memory(Memory::new(settings("nobody"))))
    }

    fn sqlite() -> Option<Self> {
        Some(Self::Sqlite(tempfile::tempdir().unwrap()))
    }

    fn redis() -> Option<Self> {
        Redis::start().map(Self::Redis)
    }

    fn file(folder: &TempDir) -> PathBuf {
        folder.path().join("sessions.db")
    }

    fn handle_with(&self, settings: StoreSettings) -> Box<dyn Store> {
        let place = match self {
            Self::Memory(memory) => return Box::new(memory.shared_with(settings)),
            Self::Sqlite(folder) => Place::Sqlite(Self::file(folder)),
            Self::Redis(redis) => redis.url().parse().unwrap(),
        };
        store::open(&place, settings).unwrap()
    }

    fn handle(&self, owner: &str) -> Box<dyn Store> {
        self.handle_with(settings(owner))
    }

    fn wipe(&self) {
        match self {
            Self::Memory(memory) => memory.wipe(),
            Self::Sqlite(folder) => {
                for suffix in ["", "-wal", "-shm"] {
                    let file = format!("{}{suffix}", Self::file(folder).display());
                    let _ = std::fs::remove_file(file);
                }
            }
            Self::Redis(redis) => redis.wipe(),
        }
    }
}

macro_rules! on_each_store {
    ($($name:ident),* $(,)?) => {
        on_each_store!(@ memory [$($name),*]);
        on_each_store!(@ sqlite [$($name),*]);
        on_each_store!(@ redis [$($name),*]);
    };
    (@ $store:ident [$($name:ident),*]) => {
        mod $store {
            $(#[test]
            fn $name() {
                super::Kind::$store().map(super::$name);
            })*
        }
    };
}

on_each_store![
    it_answers_as_the_rules_do,
    thousands_move_at_once,
    who_is_awaited_hears_of_it,
    of_many_who_claim_at_once_each_gets_an_epoch_of_its_own,
    sessions_are_forgotten_in_time,
    a_wipe_is_noticed_and_sessions_are_saved_again,
];

fn save(id: Uuid, epoch: u32, count: u64, parked: bool) -> Op {
    Op::Save(Save {
        id,
        epoch,
        count,
        parked,
    })
}

fn one(store: &mut Box<dyn Store>, op: Op) -> Outcome {
    store.apply(&[op]).unwrap().remove(0)
}

/// The rules alone, as a store.
#[derive(Default)]
struct Model(HashMap<Uuid, Option<Session>>);

impl Model {
    fn apply(&mut self, op: &Op, owner: &Owner) -> Outcome {
        match op {
            Op::Save(word) => session::save(self.0.entry(word.id).or_default(), word, owner),
            Op::Claim(id) => session::claim(self.0.entry(*id).or_default(), owner),
            Op::Collect { id, epoch, last } => {
                session::collect(self.0.entry(*id).or_default(), *epoch, *last, owner)
            }
        }
    }
}

const OWNERS: [&str; 3] = ["blue", "green", "red"];

fn any_op() -> impl Strategy<Value = (usize, u128, Op)> {
    let epoch = 1..5_u32;
    let op = prop_oneof![
        4 => (epoch.clone(), 0..9_u64, any::<bool>())
            .prop_map(|(epoch, count, parked)| save(Uuid::nil(), epoch, count, parked)),
        2 => Just(Op::Claim(Uuid::nil())),
        2 => (epoch, any::<bool>())
            .prop_map(|(epoch, last)| Op::Collect { id: Uuid::nil(), epoch, last }),
    ];
    (0..OWNERS.len(), 1..3_u128, op)
}

fn about(id: Uuid, op: Op) -> Op {
    match op {
        Op::Save(word) => Op::Save(Save { id, ..word }),
        Op::Claim(_) => Op::Claim(id),
        Op::Collect { epoch, last, .. } => Op::Collect { id, epoch, last },
    }
}

/// Words in any order, from any owner, sensible or not.
fn it_answers_as_the_rules_do(kind: Kind) {
    let mut handles = OWNERS.map(|owner| kind.handle(owner));
    let owners = OWNERS.map(Owner::named);
    let config = Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    };
    let handles = std::cell::RefCell::new(&mut handles);
    let played = TestRunner::new(config).run(&proptest::collection::vec(any_op(), 1..40), |ops| {
        let mut model = Model::default();
        let ids = Uuid::new_v4().as_u128();
        for (owner, id, op) in ops {
            let op = about(Uuid::from_u128(ids ^ id), op);
            let told = one(&mut handles.borrow_mut()[owner], op);
            prop_assert_eq!(told, model.apply(&op, &owners[owner]), "{:?}", op);
        }
        Ok(())
    });
    played.unwrap();
}

fn thousands_move_at_once(kind: Kind) {
    let (mut blue, mut green) = (kind.handle("blue"), kind.handle("green"));
    let ids: Vec<Uuid> = (0..5000).map(|_| Uuid::new_v4()).collect();
    let parked: Vec<Op> = ids
        .iter()
        .zip(1..)
        .map(|(id, count)| save(*id, 1, count, true))
        .collect();
    let saved = blue.apply(&parked).unwrap();
    assert!(saved.iter().all(|outcome| *outcome == Outcome::Saved));
    let claims: Vec<Op> = ids.iter().map(|id| Op::Claim(*id)).collect();
    let held = green.apply(&claims).unwrap();
    assert_eq!(held.len(), ids.len());
    for (outcome, count) in held.into_iter().zip(1..) {
        assert_eq!(outcome, Outcome::Held { epoch: 2, count });
    }
}

fn who_is_awaited_hears_of_it(kind: Kind) {
    let (mut blue, mut green) = (kind.handle("blue"), kind.handle("green"));
    let id = Uuid::new_v4();
    one(&mut blue, save(id, 1, 3, false));
    assert_eq!(blue.wanted().unwrap(), []);
    assert!(matches!(
        one(&mut green, Op::Claim(id)),
        Outcome::Awaiting { epoch: 2, .. }
    ));
    assert_eq!(blue.wanted().unwrap(), [(id, 1)]);
    assert_eq!(green.wanted().unwrap(), []);
    assert_eq!(one(&mut blue, save(id, 1, 7, true)), Outcome::Saved);
    let collect = Op::Collect {
        id,
        epoch: 2,
        last: false,
    };
    assert_eq!(
        one(&mut green, collect),
        Outcome::Held { epoch: 2, count: 7 }
    );
}

fn of_many_who_claim_at_once_each_gets_an_epoch_of_its_own(kind: Kind) {
    const CLAIMS: u32 = 50;
    let id = Uuid::new_v4();
    one(&mut kind.handle("blue"), save(id, 1, 9, true));
    let handles = OWNERS.map(|owner| kind.handle(owner));
    let mut epochs: Vec<u32> = thread::scope(|scope| {
        let claimants = handles.map(|mut handle| {
            scope.spawn(move || {
                let claims = (0..CLAIMS).map(|_| one(&mut handle, Op::Claim(id)));
                claims.collect::<Vec<Outcome>>()
            })
        });
        let told = claimants
            .into_iter()
            .flat_map(|claimant| claimant.join().unwrap());
        told.map(|outcome| match outcome {
            Outcome::Held { epoch, count: 9 } | Outcome::Awaiting { epoch, .. } => epoch,
            other => panic!("{other:?}"),
        })
        .collect()
    });
    epochs.sort_unstable();
    let expected: Vec<u32> = (2..2 + CLAIMS * 3).collect();
    assert_eq!(epochs, expected);
}

fn sessions_are_forgotten_in_time(kind: Kind) {
    let short = StoreSettings {
        ttl: Duration::from_millis(200),
        ..settings("blue")
    };
    let mut blue = kind.handle_with(short);
    let [parked, open, renewed] = [(); 3].map(|()| Uuid::new_v4());
    one(&mut blue, save(parked, 1, 1, true));
    one(&mut blue, save(open, 1, 2, false));
    one(&mut blue, save(renewed, 1, 3, false));
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(50));
        one(&mut blue, save(renewed, 1, 4, false));
    }
    blue.tidy().unwrap();
    for forgotten in [parked, open] {
        assert_eq!(one(&mut blue, Op::Claim(forgotten)), Outcome::Unknown);
    }
    assert_ne!(one(&mut blue, Op::Claim(renewed)), Outcome::Unknown);
}

fn a_wipe_is_noticed_and_sessions_are_saved_again(kind: Kind) {
    let mut blue = kind.handle("blue");
    let id = Uuid::new_v4();
    one(&mut blue, save(id, 3, 5, false));
    let before = blue.tidy().unwrap().generation;
    assert_eq!(blue.tidy().unwrap().generation, before);
    kind.wipe();
    assert_ne!(blue.tidy().unwrap().generation, before);
    assert_eq!(one(&mut blue, Op::Claim(id)), Outcome::Unknown);
    assert_eq!(one(&mut blue, save(id, 3, 6, true)), Outcome::Saved);
    assert_eq!(
        one(&mut blue, Op::Claim(id)),
        Outcome::Held { epoch: 4, count: 6 }
    );
}

// -- what not all of them can do -------------------------------------------------------------------

fn the_oldest_parked_sessions_go_first(kind: Kind) {
    let few = StoreSettings {
        parked_max: 2,
        ..settings("blue")
    };
    let mut blue = kind.handle_with(few);
    let ids = [(); 4].map(|()| Uuid::new_v4());
    for (id, count) in ids.iter().zip(1..) {
        one(&mut blue, save(*id, 1, count, true));
        thread::sleep(Duration::from_millis(3));
    }
    one(&mut blue, save(Uuid::new_v4(), 1, 9, false));
    let tidied = blue.tidy().unwrap();
    assert_eq!((tidied.evicted, tidied.parked), (2, Some(2)));
    let found = ids.map(|id| one(&mut blue, Op::Claim(id)) != Outcome::Unknown);
    assert_eq!(found, [false, false, true, true]);
}

#[test]
fn memory_forgets_the_oldest_first() {
    the_oldest_parked_sessions_go_first(Kind::memory().unwrap());
}

#[test]
fn sqlite_forgets_the_oldest_first() {
    the_oldest_parked_sessions_go_first(Kind::sqlite().unwrap());
}

#[test]
fn redis_is_missed_within_a_second_and_comes_back_by_itself() {
    let Some(mut redis) = Redis::start() else {
        return;
    };
    let place: Place = redis.url().parse().unwrap();
    let mut blue = store::open(&place, settings("blue")).unwrap();
    let id = Uuid::new_v4();
    one(&mut blue, save(id, 1, 5, true));
    redis.stop();
    for _ in 0..3 {
        let began = Instant::now();
        blue.apply(&[Op::Claim(id)]).expect_err("nobody there");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    redis.start_again();
    let deadline = Instant::now() + PATIENCE;
    // Its scripts went with it; its append-only file did not.
    let held = loop {
        match blue.apply(&[Op::Claim(id)]) {
            Ok(mut outcomes) => break outcomes.remove(0),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    assert_eq!(held, Outcome::Held { epoch: 2, count: 5 });
}

#[test]
fn a_redis_that_does_not_answer_counts_as_down() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::Redis(format!("redis://{}/0", silent.local_addr().unwrap()));
    let mut blue = store::open(&place, settings("blue")).unwrap();
    let began = Instant::now();
    blue.apply(&[Op::Claim(Uuid::new_v4())])
        .expect_err("no answer");
    assert!(began.elapsed() < Duration::from_secs(2), "{began:?}");
}

#[test]
fn a_file_that_is_no_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    std::fs::write(
        &file,
        "Not a database, but long enough to have a header. ".repeat(10),
    )
    .unwrap();
    let refused = store::open(&Place::Sqlite(file), settings("blue"))
        .err()
        .unwrap();
    assert!(refused.to_string().contains("notes.txt"), "{refused}");
}

// -- releases ----------------------------------------------------------------------------------------

/// What the first release with a store left behind.
const FORMAT_1: &str = "
    PRAGMA user_version = 1;
    CREATE TABLE sessions (
        id BLOB PRIMARY KEY NOT NULL, format INTEGER NOT NULL, epoch INTEGER NOT NULL,
        count INTEGER NOT NULL, holder TEXT, awaited_epoch INTEGER, awaited_from TEXT,
        expires INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX parked ON sessions (expires) WHERE holder IS NULL;
    CREATE INDEX wanted ON sessions (awaited_from) WHERE awaited_from IS NOT NULL;
    CREATE TABLE generation (id BLOB NOT NULL);
    INSERT INTO generation VALUES (x'6ba7b8109dad41d180b400c04fd430c8');
    INSERT INTO sessions VALUES
        (x'00000000000040008000000000000001', 1, 4, 17, NULL, NULL, NULL, 9000000000000),
        (x'00000000000040008000000000000002', 1, 2, 5, 'blue-1', NULL, NULL, 9000000000000);";

fn ids() -> [Uuid; 2] {
    [1, 2].map(|number| Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0000 + number))
}

#[test]
fn a_file_of_format_1_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = Kind::file(&folder);
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch(FORMAT_1).unwrap();
    let mut green = store::open(&Place::Sqlite(file), settings("green")).unwrap();
    let [parked, open] = ids();
    assert_eq!(
        one(&mut green, Op::Claim(parked)),
        Outcome::Held {
            epoch: 5,
            count: 17
        }
    );
    assert!(matches!(
        one(&mut green, Op::Claim(open)),
        Outcome::Awaiting { epoch: 3, .. }
    ));
}

/// A release that adds a column, and rows that mean something else.
#[test]
fn what_the_next_release_adds_to_a_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = Kind::file(&folder);
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch(FORMAT_1).unwrap();
    connection
        .execute_batch("ALTER TABLE sessions ADD COLUMN room TEXT DEFAULT 'attic'")
        .unwrap();
    let [added, changed] = ids();
    let next = "UPDATE sessions SET format = 2 WHERE id = ?1";
    connection.execute(next, [changed]).unwrap();
    let mut green = store::open(&Place::Sqlite(file), settings("green")).unwrap();
    assert_eq!(
        one(&mut green, Op::Claim(added)),
        Outcome::Held {
            epoch: 5,
            count: 17
        }
    );
    assert_eq!(one(&mut green, save(added, 5, 18, true)), Outcome::Saved);
    assert_eq!(one(&mut green, Op::Claim(changed)), Outcome::Lost);
    assert_eq!(one(&mut green, save(changed, 9, 99, true)), Outcome::Fenced);
    let row = |id: Uuid| {
        let rows = "SELECT count, room FROM sessions WHERE id = ?1";
        let columns = |row: &rusqlite::Row| Ok((row.get(0)?, row.get(1)?));
        connection
            .query_row::<(i64, String), _, _>(rows, [id], columns)
            .unwrap()
    };
    assert_eq!(row(added), (18, "attic".into()));
    assert_eq!(row(changed), (5, "attic".into()));
}

#[test]
fn a_file_of_a_newer_schema_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = Kind::file(&folder);
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch("PRAGMA user_version = 2").unwrap();
    let refused = store::open(&Place::Sqlite(file), settings("blue"))
        .err()
        .unwrap();
    assert!(refused.to_string().contains("newer release"), "{refused}");
}

#[test]
fn hashes_of_format_1_and_of_the_next_release_are_read_in_redis() {
    let Some(redis) = Redis::start() else { return };
    let [first, next] = ids();
    let left = |id: Uuid, format: u32| {
        let fields = format!("format {format} epoch 4 count 17 room attic");
        redis
            .ask(&format!("HSET tally:session:{{{id}}} {fields}"))
            .unwrap();
    };
    left(first, 1);
    left(next, 2);
    let place: Place = redis.url().parse().unwrap();
    let mut green = store::open(&place, settings("green")).unwrap();
    assert_eq!(
        one(&mut green, Op::Claim(first)),
        Outcome::Held {
            epoch: 5,
            count: 17
        }
    );
    assert_eq!(one(&mut green, save(first, 5, 18, true)), Outcome::Saved);
    assert_eq!(one(&mut green, Op::Claim(next)), Outcome::Lost);
    assert_eq!(one(&mut green, save(next, 9, 99, true)), Outcome::Fenced);
    for (id, count) in [(first, "18"), (next, "17")] {
        let fields = redis
            .ask(&format!("HMGET tally:session:{{{id}}} count room"))
            .unwrap();
        assert!(
            fields.contains(count) && fields.contains("attic"),
            "{fields}"
        );
    }
}
