//! The file: made for its owner alone, opened if it is ours, and left when it is no longer there.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use super::{BUSY_MAX, BUSY_STEP, WAL_BYTES_CHECKPOINT, WAL_BYTES_TRUNCATE, WAL_PAGES_MAX};
use crate::store::{
    StoreError,
    format::{self, FORMAT},
};

/// Marks a SQLite file as Tally's: "Taly".
const APPLICATION: i32 = 0x5461_6c79;

/// Memory for pages, in KiB: those that a checkpoint of some thousand sessions changes.
const CACHE_KIB: i32 = 16_384;

/// A session's id is found in the key; `parked` and `wanted` are small and left alone by the
/// checkpoint of an open session.
const TABLES: &str = "
    create table store (generation blob not null) strict;
    create table session (
        id blob not null primary key,
        format integer not null,
        expires integer not null,
        epoch integer not null,
        count integer not null,
        holder text,
        awaited_epoch integer,
        awaited_from text
    ) strict, without rowid;
    create index parked on session (expires) where holder is null;
    create index wanted on session (awaited_from) where awaited_from is not null;
";

pub struct StoreFile {
    pub connection: Connection,
    identity: Identity,
}

/// Which file it is, whatever its name: device and inode.
type Identity = (u64, u64);

impl StoreFile {
    /// # Errors
    /// It cannot be opened or made, or is no store of ours.
    pub fn open(path: &Path, durable: bool) -> Result<Self, StoreError> {
        let unopened = |error| {
            let path = path.display();
            StoreError(format!(
                "{path} cannot be opened: {error}; its directory has to be there and writable"
            ))
        };
        let _alone = lock_directory(path).map_err(unopened)?;
        let identity = find_or_make(path).map_err(unopened)?;
        let connection = connect(path, durable).map_err(|error| explain(path, &error))?;
        prepare(path, &connection)?;
        Ok(Self {
            connection,
            identity,
        })
    }

    /// Whether the path still leads to it.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| identity_of(&found) == self.identity)
    }

    /// Keeps the log from growing. SQLite would do so by itself, but in the middle of a claim.
    pub fn bound_log(&self, path: &Path) -> rusqlite::Result<()> {
        let bytes = fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
        let mode = match bytes {
            0..WAL_BYTES_CHECKPOINT => return Ok(()),
            WAL_BYTES_CHECKPOINT..WAL_BYTES_TRUNCATE => "passive",
            WAL_BYTES_TRUNCATE.. => "truncate",
        };
        // Where the other process is in the way, there is another second.
        self.connection
            .pragma(None, "wal_checkpoint", mode, |_| Ok(()))
    }
}

fn identity_of(file: &fs::Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// What SQLite keeps beside its file.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// One process at a time makes or opens a file: two that turn on its log at once lock each other out.
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(directory)?;
    let mut asked = 0;
    while let Err(error) = flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        if !waits_on(asked) {
            return Err(error.into());
        }
        asked += 1;
    }
    Ok(directory)
}

/// Makes the file, for its owner alone, where there is none. The log of a file that was deleted
/// belongs to whoever still has that file open, so a new file must not find it.
fn find_or_make(path: &Path) -> io::Result<Identity> {
    match fs::metadata(path) {
        Ok(found) => return Ok(identity_of(&found)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(beside(path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut options = OpenOptions::new();
    let made = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(identity_of(&made.metadata()?))
}

fn connect(path: &Path, durable: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(waits_on))?;
    let synchronous = if durable { "full" } else { "normal" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES_MAX)?;
    Ok(connection)
}

/// Whether to ask once more for what the other process has, after so many times.
fn waits_on(asked: i32) -> bool {
    let waits = u32::try_from(asked).is_ok_and(|asked| BUSY_STEP * asked < BUSY_MAX);
    if waits {
        thread::sleep(BUSY_STEP);
    }
    waits
}

/// Makes sure that it is ours, or makes it ours.
fn prepare(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let explained = |error| explain(path, &error);
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("application_id").map_err(explained)? != i64::from(APPLICATION) {
        make_tables(connection).map_err(explained)?;
    }
    if number("application_id").map_err(explained)? != i64::from(APPLICATION) {
        return Err(StoreError(format!(
            "{} is another program's database; name another file",
            path.display()
        )));
    }
    let format = number("user_version").map_err(explained)?;
    format::check(format, || path.display().to_string())?;
    // Only now: it changes the file.
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(explained)
}

/// Of two processes that find an empty file, the second one finds the first one's tables.
fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    let behavior = TransactionBehavior::Immediate;
    let transaction = rusqlite::Transaction::new_unchecked(connection, behavior)?;
    let tables: i64 =
        transaction.query_row("select count(*) from sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        transaction.execute_batch(TABLES)?;
        let generation = Uuid::new_v4().into_bytes();
        transaction.execute("insert into store (generation) values (?1)", [generation])?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    transaction.commit()
}

/// Names the file, and the cure where there is one.
pub fn explain(path: &Path, error: &rusqlite::Error) -> StoreError {
    let cure = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "; name another file, or move this one away",
        Some(ErrorCode::DatabaseCorrupt) => {
            "; move it away together with its -wal and -shm: open sessions are saved anew"
        }
        Some(ErrorCode::DiskFull) => "; make room on its disk",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "; another process has had it for too long"
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "; the file and its directory have to be writable"
        }
        _ => "",
    };
    StoreError(format!("{}: {error}{cure}", path.display()))
}
