//! Which sources a build is made of.

use std::{path::Path, process::Command, time::Duration};

use crate::command;

const GIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The commit, with `-dirty` behind it where the tree differs from it; `unknown` without git.
pub fn revision(root: &Path) -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"])
        .current_dir(root);
    command::run(&mut git, GIT_TIMEOUT).unwrap_or_else(|_| "unknown".into())
}
