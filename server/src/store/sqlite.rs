//! A SQLite file, which the processes of one host share.
//!
//! One writer at a time, which waits for the other for [`BUSY_MAX`]: a batch is one transaction and
//! takes milliseconds. What a checkpoint does thousands of times, a holder's word about an open
//! session, is one statement; everything else reads the row, applies `session.rs`, and writes the
//! row.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rusqlite::{
    CachedStatement, OptionalExtension, Row, Transaction, TransactionBehavior, params, types::Type,
};
use uuid::Uuid;

use self::file::StoreFile;
use super::{
    Op, Store, StoreError, StoreSettings, Tidied,
    format::{self, FORMAT},
};
use crate::session::{self, Awaited, Epoch, Outcome, Owner, Save, Session};

mod file;

/// How long to wait for the other process's transaction. Two such waits fit into a round trip.
const BUSY_MAX: Duration = Duration::from_millis(450);

/// How often to ask whether the other's transaction is over. SQLite by itself asks ever more seldom,
/// and then misses the pauses of a drain.
const BUSY_STEP: Duration = Duration::from_millis(1);

/// Whoever has just had the file for this long lets the other in for as long: without that, a drain
/// leaves a claim of the other colour outside until it gives up.
const TURN_MAX: Duration = Duration::from_millis(3);

/// Sessions that others want, told at once; the rest is told the next time.
const WANTED_MAX: i64 = 1000;

/// Rows forgotten by one call of `tidy`, so that a claim does not wait long behind it.
const FORGOTTEN_MAX: i64 = 5000;

/// Rows looked at by one call of `tidy`, in search of open sessions whose holder died: they are in
/// no index, because that would cost each checkpoint, and they may wait.
const SWEPT_MAX: i64 = 2000;

/// A commit goes on into a checkpoint from here on, should `tidy` not come round to it.
const WAL_PAGES_MAX: u32 = 16_000;

/// `tidy` copies the log into the file from here on, after which it is written from its start.
const WAL_BYTES_CHECKPOINT: u64 = 4 << 20;

/// `tidy` cuts a log of more than that down to nothing.
const WAL_BYTES_TRUNCATE: u64 = 128 << 20;

/// The usual checkpoint: in one statement, because there are thousands of them in each batch.
const SAVE_OPEN: &str = "update session set count = max(count, ?3), expires = ?4
    where id = ?1 and epoch = ?2 and holder = ?6 and format / 100 = 1 and expires > ?5";

const READ: &str = "select format, expires, epoch, count, holder, awaited_epoch, awaited_from
    from session where id = ?1";

/// Names its columns, so that those of the next release stay as they are.
const WRITE: &str = "insert into session
    (id, format, expires, epoch, count, holder, awaited_epoch, awaited_from)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    on conflict (id) do update set format = max(format, excluded.format),
    expires = excluded.expires, epoch = excluded.epoch, count = excluded.count,
    holder = excluded.holder, awaited_epoch = excluded.awaited_epoch,
    awaited_from = excluded.awaited_from";

const FORGET: &str = "delete from session where id = ?1";

const WANTED: &str = "select id, awaited_epoch from session
    where awaited_from = ?1 and expires > ?2 limit ?3";

const FORGET_EXPIRED_PARKED: &str = "delete from session where id in
    (select id from session where holder is null and expires <= ?1 order by expires limit ?2)";

const FORGET_OLDEST_PARKED: &str = "delete from session where id in
    (select id from session where holder is null order by expires limit ?1)";

/// The last id of the next stretch of rows.
const STRETCH: &str = "select max(id) from
    (select id from session where id > ?1 order by id limit ?2)";

const FORGET_EXPIRED_IN: &str = "delete from session where id > ?1 and id <= ?2 and expires <= ?3";

const COUNT_PARKED: &str = "select count(*) from session where holder is null";

const GENERATION: &str = "select generation from store";

pub struct Sqlite {
    path: PathBuf,
    settings: StoreSettings,
    /// `None` after an error, and where the file has gone: opened by the next call.
    file: Option<StoreFile>,
    /// It is the other's turn until then.
    rests_until: Option<Instant>,
    /// How far the sweep for expired sessions has come.
    swept: Vec<u8>,
}

