//! A store that is away, and comes back.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tally_server::{
    session::Outcome::{Saved, Unknown},
    store::{Op, Place, ROUND_TRIP_MAX, Store, open},
};
use uuid::Uuid;

use crate::bench::{Bench, Words, awaiting, held, saved, with_redis, with_sqlite};

/// Every question fails, and none takes much longer than a round trip may.
fn is_down(store: &mut Box<dyn Store>, id: Uuid) {
    let in_time = |what: &str, begun: Instant| {
        let took = begun.elapsed();
        let bound = ROUND_TRIP_MAX + Duration::from_millis(500);
        assert!(took < bound, "{what} took {took:?}");
    };
    let begun = Instant::now();
    assert!(store.apply(&[Op::Claim(id)]).is_err());
    in_time("apply", begun);
    let begun = Instant::now();
    assert!(store.tidy().is_err());
    in_time("tidy", begun);
}

#[test]
fn a_redis_that_starts_anew_has_everything_and_the_handle_goes_on() {
    with_redis(|bench| {
        let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
        let ids = [(); 3].map(|()| Uuid::new_v4());
        for id in ids {
            blue.save(id, 1, 7);
        }
        let generation = blue.tidy().unwrap().generation;
        bench.server().kill();
        is_down(&mut blue, ids[0]);
        assert!(blue.wanted().is_err());
        assert!(blue.apply(&[saved(ids[0], 1, 8, false)]).is_err());
        bench.server().restart();
        // At once, as if nothing had been, and without its scripts.
        assert_eq!(blue.save(ids[0], 1, 9), Saved);
        assert_eq!(blue.tidy().unwrap().generation, generation);
        // This one has not noticed that the server was away.
        assert_eq!(green.claim(ids[1]), awaiting(2, 1, "blue"));
        assert_eq!(blue.wanted().unwrap(), [(ids[1], 1)]);
        assert_eq!(blue.park(ids[2], 1, 8), Saved);
        assert_eq!(green.claim(ids[2]), held(2, 8));
    });
}

#[test]
fn a_redis_need_not_be_there_yet() {
    with_redis(|bench| {
        bench.server().kill();
        let mut blue = bench.open("blue");
        let id = Uuid::new_v4();
        is_down(&mut blue, id);
        bench.server().restart();
        assert_eq!(blue.claim(id), Unknown);
    });
}

#[test]
fn a_redis_that_says_nothing_counts_as_down() {
    with_redis(|bench| {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let place = Place::Redis(format!("redis://{}", silent.local_addr().unwrap()));
        let mut blue = open(&place, bench.settings("blue")).unwrap();
        is_down(&mut blue, Uuid::new_v4());
    });
}

/// It accepts what is sent, and answers later than anybody waits.
#[test]
fn a_redis_that_stops_answering_counts_as_down_until_it_goes_on() {
    with_redis(|bench| {
        let mut blue = bench.open("blue");
        let id = Uuid::new_v4();
        blue.save(id, 1, 3);
        let begun = Instant::now();
        bench.server().pause(Duration::from_millis(2500));
        is_down(&mut blue, id);
        while blue.apply(&[saved(id, 1, 4, true)]).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "it does not recover"
            );
        }
        // The claim that nobody waited for has been heard, or not.
        let outcome = bench.open("green").claim(id);
        assert!(
            outcome == held(2, 4) || outcome == awaiting(3, 2, "blue"),
            "{outcome:?}"
        );
    });
}

#[test]
fn a_redis_that_has_forgotten_the_scripts_is_taught_them_again() {
    with_redis(|bench| {
        let mut blue = bench.open("blue");
        let id = Uuid::new_v4();
        blue.save(id, 1, 3);
        bench.server().command(&["SCRIPT", "FLUSH"]);
        assert_eq!(blue.park(id, 1, 4), Saved);
        bench.server().command(&["SCRIPT", "FLUSH"]);
        assert_eq!(blue.claim(id), held(2, 4));
    });
}

#[test]
fn a_sqlite_file_that_is_locked_counts_as_down_until_it_is_let_go() {
    with_sqlite(|bench: &mut Bench| {
        let mut blue = bench.open("blue");
        let id = Uuid::new_v4();
        blue.save(id, 1, 3);
        let other = Connection::open(bench.file()).unwrap();
        other.execute_batch("begin immediate").unwrap();
        is_down(&mut blue, id);
        assert_eq!(blue.wanted().unwrap(), [], "reading goes on");
        other.execute_batch("rollback").unwrap();
        assert_eq!(blue.park(id, 1, 4), Saved);
        assert_eq!(blue.claim(id), held(2, 4));
    });
}

#[test]
fn a_sqlite_file_is_all_there_when_it_is_opened_again() {
    with_sqlite(|bench: &mut Bench| {
        bench.durable = true;
        let id = Uuid::new_v4();
        let mut blue = bench.open("blue");
        let generation = blue.tidy().unwrap().generation;
        blue.save(id, 1, 3);
        drop(blue);
        let mut green = bench.open("green");
        assert_eq!(green.claim(id), awaiting(2, 1, "blue"));
        assert_eq!(green.tidy().unwrap().generation, generation);
    });
}
