//! A release under load, with a ledger: what the clients of the load test have sent and what was
//! counted for them has to agree to the last message.

use std::{
    env,
    ffi::OsString,
    fs,
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use serde::Deserialize;

use crate::{
    deploy, engine,
    error::{Error, Result},
    history::Audited,
    interrupt,
    stack::Stack,
};

/// Names a load test to run instead of building one.
const VARIABLE: &str = "TALLY_LOADTEST";

/// The colours' setting.
const CHECKPOINT: &str = "TALLY_CHECKPOINT";

/// What the load test found out, in the stack's folder.
const REPORT: &str = "audit.json";

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
    /// The load test cannot be run, the verb failed, or the ledger does not agree.
    pub fn run(self, root: &Path, verb: &[String]) -> Result<()> {
        let engine = engine::of(Stack::load(root)?);
        let (engine, stack) = (engine.as_ref(), engine.stack());
        // Ctrl-C is for all of them: the release goes back, the report is of a part of the run, and
        // this program waits for both.
        interrupt::catch()?;
        let program = env::current_exe().map_err(Error::file("this program"))?;
        let words = [program.into_os_string(), "--root".into(), root.into()];
        let words = words.into_iter().chain(verb.iter().map(OsString::from));
        let command: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
        let door = address(&engine.front_door()?)?;
        let scheme = if stack.door.tls.is_some() {
            "wss"
        } else {
            "ws"
        };
        let url = format!("{scheme}://{door}/ws/chat/");
        let mut loadtest = loadtest(root);
        loadtest
            .args([url.as_str(), "--mode", "drain", "--reconnect"])
            .args(["--sockets", &self.audit_sockets.to_string()])
            .args(["--rate", &self.audit_rate.to_string()])
            .args(["--duration", BEFORE, "--drain-timeout", PATIENCE])
            // Whether beats come is another matter: a colour may be many processes, each with its own.
            .args(["--heartbeat", "0s"])
            .args(["--end-command", &command.join(" ")]);
        for assertion in ASSERTIONS {
            loadtest.args(["--assert", assertion]);
        }
        if !door.ip().is_loopback() {
            loadtest.arg("--remote");
        }
        if let Some(interval) = checkpoint() {
            loadtest.args(["--checkpoint", &interval]);
        }
        let report = stack.run().join(REPORT);
        forget(&report);
        loadtest.arg("--json").arg(&report);
        let began = Instant::now();
        let ended = loadtest.stdin(Stdio::null()).status();
        let ended = ended.map_err(Error::file(loadtest.get_program()))?;
        let well = ended.success();
        if let Some(ledger) = ledger(&report) {
            deploy::note_audit(engine, ledger, well, began.elapsed());
        }
        if well { Ok(()) } else { Err(Error::Audit) }
    }
}

/// A name's first address that the load test can take.
fn address(front_door: &str) -> Result<SocketAddr> {
    let named = Error::file(front_door);
    let mut addresses = front_door.to_socket_addrs().map_err(named)?;
    let address = addresses.find(SocketAddr::is_ipv4);
    address.ok_or_else(|| Error::NoAddress(front_door.to_owned()))
}

fn forget(report: &Path) {
    // It may not be there; one of an earlier audit must not be taken for this one's.
    let _ = fs::remove_file(report);
}

/// The ledger in a load test's report; none where it did not come that far.
fn ledger(report: &Path) -> Option<Audited> {
    let text = fs::read_to_string(report).ok()?;
    serde_json::from_str::<Report>(&text)
        .ok()?
        .drain
        .map(|drain| Audited {
            lost: drain.lost,
            duplicated: drain.duplicated,
            resumed: drain.resumed,
            fresh: drain.fresh,
            gap_p99_ms: (drain.gap.p99_s * 1000.0).ceil() as u64,
        })
}

/// What the history wants to know of a load test's report.
#[derive(Deserialize)]
struct Report {
    drain: Option<Drain>,
}

#[derive(Deserialize)]
struct Drain {
    lost: u64,
    duplicated: u64,
    resumed: u64,
    fresh: u64,
    gap: Gap,
}

#[derive(Deserialize)]
struct Gap {
    p99_s: f64,
}

/// How long a client has to keep what was acknowledged, where that is not what it does anyway.
fn checkpoint() -> Option<String> {
    let interval = env::var(CHECKPOINT).ok()?;
    humantime::parse_duration(&interval).ok().map(|_| interval)
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
    fn what_is_no_report_has_no_ledger() {
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join(REPORT);
        assert_eq!(ledger(&report), None);
        fs::write(&report, "{\"drain\":null}").unwrap();
        assert_eq!(ledger(&report), None);
        let gap = "{\"p99_s\":0.0121}";
        let text = format!(
            "{{\"drain\":{{\"lost\":0,\"duplicated\":1,\"resumed\":2,\"fresh\":3,\"gap\":{gap}}}}}"
        );
        fs::write(&report, text).unwrap();
        let found = ledger(&report).unwrap();
        assert_eq!((found.lost, found.duplicated), (0, 1));
        assert_eq!((found.resumed, found.fresh, found.gap_p99_ms), (2, 3, 13));
    }

    #[test]
    fn a_shell_takes_a_quoted_word_for_one() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
