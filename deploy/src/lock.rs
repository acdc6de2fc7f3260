//! One deploy at a time. The holder is a line in a file that a person can read; the file itself is
//! only locked while that line is read or changed.

use std::{
    fs::{File, OpenOptions, read_to_string},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A holder that says nothing for so long has lost the lock. Longer than any step but the build,
/// which says how long it may take.
const LEASE: Duration = Duration::from_secs(15 * 60);

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub verb: String,
    pub user: String,
    pub host: String,
    pub process: u32,
    /// When the process began, in the kernel's ticks: process numbers come again.
    pub process_start: u64,
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

impl Holder {
    fn me(verb: &str) -> Self {
        let since = Utc::now();
        Self {
            verb: verb.to_owned(),
            user: user(),
            host: host(),
            process: process::id(),
            process_start: process_start(process::id()).unwrap_or_default(),
            since,
            until: since + LEASE,
        }
    }

    /// On this machine one can look; of another machine only the time tells.
    fn is_gone(&self) -> bool {
        Utc::now() >= self.until || (self.host == host() && !self.lives())
    }

    pub fn lives(&self) -> bool {
        process_start(self.process) == Some(self.process_start)
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.host, self.process, self.process_start)
            == (&other.host, other.process, other.process_start)
    }
}

/// Who runs this.
pub fn user() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"];
    name.iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

pub fn host() -> String {
    let host = read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}

/// The 22nd field of `/proc/<process>/stat`, counted behind the name, which may contain anything.
/// Nothing for a process that has ended, though its parent may not have noticed.
fn process_start(process: u32) -> Option<u64> {
    let stat = read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The lock in this process's hands; given back on drop.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    holder: Holder,
}

impl Lock {
    /// Takes the lock; one whose holder has ended, or whose time is up, is taken over. Returns that
    /// holder too.
    ///
    /// # Errors
    /// Somebody else holds it, or the file cannot be written.
    pub fn take(path: &Path, verb: &str) -> Result<(Self, Option<Holder>)> {
        let holder = Holder::me(verb);
        let mut file = LockFile::open(path)?;
        let before = file.holder();
        if let Some(before) = before.as_ref().filter(|before| !before.is_gone()) {
            return Err(Error::Locked(Box::new(before.clone())));
        }
        file.write(Some(&holder))?;
        let path = path.to_owned();
        Ok((Self { path, holder }, before))
    }

    /// Keeps the lock for the next step, which may take `time` beside the usual lease.
    ///
    /// # Errors
    /// It was taken over meanwhile: whoever did may be changing things right now.
    pub fn keep(&mut self, time: Duration) -> Result<()> {
        let mut file = LockFile::open(&self.path)?;
        if !file
            .holder()
            .is_some_and(|found| found.is_same(&self.holder))
        {
            return Err(Error::LockLost);
        }
        self.holder.until = Utc::now() + LEASE + time;
        file.write(Some(&self.holder))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Ok(mut file) = LockFile::open(&self.path)
            && file
                .holder()
                .is_some_and(|found| found.is_same(&self.holder))
        {
            let _ = file.write(None);
        }
    }
}

/// Who holds the lock now.
///
/// # Errors
/// The file cannot be read.
pub fn holder(path: &Path) -> Result<Option<Holder>> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(LockFile::open(path)?.holder())
}

/// The file, locked against others for a moment.
struct LockFile {
    path: PathBuf,
    file: File,
}

impl LockFile {
    fn open(path: &Path) -> Result<Self> {
        let open = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            file.lock()?;
            Ok(file)
        };
        let file = open().map_err(Error::file(path))?;
        let path = path.to_owned();
        Ok(Self { path, file })
    }

    /// What cannot be read was half written by somebody who did not live to finish it.
    fn holder(&mut self) -> Option<Holder> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        self.file.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write(&mut self, holder: Option<&Holder>) -> Result<()> {
        let text = holder.map_or(String::new(), |holder| {
            serde_json::to_string(holder).expect("plain fields serialise") + "\n"
        });
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())
        };
        write().map_err(Error::file(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        (folder, path)
    }

    fn write(path: &Path, holder: &Holder) {
        LockFile::open(path).unwrap().write(Some(holder)).unwrap();
    }

    #[test]
    fn one_at_a_time() {
        let (_folder, path) = path();
        let (lock, before) = Lock::take(&path, "flip").unwrap();
        assert_eq!(before, None);
        let error = Lock::take(&path, "down").unwrap_err().to_string();
        assert!(error.contains("flip") && error.contains(&process::id().to_string()));
        drop(lock);
        assert!(Lock::take(&path, "down").is_ok());
    }

    #[test]
    fn a_dead_holder_is_taken_over() {
        let (_folder, path) = path();
        let mut ended = Holder::me("flip");
        ended.process_start += 1;
        write(&path, &ended);
        let (_, before) = Lock::take(&path, "flip").unwrap();
        assert_eq!(before, Some(ended));
    }

    #[test]
    fn of_another_machine_only_the_time_tells() {
        let (_folder, path) = path();
        let mut elsewhere = Holder::me("flip");
        elsewhere.host = "elsewhere".into();
        elsewhere.process_start += 1;
        write(&path, &elsewhere);
        assert!(matches!(
            Lock::take(&path, "flip"),
            Err(Error::Locked(holder)) if *holder == elsewhere
        ));
        elsewhere.until = Utc::now();
        write(&path, &elsewhere);
        assert!(Lock::take(&path, "flip").is_ok());
    }

    #[test]
    fn who_lost_the_lock_is_told_and_leaves_it_alone() {
        let (_folder, path) = path();
        let (mut lock, _) = Lock::take(&path, "flip").unwrap();
        lock.keep(Duration::ZERO).unwrap();
        let mut other = Holder::me("rollback");
        other.host = "elsewhere".into();
        write(&path, &other);
        assert!(matches!(lock.keep(Duration::ZERO), Err(Error::LockLost)));
        drop(lock);
        assert_eq!(holder(&path).unwrap(), Some(other));
    }

    #[test]
    fn a_half_written_line_holds_nobody_up() {
        let (_folder, path) = path();
        std::fs::write(&path, "{\"verb\":\"fl").unwrap();
        assert!(Lock::take(&path, "flip").is_ok());
    }
}
