//! What only a cluster does: a master dies, a replica takes its place, and keys lie on several nodes.

use tally_server::{
    session::Outcome::Saved,
    store::{Op, Store},
};
use uuid::Uuid;

use crate::bench::{Bench, Words, awaiting, held, saved, with_cluster};

/// So many that each node has some.
const SESSIONS: usize = 50;

fn all(store: &mut Box<dyn Store>, op: impl Fn(Uuid) -> Op, ids: &[Uuid]) -> bool {
    let ops: Vec<Op> = ids.iter().map(|id| op(*id)).collect();
    store
        .apply(&ops)
        .is_ok_and(|outcomes| outcomes.iter().all(|outcome| *outcome == Saved))
}

#[test]
fn a_master_that_dies_costs_no_session_once_its_replica_has_taken_over() {
    with_cluster(|bench: &mut Bench| {
        let (mut blue, mut green) = (bench.open("blue"), bench.open("green"));
        let ids: Vec<Uuid> = (0..SESSIONS).map(|_| Uuid::new_v4()).collect();
        assert!(all(&mut blue, |id| saved(id, 1, 7, false), &ids));
        let generation = blue.tidy().unwrap().generation;
        assert_eq!(green.claim(ids[0]), awaiting(2, 1, "blue"));
        assert_eq!(blue.wanted().unwrap(), [(ids[0], 1)]);

        bench.cluster().kill_first_master();
        let park = |id| saved(id, 1, 9, true);
        assert!(!all(&mut blue, park, &ids[1..]), "half of it is away");
        assert!(blue.tidy().is_err());

        bench.cluster().promote_replica();
        // What was told in between may have been heard, and is told again.
        assert!(all(&mut blue, park, &ids[1..]));
        for id in &ids[1..] {
            assert_eq!(green.claim(*id), held(2, 9));
        }
        assert_eq!(
            blue.tidy().unwrap().generation,
            generation,
            "nothing was wiped"
        );
        assert_eq!(green.collect(ids[0], 2), awaiting(2, 1, "blue"));
        assert_eq!(blue.park(ids[0], 1, 8), Saved);
        assert_eq!(green.collect(ids[0], 2), held(2, 8));

        bench.cluster().bring_first_back();
        assert!(all(&mut green, |id| saved(id, 2, 10, true), &ids));
        assert_eq!(blue.claim(ids[1]), held(3, 10));
    });
}

#[test]
fn a_node_that_comes_back_empty_is_noticed() {
    with_cluster(|bench: &mut Bench| {
        let mut blue = bench.open("blue");
        let before = blue.tidy().unwrap().generation;
        assert_eq!(blue.tidy().unwrap().generation, before);
        bench.cluster().wipe_first_master();
        assert_ne!(blue.tidy().unwrap().generation, before);
    });
}
