//! What processes use, out of /proc.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::clock::{Nanos, SECOND};

/// Ticks of `/proc/<pid>/stat`, the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// LISTEN in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// What a process has used so far, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu: Nanos,
    pub rss_bytes: u64,
}

/// `None` once it has ended.
pub fn usage(pid: u32) -> Option<Usage> {
    Some(Usage {
        cpu: cpu(pid)?,
        rss_bytes: status_bytes(pid, "VmRSS:")?,
    })
}

/// Whether it has ended, reaped or not.
pub fn ended(pid: u32) -> bool {
    stat(pid).is_none_or(|fields| matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

/// Of all threads, in nanoseconds; in hundredths of a second where the kernel counts no finer.
/// What threads used that have ended is only in the coarse figure, so the larger one is right.
fn cpu(pid: u32) -> Option<Nanos> {
    let fields = stat(pid)?;
    // Fields 14 and 15 of proc(5); `stat` begins with the third.
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let ticks = ticks(11)? + ticks(12)?;
    let coarse = ticks * (SECOND / TICKS_PER_SECOND);
    Some(
        threads_cpu(pid)
            .filter(|fine| fine + SECOND / 10 > coarse)
            .unwrap_or(coarse),
    )
}

fn threads_cpu(pid: u32) -> Option<Nanos> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let cpu = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<Nanos>().ok()
    });
    Some(cpu.sum()).filter(|cpu| *cpu > 0)
}

/// The fields behind the name, which may contain anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

fn status_bytes(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

pub fn name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned())
}

/// Files that it may open.
pub fn files_max(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Who listens at a port of this machine; `None` also where that is somebody else's process.
pub fn listener(port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| inodes(table, port))
        .collect();
    processes().find(|pid| holds(*pid, &inodes).unwrap_or(false))
}

fn inodes(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let listens = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 9 && fields[1].ends_with(&port) && fields[3] == LISTEN
    };
    let inode = |line: &str| line.split_whitespace().nth(9).map(str::to_owned);
    table.lines().filter(listens).filter_map(inode).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holds(pid: u32, inodes: &[String]) -> io::Result<bool> {
    let links: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let held = |link: &Path| links.iter().any(|wanted| link == Path::new(wanted));
    for file in fs::read_dir(format!("/proc/{pid}/fd"))? {
        if fs::read_link(file?.path()).is_ok_and(|link| held(&link)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process};

    use super::*;

    #[test]
    fn this_process_is_found_at_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(super::listener(port), Some(process::id()));
    }

    #[test]
    fn this_process_uses_something() {
        let before = usage(process::id()).unwrap();
        assert!(before.rss_bytes > 100_000, "{before:?}");
        let mut sum = 0_u64;
        while usage(process::id()).unwrap().cpu == before.cpu {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(files_max(process::id()).unwrap() > 10);
        assert!(!ended(process::id()));
    }

    #[test]
    fn who_is_not_there_uses_nothing() {
        // The largest pid that Linux gives is 2^22.
        assert_eq!(usage(1 << 23), None);
        assert!(ended(1 << 23));
    }
}
