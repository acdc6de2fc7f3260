//! A store and the pure rules are told the same, and have to answer the same.

use std::{cell::RefCell, collections::HashMap};

use proptest::prelude::*;
use tally_server::{
    session::{self, Epoch, Outcome, Owner, Session},
    store::{Op, Store},
};
use uuid::Uuid;

use crate::bench::{Bench, saved};

crate::on_every_store!(any_sequence_of_words_has_the_outcomes_of_the_rules);

const OWNERS: [&str; 3] = ["blue", "green", "red"];
const SESSIONS: usize = 4;
const CASES: u32 = 150;

/// A word, with small numbers in place of ids: the test's sessions are made anew for each case.
#[derive(Clone, Debug)]
enum Word {
    Save {
        session: usize,
        epoch: Epoch,
        count: u64,
        parked: bool,
    },
    Claim(usize),
    Collect {
        session: usize,
        epoch: Epoch,
        last: bool,
    },
}

fn word() -> impl Strategy<Value = Word> {
    let session = 0..SESSIONS;
    let epoch = 1..7_u32;
    let count = prop_oneof![0..40_u64, Just(1 << 40), Just((1 << 53) - 1)];
    prop_oneof![
        3 => (session.clone(), epoch.clone(), count, any::<bool>()).prop_map(
            |(session, epoch, count, parked)| Word::Save { session, epoch, count, parked },
        ),
        2 => session.clone().prop_map(Word::Claim),
        2 => (session, epoch, any::<bool>()).prop_map(
            |(session, epoch, last)| Word::Collect { session, epoch, last },
        ),
    ]
}

/// Batches, each with the number of the owner whose they are.
fn conversation() -> impl Strategy<Value = Vec<(usize, Vec<Word>)>> {
    let batch = prop::collection::vec(word(), 1..6);
    prop::collection::vec((0..OWNERS.len(), batch), 1..20)
}

fn any_sequence_of_words_has_the_outcomes_of_the_rules(bench: &mut Bench) {
    let stores = RefCell::new(OWNERS.map(|name| bench.open(name)));
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(batches in conversation())| {
        let mut stores = stores.borrow_mut();
        let ids: Vec<Uuid> = (0..SESSIONS).map(|_| Uuid::new_v4()).collect();
        let mut model = HashMap::new();
        for (owner, words) in &batches {
            let ops: Vec<Op> = words.iter().map(|word| op_of(word, &ids)).collect();
            let by = Owner::named(OWNERS[*owner]);
            let expected: Vec<_> = ops.iter().map(|op| by_the_rules(&mut model, op, &by)).collect();
            prop_assert_eq!(stores[*owner].apply(&ops).unwrap(), expected);
        }
        prop_assert!(wanted_is_told(&mut stores, &model));
        // Two claims by a stranger bring the rest to light: the epoch, the count, the holder.
        let stranger = Owner::named(OWNERS[0]);
        for id in ids {
            for _ in 0..2 {
                let op = Op::Claim(id);
                let expected = by_the_rules(&mut model, &op, &stranger);
                prop_assert_eq!(stores[0].apply(&[op]).unwrap(), vec![expected]);
            }
        }
    });
}

fn op_of(word: &Word, ids: &[Uuid]) -> Op {
    match *word {
        Word::Save {
            session,
            epoch,
            count,
            parked,
        } => saved(ids[session], epoch, count, parked),
        Word::Claim(session) => Op::Claim(ids[session]),
        Word::Collect {
            session,
            epoch,
            last,
        } => Op::Collect {
            id: ids[session],
            epoch,
            last,
        },
    }
}

fn by_the_rules(model: &mut HashMap<Uuid, Option<Session>>, op: &Op, by: &Owner) -> Outcome {
    let id = match *op {
        Op::Save(save) => save.id,
        Op::Claim(id) | Op::Collect { id, .. } => id,
    };
    let known = model.entry(id).or_default();
    match *op {
        Op::Save(save) => session::save(known, &save, by),
        Op::Claim(_) => session::claim(known, by),
        Op::Collect { epoch, last, .. } => session::collect(known, epoch, last, by),
    }
}

/// Whoever is awaited is told so; a store may tell of what is over as well.
fn wanted_is_told(
    stores: &mut [Box<dyn Store>; 3],
    model: &HashMap<Uuid, Option<Session>>,
) -> bool {
    let names = OWNERS.iter().zip(stores);
    names.into_iter().all(|(name, store)| {
        let told = store.wanted().unwrap();
        model.iter().all(|(id, known)| {
            let awaited = known.as_ref().and_then(|known| known.awaited.as_ref());
            match awaited {
                Some(awaited) if awaited.from.as_str() == *name => {
                    told.contains(&(*id, awaited.epoch))
                }
                _ => true,
            }
        })
    })
}
