//! The hand-over of a session among processes, played through at random: messages, saves that come
//! late or out of order, claims at the same time, crashes, a store that was wiped.

use proptest::{collection::vec, prelude::*, test_runner::Config};
use tally_server::session::{self, Epoch, Outcome, Owner, Save, Session};
use uuid::Uuid;

const PROCESSES: usize = 3;

/// What can happen next, in one of the processes.
#[derive(Clone, Copy, Debug)]
enum Event {
    Message,
    Checkpoint,
    /// The connection ends.
    Park,
    /// One of the words under way arrives at the store, whichever.
    Arrive(usize),
    /// The process asks who wants its sessions.
    Wanted,
    /// The client comes back.
    Claim,
    Collect,
    /// The process waits no longer for the old holder.
    CollectLast,
    Crash,
    Wipe,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    epoch: Epoch,
    count: u64,
}

/// One process with its part in the one session that this is about.
#[derive(Debug)]
struct Process {
    owner: Owner,
    lease: Option<Lease>,
    claimed: Option<Epoch>,
    under_way: Vec<Save>,
}

impl Process {
    fn start(number: usize) -> Self {
        Self {
            owner: Owner::new(&format!("p{number}")),
            lease: None,
            claimed: None,
            under_way: Vec::new(),
        }
    }

    fn tell(&mut self, lease: Lease, parked: bool) {
        self.under_way.push(Save {
            id: Uuid::nil(),
            epoch: lease.epoch,
            count: lease.count,
            parked,
        });
    }

    /// Checkpoints overtake and are overtaken; the ends of connections keep their order.
    fn arriving(&mut self, which: usize) -> Option<Save> {
        let which = which.checked_rem(self.under_way.len())?;
        let parked = self.under_way.iter().position(|save| save.parked);
        let which = match self.under_way[which].parked {
            true => parked?,
            false => which,
        };
        Some(self.under_way.remove(which))
    }

    fn park(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.tell(lease, true);
        }
    }

    /// As the Hub does it.
    fn let_go(&mut self, epoch: Epoch) {
        match self.lease {
            Some(lease) if lease.epoch == epoch => self.park(),
            Some(_) => {}
            None => self.tell(Lease { epoch, count: 0 }, true),
        }
    }
}

