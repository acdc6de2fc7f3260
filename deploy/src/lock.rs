//! One deploy at a time. The holder is a line that a person can read: in a file, which itself is only
//! locked while that line is read or changed, or on a Lease of a cluster, of which no two can write
//! the same version.

use std::{
    fs::{File, OpenOptions, read_to_string},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    kubernetes::cluster::{self, Cluster},
};

/// A holder that says nothing for so long has lost the lock. Longer than any step but the build,
/// which says how long it may take.
const LEASE: Duration = Duration::from_secs(15 * 60);

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub verb: String,
    pub user: String,
    pub host: String,
    /// The kernel's name for what it has been doing since it was started: hosts share theirs.
    #[serde(default)]
    pub boot: String,
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
            boot: boot(),
            process: process::id(),
            process_start: process_start(process::id()).unwrap_or_default(),
            since,
            until: since + LEASE,
        }
    }

    /// On this machine one can look; of another machine only the time tells.
    fn is_gone(&self) -> bool {
        Utc::now() >= self.until || (self.is_here() && !self.lives())
    }

    /// Of this machine; who does not say more than its name is believed.
    pub fn is_here(&self) -> bool {
        self.host == host() && (self.boot.is_empty() || self.boot == boot())
    }

    pub fn is_at_it(&self) -> bool {
        !self.is_gone()
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

fn boot() -> String {
    let boot = read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
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

/// Where the line is.
#[derive(Clone, Debug)]
pub enum Place {
    File(PathBuf),
    Lease(Cluster),
}

const LEASE_NAME: &str = "tally-deploy";
const HOLDER: &str = "tally/holder";

impl Place {
    /// Who holds the lock now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn holder(&self) -> Result<Option<Holder>> {
        match self {
            Self::File(path) if !path.exists() => Ok(None),
            Self::File(path) => Ok(LockFile::open(path)?.holder()),
            Self::Lease(cluster) => {
                let lease = cluster.get(&["lease", LEASE_NAME])?.pop();
                Ok(lease.as_ref().and_then(holder_of))
            }
        }
    }

    /// Writes who is to hold it, which may depend on who does; nobody comes between.
    fn change(
        &self,
        mut decide: impl FnMut(Option<Holder>) -> Result<Option<Holder>>,
    ) -> Result<()> {
        match self {
            Self::File(path) => {
                let mut file = LockFile::open(path)?;
                let next = decide(file.holder())?;
                file.write(next.as_ref())
            }
            Self::Lease(cluster) => cluster.change(&fresh_lease(), |lease| {
                let next = decide(holder_of(lease))?;
                write_lease(lease, next.as_ref());
                Ok(())
            }),
        }
    }
}

fn fresh_lease() -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": LEASE_NAME },
    })
}

fn holder_of(lease: &Value) -> Option<Holder> {
    serde_json::from_str(cluster::annotation(lease, HOLDER)?).ok()
}

/// With what other tools look at, so that `kubectl get lease` says who it is.
fn write_lease(lease: &mut Value, holder: Option<&Holder>) {
    let line = holder.map(|holder| serde_json::to_string(holder).expect("plain fields serialise"));
    cluster::annotate(lease, HOLDER, line);
    lease["spec"] = holder.map_or(json!({}), |holder| {
        let micros = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        json!({
            "holderIdentity": format!("{}@{}: {}", holder.user, holder.host, holder.verb),
            "acquireTime": micros(holder.since),
            "renewTime": micros(Utc::now()),
            "leaseDurationSeconds": (holder.until - Utc::now()).num_seconds().max(1),
        })
    });
}

/// The lock in this process's hands; given back on drop.
#[derive(Debug)]
pub struct Lock {
    place: Place,
    holder: Holder,
}

impl Lock {
    /// Takes the lock; one whose holder has ended, or whose time is up, is taken over. Returns that
    /// holder too.
    ///
    /// # Errors
    /// Somebody else holds it, or the file cannot be written.
    pub fn take(place: &Place, verb: &str) -> Result<(Self, Option<Holder>)> {
        let holder = Holder::me(verb);
        let mut before = None;
        place.change(|found| match found {
            Some(found) if found.is_at_it() => Err(Error::Locked(Box::new(found))),
            found => {
                before = found;
                Ok(Some(holder.clone()))
            }
        })?;
        let place = place.clone();
        Ok((Self { place, holder }, before))
    }

