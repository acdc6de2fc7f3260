//! What happened: one line of JSON a deploy, appended and never changed. In a file, or for those who
//! share a cluster in a ConfigMap of it.

use std::{
    fmt,
    fs::{File, OpenOptions, read_to_string},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    colour::Colour,
    error::{Error, Result},
    kubernetes::cluster::Cluster,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new colour is live.
    Done,
    /// The new colour is live, and the old one was left with its sockets.
    Unfinished,
    /// The old colour is live: the new one never was.
    Refused,
    /// The old colour is live: the new one was, for a while.
    TakenBack,
    /// Nobody knows; `./just status` asks.
    Stuck,
    /// Of an audit: the release failed, or the ledger does not agree.
    Failed,
}

impl Outcome {
    fn told(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unfinished => "unfinished",
            Self::Refused => "refused",
            Self::TakenBack => "taken back",
            Self::Stuck => "stuck",
            Self::Failed => "failed",
        }
    }
}

/// How long a step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub step: String,
    pub ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at: DateTime<Utc>,
    pub verb: String,
    pub who: String,
    pub host: String,
    pub engine: String,
    pub from: Colour,
    pub to: Colour,
    /// Version and revision, `0.1.0 (abc)`; empty where a colour could not be asked.
    pub from_version: String,
    pub to_version: String,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub total_ms: u64,
    /// From the write of the router's file to the last probe that the new colour answered.
    pub switch_ms: Option<u64>,
    pub steps: Vec<Timing>,
    /// Sockets that the drain sent away.
    pub drained: u64,
    /// The most handshakes a second that the new colour had meanwhile.
    pub handshakes_per_second_max: u64,
    /// Of an audit; it has a line of its own, behind that of the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audited>,
}

/// The verb of an audit's line.
pub const AUDIT: &str = "audit";

/// What the ledger of an audit says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    /// Messages.
    pub lost: u64,
    pub duplicated: u64,
    /// Returns to a session, and to none.
    pub resumed: u64,
    pub fresh: u64,
    /// Without a connection.
    pub gap_p99_ms: u64,
}

impl fmt::Display for Audited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lost,
            duplicated,
            resumed,
            fresh,
            gap_p99_ms,
        } = self;
        write!(f, "{lost} messages lost, {duplicated} duplicated; ")?;
        match resumed + fresh {
            0 => f.write_str("nobody had to come back"),
            returns => write!(
                f,
                "{resumed} of {returns} resumed, after {gap_p99_ms} ms without a connection (p99)"
            ),
        }
    }
}

/// Where the lines are.
#[derive(Clone, Debug)]
pub enum Place {
    File(PathBuf),
    ConfigMap(Cluster),
}

const CONFIG_MAP: &str = "tally-history";
const LINES: &str = "history.jsonl";

/// Lines of some 800 bytes that a ConfigMap keeps, which holds a MiB at most; older ones go.
const LINES_MAX: usize = 500;

impl Place {
    /// Appends an entry.
    ///
    /// # Errors
    /// It cannot be written; the entry is in the error, so that nothing is lost.
    pub fn append(&self, entry: &Entry) -> Result<()> {
        let line = serde_json::to_string(entry).expect("plain fields serialise") + "\n";
        let lost = |place: String, reason: String| Error::History {
            place,
            reason,
            line: line.trim_end().to_owned(),
        };
        match self {
            Self::File(path) => {
                write(path, &line).map_err(|error| lost(format!("{path:?}"), error.to_string()))
            }
            Self::ConfigMap(cluster) => cluster
                .change(&fresh_config_map(), |map| {
                    let before = map["data"][LINES].as_str().unwrap_or_default();
                    map["data"] = json!({ LINES: with_line(before, &line) });
                    Ok(())
                })
                .map_err(|error| lost(format!("configmap/{CONFIG_MAP}"), error.to_string())),
        }
    }

    /// The last entries, oldest first. Lines that cannot be read are left out.
    ///
    /// # Errors
    /// They cannot be read at all.
    pub fn last(&self, count: usize) -> Result<Vec<Entry>> {
        let text = match self {
            Self::File(path) => match read_to_string(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
                text => text.map_err(Error::file(path))?,
            },
            Self::ConfigMap(cluster) => {
                let map = cluster.get(&["configmap", CONFIG_MAP])?.pop();
                let text = map.as_ref().and_then(|map| map["data"][LINES].as_str());
                text.unwrap_or_default().to_owned()
            }
        };
        let lines = text.lines().filter(|line| !line.is_empty());
        let entries: Vec<Entry> = lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        Ok(entries[entries.len().saturating_sub(count)..].to_vec())
    }
}