struct World {
    session: Option<Session>,
    processes: Vec<Process>,
    /// The highest count that a client was told.
    told: u64,
    /// The highest count that the store was told.
    stored: u64,
    /// Whether something happened that may cost what was not stored.
    costly: bool,
    /// Whether epochs may have been given out twice.
    wiped: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            session: None,
            processes: (0..PROCESSES).map(Process::start).collect(),
            told: 0,
            stored: 0,
            costly: false,
            wiped: false,
        };
        world.processes[0].lease = Some(Lease { epoch: 1, count: 0 });
        world.processes[0].tell(Lease { epoch: 1, count: 0 }, false);
        world.happen(0, Event::Arrive(0));
        world
    }

    fn happen(&mut self, number: usize, event: Event) {
        let process = &mut self.processes[number];
        match event {
            Event::Message => {
                if let Some(lease) = &mut process.lease {
                    lease.count += 1;
                    self.told = self.told.max(lease.count);
                }
            }
            Event::Checkpoint => {
                if let Some(lease) = process.lease {
                    process.tell(lease, false);
                }
            }
            Event::Park => process.park(),
            Event::Arrive(which) => {
                let Some(save) = process.arriving(which) else {
                    return;
                };
                let outcome = session::save(&mut self.session, &save, &process.owner);
                match outcome {
                    Outcome::Saved => self.stored = self.stored.max(save.count),
                    Outcome::Fenced if save.parked => {}
                    Outcome::Fenced => process.let_go(save.epoch),
                    other => panic!("{other:?} is no answer to a save"),
                }
            }
            Event::Wanted => {
                let awaited = self
                    .session
                    .as_ref()
                    .and_then(|known| known.awaited.clone());
                if let Some(awaited) = awaited.filter(|awaited| awaited.from == process.owner) {
                    process.let_go(awaited.epoch);
                }
            }
            // The Hub has its own connection go first, and asks the store for nobody else meanwhile.
            Event::Claim if process.lease.is_none() && process.claimed.is_none() => {
                let outcome = session::claim(&mut self.session, &process.owner);
                self.answer(number, outcome);
            }
            Event::Claim => {}
            Event::Collect => self.collect(number, false),
            Event::CollectLast => {
                self.costly = true;
                self.collect(number, true);
            }
            Event::Crash => {
                self.costly = true;
                *process = Process::start(number);
            }
            Event::Wipe => {
                self.costly = true;
                self.wiped = true;
                self.session = None;
                self.stored = 0;
            }
        }
    }

    fn collect(&mut self, number: usize, last: bool) {
        let process = &mut self.processes[number];
        if let Some(epoch) = process.claimed.take() {
            let outcome = session::collect(&mut self.session, epoch, last, &process.owner);
            self.answer(number, outcome);
        }
    }

    fn answer(&mut self, number: usize, outcome: Outcome) {
        match outcome {
            Outcome::Held { epoch, count } => {
                assert!(count >= self.stored, "{count} of {} stored", self.stored);
                if !self.costly {
                    assert_eq!(count, self.told, "a message was lost, or counted twice");
                    assert_eq!(self.held(), 0, "two hold the session");
                }
                self.told = count;
                self.processes[number].lease = Some(Lease { epoch, count });
            }
            Outcome::Awaiting { epoch, .. } => self.processes[number].claimed = Some(epoch),
            Outcome::Unknown | Outcome::Lost => {}
            Outcome::Saved | Outcome::Fenced => panic!("{outcome:?} is no answer to a claim"),
        }
    }

    fn held(&self) -> usize {
        let holding = self.processes.iter();
        holding.filter(|process| process.lease.is_some()).count()
    }

    fn check(&self) {
        let mut epochs: Vec<Epoch> = self
            .processes
            .iter()
            .filter_map(|p| p.lease)
            .map(|l| l.epoch)
            .collect();
        epochs.sort_unstable();
        epochs.dedup();
        assert!(
            self.wiped || epochs.len() == self.held(),
            "an epoch has two holders"
        );
    }

    /// Lets everything arrive, until a client that comes back gets its session.
    fn settle(&mut self) -> u64 {
        for process in &mut self.processes {
            process.park();
        }
        for round in 0..100 {
            for number in 0..PROCESSES {
                self.happen(number, Event::Wanted);
                while !self.processes[number].under_way.is_empty() {
                    self.happen(number, Event::Arrive(0));
                }
            }
            self.happen(0, Event::Claim);
            // Those whom it waits for may have died.
            let last = self.costly && round > PROCESSES;
            self.collect(0, last);
            if let Some(lease) = self.processes[0].lease {
                return lease.count;
            }
        }
        panic!("nobody gets the session: {:?}", self.session);
    }
}

fn event(costly: bool) -> impl Strategy<Value = (usize, Event)> {
    let harmless = prop_oneof![
        6 => Just(Event::Message),
        2 => Just(Event::Checkpoint),
        2 => Just(Event::Park),
        4 => (0..4_usize).prop_map(Event::Arrive),
        3 => Just(Event::Wanted),
        3 => Just(Event::Claim),
        3 => Just(Event::Collect),
    ];
    let costs = prop_oneof![
        Just(Event::CollectLast),
        Just(Event::Crash),
        Just(Event::Wipe)
    ];
    let weight = u32::from(costly);
    let event = prop_oneof![10 => harmless.boxed(), weight => costs.boxed()];
    (0..PROCESSES, event)
}

proptest! {
    #![proptest_config(Config { cases: 4000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn whatever_the_order_no_message_is_lost_and_none_is_counted_twice(
        events in vec(event(false), 1..80)
    ) {
        let mut world = World::new();
        for (number, event) in events {
            world.happen(number, event);
            world.check();
        }
        let told = world.told;
        prop_assert_eq!(world.settle(), told);
    }

    #[test]
    fn a_crash_costs_no_more_than_what_was_not_stored(events in vec(event(true), 1..80)) {
        let mut world = World::new();
        for (number, event) in events {
            world.happen(number, event);
            world.check();
        }
        let stored = world.stored;
        if world.session.is_some() {
            prop_assert!(world.settle() >= stored);
        }
    }
}
