//! A file that the processes of one host share. SQLite in WAL mode: readers and the one writer do
//! not wait for each other, and what a killed process had committed is there.
//!
//! # Formats
//!
//! The next release reads what this one writes, and this one what the next one writes, for a flip
//! can be taken back. So a release may add columns with a default; it says so nowhere, and the one
//! before leaves them alone. `format` is raised only where a row means something else, one release
//! after the first that reads the new meaning. Whoever meets a higher one than it knows keeps its
//! hands off: the session is refused for now, and the row stays as it is.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};
use uuid::Uuid;

use super::{Op, Store, StoreError, StoreSettings, Tidied};
use crate::session::{self, Awaited, Epoch, Outcome, Owner, Save, Session};

/// What a row of this release means.
const FORMAT: u32 = 1;

/// The tables; a file with a higher number belongs to a release that knows better.
const SCHEMA: u32 = 1;

/// How long a writer waits for another process's, below what a round trip may take.
const BUSY_TIMEOUT: Duration = Duration::from_millis(800);

/// What the log beside the file is cut back to.
const WAL_BYTES_MAX: u32 = 16 << 20;

/// Rows that are forgotten in one go, so that nobody waits long.
const FORGET_MAX: usize = 10_000;

/// Open sessions that nobody saves any more are looked for once in so many times.
const ABANDONED_EVERY: u32 = 60;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS sessions (
        id BLOB PRIMARY KEY NOT NULL,
        format INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        count INTEGER NOT NULL,
        holder TEXT,
        awaited_epoch INTEGER,
        awaited_from TEXT,
        expires INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS parked ON sessions (expires) WHERE holder IS NULL;
    CREATE INDEX IF NOT EXISTS wanted ON sessions (awaited_from) WHERE awaited_from IS NOT NULL;
    CREATE TABLE IF NOT EXISTS generation (id BLOB NOT NULL);
";

/// The one that nearly all saves come to: the holder has counted on.
const SAVE: &str = "
    UPDATE sessions SET
        count = max(count, ?3),
        holder = CASE WHEN ?4 THEN NULL ELSE holder END,
        expires = ?6
    WHERE id = ?1 AND epoch = ?2 AND format <= ?7 AND (holder IS NULL OR holder = ?5)";

const LOAD: &str = "
    SELECT format, epoch, count, holder, awaited_epoch, awaited_from, expires
    FROM sessions WHERE id = ?1";

const KEEP: &str = "
    INSERT INTO sessions (id, format, epoch, count, holder, awaited_epoch, awaited_from, expires)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (id) DO UPDATE SET
        format = ?2, epoch = ?3, count = ?4, holder = ?5,
        awaited_epoch = ?6, awaited_from = ?7, expires = ?8";

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

pub struct Sqlite {
    path: PathBuf,
    settings: StoreSettings,
    open: Option<File>,
    tidied: u32,
}

/// The file as it was opened.
struct File {
    connection: Connection,
    /// Another one at the same path is another store.
    inode: u64,
    generation: Uuid,
}

impl Sqlite {
    /// # Errors
    /// The file cannot be opened, or is not ours.
    pub fn open(path: &Path, settings: StoreSettings) -> Result<Self, StoreError> {
        let mut store = Self {
            path: path.to_owned(),
            settings,
            open: None,
            tidied: 0,
        };
        store.file()?;
        Ok(store)
    }

    fn file(&mut self) -> Result<&mut File, StoreError> {
        match &mut self.open {
            Some(file) => Ok(file),
            none => {
                let name = self.path.display();
                let opened = File::open(&self.path, self.settings.durable)
                    .map_err(|error| StoreError(format!("{name}: {error}")))?;
                Ok(none.insert(opened))
            }
        }
    }

    fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        let connection = &mut self.file()?.connection;
        Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
    }
}

impl File {
    fn open(path: &Path, durable: bool) -> Result<Self, StoreError> {
        // A session's id is a credential; SQLite gives what lies beside the file the same mode.
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(path);
        let file = file.map_err(|error| StoreError(error.to_string()))?;
        let inode = file.metadata().map_or(0, |file| file.ino());
        drop(file);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX)?;
        // Either outlives the process; FULL outlives the machine's sudden end, too.
        let synchronous = if durable { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        let setup = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let schema: u32 = setup.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if schema > SCHEMA {
            return Err(StoreError(format!(
                "it was made by a newer release (schema {schema}, not {SCHEMA}); run that one, or \
                 name another file"
            )));
        }
        setup.execute_batch(TABLES)?;
        setup.pragma_update(None, "user_version", SCHEMA)?;
        let known = setup.query_row("SELECT id FROM generation", [], |row| row.get(0));
        let generation = match known.optional()? {
            Some(generation) => generation,
            None => {
                let generation = Uuid::new_v4();
                setup.execute("INSERT INTO generation (id) VALUES (?1)", [generation])?;
                generation
            }
        };
        setup.commit()?;
        Ok(Self {
            connection,
            inode,
            generation,
        })
    }
}

/// Unix time, milliseconds.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// Where the rules are asked.
struct Rows<'a> {
    transaction: &'a Transaction<'a>,
    owner: &'a Owner,
    now: i64,
    expires: i64,
}

/// A row that this release can read, or why it is none.
enum Row {
    Known(Option<Session>),
    OfNewerRelease,
}

