//! A Redis, which the processes of all hosts share.
//!
//! A session is a hash under its own key, and each kind of word is a script that touches this one
//! key and mirrors `session.rs`; the tests hold the two together. A batch is one pipeline. Whom a
//! claim makes wait leaves a note for the holder in a set, which costs a second round trip; the
//! note may get lost, so whoever asks again leaves it again.
//!
//! How durable it is, the server decides (`appendonly`, `appendfsync`): [`StoreSettings::durable`]
//! changes nothing here.

use std::{future::Future, time::Duration};

use redis::{
    Client, Cmd, IntoConnectionInfo, Pipeline, RedisError, Script, ServerErrorKind, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cmd,
};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use super::{
    Op, ROUND_TRIP_MAX, Store, StoreError, StoreSettings, Tidied,
    format::{self, FORMAT},
};
use crate::session::{Awaited, Epoch, Outcome, Owner};

const GENERATION: &str = "tally:generation";

/// Sessions that others want, told at once; the rest is told the next time.
const WANTED_MAX: usize = 1000;

/// Notes for an owner that has died go by themselves.
const NOTES_KEPT: Duration = Duration::from_secs(60);

/// Calls may wait for that long in all, a connection included.
const CALL_MAX: Duration = ROUND_TRIP_MAX.saturating_sub(Duration::from_millis(100));

pub struct Redis {
    /// As it may be shown: without a password.
    name: String,
    client: Client,
    settings: StoreSettings,
    scripts: Scripts,
    /// Drives the connection, but only while a call waits for it.
    runtime: Runtime,
    /// Connects anew by itself where the server hung up. `None` at first, and after a call that
    /// failed: of a server that fell silent, nobody would notice that its connection is dead.
    manager: Option<ConnectionManager>,
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

/// Teaches the scripts to a server. It evicts none of them; a restart forgets all.
fn loading() -> Pipeline {
    let mut pipeline = Pipeline::new();
    for code in [SAVE, CLAIM, COLLECT] {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(code);
    }
    pipeline
}

impl Redis {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// The URL is none, or one for TLS.
    pub fn open(url: &str, settings: StoreSettings) -> Result<Self, StoreError> {
        let name = redacted(url);
        let explained = |error: &dyn std::fmt::Display| StoreError(format!("{name}: {error}"));
        if url.starts_with("rediss:") {
            return Err(explained(
                &"this build speaks no TLS to Redis; use redis:// over a private network or a tunnel",
            ));
        }
        let client = Client::open(url).map_err(|error| explained(&error))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| explained(&error))?;
        Ok(Self {
            name,
            client,
            settings,
            scripts: Scripts::new(),
            runtime,
            manager: None,
        })
    }

    /// One round trip, and a second one where the server has to be taught the scripts first.
    fn ask(&mut self, pipeline: &Pipeline, answers: usize) -> Result<Vec<Value>, StoreError> {
        let manager = self.manager()?;
        let call = async {
            let values = send(manager.clone(), pipeline, answers).await?;
            if !values.iter().any(is_unknown_script) {
                return Ok(values);
            }
            send(manager.clone(), &loading(), 3).await?;
            send(manager, pipeline, answers).await
        };
        let answer = self.within_time(call);
        let values = answer.map_err(|error| StoreError(format!("{}: {error}", self.name)))?;
        match values.iter().find_map(refusal) {
            Some(refusal) => Err(StoreError(format!("{}: {refusal}", self.name))),
            None => Ok(values),
        }
    }

