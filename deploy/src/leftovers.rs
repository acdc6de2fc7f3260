//! Processes of this clone that nobody looks after: supervisord ended without them.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    engine::STOP_TIMEOUT,
    error::{Error, Result},
    supervisor, wait,
};

/// A killed process is gone in no time; only the kernel can be late.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Stops them all: politely first, so that a colour drains. Returns how many there were.
///
/// # Errors
/// One does not even end when it is killed.
pub fn stop(run: &Path) -> Result<usize> {
    let found = find(run);
    if found.is_empty() {
        return Ok(0);
    }
    signal(&found, Signal::TERM);
    if gone(run, STOP_TIMEOUT).is_err() {
        signal(&find(run), Signal::KILL);
        gone(run, KILL_TIMEOUT)?;
    }
    Ok(found.len())
}

fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        // One that has ended meanwhile is what this is for.
        let _ = kill_process(*process, signal);
    }
}

fn gone(run: &Path, timeout: Duration) -> Result<()> {
    wait::until(
        "the end of what ran unsupervised",
        timeout,
        || match find(run).first() {
            None => Ok(()),
            Some(process) => Err(Error::Alive(process.as_raw_nonzero().get())),
        },
    )
}

fn find(run: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .filter(|process| is_left_over(*process, run))
        .collect()
}

/// The folder alone would not tell: a person's shell may stand in it. So supervisord's mark is
/// asked for too, and that the parent is not supervisord any more.
fn is_left_over(process: Pid, run: &Path) -> bool {
    works_in(process, run)
        && is_marked(process)
        && !parent(process).is_some_and(|parent| works_in(parent, run))
}

fn file(process: Pid, name: &str) -> String {
    format!("/proc/{}/{name}", process.as_raw_nonzero())
}

fn works_in(process: Pid, folder: &Path) -> bool {
    fs::read_link(file(process, "cwd")).is_ok_and(|found| found == folder)
}

fn is_marked(process: Pid) -> bool {
    fs::read(file(process, "environ")).is_ok_and(|variables| {
        variables
            .split(|byte| *byte == 0)
            .any(|variable| variable == supervisor::MARK.as_bytes())
    })
}

fn parent(process: Pid) -> Option<Pid> {
    let status = fs::read_to_string(file(process, "status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Starts a process in a folder through a shell that ends at once, as supervisord's end leaves
    /// it; returns when it runs.
    fn orphan(folder: &Path, variable: &str) {
        let (name, value) = variable.split_once('=').unwrap();
        let started = Command::new("sh")
            .args(["-c", "sleep 20 & cd / && echo $!"])
            .current_dir(folder)
            .env(name, value)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(started.unwrap().success());
    }

    #[test]
    fn only_marked_processes_of_this_clone_are_stopped() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = |of: &tempfile::TempDir| of.path().canonicalize().unwrap();
        assert_eq!(stop(&folder(&ours)).unwrap(), 0);
        orphan(&folder(&ours), supervisor::MARK);
        orphan(&folder(&ours), "A=persons-own");
        orphan(&folder(&other), supervisor::MARK);
        assert_eq!(stop(&folder(&ours)).unwrap(), 1);
        assert_eq!(stop(&folder(&ours)).unwrap(), 0);
        assert_eq!(stop(&folder(&other)).unwrap(), 1);
    }
}
