//! A Redis, or a cluster of them, which the processes of all hosts share.
//!
//! A session is a hash under its own key, and each kind of word is a script that touches this one
//! key and mirrors `session.rs`; the tests hold the two together. A batch is one pipeline. Whom a
//! claim makes wait leaves a note for the holder in a set, which costs a second round trip; the
//! note may get lost, so whoever asks again leaves it again.
//!
//! How durable it is, the server decides (`appendonly`, `appendfsync`): [`StoreSettings::durable`]
//! changes nothing here.

mod connection;

use std::time::Duration;

use redis::{Cmd, IntoConnectionInfo, RedisError, Script, Value, cmd};
use uuid::Uuid;

use self::connection::{Cluster, Connection, Failure, Single};
use super::{
    Op, Store, StoreError, StoreSettings, Tidied,
    format::{self, FORMAT},
};
use crate::session::{Awaited, Epoch, Outcome, Owner};

const GENERATION: &str = "tally:generation";

/// Of a cluster, which may lose a node with all it has: so many that every node has some.
const GENERATIONS: usize = 256;

/// How the URL of a cluster begins: then come its nodes, `host:port` each, with commas in between.
const CLUSTER: &str = "redis-cluster://";

/// Sessions that others want, told at once; the rest is told the next time.
const WANTED_MAX: usize = 1000;

/// Notes for an owner that has died go by themselves.
const NOTES_KEPT: Duration = Duration::from_secs(60);

pub struct Redis {
    /// As it may be shown: without a password.
    name: String,
    connection: Box<dyn Connection>,
    /// Changed by a wipe, whichever server it wipes.
    generations: Vec<String>,
    settings: StoreSettings,
    scripts: Scripts,
}

struct Scripts {
    save: Script,
    claim: Script,
    collect: Script,
}

const SAVE: &str = include_str!("redis/save.lua");
const CLAIM: &str = include_str!("redis/claim.lua");
const COLLECT: &str = include_str!("redis/collect.lua");

impl Scripts {
    fn new() -> Self {
        Self {
            save: Script::new(SAVE),
            claim: Script::new(CLAIM),
            collect: Script::new(COLLECT),
        }
    }
}

impl Redis {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// The URL is none, or one for TLS.
    pub fn open(url: &str, settings: StoreSettings) -> Result<Self, StoreError> {
        let name = redacted(url);
        let explained = |error: String| StoreError(format!("{name}: {error}"));
        if url.starts_with("rediss:") {
            let error = "this build speaks no TLS to Redis; use redis:// over a private network or a \
                         tunnel";
            return Err(explained(error.into()));
        }
        let (connection, generations): (Box<dyn Connection>, _) = match nodes_of(url) {
            Some(nodes) => (
                Box::new(Cluster::open(&nodes).map_err(explained)?),
                (0..GENERATIONS)
                    .map(|number| format!("{GENERATION}:{number}"))
                    .collect(),
            ),
            None => (
                Box::new(Single::open(url).map_err(explained)?),
                vec![GENERATION.to_owned()],
            ),
        };
        Ok(Self {
            name,
            connection,
            generations,
            settings,
            scripts: Scripts::new(),
        })
    }

    /// One round trip, and a second one where a server has to be taught the scripts first. It evicts
    /// none of them; a restart forgets all, and a replica that takes over never had them.
    fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, StoreError> {
        let answers = match self.connection.ask(commands) {
            Err(Failure::UnknownScript) => self
                .connection
                .teach(&[SAVE, CLAIM, COLLECT])
                .and_then(|()| self.connection.ask(commands)),
            answers => answers,
        };
        answers.map_err(|failure| {
            let reason = match failure {
                Failure::UnknownScript => "it forgets the scripts at once".into(),
                Failure::Refused(error) => refusal(&error),
                Failure::Unreached(reason) => reason,
            };
            StoreError(format!("{}: {reason}", self.name))
        })
    }

