//! Every release reads what the one before has left, and leaves alone what the next one adds.

use rusqlite::Connection;
use tally_server::{
    session::Outcome::{Fenced, Saved},
    store::{Place, open},
};
use uuid::Uuid;

use crate::bench::{Bench, Words, awaiting, held, with_redis, with_sqlite};

const SQLITE_1_0: &str = include_str!("fixtures/sqlite-1.0.sql");
const SQLITE_1_1: &str = include_str!("fixtures/sqlite-1.1.sql");
const REDIS_1_0: &str = include_str!("fixtures/redis-1.0.txt");
const REDIS_1_1: &str = include_str!("fixtures/redis-1.1.txt");

const GENERATION: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
const OPEN: Uuid = Uuid::from_u128(1);
const PARKED: Uuid = Uuid::from_u128(2);
const AWAITED: Uuid = Uuid::from_u128(3);

fn fill_sqlite(bench: &Bench, scripts: &[&str]) {
    let file = Connection::open(bench.file()).unwrap();
    for script in scripts {
        file.execute_batch(script).unwrap();
    }
}

fn fill_redis(bench: &mut Bench, lists: &[&str]) {
    for line in lists.iter().flat_map(|list| list.lines()) {
        let words: Vec<&str> = line.split(' ').collect();
        bench.server().command(&words);
    }
}

/// What the fixtures hold, gone through once.
fn goes_on(bench: &Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    assert_eq!(blue.tidy().unwrap().generation, GENERATION);
    assert_eq!(blue.wanted().unwrap(), [(AWAITED, 5)]);
    assert_eq!(blue.save(OPEN, 3, 31), Saved);
    assert_eq!(green.claim(OPEN), awaiting(4, 3, "blue"));
    assert_eq!(blue.park(OPEN, 3, 32), Saved);
    assert_eq!(green.collect(OPEN, 4), held(4, 32));
    assert_eq!(green.claim(PARKED), held(5, 40));
    assert_eq!(green.collect(AWAITED, 6), awaiting(6, 5, "blue"));
    assert_eq!(blue.park(AWAITED, 5, 55), Saved);
    assert_eq!(green.collect(AWAITED, 6), held(6, 55));
    assert_eq!(blue.save(AWAITED, 5, 56), Fenced);
}

#[test]
fn a_sqlite_file_of_format_1_0_is_read() {
    with_sqlite(|bench| {
        fill_sqlite(bench, &[SQLITE_1_0]);
        goes_on(bench);
    });
}

#[test]
fn a_redis_of_format_1_0_is_read() {
    with_redis(|bench| {
        fill_redis(bench, &[REDIS_1_0]);
        goes_on(bench);
    });
}

