//! The rules of a session, through the store.

use tally_server::{
    session::Outcome::{Fenced, Lost, Saved, Unknown},
    store::Op,
};
use uuid::Uuid;

use crate::bench::{Bench, Words, awaiting, held, saved};

crate::on_every_store!(
    a_parked_session_goes_on_with_another_owner,
    what_nobody_saved_is_unknown,
    a_holder_hands_over_before_the_next_one_goes_on,
    who_waits_no_longer_takes_the_last_count,
    of_two_who_claim_the_later_one_gets_it,
    within_an_epoch_the_order_does_not_matter,
    a_session_goes_round_three_owners,
    a_session_is_claimed_from_oneself,
    a_higher_epoch_is_believed,
    of_two_with_the_same_epoch_the_holder_is_believed,
    what_is_parked_may_be_told_by_another_process,
    the_old_holder_hears_what_is_wanted_of_it,
    a_batch_of_thousands_is_one_round_trip,
    a_batch_is_done_in_its_order,
    after_a_wipe_there_is_another_generation_and_everything_can_be_saved_again,
    an_empty_batch_is_done_at_once,
);

fn a_parked_session_goes_on_with_another_owner(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let id = Uuid::new_v4();
    assert_eq!(blue.save(id, 1, 0), Saved);
    assert_eq!(blue.park(id, 1, 41), Saved);
    assert_eq!(green.claim(id), held(2, 41));
    assert_eq!(green.save(id, 2, 42), Saved);
    assert_eq!(blue.save(id, 1, 50), Fenced);
    assert_eq!(blue.park(id, 1, 50), Fenced);
    assert_eq!(green.park(id, 2, 43), Saved);
    assert_eq!(blue.claim(id), held(3, 43));
}

fn what_nobody_saved_is_unknown(bench: &mut Bench) {
    let mut blue = bench.open("blue");
    let id = Uuid::new_v4();
    assert_eq!(blue.claim(id), Unknown);
    assert_eq!(blue.collect(id, 2), Unknown);
    assert_eq!(blue.take(id, 2), Unknown);
    assert_eq!(blue.claim(id), Unknown, "asking makes no session");
}

fn a_holder_hands_over_before_the_next_one_goes_on(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let id = Uuid::new_v4();
    blue.save(id, 1, 3);
    assert_eq!(green.claim(id), awaiting(2, 1, "blue"));
    assert_eq!(green.collect(id, 2), awaiting(2, 1, "blue"));
    assert_eq!(blue.save(id, 1, 5), Fenced);
    assert_eq!(green.collect(id, 2), awaiting(2, 1, "blue"));
    assert_eq!(blue.park(id, 1, 7), Saved);
    assert_eq!(green.collect(id, 2), held(2, 7));
    assert_eq!(blue.park(id, 1, 9), Fenced);
    assert_eq!(green.collect(id, 2), held(2, 7));
}

fn who_waits_no_longer_takes_the_last_count(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let id = Uuid::new_v4();
    blue.save(id, 1, 5);
    assert_eq!(green.claim(id), awaiting(2, 1, "blue"));
    assert_eq!(blue.save(id, 1, 6), Fenced);
    assert_eq!(green.take(id, 2), held(2, 6));
    assert_eq!(blue.park(id, 1, 8), Fenced);
    assert_eq!(green.collect(id, 2), held(2, 6));
}

fn of_two_who_claim_the_later_one_gets_it(bench: &mut Bench) {
    let mut blue = bench.open("blue");
    let (mut green, mut red) = (bench.open("green"), bench.open("red"));
    let id = Uuid::new_v4();
    blue.save(id, 1, 1);
    assert_eq!(green.claim(id), awaiting(2, 1, "blue"));
    assert_eq!(red.claim(id), awaiting(3, 1, "blue"));
    assert_eq!(green.collect(id, 2), Lost);
    assert_eq!(green.take(id, 2), Lost);
    assert_eq!(green.park(id, 2, 9), Fenced);
    assert_eq!(blue.park(id, 1, 7), Saved);
    assert_eq!(red.collect(id, 3), held(3, 7));
}

fn within_an_epoch_the_order_does_not_matter(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let mut words = [(3, false), (9, true), (7, false)];
    for _ in 0..words.len() {
        words.rotate_left(1);
        let id = Uuid::new_v4();
        for (count, parked) in words {
            assert_eq!(blue.one(saved(id, 1, count, parked)), Saved);
        }
        assert_eq!(green.claim(id), held(2, 9), "{words:?}");
    }
}

fn a_session_goes_round_three_owners(bench: &mut Bench) {
    let mut owners = ["blue", "green", "red"].map(|name| bench.open(name));
    let id = Uuid::new_v4();
    owners[0].save(id, 1, 0);
    for epoch in 1..10_u32 {
        let count = u64::from(epoch) * 10;
        let holder = epoch as usize - 1;
        assert_eq!(owners[holder % 3].park(id, epoch, count), Saved);
        assert_eq!(owners[(holder + 1) % 3].claim(id), held(epoch + 1, count));
    }
}

/// A client that comes back while its old connection is not yet seen to be gone.
fn a_session_is_claimed_from_oneself(bench: &mut Bench) {
    let mut blue = bench.open("blue");
    let id = Uuid::new_v4();
    blue.save(id, 1, 4);
    assert_eq!(blue.claim(id), awaiting(2, 1, "blue"));
    assert_eq!(blue.wanted().unwrap(), [(id, 1)]);
    assert_eq!(blue.park(id, 1, 5), Saved);
    assert_eq!(blue.collect(id, 2), held(2, 5));
}