    fn command(&self, op: &Op) -> Cmd {
        let (script, id) = match op {
            Op::Save(save) => (&self.scripts.save, save.id),
            Op::Claim(id) => (&self.scripts.claim, *id),
            Op::Collect { id, .. } => (&self.scripts.collect, *id),
        };
        let mut command = cmd("EVALSHA");
        let ttl_ms = u64::try_from(self.settings.ttl.as_millis()).unwrap_or(u64::MAX);
        command
            .arg(script.get_hash())
            .arg(1)
            .arg(key_of(id))
            .arg(FORMAT)
            .arg(ttl_ms)
            .arg(self.settings.owner.as_str());
        match op {
            Op::Save(save) => command
                .arg(save.epoch)
                .arg(save.count)
                .arg(i32::from(save.parked)),
            Op::Claim(_) => &mut command,
            Op::Collect { epoch, last, .. } => command.arg(*epoch).arg(i32::from(*last)),
        };
        command
    }

    /// Tells the holders that somebody waits for them. Where that fails, the claims stand all the
    /// same, and their next question tells it again.
    fn leave_notes(&mut self, ops: &[Op], outcomes: &[Outcome]) {
        let mut commands = Vec::new();
        for (op, outcome) in ops.iter().zip(outcomes) {
            let (Op::Claim(id) | Op::Collect { id, .. }, Outcome::Awaiting { awaited, .. }) =
                (op, outcome)
            else {
                continue;
            };
            let notes = notes_for(&awaited.from);
            let note = format!("{id}@{}", awaited.epoch);
            commands.push(command(&["SADD", &notes, &note]));
            commands.push(command(&[
                "EXPIRE",
                &notes,
                &NOTES_KEPT.as_secs().to_string(),
            ]));
        }
        if !commands.is_empty() {
            let _ = self.ask(&commands);
        }
    }
}

impl Store for Redis {
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let commands: Vec<Cmd> = ops.iter().map(|op| self.command(op)).collect();
        let values = self.ask(&commands)?;
        let outcomes: Option<Vec<_>> = ops.iter().zip(values).map(outcome_of).collect();
        let outcomes = outcomes.ok_or_else(|| self.misunderstood())?;
        self.leave_notes(ops, &outcomes);
        Ok(outcomes)
    }

    fn wanted(&mut self) -> Result<Vec<(Uuid, Epoch)>, StoreError> {
        let notes = notes_for(&self.settings.owner);
        let values = self.ask(&[command(&["SPOP", &notes, &WANTED_MAX.to_string()])])?;
        let notes = match values.into_iter().next() {
            Some(Value::Array(notes) | Value::Set(notes)) => notes,
            _ => Vec::new(),
        };
        Ok(notes.iter().filter_map(note_of).collect())
    }

    fn tidy(&mut self) -> Result<Tidied, StoreError> {
        let set = |key: &String| command(&["SET", key, &Uuid::new_v4().to_string(), "NX"]);
        let get = |key: &String| command(&["GET", key]);
        let keys = self.generations.iter();
        let commands: Vec<Cmd> = keys.flat_map(|key| [set(key), get(key)]).collect();
        let values = self.ask(&commands)?;
        let found = values.iter().skip(1).step_by(2);
        let found = found.map(|value| text_of(value)?.parse().ok());
        // One of many changes them all.
        let generation: Option<u128> = found
            .map(|generation: Option<Uuid>| generation.map(|generation| generation.as_u128()))
            .try_fold(0, |all, one| Some(all ^ one?));
        Ok(Tidied {
            generation: Uuid::from_u128(generation.ok_or_else(|| self.misunderstood())?),
            ..Tidied::default()
        })
    }
}

impl Redis {
    fn misunderstood(&self) -> StoreError {
        StoreError(format!("{}: an answer that makes no sense", self.name))
    }
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}

