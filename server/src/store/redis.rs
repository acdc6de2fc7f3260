//! A Redis that all hosts share: a hash a session, with a time to live, changed by a script.
//!
//! # Formats
//!
//! The next release reads what this one writes, and this one what the next one writes, for a flip
//! can be taken back. So a release may add fields; the one before leaves them alone. `format` is
//! raised only where a hash means something else, one release after the first that reads the new
//! meaning. Whoever meets a higher one than it knows keeps its hands off.

use redis::{
    Client, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use super::{Op, ROUND_TRIP_MAX, Store, StoreError, StoreSettings, Tidied};
use crate::session::{Awaited, Epoch, Outcome, Owner};

/// What a hash of this release means.
const FORMAT: u32 = 1;

const SCRIPT: &str = include_str!("redis.lua");

/// Sessions that are heard of at once as wanted.
const WANTED_MAX: usize = 1000;

/// Who does not ask for so long has died; milliseconds.
const WANTED_TTL_MS: i64 = 10_000;

const GENERATION: &str = "tally:generation";

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        Self(error.to_string())
    }
}

pub struct Redis {
    client: Client,
    runtime: Runtime,
    settings: StoreSettings,
    /// `None` until it has been reached once; then it comes back by itself.
    connection: Option<ConnectionManager>,
    /// The script's name at the server, once it was loaded.
    script: Option<String>,
}

fn key(id: Uuid) -> String {
    format!("tally:session:{{{id}}}")
}

fn wanted_key(owner: &Owner) -> String {
    format!("tally:wanted:{{{owner}}}")
}

impl Redis {
    /// Does not need the server to be there.
    ///
    /// # Errors
    /// The URL is none.
    pub fn open(url: &str, settings: StoreSettings) -> Result<Self, StoreError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        Ok(Self {
            client: Client::open(url)?,
            runtime: runtime.map_err(|error| StoreError(error.to_string()))?,
            settings,
            connection: None,
            script: None,
        })
    }

    fn query<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        let Self {
            client,
            runtime,
            connection,
            ..
        } = self;
        runtime.block_on(async {
            let connection = match connection {
                Some(connection) => connection,
                none => none.insert(connect(client).await?),
            };
            pipeline.query_async(connection).await
        })
    }

    /// Runs the script for each operation, in one round trip, or in two where it is not known.
    fn run(&mut self, ops: &[Op]) -> RedisResult<Vec<Value>> {
        let script = match &self.script {
            Some(script) => script.clone(),
            None => self.load()?,
        };
        let answers = self.query(&self.pipeline(&script, ops));
        match answers {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                // The server was started again. What a part of it did is done once more.
                let script = self.load()?;
                self.query(&self.pipeline(&script, ops))
            }
            answers => answers,
        }
    }

    fn load(&mut self) -> RedisResult<String> {
        let mut load = Pipeline::new();
        load.cmd("SCRIPT").arg("LOAD").arg(SCRIPT);
        let (script,): (String,) = self.query(&load)?;
        self.script = Some(script.clone());
        Ok(script)
    }

    fn pipeline(&self, script: &str, ops: &[Op]) -> Pipeline {
        let owner = self.settings.owner.as_str();
        let ttl = self.settings.ttl.as_millis() as u64;
        let mut pipeline = Pipeline::with_capacity(ops.len());
        for op in ops {
            let (id, name) = match op {
                Op::Save(save) => (save.id, "save"),
                Op::Claim(id) => (*id, "claim"),
                Op::Collect { id, .. } => (*id, "collect"),
            };
            let command = pipeline.cmd("EVALSHA").arg(script).arg(1).arg(key(id));
            command.arg(name).arg(owner).arg(ttl).arg(FORMAT);
            match op {
                Op::Save(save) => {
                    let parked = u8::from(save.parked);
                    command.arg(save.epoch).arg(save.count).arg(parked);
                }
                Op::Claim(_) => {}
                Op::Collect { epoch, last, .. } => {
                    command.arg(*epoch).arg(u8::from(*last));
                }
            }
        }
        pipeline
    }

    /// Tells those who are awaited. Told again with each question of the claimant.
    fn tell_awaited(&mut self, ops: &[Op], outcomes: &[Outcome]) -> RedisResult<()> {
        let mut tell = Pipeline::new();
        for (op, outcome) in ops.iter().zip(outcomes) {
            let (Op::Claim(id) | Op::Collect { id, .. }) = op else {
                continue;
            };
            if let Outcome::Awaiting { awaited, .. } = outcome {
                let key = wanted_key(&awaited.from);
                let word = format!("{id} {}", awaited.epoch);
                tell.rpush(&key, word).ignore();
                tell.pexpire(&key, WANTED_TTL_MS).ignore();
            }
        }
        if tell.is_empty() {
            return Ok(());
        }
        self.query(&tell)
    }
}

