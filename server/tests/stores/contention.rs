//! Two owners at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tally_server::{
    session::{Epoch, Outcome},
    store::Store,
};
use uuid::Uuid;

use crate::bench::{Bench, Words, held, saved};

crate::on_every_store!(
    two_who_fight_for_a_session_never_hold_it_both_and_lose_no_count,
    a_claim_gets_in_between_the_batches_of_a_drain,
);

const ROUNDS: u32 = 100;

/// The other side hands over at once, unless it has failed.
const HAND_OVER_MAX: Duration = Duration::from_secs(20);

fn two_who_fight_for_a_session_never_hold_it_both_and_lose_no_count(bench: &mut Bench) {
    let id = Uuid::new_v4();
    bench.open("maker").park(id, 1, 0);
    let sides = ["blue", "green"].map(|name| bench.open(name));
    let fights = sides.map(|side| thread::spawn(move || fight(side, id)));
    let mut holdings = HashMap::new();
    let mut counted = 0;
    for fight in fights {
        for (epoch, begun, ended) in fight.join().unwrap() {
            counted += ended - begun;
            let taken = holdings.insert(epoch, (begun, ended));
            assert_eq!(taken, None, "two held epoch {epoch}");
        }
    }
    let mut order: Vec<_> = holdings.into_iter().collect();
    order.sort_unstable();
    for pair in order.windows(2) {
        let [(_, (_, ended)), (epoch, (begun, _))] = pair else {
            unreachable!("windows of two");
        };
        assert_eq!(
            begun, ended,
            "epoch {epoch} did not begin where the last one ended"
        );
    }
    let last = bench.open("judge").claim(id);
    assert!(
        matches!(last, Outcome::Held { count, .. } if count == counted),
        "{last:?}"
    );
}

/// Claims the session again and again, counts a little, and hands over. Tells what was held.
fn fight(mut store: Box<dyn Store>, id: Uuid) -> Vec<(Epoch, u64, u64)> {
    let mut holdings = Vec::new();
    for _ in 0..ROUNDS {
        let mut outcome = store.claim(id);
        let claimed = match outcome {
            Outcome::Held { epoch, .. } | Outcome::Awaiting { epoch, .. } => epoch,
            _ => panic!("a claim was answered with {outcome:?}"),
        };
        let begun = Instant::now();
        while let Outcome::Awaiting { epoch, .. } = outcome {
            assert!(begun.elapsed() < HAND_OVER_MAX, "nobody hands over {epoch}");
            // As in earnest: SQLite lets nobody in before who never pauses.
            thread::sleep(Duration::from_millis(1));
            outcome = store.collect(id, epoch);
        }
        let Outcome::Held {
            epoch,
            count: begun,
        } = outcome
        else {
            // The next one may wait for it, although it never had anything to hand over.
            assert_eq!(outcome, Outcome::Lost);
            store.park(id, claimed, 0);
            continue;
        };
        assert_eq!(epoch, claimed);
        let mut count = begun;
        for _ in 0..3 {
            count += 1;
            if store.save(id, epoch, count) == Outcome::Fenced {
                break;
            }
        }
        count += 1;
        assert_eq!(store.park(id, epoch, count), Outcome::Saved);
        holdings.push((epoch, begun, count));
    }
    holdings
}

/// As the other colour does without a pause while it drains, or catches up with a store.
fn a_claim_gets_in_between_the_batches_of_a_drain(bench: &mut Bench) {
    let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
    let id = Uuid::new_v4();
    green.park(id, 1, 5);
    let done = Arc::new(AtomicBool::new(false));
    let (begun, begins) = mpsc::channel();
    let drain = thread::spawn({
        let done = done.clone();
        move || {
            let ids: Vec<Uuid> = (0..5000).map(|_| Uuid::new_v4()).collect();
            let batch: Vec<_> = ids.iter().map(|id| saved(*id, 1, 9, true)).collect();
            while !done.load(Ordering::Relaxed) {
                blue.apply(&batch).unwrap();
                begun.send(()).unwrap();
            }
        }
    });
    begins.recv().unwrap();
    for epoch in 2..20 {
        assert_eq!(green.claim(id), held(epoch, 5));
        assert_eq!(green.park(id, epoch, 5), Outcome::Saved);
    }
    done.store(true, Ordering::Relaxed);
    drain.join().unwrap();
}
