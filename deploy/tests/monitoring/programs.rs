//! The programs of the monitoring, where this machine has them, and the project's files for them.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Of a test with a program that has to start or to deliver, on a machine that may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// A folder or file of the monitoring.
pub fn monitoring(path: &str) -> PathBuf {
    workspace().join("monitoring").join(path)
}

/// All files below a folder of the monitoring, sorted.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![monitoring(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} has no file .{extension}");
    found
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The folder that `TALLY_TOOLS` names is looked at first, then the PATH.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let named = env::var_os("TALLY_TOOLS").map(PathBuf::from);
    named
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Where the programs are; none, and the lack told, where one of them is missing.
#[expect(
    clippy::print_stdout,
    reason = "a skipped test says so on standard output"
)]
pub fn programs<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let found = names.map(find);
    let missing = names.iter().zip(&found).find(|(_, found)| found.is_none());
    if let Some((name, _)) = missing {
        println!("skipped: {name} is neither on the PATH nor in the folder TALLY_TOOLS");
        return None;
    }
    Some(found.map(Option::unwrap))
}

/// Runs a program to its end.
///
/// # Panics
/// It failed; what it said is told.
pub fn succeeds(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let told = told(&output);
    assert!(output.status.success(), "{program:?} {arguments:?}: {told}");
    told
}

pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// One of the project's files with its placeholders filled in, as `up` does it.
///
/// # Panics
/// A placeholder is left, or a value has none.
pub fn filled(path: &Path, values: &[(&str, &str)]) -> String {
    let mut text = read(path);
    for (name, value) in values {
        let placeholder = format!("@{name}@");
        assert!(text.contains(&placeholder), "{path:?} has no {placeholder}");
        // A list takes the place of the whole string.
        if value.starts_with('[') {
            text = text.replace(&format!("\"{placeholder}\""), value);
        }
        text = text.replace(&placeholder, value);
    }
    let left = text.split('@').skip(1).step_by(2).find(|word| {
        word.len() > 1
            && word
                .chars()
                .all(|letter| letter.is_ascii_uppercase() || letter == '_')
    });
    assert_eq!(left, None, "{path:?}");
    text
}

/// Nobody else has it just now; the programs bind it a moment later.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A program that runs until it is dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn start(program: &Path, arguments: &[&str], log: PathBuf) -> Self {
        let writer = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until it answers.
    pub fn ready(mut self, url: &str) -> Self {
        let began = Instant::now();
        while get(url).is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < PATIENCE,
                "{url} does not answer: {}",
                read(&self.log)
            );
            thread::sleep(Duration::from_millis(50));
        }
        self
    }
}

impl Drop for Running {
    /// As a crash does: what must not be lost has to be on the disk already.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// # Errors
/// Nobody answers, or not with a success.
pub fn get(url: &str) -> Result<String, String> {
    let response = ureq::get(url).call();
    let mut response = response.map_err(|error| error.to_string())?;
    response
        .body_mut()
        .read_to_string()
        .map_err(|error| error.to_string())
}

/// # Errors
/// Nobody answers, or not with a success, or not with JSON.
pub fn get_json(url: &str) -> Result<Value, String> {
    serde_json::from_str(&get(url)?).map_err(|error| error.to_string())
}

/// Looks again and again until there is something to see.
///
/// # Panics
/// There was not in time.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(error) => assert!(began.elapsed() < PATIENCE, "no {what}: {error}"),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// A value as it may stand in a query.
pub fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}