    /// Keeps the lock for the next step, which may take `time` beside the usual lease.
    ///
    /// # Errors
    /// It was taken over meanwhile: whoever did may be changing things right now.
    pub fn keep(&mut self, time: Duration) -> Result<()> {
        self.holder.until = Utc::now() + LEASE + time;
        self.replace_by(Some(self.holder.clone()))
    }

    fn replace_by(&self, next: Option<Holder>) -> Result<()> {
        self.place.change(|found| match found {
            Some(found) if found.is_same(&self.holder) => Ok(next.clone()),
            _ => Err(Error::LockLost),
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Who has taken it over holds it now.
        let _ = self.replace_by(None);
    }
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

    fn place() -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::File(folder.path().join("lock"));
        (folder, place)
    }

    fn write(place: &Place, holder: &Holder) {
        place.change(|_| Ok(Some(holder.clone()))).unwrap();
    }

    #[test]
    fn one_at_a_time() {
        let (_folder, place) = place();
        let (lock, before) = Lock::take(&place, "flip").unwrap();
        assert_eq!(before, None);
        let error = Lock::take(&place, "down").unwrap_err().to_string();
        assert!(error.contains("flip") && error.contains(&process::id().to_string()));
        drop(lock);
        assert!(Lock::take(&place, "down").is_ok());
    }

    #[test]
    fn a_dead_holder_is_taken_over() {
        let (_folder, place) = place();
        let mut ended = Holder::me("flip");
        ended.process_start += 1;
        write(&place, &ended);
        let (_, before) = Lock::take(&place, "flip").unwrap();
        assert_eq!(before, Some(ended));
    }

    #[test]
    fn of_another_machine_only_the_time_tells() {
        let (_folder, place) = place();
        let mut elsewhere = Holder::me("flip");
        elsewhere.host = "elsewhere".into();
        elsewhere.process_start += 1;
        write(&place, &elsewhere);
        assert!(matches!(
            Lock::take(&place, "flip"),
            Err(Error::Locked(holder)) if *holder == elsewhere
        ));
        elsewhere.until = Utc::now();
        write(&place, &elsewhere);
        assert!(Lock::take(&place, "flip").is_ok());
    }

    #[test]
    fn two_machines_of_one_name_are_two() {
        let (_folder, place) = place();
        let mut namesake = Holder::me("flip");
        namesake.boot = "another".into();
        namesake.process_start += 1;
        write(&place, &namesake);
        let taken = Lock::take(&place, "flip");
        assert!(matches!(taken, Err(Error::Locked(_))));
    }

    #[test]
    fn a_lease_says_who_holds_it_and_until_when() {
        let mut lease = fresh_lease();
        assert_eq!(holder_of(&lease), None);
        let me = Holder::me("flip");
        write_lease(&mut lease, Some(&me));
        assert_eq!(holder_of(&lease), Some(me));
        assert!(lease["spec"]["leaseDurationSeconds"].as_i64().unwrap() > 800);
        write_lease(&mut lease, None);
        assert_eq!(holder_of(&lease), None);
        assert_eq!(lease["spec"], json!({}));
    }

    #[test]
    fn who_lost_the_lock_is_told_and_leaves_it_alone() {
        let (_folder, place) = place();
        let (mut lock, _) = Lock::take(&place, "flip").unwrap();
        lock.keep(Duration::ZERO).unwrap();
        let mut other = Holder::me("rollback");
        other.host = "elsewhere".into();
        write(&place, &other);
        assert!(matches!(lock.keep(Duration::ZERO), Err(Error::LockLost)));
        drop(lock);
        assert_eq!(place.holder().unwrap(), Some(other));
    }

    #[test]
    fn a_half_written_line_holds_nobody_up() {
        let (_folder, place) = place();
        let Place::File(path) = &place else {
            unreachable!("it is a file")
        };
        std::fs::write(path, "{\"verb\":\"fl").unwrap();
        assert!(Lock::take(&place, "flip").is_ok());
    }
}
