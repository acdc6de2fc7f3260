//! What makes the server send the sockets away.

use std::{
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::options::DrainOptions;

/// A POST is answered at once; what it begins goes on by itself.
const POST_MAX: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(20);

/// Something under way; finished with what went wrong, if anything did.
pub struct Ending(Option<JoinHandle<Result<(), String>>>);

impl Ending {
    /// Triggers the end that the options name. What takes time does so in a thread of its own, so
    /// that the sockets go on.
    ///
    /// # Errors
    /// The process cannot be signalled.
    pub fn begin(options: &DrainOptions) -> Result<Self, String> {
        if let Some(pid) = options.end_pid {
            terminate(pid)?;
            return Ok(Self(None));
        }
        let limit = options.drain_timeout;
        let (post, command) = (options.end_post.clone(), options.end_command.clone());
        let work = move || match (post, command) {
            (Some(url), _) => post_to(&url),
            (None, Some(command)) => run(&command, limit),
            (None, None) => Ok(()),
        };
        Ok(Self(Some(thread::spawn(work))))
    }

    pub fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end of it, which its own limit bounds.
    ///
    /// # Errors
    /// What went wrong.
    pub fn finish(self) -> Result<(), String> {
        let outcome = self.0.map(JoinHandle::join);
        outcome
            .unwrap_or(Ok(Ok(())))
            .unwrap_or_else(|_| Err("it panicked".into()))
    }
}

fn terminate(pid: u32) -> Result<(), String> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or("--end-pid is no process id")?;
    kill_process(pid, Signal::TERM).map_err(|error| format!("SIGTERM to {pid:?}: {error}"))
}

fn post_to(url: &str) -> Result<(), String> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(POST_MAX))
        .build()
        .new_agent();
    let answer = agent.post(url).send_empty();
    answer
        .map(drop)
        .map_err(|error| format!("POST {url}: {error}"))
}

/// Its output goes where errors go: standard output may be a report.
fn run(command: &str, limit: Duration) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{command}: {error}");
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .spawn()
        .map_err(told)?;
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait().map_err(told)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{command}: {status}")),
            None if Instant::now() < deadline => thread::sleep(PAUSE),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{command}: not done after {limit:?}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_judged_by_its_exit_code() {
        assert_eq!(run("true", Duration::from_secs(5)), Ok(()));
        assert!(
            run("exit 3", Duration::from_secs(5))
                .unwrap_err()
                .contains('3')
        );
    }

    #[test]
    fn a_command_that_never_ends_is_ended() {
        let outcome = run("exec sleep 60", Duration::from_millis(50));
        assert!(outcome.unwrap_err().contains("not done"));
    }

    #[test]
    fn no_process_has_a_number_below_one() {
        assert!(terminate(0).is_err());
    }
}
