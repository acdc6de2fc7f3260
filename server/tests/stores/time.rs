//! What is forgotten, and when.

use std::{thread, time::Duration};

use tally_server::session::Outcome::{Saved, Unknown};
use uuid::Uuid;

use crate::bench::{Bench, Words, awaiting, held, saved};

crate::on_every_store!(
    what_was_not_saved_for_the_time_to_live_is_forgotten,
    a_save_renews_the_time,
    an_expired_session_begins_anew,
    where_parked_sessions_are_counted_the_oldest_surplus_goes,
);

fn what_was_not_saved_for_the_time_to_live_is_forgotten(bench: &mut Bench) {
    bench.ttl = Duration::from_millis(200);
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let (open, parked) = (Uuid::new_v4(), Uuid::new_v4());
    blue.save(open, 1, 5);
    blue.park(parked, 1, 5);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(green.claim(open), Unknown);
    assert_eq!(green.claim(parked), Unknown);
    let tidied = green.tidy().unwrap();
    assert!(matches!(tidied.parked, None | Some(0)), "{tidied:?}");
    assert_eq!(blue.wanted().unwrap(), []);
}

fn a_save_renews_the_time(bench: &mut Bench) {
    bench.ttl = Duration::from_millis(600);
    let mut blue = bench.open("blue");
    let id = Uuid::new_v4();
    blue.save(id, 1, 1);
    for count in 2..6 {
        thread::sleep(Duration::from_millis(200));
        assert_eq!(blue.save(id, 1, count), Saved);
    }
    assert_eq!(blue.claim(id), awaiting(2, 1, "blue"));
}

fn an_expired_session_begins_anew(bench: &mut Bench) {
    bench.ttl = Duration::from_millis(200);
    let mut blue = bench.open("blue");
    let id = Uuid::new_v4();
    blue.save(id, 7, 90);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(blue.save(id, 2, 3), Saved);
    assert_eq!(blue.park(id, 2, 4), Saved);
    assert_eq!(blue.claim(id), held(3, 4));
}

fn where_parked_sessions_are_counted_the_oldest_surplus_goes(bench: &mut Bench) {
    bench.parked_max = 3;
    let mut blue = bench.open("blue");
    let ids: Vec<Uuid> = (0..5).map(|_| Uuid::new_v4()).collect();
    let open = Uuid::new_v4();
    blue.save(open, 1, 1);
    for id in &ids {
        blue.one(saved(*id, 1, 1, true));
        thread::sleep(Duration::from_millis(2));
    }
    let tidied = blue.tidy().unwrap();
    let Some(parked) = tidied.parked else {
        assert_eq!(tidied.evicted, 0, "a store that cannot count evicts none");
        return;
    };
    assert_eq!((parked, tidied.evicted, tidied.expired), (3, 2, 0));
    let outcomes: Vec<_> = ids.iter().map(|id| blue.claim(*id)).collect();
    let kept = held(2, 1);
    assert_eq!(outcomes[..2], [Unknown, Unknown]);
    assert_eq!(outcomes[2..], [kept.clone(), kept.clone(), kept]);
    assert_eq!(blue.claim(open), awaiting(2, 1, "blue"));
}
