//! The memory of the process. Handles that were cloned share it, so that tests can have more than
//! one owner.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{Op, Store, StoreError, StoreSettings, Tidied};
use crate::session::{self, Epoch, Outcome, Session};

#[derive(Default)]
struct Kept {
    session: Option<Session>,
    /// Its number in the order of saving.
    saved: u64,
}

struct Shelf {
    sessions: HashMap<Uuid, Kept>,
    /// In the order of saving, which is also the order of expiry.
    saved: BTreeMap<u64, (Uuid, Instant)>,
    next: u64,
    parked: usize,
    generation: Uuid,
}

impl Shelf {
    fn new() -> Self {
        Self {
            sessions: HashMap::new(),
            saved: BTreeMap::new(),
            next: 0,
            parked: 0,
            generation: Uuid::new_v4(),
        }
    }

    /// Changes a session by a rule, and renews its time.
    fn change(
        &mut self,
        id: Uuid,
        now: Instant,
        rule: impl FnOnce(&mut Option<Session>) -> Outcome,
    ) -> Outcome {
        let kept = self.sessions.entry(id).or_default();
        let parked_before = is_parked(kept);
        let outcome = rule(&mut kept.session);
        let parked = is_parked(kept);
        self.saved.remove(&kept.saved);
        if kept.session.is_none() {
            self.sessions.remove(&id);
        } else {
            self.next += 1;
            kept.saved = self.next;
            self.saved.insert(self.next, (id, now));
        }
        self.parked = self.parked + usize::from(parked) - usize::from(parked_before);
        outcome
    }

    fn forget(&mut self, number: u64) {
        let Some((id, _)) = self.saved.remove(&number) else {
            return;
        };
        if self.sessions.remove(&id).as_ref().is_some_and(is_parked) {
            self.parked -= 1;
        }
    }

    fn forget_expired(&mut self, now: Instant, ttl: Duration) -> u64 {
        let mut forgotten = 0;
        while let Some((&number, &(_, saved))) = self.saved.first_key_value()
            && now.saturating_duration_since(saved) >= ttl
        {
            self.forget(number);
            forgotten += 1;
        }
        forgotten
    }

    /// The oldest go first.
    fn forget_surplus(&mut self, parked_max: usize) -> u64 {
        let surplus = self.parked.saturating_sub(parked_max);
        let parked = |id| self.sessions.get(id).is_some_and(is_parked);
        let oldest = self.saved.iter().filter(|(_, (id, _))| parked(id));
        let numbers: Vec<u64> = oldest.map(|(number, _)| *number).take(surplus).collect();
        for number in &numbers {
            self.forget(*number);
        }
        numbers.len() as u64
    }
}

fn is_parked(kept: &Kept) -> bool {
    let session = kept.session.as_ref();
    session.is_some_and(|session| session.holder.is_none())
}

pub struct Memory {
    shelf: Arc<Mutex<Shelf>>,
    settings: StoreSettings,
}

impl Memory {
    pub fn new(settings: StoreSettings) -> Self {
        Self {
            shelf: Arc::new(Mutex::new(Shelf::new())),
            settings,
        }
    }

    /// Another owner's handle to the same sessions.
    #[must_use]
    pub fn shared_with(&self, settings: StoreSettings) -> Self {
        Self {
            shelf: self.shelf.clone(),
            settings,
        }
    }

    /// Forgets everything, as a store that was wiped.
    pub fn wipe(&self) {
        *self.shelf() = Shelf::new();
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        let now = Instant::now();
        let mut shelf = self.shelf();
        shelf.forget_expired(now, self.settings.ttl);
        let owner = &self.settings.owner;
        let outcomes = ops.iter().map(|op| match *op {
            Op::Save(save) => {
                shelf.change(save.id, now, |session| session::save(session, &save, owner))
            }
            Op::Claim(id) => shelf.change(id, now, |session| session::claim(session, owner)),
            Op::Collect { id, epoch, last } => shelf.change(id, now, |session| {
                session::collect(session, epoch, last, owner)
            }),
        });
        Ok(outcomes.collect())
    }

    fn wanted(&mut self) -> Result<Vec<(Uuid, Epoch)>, StoreError> {
        let owner = &self.settings.owner;
        let shelf = self.shelf();
        let wanted = shelf.sessions.iter().filter_map(|(id, kept)| {
            let awaited = kept.session.as_ref()?.awaited.as_ref()?;
            (awaited.from == *owner).then_some((*id, awaited.epoch))
        });
        Ok(wanted.collect())
    }

    fn tidy(&mut self) -> Result<Tidied, StoreError> {
        let mut shelf = self.shelf();
        let expired = shelf.forget_expired(Instant::now(), self.settings.ttl);
        let evicted = shelf.forget_surplus(self.settings.parked_max);
        Ok(Tidied {
            generation: shelf.generation,
            parked: Some(shelf.parked as u64),
            expired,
            evicted,
        })
    }
}
