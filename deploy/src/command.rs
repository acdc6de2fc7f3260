//! Running other programs, never longer than they may take.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    interrupt,
};

const PAUSE: Duration = Duration::from_millis(5);

/// Runs a command to its end; returns what it printed.
///
/// # Errors
/// It cannot be run, failed (with its complaint), or took longer than `limit` and was killed.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    finish(command.stdin(Stdio::null()), None, limit).map(|(printed, _)| printed)
}

/// The same for a command that reads `input`.
///
/// # Errors
/// As of [`run`].
pub fn feed(command: &mut Command, input: String, limit: Duration) -> Result<String> {
    finish(command.stdin(Stdio::piped()), Some(input), limit).map(|(printed, _)| printed)
}

/// The same, with what it wrote to standard error behind what it printed.
///
/// # Errors
/// As of [`run`].
pub fn run_with_complaints(command: &mut Command, limit: Duration) -> Result<String> {
    let (printed, complained) = finish(command.stdin(Stdio::null()), None, limit)?;
    Ok(format!("{printed} {complained}").trim().to_owned())
}

fn finish(
    command: &mut Command,
    input: Option<String>,
    limit: Duration,
) -> Result<(String, String)> {
    let fail = failure(command);
    let mut child = command
        // Ctrl-C is for this program, which then decides what becomes of its children.
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(error.to_string()))?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // Who does not read it all has its reasons, and says so.
        thread::spawn(move || pipe.write_all(input.as_bytes()));
    }
    let printed = collect(child.stdout.take());
    let complained = collect(child.stderr.take());
    // When time is up the pipes are left alone: a grandchild may hold them open for ever.
    let status = end(&mut child, limit, &fail)?;
    let (printed, complained) = (text(printed), text(complained));
    if status.success() {
        Ok((printed, complained))
    } else {
        Err(fail(format!("{printed}\n{complained}").trim().to_owned()))
    }
}

/// Runs a command whose output a person watches.
///
/// # Errors
/// It cannot be run, failed, or took longer than `limit` and was killed.
pub fn watch(command: &mut Command, limit: Duration) -> Result<()> {
    let fail = failure(command);
    let mut child = command
        .stdin(Stdio::null())
        // Ctrl-C is for this program, which then decides what becomes of its children.
        .process_group(0)
        .spawn()
        .map_err(|error| fail(error.to_string()))?;
    match end(&mut child, limit, &fail)? {
        status if status.success() => Ok(()),
        status => Err(fail(format!("{status}, see above"))),
    }
}

fn failure(command: &Command) -> impl Fn(String) -> Error + use<> {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let told = command
        .get_args()
        .fold(name.into_owned(), |told, argument| {
            told + " " + &argument.to_string_lossy()
        });
    move |reason| Error::Command {
        command: told.clone(),
        reason,
    }
}

/// On a thread of its own: a child that fills one pipe while the other is read would never end.
fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn text(collected: JoinHandle<Vec<u8>>) -> String {
    let bytes = collected.join().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn end(child: &mut Child, limit: Duration, fail: impl Fn(String) -> Error) -> Result<ExitStatus> {
    let began = Instant::now();
    loop {
        let over = match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Err(error) => return Err(fail(error.to_string())),
            Ok(None) if began.elapsed() >= limit => Err(fail(format!("not done within {limit:?}"))),
            Ok(None) => interrupt::check(),
        };
        if let Err(error) = over {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_says_what_it_printed() {
        assert_eq!(run(&mut shell("echo yes"), PLENTY).unwrap(), "yes");
    }

    #[test]
    fn a_command_reads_what_it_is_fed() {
        let long = "x".repeat(1 << 20);
        assert_eq!(feed(&mut shell("wc -c"), long, PLENTY).unwrap(), "1048576");
        assert!(feed(&mut shell("exit 0"), "unread".into(), PLENTY).is_ok());
    }

    #[test]
    fn a_failed_command_is_named_with_its_complaint() {
        let error = run(&mut shell("echo no >&2; exit 3"), PLENTY).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c echo no >&2; exit 3` failed: no");
    }

    #[test]
    fn a_command_without_end_is_ended() {
        let began = Instant::now();
        let error = run(&mut shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("not done within 50ms"));
        assert!(began.elapsed() < PLENTY);
    }
}