fn fresh_config_map() -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": CONFIG_MAP } })
}

fn with_line(before: &str, line: &str) -> String {
    let count = before.lines().count();
    let kept = before.lines().skip((count + 1).saturating_sub(LINES_MAX));
    kept.flat_map(|line| [line, "\n"]).chain([line]).collect()
}

fn write(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)?;
    // Somebody may have been ended in the middle of a line.
    let line = if ends_a_line(&mut file)? {
        line.to_owned()
    } else {
        format!("\n{line}")
    };
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// A table for a person.
pub fn table(entries: &[Entry]) -> String {
    let mut text = format!(
        "{:<20} {:<9} {:<14} {:<11} {:>8} {:>9} {:>7}  {:<12} {}\n",
        "when", "verb", "from, to", "outcome", "total", "switch", "drained", "who", "version"
    );
    for entry in entries {
        let switch = entry
            .switch_ms
            .map_or("-".into(), |switch| format!("{switch} ms"));
        text += &format!(
            "{:<20} {:<9} {:<14} {:<11} {:>8} {switch:>9} {:>7}  {:<12} {}\n",
            entry.at.format("%Y-%m-%d %H:%M:%S"),
            entry.verb,
            way(entry),
            entry.outcome.told(),
            format!("{:.1} s", entry.total_ms as f64 / 1000.0),
            entry.drained,
            entry.who,
            entry.to_version,
        );
        let audit = entry.audit.iter().map(ToString::to_string);
        let reason = (!entry.reason.is_empty()).then(|| entry.reason.replace('\n', "; "));
        for line in audit.chain(reason) {
            text += &format!("{:21}{line}\n", "");
        }
    }
    text
}

/// An `up` comes from nowhere, an audit leads nowhere.
fn way(entry: &Entry) -> String {
    if entry.from == entry.to {
        entry.to.to_string()
    } else {
        format!("{}, {}", entry.from, entry.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(verb: &str) -> Entry {
        Entry {
            at: Utc::now(),
            verb: verb.into(),
            who: "somebody".into(),
            host: "here".into(),
            engine: "native".into(),
            from: Colour::Blue,
            to: Colour::Green,
            from_version: "0.1.0 (a)".into(),
            to_version: "0.1.0 (b)".into(),
            outcome: Outcome::Done,
            reason: String::new(),
            total_ms: 1234,
            switch_ms: Some(56),
            steps: vec![],
            drained: 7,
            handshakes_per_second_max: 8,
            audit: None,
        }
    }

    #[test]
    fn entries_are_appended_and_the_last_ones_shown() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::File(folder.path().join("history.jsonl"));
        assert_eq!(place.last(10).unwrap(), []);
        let entries = ["a", "b", "c"].map(entry);
        for entry in &entries {
            place.append(entry).unwrap();
        }
        assert_eq!(place.last(2).unwrap(), entries[1..]);
        assert!(table(&entries).contains("56 ms"));
    }

    #[test]
    fn an_audit_is_told_below_its_release() {
        let mut audited = entry(AUDIT);
        audited.audit = Some(Audited {
            lost: 0,
            duplicated: 1,
            resumed: 9,
            fresh: 1,
            gap_p99_ms: 12,
        });
        audited.outcome = Outcome::Failed;
        let line = serde_json::to_string(&audited).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), audited);
        let told = table(&[entry("flip"), audited]);
        let ledger = "0 messages lost, 1 duplicated; 9 of 10 resumed, after 12 ms without";
        assert!(told.lines().last().unwrap().contains(ledger), "{told}");
    }

    #[test]
    fn after_half_a_line_a_new_one_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        std::fs::write(&path, "{\"at\":\"20").unwrap();
        let place = Place::File(path);
        place.append(&entry("flip")).unwrap();
        assert_eq!(place.last(10).unwrap().len(), 1);
    }

    #[test]
    fn a_config_map_keeps_the_last_lines() {
        let mut text = String::new();
        for number in 0..LINES_MAX + 10 {
            text = with_line(&text, &format!("{number}\n"));
        }
        assert_eq!(text.lines().count(), LINES_MAX);
        assert!(
            text.starts_with("10\n") && text.ends_with("\n509\n"),
            "{text}"
        );
    }

    #[test]
    fn a_full_disk_loses_no_entry() {
        let error = Place::File("/dev/full".into())
            .append(&entry("flip"))
            .unwrap_err();
        assert!(error.to_string().contains("\"verb\":\"flip\""), "{error}");
    }
}