/// The store was put back to what it was some time ago.
fn a_higher_epoch_is_believed(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let id = Uuid::new_v4();
    blue.save(id, 1, 40);
    assert_eq!(green.save(id, 7, 30), Saved);
    assert_eq!(blue.save(id, 1, 50), Fenced);
    assert_eq!(blue.claim(id), awaiting(8, 7, "green"));
    assert_eq!(green.park(id, 7, 31), Saved);
    assert_eq!(blue.collect(id, 8), held(8, 40));
    // And so is a claimant's.
    assert_eq!(green.collect(id, 12), awaiting(12, 8, "blue"));
    assert_eq!(blue.park(id, 8, 45), Saved);
    assert_eq!(green.collect(id, 12), held(12, 45));
}

/// After a wipe, two may have been given the same epoch.
fn of_two_with_the_same_epoch_the_holder_is_believed(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let id = Uuid::new_v4();
    blue.save(id, 2, 5);
    assert_eq!(green.save(id, 2, 9), Fenced);
    assert_eq!(green.collect(id, 2), Lost);
    assert_eq!(blue.park(id, 2, 6), Saved);
    assert_eq!(green.collect(id, 2), Lost);
    assert_eq!(green.claim(id), held(3, 6));
}

/// In the place of a process that has ended without its store.
fn what_is_parked_may_be_told_by_another_process(bench: &mut Bench) {
    let (mut blue, mut next) = (bench.open("blue-1"), bench.open("blue-2"));
    let id = Uuid::new_v4();
    blue.save(id, 1, 5);
    assert_eq!(next.park(id, 1, 9), Saved);
    assert_eq!(next.claim(id), held(2, 9));
}

fn the_old_holder_hears_what_is_wanted_of_it(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let ids: Vec<Uuid> = (0..1500).map(|_| Uuid::new_v4()).collect();
    let opened: Vec<_> = ids.iter().map(|id| saved(*id, 1, 1, false)).collect();
    blue.apply(&opened).unwrap();
    assert_eq!(blue.wanted().unwrap(), []);
    let claims: Vec<_> = ids.iter().map(|id| Op::Claim(*id)).collect();
    for outcome in green.apply(&claims).unwrap() {
        assert_eq!(outcome, awaiting(2, 1, "blue"));
    }
    assert_eq!(green.wanted().unwrap(), []);
    // Some at a time: it asks again once it has let go of those.
    let mut left: std::collections::HashSet<Uuid> = ids.into_iter().collect();
    for _ in 0..5 {
        let wanted = blue.wanted().unwrap();
        for (id, epoch) in &wanted {
            assert_eq!(*epoch, 1);
            left.remove(id);
        }
        let parked: Vec<_> = wanted
            .iter()
            .map(|(id, _)| saved(*id, 1, 2, true))
            .collect();
        blue.apply(&parked).unwrap();
    }
    assert!(left.is_empty(), "{} were not told", left.len());
    assert_eq!(blue.wanted().unwrap(), []);
}

fn a_batch_of_thousands_is_one_round_trip(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let ids: Vec<Uuid> = (0..5000).map(|_| Uuid::new_v4()).collect();
    let all = |count: u64, parked| {
        let words = ids.iter().zip(0..);
        words
            .map(|(id, n)| saved(*id, 1, count + n, parked))
            .collect::<Vec<_>>()
    };
    for (count, parked) in [(0, false), (10, false), (20, true)] {
        let outcomes = blue.apply(&all(count, parked)).unwrap();
        assert_eq!(outcomes.len(), ids.len());
        assert!(outcomes.iter().all(|outcome| *outcome == Saved));
    }
    let claims: Vec<_> = ids.iter().map(|id| Op::Claim(*id)).collect();
    for (outcome, n) in green.apply(&claims).unwrap().into_iter().zip(0..) {
        assert_eq!(outcome, held(2, 20 + n));
    }
}

fn a_batch_is_done_in_its_order(bench: &mut Bench) {
    let mut blue = bench.open("blue");
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let claim = Op::Claim;
    let outcomes = blue.apply(&[
        claim(one),
        saved(one, 1, 1, false),
        saved(two, 1, 5, false),
        saved(one, 1, 2, true),
        claim(one),
        saved(one, 1, 3, true),
        saved(one, 2, 4, false),
        claim(two),
        claim(one),
    ]);
    let expected = [
        Unknown,
        Saved,
        Saved,
        Saved,
        held(2, 2),
        Fenced,
        Saved,
        awaiting(2, 1, "blue"),
        awaiting(3, 2, "blue"),
    ];
    assert_eq!(outcomes.unwrap(), expected);
}

fn after_a_wipe_there_is_another_generation_and_everything_can_be_saved_again(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let id = Uuid::new_v4();
    let generation = blue.tidy().unwrap().generation;
    assert_eq!(green.tidy().unwrap().generation, generation);
    blue.save(id, 1, 5);
    assert_eq!(green.claim(id), awaiting(2, 1, "blue"));
    assert_eq!(blue.tidy().unwrap().generation, generation);
    bench.wipe();
    assert_eq!(green.collect(id, 2), Unknown);
    assert_eq!(blue.save(id, 1, 6), Saved);
    assert_eq!(green.collect(id, 2), awaiting(2, 1, "blue"));
    assert_eq!(blue.park(id, 1, 7), Saved);
    assert_eq!(green.collect(id, 2), held(2, 7));
    let another = green.tidy().unwrap().generation;
    assert_ne!(another, generation);
    assert_eq!(blue.tidy().unwrap().generation, another);
}

fn an_empty_batch_is_done_at_once(bench: &mut Bench) {
    assert_eq!(bench.open("blue").apply(&[]).unwrap(), []);
}