async fn connect(client: &Client) -> RedisResult<ConnectionManager> {
    let timeout = ROUND_TRIP_MAX.mul_f32(0.8);
    // Once for each question: the keeper asks again.
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout))
        .set_number_of_retries(0);
    ConnectionManager::new_with_config(client.clone(), config).await
}

/// The outcomes by the numbers that the script gives them.
fn outcome(answer: Value) -> RedisResult<Outcome> {
    if let Value::Int(number) = answer {
        return Ok(match number {
            0 => Outcome::Saved,
            1 => Outcome::Fenced,
            4 => Outcome::Unknown,
            _ => Outcome::Lost,
        });
    }
    let (number, epoch, count, awaited_epoch, from): (
        u8,
        Epoch,
        u64,
        Option<Epoch>,
        Option<String>,
    ) = FromRedisValue::from_redis_value(pad(answer))?;
    match (number, awaited_epoch, from) {
        (3, Some(awaited_epoch), Some(from)) => Ok(Outcome::Awaiting {
            epoch,
            awaited: Awaited {
                epoch: awaited_epoch,
                from: Owner::named(from),
            },
        }),
        _ => Ok(Outcome::Held { epoch, count }),
    }
}

/// An answer without anybody awaited is shorter.
fn pad(answer: Value) -> Value {
    match answer {
        Value::Array(mut values) => {
            values.resize(5, Value::Nil);
            Value::Array(values)
        }
        other => other,
    }
}

fn parse_wanted(word: &str) -> Option<(Uuid, Epoch)> {
    let (id, epoch) = word.split_once(' ')?;
    Some((id.parse().ok()?, epoch.parse().ok()?))
}

impl Store for Redis {
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        let answers = self.run(ops)?;
        let outcomes: RedisResult<Vec<Outcome>> = answers.into_iter().map(outcome).collect();
        let outcomes = outcomes?;
        self.tell_awaited(ops, &outcomes)?;
        Ok(outcomes)
    }

    fn wanted(&mut self) -> Result<Vec<(Uuid, Epoch)>, StoreError> {
        let mut take = Pipeline::new();
        take.cmd("LPOP")
            .arg(wanted_key(&self.settings.owner))
            .arg(WANTED_MAX);
        let (words,): (Option<Vec<String>>,) = self.query(&take)?;
        let words = words.unwrap_or_default();
        Ok(words.iter().filter_map(|word| parse_wanted(word)).collect())
    }

    fn tidy(&mut self) -> Result<Tidied, StoreError> {
        let mut ask = Pipeline::new();
        ask.set_nx(GENERATION, Uuid::new_v4().to_string()).ignore();
        ask.get(GENERATION);
        let (generation,): (String,) = self.query(&ask)?;
        let generation = Uuid::try_parse(&generation).map_err(|_| {
            StoreError(format!(
                "{GENERATION} holds no UUID; is this another's Redis?"
            ))
        })?;
        Ok(Tidied {
            generation,
            ..Tidied::default()
        })
    }
}