fn refusal(error: &RedisError) -> String {
    let unread = (error.code() == Some("FORMAT"))
        .then(|| error.detail())
        .flatten();
    let unread = unread.and_then(|format| format.parse().ok());
    match unread.map(|format| format::check(format, || "a session".into())) {
        Some(Err(unread)) => unread.0,
        _ => error.to_string(),
    }
}

/// The braces keep what may once belong to a session on one node of a cluster.
fn key_of(id: Uuid) -> String {
    format!("tally:session:{{{id}}}")
}

fn notes_for(owner: &Owner) -> String {
    format!("tally:wanted:{owner}")
}

fn note_of(value: &Value) -> Option<(Uuid, Epoch)> {
    let (id, epoch) = text_of(value)?.split_once('@')?;
    Some((id.parse().ok()?, epoch.parse().ok()?))
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn outcome_of((op, value): (&Op, Value)) -> Option<Outcome> {
    match (op, value) {
        (Op::Save(_), Value::Int(1)) => Some(Outcome::Saved),
        (Op::Save(_), Value::Int(0)) => Some(Outcome::Fenced),
        (Op::Claim(_) | Op::Collect { .. }, Value::Nil) => Some(Outcome::Unknown),
        (Op::Collect { .. }, Value::Int(0)) => Some(Outcome::Lost),
        (Op::Claim(_) | Op::Collect { .. }, Value::Array(parts)) => claimed(&parts),
        _ => None,
    }
}

fn claimed(parts: &[Value]) -> Option<Outcome> {
    let epoch = text_of(parts.first()?)?.parse().ok()?;
    match parts {
        [_, count] => Some(Outcome::Held {
            epoch,
            count: text_of(count)?.parse().ok()?,
        }),
        [_, before, from] => Some(Outcome::Awaiting {
            epoch,
            awaited: Awaited {
                epoch: text_of(before)?.parse().ok()?,
                from: Owner::named(text_of(from)?),
            },
        }),
        _ => None,
    }
}

/// Whether it is a Redis' URL.
pub fn is_url(text: &str) -> bool {
    if let Some(nodes) = nodes_of(text) {
        return nodes.iter().all(|node| is_url(node));
    }
    // For the parser of a build without TLS, one that asks for it is none.
    let plain = text.replacen("rediss://", "redis://", 1);
    plain.starts_with("redis://") && plain.as_str().into_connection_info().is_ok()
}

/// Of a cluster, the URL of each node that is named; all have the same user and password.
fn nodes_of(url: &str) -> Option<Vec<String>> {
    let rest = url.strip_prefix(CLUSTER)?;
    let (user, hosts) = rest
        .rsplit_once('@')
        .map_or((String::new(), rest), |(user, hosts)| {
            (format!("{user}@"), hosts)
        });
    let nodes = hosts.trim_end_matches('/').split(',');
    Some(nodes.map(|node| format!("redis://{user}{node}")).collect())
}

/// Without what only the server is to know.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "redis".into();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_its_nodes() {
        let nodes =
            nodes_of("redis-cluster://tally:secret@a.example:6379,b.example:6380/").unwrap();
        assert_eq!(
            nodes,
            [
                "redis://tally:secret@a.example:6379",
                "redis://tally:secret@b.example:6380"
            ]
        );
        assert_eq!(nodes_of("redis://a.example"), None);
    }

    #[test]
    fn urls_are_told_from_what_is_none() {
        for url in [
            "redis://a",
            "redis://:p@a:1/2",
            "rediss://a",
            "redis-cluster://a:1,b:2",
        ] {
            assert!(is_url(url), "{url}");
        }
        for none in [
            "redis:a",
            "http://a",
            "redis-cluster://",
            "redis-cluster://a:1,,b:2",
        ] {
            assert!(!is_url(none), "{none}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let shown = redacted("redis-cluster://tally:secret@a:1,b:2");
        assert_eq!(shown, "redis-cluster://…@a:1,b:2");
        assert_eq!(
            redacted("redis://:secret@a:1/0?x=secret"),
            "redis://…@a:1/0"
        );
    }
}
