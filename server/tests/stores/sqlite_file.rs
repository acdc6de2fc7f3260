//! The file of the SQLite store.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    thread,
};

use rusqlite::Connection;
use tally_server::{
    session::Outcome::{Saved, Unknown},
    store::{Place, Store, open},
};
use uuid::Uuid;

use crate::bench::{Bench, Words, saved, with_sqlite};

fn refusal(bench: &Bench) -> String {
    open(&bench.place(), bench.settings("blue"))
        .err()
        .unwrap()
        .0
}

/// A session's id is a credential.
#[test]
fn the_file_is_its_owners_alone() {
    with_sqlite(|bench| {
        let mut blue = bench.open("blue");
        blue.save(Uuid::new_v4(), 1, 1);
        for suffix in ["", "-wal", "-shm"] {
            let path = format!("{}{suffix}", bench.file().display());
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{path}");
        }
    });
}

#[test]
fn what_is_no_database_is_refused_with_its_name_and_left_alone() {
    with_sqlite(|bench| {
        let text = "I am somebody's letter. ".repeat(100);
        fs::write(bench.file(), &text).unwrap();
        let refused = refusal(bench);
        assert!(refused.contains("sessions.sqlite"), "{refused}");
        assert!(refused.contains("name another file"), "{refused}");
        assert_eq!(fs::read_to_string(bench.file()).unwrap(), text);
    });
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    with_sqlite(|bench| {
        let other = Connection::open(bench.file()).unwrap();
        other.execute_batch("create table letters (text)").unwrap();
        let before = fs::read(bench.file()).unwrap();
        let refused = refusal(bench);
        assert!(refused.contains("another program's"), "{refused}");
        assert!(fs::read(bench.file()).unwrap() == before, "it was changed");
    });
}

#[test]
fn a_directory_that_is_missing_is_named() {
    with_sqlite(|bench| {
        let place = Place::Sqlite(bench.file().join("missing/sessions.sqlite"));
        let refused = open(&place, bench.settings("blue")).err().unwrap().0;
        assert!(refused.contains("missing/sessions.sqlite"), "{refused}");
        assert!(refused.contains("directory"), "{refused}");
    });
}

#[test]
fn of_many_who_make_the_file_at_once_all_find_the_same_store() {
    for _ in 0..5 {
        with_sqlite(|bench| {
            let (place, settings) = (bench.place(), bench.settings("blue"));
            let opened: Vec<_> = (0..6)
                .map(|_| {
                    let (place, settings) = (place.clone(), settings.clone());
                    thread::spawn(move || open(&place, settings).unwrap().tidy().unwrap())
                })
                .collect();
            let mut generations: Vec<_> = opened
                .into_iter()
                .map(|thread| thread.join().unwrap().generation)
                .collect();
            generations.dedup();
            assert_eq!(generations.len(), 1);
        });
    }
}

/// Both have the old file open when it goes, and both go on in one new file.
#[test]
fn a_file_that_was_deleted_is_made_anew_for_all() {
    with_sqlite(|bench| {
        let mut stores = ["blue", "green", "red"].map(|name| bench.open(name));
        let mut generation = stores[0].tidy().unwrap().generation;
        let id = Uuid::new_v4();
        for round in 1..20_u32 {
            stores[0].save(id, round, 1);
            bench.wipe();
            let first = round as usize % 3;
            assert_eq!(stores[first].claim(id), Unknown);
            assert_eq!(stores[first].park(id, round, 2), Saved);
            for store in &mut stores {
                assert_eq!(store.save(id, round, 3), Saved, "round {round}");
            }
            let another = stores[0].tidy().unwrap().generation;
            assert_ne!(another, generation);
            generation = another;
            for store in &mut stores {
                assert_eq!(store.tidy().unwrap().generation, generation);
            }
        }
    });
}

#[test]
fn a_file_that_was_replaced_is_seen() {
    with_sqlite(|bench| {
        let mut blue = bench.open("blue");
        let generation = blue.tidy().unwrap().generation;
        with_sqlite(|other| {
            let mut filled = other.open("other");
            let id = Uuid::new_v4();
            filled.park(id, 1, 77);
            let another = filled.tidy().unwrap().generation;
            // The last one to close a file leaves no log beside it.
            drop(filled);
            for suffix in ["-wal", "-shm"] {
                fs::remove_file(format!("{}{suffix}", bench.file().display())).unwrap();
            }
            fs::rename(other.file(), bench.file()).unwrap();
            assert_eq!(blue.claim(id), crate::bench::held(2, 77));
            assert_ne!(another, generation);
            assert_eq!(blue.tidy().unwrap().generation, another);
        });
    });
}

#[test]
fn the_log_is_bounded() {
    with_sqlite(|bench| {
        let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
        let ids: Vec<Uuid> = (0..2000).map(|_| Uuid::new_v4()).collect();
        let mut largest = 0;
        for count in 0..100 {
            let all: Vec<_> = ids.iter().map(|id| saved(*id, 1, count, false)).collect();
            blue.apply(&all).unwrap();
            let tidied: &mut dyn Store = if count % 2 == 0 {
                &mut *blue
            } else {
                &mut *green
            };
            tidied.tidy().unwrap();
            let log = format!("{}-wal", bench.file().display());
            largest = largest.max(fs::metadata(log).unwrap().size());
        }
        assert!(largest < 8 << 20, "{largest} bytes");
    });
}

#[test]
fn much_that_is_due_is_forgotten_in_pieces() {
    with_sqlite(|bench| {
        bench.parked_max = 100;
        let mut blue = bench.open("blue");
        for _ in 0..3 {
            let all: Vec<_> = (0..4000)
                .map(|_| saved(Uuid::new_v4(), 1, 1, true))
                .collect();
            blue.apply(&all).unwrap();
        }
        let mut evicted = Vec::new();
        for _ in 0..4 {
            evicted.push(blue.tidy().unwrap().evicted);
        }
        assert_eq!(evicted, [5000, 5000, 1900, 0]);
        assert_eq!(blue.tidy().unwrap().parked, Some(100));
    });
}

/// Whose holder was killed: nobody will ever park them.
#[test]
fn open_sessions_that_nobody_saves_are_forgotten_too() {
    with_sqlite(|bench| {
        bench.ttl = std::time::Duration::from_millis(1);
        let mut blue = bench.open("blue");
        let all: Vec<_> = (0..5000)
            .map(|_| saved(Uuid::new_v4(), 1, 1, false))
            .collect();
        blue.apply(&all).unwrap();
        thread::sleep(std::time::Duration::from_millis(5));
        let expired: u64 = (0..4).map(|_| blue.tidy().unwrap().expired).sum();
        assert_eq!(expired, 5000);
        let file = Connection::open(bench.file()).unwrap();
        let left: i64 = file
            .query_row("select count(*) from session", [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, 0);
    });
}