impl Rows<'_> {
    fn apply(&self, op: &Op) -> rusqlite::Result<Outcome> {
        match op {
            Op::Save(save) if self.save(save)? => Ok(Outcome::Saved),
            Op::Save(save) => self.change(save.id, Outcome::Fenced, |session| {
                session::save(session, save, self.owner)
            }),
            Op::Claim(id) => self.change(*id, Outcome::Lost, |session| {
                session::claim(session, self.owner)
            }),
            Op::Collect { id, epoch, last } => self.change(*id, Outcome::Lost, |session| {
                session::collect(session, *epoch, *last, self.owner)
            }),
        }
    }

    /// False where the rules have to be asked.
    fn save(&self, save: &Save) -> rusqlite::Result<bool> {
        let mut statement = self.transaction.prepare_cached(SAVE)?;
        let changed = statement.execute(params![
            save.id,
            save.epoch,
            save.count as i64,
            save.parked,
            self.owner.as_str(),
            self.expires,
            FORMAT,
        ])?;
        Ok(changed == 1)
    }

    fn change(
        &self,
        id: Uuid,
        unreadable: Outcome,
        rule: impl FnOnce(&mut Option<Session>) -> Outcome,
    ) -> rusqlite::Result<Outcome> {
        let Row::Known(before) = self.load(id)? else {
            return Ok(unreadable);
        };
        let mut session = before.clone();
        let outcome = rule(&mut session);
        if let Some(session) = session.filter(|session| before.as_ref() != Some(session)) {
            self.keep(id, &session)?;
        }
        Ok(outcome)
    }

    fn load(&self, id: Uuid) -> rusqlite::Result<Row> {
        let mut statement = self.transaction.prepare_cached(LOAD)?;
        let row = statement.query_row([id], |row| {
            if row.get::<_, u32>(0)? > FORMAT {
                return Ok(Row::OfNewerRelease);
            }
            let awaited = match (row.get(4)?, row.get::<_, Option<String>>(5)?) {
                (Some(epoch), Some(from)) => Some(Awaited {
                    epoch,
                    from: Owner::named(from),
                }),
                _ => None,
            };
            let session = Session {
                epoch: row.get(1)?,
                count: row.get::<_, i64>(2)? as u64,
                holder: row.get::<_, Option<String>>(3)?.map(Owner::named),
                awaited,
            };
            let expired = row.get::<_, i64>(6)? <= self.now;
            Ok(Row::Known(Some(session).filter(|_| !expired)))
        });
        Ok(row.optional()?.unwrap_or(Row::Known(None)))
    }

    fn keep(&self, id: Uuid, session: &Session) -> rusqlite::Result<()> {
        let awaited = session.awaited.as_ref();
        let mut statement = self.transaction.prepare_cached(KEEP)?;
        statement.execute(params![
            id,
            FORMAT,
            session.epoch,
            session.count as i64,
            session.holder.as_ref().map(Owner::as_str),
            awaited.map(|awaited| awaited.epoch),
            awaited.map(|awaited| awaited.from.as_str()),
            self.expires,
        ])?;
        Ok(())
    }
}

impl Store for Sqlite {
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        let (owner, ttl) = (self.settings.owner.clone(), self.settings.ttl);
        let transaction = self.transaction()?;
        let now = now();
        let rows = Rows {
            transaction: &transaction,
            owner: &owner,
            now,
            expires: now.saturating_add(ttl.as_millis() as i64),
        };
        let outcomes: rusqlite::Result<Vec<Outcome>> =
            ops.iter().map(|op| rows.apply(op)).collect();
        let outcomes = outcomes?;
        transaction.commit()?;
        Ok(outcomes)
    }

    fn wanted(&mut self) -> Result<Vec<(Uuid, Epoch)>, StoreError> {
        let owner = self.settings.owner.clone();
        let wanted = "SELECT id, awaited_epoch FROM sessions WHERE awaited_from = ?1";
        let mut statement = self.file()?.connection.prepare_cached(wanted)?;
        let rows = statement.query_map([owner.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn tidy(&mut self) -> Result<Tidied, StoreError> {
        let inode = fs::metadata(&self.path).map_or(0, |file| file.ino());
        if self.file()?.inode != inode {
            self.open = None;
        }
        let generation = self.file()?.generation;
        let parked_max = self.settings.parked_max;
        self.tidied = self.tidied.wrapping_add(1);
        let look_for_abandoned = self.tidied.is_multiple_of(ABANDONED_EVERY);
        let transaction = self.transaction()?;
        let forget = |which: &str, limit: usize| {
            let sql = format!(
                "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE {which} LIMIT ?2)"
            );
            let mut statement = transaction.prepare_cached(&sql)?;
            statement.execute(params![now(), limit as i64])
        };
        let mut expired = forget("holder IS NULL AND expires <= ?1", FORGET_MAX)?;
        if look_for_abandoned {
            expired += forget("holder IS NOT NULL AND expires <= ?1", FORGET_MAX)?;
        }
        let count = "SELECT count(*) FROM sessions WHERE holder IS NULL";
        let mut count = transaction.prepare_cached(count)?;
        let parked: i64 = count.query_row([], |row| row.get(0))?;
        drop(count);
        let surplus = (parked as usize).saturating_sub(parked_max).min(FORGET_MAX);
        let evicted = match surplus {
            0 => 0,
            // The oldest go first.
            surplus => forget("holder IS NULL AND ?1 ORDER BY expires", surplus)?,
        };
        transaction.commit()?;
        Ok(Tidied {
            generation,
            parked: Some(parked as u64 - evicted as u64),
            expired: expired as u64,
            evicted: evicted as u64,
        })
    }
}
