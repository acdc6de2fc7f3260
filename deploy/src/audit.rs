//! A release under load, with a ledger: what the clients of the load test have sent and what was
//! counted for them has to agree to the last message.

use std::{
    env,
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    error::{Error, Result},
    stack::Stack,
};

/// Names a load test to run instead of building one.
const VARIABLE: &str = "TALLY_LOADTEST";

/// What has to be true of it.
const ASSERTIONS: [&str; 3] = ["lost<=0", "duplicated<=0", "resumed>=100%"];

/// How long the clients talk before the release begins.
const BEFORE: &str = "3s";

/// A release with a bake of minutes and a slow drain.
const PATIENCE: &str = "1h";

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Audit {
    /// Run the load test meanwhile, and fail if a message was lost or counted twice
    #[arg(long)]
    pub audit: bool,
    /// Its sockets
    #[arg(
        long,
        default_value_t = 1000,
        requires = "audit",
        value_name = "SOCKETS"
    )]
    pub audit_sockets: u32,
    /// Its messages a second
    #[arg(long, default_value_t = 1000, requires = "audit", value_name = "RATE")]
    pub audit_rate: u32,
}

impl Audit {
    /// Runs `verb`, which is this program's, under the load test; both print what they do.
    ///
    /// # Errors
    /// The front door is under TLS, the load test cannot be run, the verb failed, or the ledger does
    /// not agree.
    pub fn run(self, root: &Path, verb: &[String]) -> Result<()> {
        let stack = Stack::load(root)?;
        if stack.door.tls.is_some() {
            return Err(Error::AuditUnderTls);
        }
        let program = env::current_exe().map_err(Error::file("this program"))?;
        let words = [program.into_os_string(), "--root".into(), root.into()];
        let words = words.into_iter().chain(verb.iter().map(OsString::from));
        let command: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
        let url = format!("ws://{}/ws/chat/", stack.front_door());
        let mut loadtest = loadtest(root);
        loadtest
            .args([url.as_str(), "--mode", "drain", "--reconnect"])
            .args(["--sockets", &self.audit_sockets.to_string()])
            .args(["--rate", &self.audit_rate.to_string()])
            .args(["--duration", BEFORE, "--drain-timeout", PATIENCE])
            .args(["--end-command", &command.join(" ")]);
        for assertion in ASSERTIONS {
            loadtest.args(["--assert", assertion]);
        }
        // Ctrl-C is for all of them: the release goes back, and the report is of a part of the run.
        let ended = loadtest.stdin(Stdio::null()).status();
        match ended.map_err(Error::file(loadtest.get_program()))? {
            status if status.success() => Ok(()),
            _ => Err(Error::Audit),
        }
    }
}

fn loadtest(root: &Path) -> Command {
    if let Some(program) = env::var_os(VARIABLE).filter(|program| !program.is_empty()) {
        return Command::new(program);
    }
    let mut cargo = Command::new("cargo");
    cargo
        .args(["run", "--quiet", "--release", "--locked", "--package"])
        .args(["tally-loadtest", "--"])
        .current_dir(root);
    cargo
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_quoted_word_for_one() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
