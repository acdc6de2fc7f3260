//! Running other programs, never longer than they may take.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_millis(10);

/// Lines of a log that an error shows.
const LAST_WORDS: usize = 5;

/// Runs a command to its end, with what it says in a log.
///
/// # Errors
/// It cannot be run, failed, or took longer than `limit` and was killed.
pub fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = spawn(command, log)?;
    match end(&mut child, limit) {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{name}: {status}: {}", last_words(log))),
        None => Err(format!("{name}: not done after {limit:?}")),
    }
}

/// Starts a command, with what it says in a log.
///
/// # Errors
/// It cannot be run.
pub fn spawn(command: &mut Command, log: &Path) -> Result<Child, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let told = |error: std::io::Error| format!("{name}: {error}");
    let file = File::create(log).map_err(told)?;
    let copy = file.try_clone().map_err(told)?;
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .spawn()
        .map_err(told)
}

/// Waits for the end; after `limit` it is brought about, and `None` is what is told.
pub fn end(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// The first line that a program prints, such as its version; `None` where it is missing.
pub fn first_line(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or_default().to_owned())
}

pub fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(LAST_WORDS).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_the_last_words() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let second = Duration::from_secs(1);
        let mut command = Command::new("sh");
        command.args(["-c", "echo so it is; exit 3"]);
        let error = run(&mut command, log.path(), second).unwrap_err();
        assert!(error.contains("so it is"), "{error}");
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("sleep");
        let outcome = run(command.arg("60"), log.path(), Duration::from_millis(50));
        assert!(outcome.unwrap_err().contains("not done"));
    }

    #[test]
    fn what_is_missing_has_no_version() {
        assert_eq!(first_line("no-such-program", "--version"), None);
        assert!(first_line("sh", "-c").is_none());
    }
}
