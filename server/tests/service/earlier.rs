//! An earlier build of the server, from the history of this clone: what flips and rollbacks between
//! two releases meet.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// The first commit with all that is session format 1.0. When a format 2 is there, it becomes the last
/// commit that knows format 1 only.
const EARLIER: &str = "35820b5fd64b";

/// Its program; `None` where this clone cannot build it, which is then said.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub fn program() -> Option<&'static Path> {
    static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(build);
    let built = PROGRAM.as_deref();
    if built.is_none() {
        println!(
            "skipped: this clone's history does not go back to {EARLIER}; git fetch --unshallow"
        );
    }
    built
}

fn build() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let known = Command::new("git")
        .args(["cat-file", "-e", &format!("{EARLIER}^{{commit}}")])
        .current_dir(root)
        .output();
    if !known.is_ok_and(|known| known.status.success()) {
        return None;
    }
    let folder = root.join("target/earlier");
    let sources = folder.join(EARLIER);
    fs::create_dir_all(&sources).unwrap();
    // What git archives has the time of its commit, so that a second run builds nothing.
    run(Command::new("sh")
        .args(["-c", "git archive $0 | tar --extract --directory $1"])
        .args([EARLIER.as_ref(), sources.as_os_str()])
        .current_dir(root));
    run(Command::new("timeout")
        .args(["900", env!("CARGO"), "build", "--locked", "--quiet"])
        .args(["--package", "tally-server", "--target-dir"])
        .arg(&folder)
        .current_dir(&sources));
    Some(folder.join("debug/tally-server"))
}

fn run(command: &mut Command) {
    let done = command.status().expect("it starts");
    assert!(done.success(), "{command:?}: {done}");
}