impl Sqlite {
    /// # Errors
    /// The file cannot be opened or made, or is no store of ours.
    pub fn open(path: impl Into<PathBuf>, settings: StoreSettings) -> Result<Self, StoreError> {
        let mut store = Self {
            path: path.into(),
            settings,
            file: None,
            rests_until: None,
            swept: Vec::new(),
        };
        store.with_file(|_, _| Ok(()))?;
        Ok(store)
    }

    /// Does something with the file that is at the path by now. What failed is begun anew next time.
    fn with_file<T>(
        &mut self,
        act: impl FnOnce(&mut StoreFile, &StoreSettings) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut file = match self.file.take() {
            Some(file) if file.is_at(&self.path) => file,
            _ => StoreFile::open(&self.path, self.settings.durable)?,
        };
        let done = act(&mut file, &self.settings);
        let done = done.map_err(|error| file::explain(&self.path, &error))?;
        self.file = Some(file);
        Ok(done)
    }

    /// Does something in one transaction, when it is this handle's turn.
    fn in_transaction<T>(
        &mut self,
        act: impl FnOnce(&Transaction<'_>, &StoreSettings) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        if let Some(until) = self.rests_until.take() {
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        let (done, began) = self.with_file(|file, settings| {
            let behavior = TransactionBehavior::Immediate;
            let transaction = file.connection.transaction_with_behavior(behavior)?;
            let began = Instant::now();
            let done = act(&transaction, settings)?;
            transaction.commit()?;
            Ok((done, began))
        })?;
        if began.elapsed() >= TURN_MAX {
            self.rests_until = Some(Instant::now() + TURN_MAX);
        }
        Ok(done)
    }
}

impl Store for Sqlite {
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        self.in_transaction(|transaction, settings| Batch::new(transaction, settings)?.apply(ops))
    }

    fn wanted(&mut self) -> Result<Vec<(Uuid, Epoch)>, StoreError> {
        self.with_file(|file, settings| {
            let mut wanted = file.connection.prepare_cached(WANTED)?;
            let owner = settings.owner.as_str();
            let rows = wanted.query_map(params![owner, now_ms(), WANTED_MAX], |row| {
                Ok((Uuid::from_bytes(row.get(0)?), row.get(1)?))
            })?;
            rows.collect()
        })
    }

    fn tidy(&mut self) -> Result<Tidied, StoreError> {
        let mut swept = std::mem::take(&mut self.swept);
        let path = self.path.clone();
        let tidied =
            self.in_transaction(|transaction, settings| tidy(transaction, settings, &mut swept));
        self.swept = swept;
        let tidied = tidied?;
        self.with_file(|file, _| file.bound_log(&path))?;
        Ok(tidied)
    }
}

fn tidy(
    transaction: &Transaction<'_>,
    settings: &StoreSettings,
    swept: &mut Vec<u8>,
) -> rusqlite::Result<Tidied> {
    let statement = |sql| transaction.prepare_cached(sql);
    let expired_parked =
        statement(FORGET_EXPIRED_PARKED)?.execute(params![now_ms(), FORGOTTEN_MAX])?;
    let expired_others = sweep(transaction, swept)?;
    let parked: i64 = statement(COUNT_PARKED)?.query_row([], |row| row.get(0))?;
    let parked_max = i64::try_from(settings.parked_max).unwrap_or(i64::MAX);
    let surplus = (parked - parked_max).clamp(0, FORGOTTEN_MAX);
    let evicted = match surplus {
        0 => 0,
        _ => statement(FORGET_OLDEST_PARKED)?.execute([surplus])?,
    };
    let generation =
        statement(GENERATION)?.query_row([], |row| row.get(0).map(Uuid::from_bytes))?;
    Ok(Tidied {
        generation,
        parked: u64::try_from(parked)
            .ok()
            .map(|parked| parked - evicted as u64),
        expired: (expired_parked + expired_others) as u64,
        evicted: evicted as u64,
    })
}

/// Forgets what has expired in the next stretch of rows, whoever holds it.
fn sweep(transaction: &Transaction<'_>, swept: &mut Vec<u8>) -> rusqlite::Result<usize> {
    let stretch: Option<Vec<u8>> = transaction
        .prepare_cached(STRETCH)?
        .query_row(params![*swept, SWEPT_MAX], |row| row.get(0))?;
    let Some(end) = stretch else {
        swept.clear();
        return Ok(0);
    };
    let expired = transaction
        .prepare_cached(FORGET_EXPIRED_IN)?
        .execute(params![*swept, end, now_ms()])?;
    *swept = end;
    Ok(expired)
}