    fn manager(&mut self) -> Result<ConnectionManager, StoreError> {
        let _runtime = self.runtime.enter();
        if self.manager.is_none() {
            // The caller asks again: there is no second attempt within a call.
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(0)
                .set_connection_timeout(Some(CALL_MAX))
                .set_response_timeout(None);
            let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config);
            let manager = manager.map_err(|error| StoreError(format!("{}: {error}", self.name)))?;
            self.manager = Some(manager);
        }
        Ok(self.manager.clone().expect("made above"))
    }

    fn within_time<T>(
        &mut self,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, String> {
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(CALL_MAX, call).await });
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer for {} ms", CALL_MAX.as_millis()),
        };
        self.manager = None;
        Err(error)
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
        let mut pipeline = Pipeline::new();
        let mut answers = 0;
        for (op, outcome) in ops.iter().zip(outcomes) {
            let (Op::Claim(id) | Op::Collect { id, .. }, Outcome::Awaiting { awaited, .. }) =
                (op, outcome)
            else {
                continue;
            };
            let notes = notes_for(&awaited.from);
            let note = format!("{id}@{}", awaited.epoch);
            pipeline.cmd("SADD").arg(&notes).arg(note);
            pipeline.cmd("EXPIRE").arg(&notes).arg(NOTES_KEPT.as_secs());
            answers += 2;
        }
        if answers > 0 {
            let _ = self.ask(&pipeline, answers);
        }
    }
}

impl Store for Redis {
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(ops.len());
        for op in ops {
            pipeline.add_command(self.command(op));
        }
        let values = self.ask(&pipeline, ops.len())?;
        let outcomes: Option<Vec<_>> = ops.iter().zip(values).map(outcome_of).collect();
        let outcomes = outcomes.ok_or_else(|| self.misunderstood())?;
        self.leave_notes(ops, &outcomes);
        Ok(outcomes)
    }

    fn wanted(&mut self) -> Result<Vec<(Uuid, Epoch)>, StoreError> {
        let mut pipeline = Pipeline::new();
        let notes = notes_for(&self.settings.owner);
        pipeline.cmd("SPOP").arg(notes).arg(WANTED_MAX);
        let values = self.ask(&pipeline, 1)?;
        let notes = match values.into_iter().next() {
            Some(Value::Array(notes) | Value::Set(notes)) => notes,
            _ => Vec::new(),
        };
        Ok(notes.iter().filter_map(note_of).collect())
    }

    fn tidy(&mut self) -> Result<Tidied, StoreError> {
        let mut pipeline = Pipeline::new();
        let fresh = Uuid::new_v4().to_string();
        pipeline.cmd("SET").arg(GENERATION).arg(fresh).arg("NX");
        pipeline.cmd("GET").arg(GENERATION);
        let values = self.ask(&pipeline, 2)?;
        let generation = values.get(1).and_then(text_of);
        let generation = generation.and_then(|text| text.parse().ok());
        Ok(Tidied {
            generation: generation.ok_or_else(|| self.misunderstood())?,
            ..Tidied::default()
        })
    }
}

impl Redis {
    fn misunderstood(&self) -> StoreError {
        StoreError(format!("{}: an answer that makes no sense", self.name))
    }
}

/// Once more where the server hung up since the last time, as it does when it starts anew.
async fn send(
    mut manager: ConnectionManager,
    pipeline: &Pipeline,
    answers: usize,
) -> Result<Vec<Value>, RedisError> {
    match manager.send_packed_commands(pipeline, 0, answers).await {
        Err(error) if error.is_connection_dropped() => {
            manager.send_packed_commands(pipeline, 0, answers).await
        }
        answer => answer,
    }
}

fn is_unknown_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

fn refusal(value: &Value) -> Option<String> {
    let Value::ServerError(error) = value else {
        return None;
    };
    let unread = (error.code() == "FORMAT")
        .then(|| error.details())
        .flatten();
    let unread = unread.and_then(|format| format.parse().ok());
    match unread.map(|format| format::check(format, || "a session".into())) {
        Some(Err(unread)) => Some(unread.0),
        _ => Some(error.to_string()),
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
    // For the parser of a build without TLS, one that asks for it is none.
    let plain = text.replacen("rediss://", "redis://", 1);
    plain.starts_with("redis://") && plain.as_str().into_connection_info().is_ok()
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