#[test]
fn what_the_next_release_adds_to_a_sqlite_file_is_left_alone() {
    with_sqlite(|bench| {
        fill_sqlite(bench, &[SQLITE_1_0, SQLITE_1_1]);
        goes_on(bench);
        let file = Connection::open(bench.file()).unwrap();
        let kept: i64 = file
            .query_row(
                "select count(*) from session where format = 101 and agent = 'firefox'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(kept, 3);
        let format: i64 = file
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(format, 101);
    });
}

#[test]
fn what_the_next_release_adds_to_a_redis_is_left_alone() {
    with_redis(|bench| {
        fill_redis(bench, &[REDIS_1_0, REDIS_1_1]);
        goes_on(bench);
        for id in [OPEN, PARKED, AWAITED] {
            let key = format!("tally:session:{{{id}}}");
            let kept = bench.server().command(&["HMGET", &key, "format", "agent"]);
            assert!(kept.contains("101") && kept.contains("firefox"), "{kept}");
        }
    });
}

/// This release's own files have to look like the fixtures, or those are not what is out there.
#[test]
fn a_new_sqlite_file_has_the_tables_of_the_fixture() {
    let tables = |bench: &Bench| {
        let file = Connection::open(bench.file()).unwrap();
        let mut statement = file
            .prepare("select sql from sqlite_schema where sql is not null order by name")
            .unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        rows.unwrap()
            .map(|sql| {
                sql.unwrap()
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect::<Vec<_>>()
    };
    with_sqlite(|fixture| {
        fill_sqlite(fixture, &[SQLITE_1_0]);
        with_sqlite(|bench| {
            bench.open("blue");
            assert_eq!(tables(bench), tables(fixture));
        });
    });
}

#[test]
fn a_sqlite_file_of_an_unknown_major_is_refused_and_named() {
    with_sqlite(|bench| {
        fill_sqlite(bench, &[SQLITE_1_0, "pragma user_version = 200"]);
        let refused = open(&bench.place(), bench.settings("blue"))
            .err()
            .unwrap()
            .0;
        assert!(
            refused.contains("sessions.sqlite has format 2.0"),
            "{refused}"
        );
    });
}

#[test]
fn a_session_of_an_unknown_major_is_refused_and_kept() {
    with_sqlite(|bench| {
        fill_sqlite(bench, &[SQLITE_1_0, "update session set format = 200"]);
        refuses_what_it_cannot_read(bench);
        fill_sqlite(bench, &["update session set format = 100"]);
        goes_on(bench);
    });
    with_redis(|bench| {
        let key = format!("tally:session:{{{OPEN}}}");
        fill_redis(bench, &[REDIS_1_0]);
        bench.server().command(&["HSET", &key, "format", "200"]);
        refuses_what_it_cannot_read(bench);
        bench.server().command(&["HSET", &key, "format", "100"]);
        goes_on(bench);
    });
}

fn refuses_what_it_cannot_read(bench: &Bench) {
    let mut blue = bench.open("blue");
    for op in [
        crate::bench::saved(OPEN, 3, 99, false),
        tally_server::store::Op::Claim(OPEN),
    ] {
        let refused = blue.apply(&[op]).unwrap_err().0;
        assert!(refused.contains("has format 2.0"), "{refused}");
    }
}

#[test]
fn a_store_is_named_as_the_setting_says() {
    let place = |text: &str| text.parse::<Place>();
    assert_eq!(place("memory"), Ok(Place::Memory));
    assert_eq!(place("sqlite:/x/y"), Ok(Place::Sqlite("/x/y".into())));
    for url in [
        "redis://127.0.0.1:6379/0",
        "redis://store",
        "redis://user:secret@store:7000/3",
        "rediss://store:6380",
    ] {
        assert_eq!(place(url), Ok(Place::Redis(url.into())));
    }
    for nonsense in [
        "",
        "Memory",
        "sqlite:",
        "redis:",
        "redis://",
        "redis://store:port",
        "redis://store/database",
        "http://store",
        "postgres://store",
    ] {
        assert_eq!(place(nonsense), Err(()), "{nonsense}");
    }
}

#[test]
fn a_password_is_not_shown() {
    with_sqlite(|bench| {
        for url in [
            "redis://user:secret@127.0.0.1:1/3",
            "redis://:se@cret@127.0.0.1:1",
            "redis://127.0.0.1:1/0?x=secret",
        ] {
            let place: Place = url.parse().unwrap();
            let mut store = open(&place, bench.settings("blue")).unwrap();
            let error = store.tidy().unwrap_err();
            for shown in [format!("{place:?} {place}"), format!("{error} {error:?}")] {
                assert!(!shown.contains("cret"), "{shown}");
                assert!(shown.contains("127.0.0.1:1"), "{shown}");
            }
        }
        let tls = "rediss://:secret@127.0.0.1:1".parse().unwrap();
        let refused = open(&tls, bench.settings("blue")).err().unwrap().0;
        assert!(
            refused.contains("TLS") && !refused.contains("secret"),
            "{refused}"
        );
    });
}