/// The statements of one transaction.
struct Batch<'a> {
    owner: &'a Owner,
    now_ms: i64,
    expires_ms: i64,
    save_open: CachedStatement<'a>,
    read: CachedStatement<'a>,
    write: CachedStatement<'a>,
    forget: CachedStatement<'a>,
}

impl<'a> Batch<'a> {
    fn new(
        transaction: &'a Transaction<'_>,
        settings: &'a StoreSettings,
    ) -> rusqlite::Result<Self> {
        let now_ms = now_ms();
        let ttl_ms = i64::try_from(settings.ttl.as_millis()).unwrap_or(i64::MAX);
        Ok(Self {
            owner: &settings.owner,
            now_ms,
            expires_ms: now_ms.saturating_add(ttl_ms),
            save_open: transaction.prepare_cached(SAVE_OPEN)?,
            read: transaction.prepare_cached(READ)?,
            write: transaction.prepare_cached(WRITE)?,
            forget: transaction.prepare_cached(FORGET)?,
        })
    }

    fn apply(mut self, ops: &[Op]) -> rusqlite::Result<Vec<Outcome>> {
        ops.iter().map(|op| self.apply_one(op)).collect()
    }

    fn apply_one(&mut self, op: &Op) -> rusqlite::Result<Outcome> {
        let owner = self.owner;
        match *op {
            Op::Save(save) if !save.parked && self.save_open(&save)? => Ok(Outcome::Saved),
            Op::Save(save) => self.change(save.id, |known| session::save(known, &save, owner)),
            Op::Claim(id) => self.change(id, |known| session::claim(known, owner)),
            Op::Collect { id, epoch, last } => {
                self.change(id, |known| session::collect(known, epoch, last, owner))
            }
        }
    }

    /// Whether it was the usual word: about an open session, from its present holder.
    fn save_open(&mut self, save: &Save) -> rusqlite::Result<bool> {
        let id = save.id.as_bytes();
        let count = to_sql(save.count);
        let owner = self.owner.as_str();
        let known = params![id, save.epoch, count, self.expires_ms, self.now_ms, owner];
        Ok(self.save_open.execute(known)? == 1)
    }

    /// Changes a session by a rule. What has expired is not there any more.
    fn change(
        &mut self,
        id: Uuid,
        rule: impl FnOnce(&mut Option<Session>) -> Outcome,
    ) -> rusqlite::Result<Outcome> {
        let row = self
            .read
            .query_row([id.as_bytes()], session_of)
            .optional()?;
        let mut session = match row {
            Some((expires, session)) if expires > self.now_ms => Some(session),
            Some(_) => {
                self.forget.execute([id.as_bytes()])?;
                None
            }
            None => None,
        };
        let before = session.clone();
        let outcome = rule(&mut session);
        // A question that was asked in vain is no reason to keep a session longer.
        if let Some(session) = &session
            && (outcome == Outcome::Saved || Some(session) != before.as_ref())
        {
            self.write(id, session)?;
        }
        Ok(outcome)
    }

    fn write(&mut self, id: Uuid, session: &Session) -> rusqlite::Result<()> {
        let awaited = session.awaited.as_ref();
        self.write.execute(params![
            id.as_bytes(),
            FORMAT,
            self.expires_ms,
            session.epoch,
            to_sql(session.count),
            session.holder.as_ref().map(Owner::as_str),
            awaited.map(|awaited| awaited.epoch),
            awaited.map(|awaited| awaited.from.as_str()),
        ])?;
        Ok(())
    }
}

/// When it expires, and what it is.
fn session_of(row: &Row<'_>) -> rusqlite::Result<(i64, Session)> {
    format::check(row.get(0)?, || "a session".into()).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, error.into())
    })?;
    let holder: Option<String> = row.get(4)?;
    let awaited_epoch: Option<Epoch> = row.get(5)?;
    let awaited_from: Option<String> = row.get(6)?;
    let awaited = awaited_epoch
        .zip(awaited_from)
        .map(|(epoch, from)| Awaited {
            epoch,
            from: Owner::named(from),
        });
    let session = Session {
        epoch: row.get(2)?,
        count: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
        holder: holder.map(Owner::named),
        awaited,
    };
    Ok((row.get(1)?, session))
}

/// SQLite's integers have a sign; nobody counts that far.
fn to_sql(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The time that the processes of a host share.
fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
