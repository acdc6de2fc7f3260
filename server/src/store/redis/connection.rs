//! The way to a Redis: to one server, or to the nodes of a cluster. Both take a batch at a time, keep
//! the order of what concerns one key, and give up within [`CALL_MAX`] or not much longer.

use std::{future::Future, time::Duration};

use redis::{
    Client, Cmd, Pipeline, RedisError, ServerErrorKind, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cluster::{ClusterClient, ClusterConnection, cluster_pipe},
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo},
    cmd,
};
use tokio::runtime::{Builder, Runtime};

use super::super::ROUND_TRIP_MAX;

/// Calls may wait for that long in all, a connection included.
const CALL_MAX: Duration = ROUND_TRIP_MAX.saturating_sub(Duration::from_millis(100));

/// A node of a cluster that is dead must leave time to ask another one where its keys are now.
const CONNECT_MAX: Duration = Duration::from_millis(300);

/// What is sent to a node that does not have the key any more goes to where it points, at once.
const REDIRECTIONS_MAX: u32 = 2;
const REDIRECTION_PAUSE_MS: u64 = 10;

/// Why a batch was not done.
pub enum Failure {
    /// A server has to be taught the scripts first.
    UnknownScript,
    /// A server refuses, with its reason.
    Refused(RedisError),
    /// In plain words.
    Unreached(String),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            redis::ErrorKind::Server(ServerErrorKind::NoScript) => Self::UnknownScript,
            redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => Self::Refused(error),
            _ => Self::Unreached(error.to_string()),
        }
    }
}

/// After a failure some of a batch may have been done, and the next one connects anew.
pub trait Connection: Send {
    /// Does a batch; an answer each, none of which is an error.
    ///
    /// # Errors
    /// It could not be done, or not all of it.
    fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Failure>;

    /// Teaches scripts to every server that may be asked to run one.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    fn teach(&mut self, scripts: &[&str]) -> Result<(), Failure>;
}

fn loading(script: &str) -> Cmd {
    let mut load = cmd("SCRIPT");
    load.arg("LOAD").arg(script);
    load
}

/// To one server.
pub struct Single {
    client: Client,
    /// Drives the connection, but only while a call waits for it.
    runtime: Runtime,
    /// Connects anew by itself where the server hung up. `None` at first, and after a call that
    /// failed: of a server that fell silent, nobody would notice that its connection is dead.
    manager: Option<ConnectionManager>,
}

impl Single {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// The URL is none, in plain words.
    pub fn open(url: &str) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| error.to_string())?;
        let runtime = Builder::new_current_thread().enable_all().build();
        Ok(Self {
            client,
            runtime: runtime.map_err(|error| error.to_string())?,
            manager: None,
        })
    }

    fn manager(&mut self) -> Result<ConnectionManager, Failure> {
        let _runtime = self.runtime.enter();
        if self.manager.is_none() {
            // The caller asks again: there is no second attempt within a call.
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(0)
                .set_connection_timeout(Some(CALL_MAX))
                .set_response_timeout(None);
            let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
            self.manager = Some(manager);
        }
        Ok(self.manager.clone().expect("made above"))
    }

    fn within_time<T>(
        &mut self,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, Failure> {
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(CALL_MAX, call).await });
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.into(),
            Err(_) => Failure::Unreached(format!("no answer for {} ms", CALL_MAX.as_millis())),
        };
        self.manager = None;
        Err(failure)
    }
}

impl Connection for Single {
    fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Failure> {
        let manager = self.manager()?;
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let values = self.within_time(send(manager, &pipeline, commands.len()))?;
        let mut refusals = Vec::new();
        for value in &values {
            if let Value::ServerError(error) = value {
                match RedisError::from(error.clone()).into() {
                    Failure::UnknownScript => return Err(Failure::UnknownScript),
                    refusal => refusals.push(refusal),
                }
            }
        }
        refusals.into_iter().next().map_or(Ok(values), Err)
    }

    fn teach(&mut self, scripts: &[&str]) -> Result<(), Failure> {
        let commands: Vec<Cmd> = scripts.iter().copied().map(loading).collect();
        self.ask(&commands).map(drop)
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

/// To the nodes of a cluster: each gets its part of a batch before the first is waited for.
pub struct Cluster {
    client: ClusterClient,
    /// `None` at first, and after a call that failed: it then asks anew who has which keys.
    connection: Option<ClusterConnection>,
}

impl Cluster {
    /// Opens no connection yet; `nodes` are URLs, of which one has to be there.
    ///
    /// # Errors
    /// A URL is none, in plain words.
    pub fn open(nodes: &[String]) -> Result<Self, String> {
        let client = ClusterClient::builder(nodes.iter().map(String::as_str))
            .connection_timeout(CONNECT_MAX)
            .response_timeout(CALL_MAX)
            .retries(REDIRECTIONS_MAX)
            .min_retry_wait(REDIRECTION_PAUSE_MS)
            .max_retry_wait(REDIRECTION_PAUSE_MS * 2)
            .build();
        Ok(Self {
            client: client.map_err(|error| error.to_string())?,
            connection: None,
        })
    }

    /// Once more where a node hung up since the last time, as it does when another one takes its place.
    fn with<T>(
        &mut self,
        act: impl Fn(&mut ClusterConnection) -> Result<T, RedisError>,
    ) -> Result<T, Failure> {
        if let Some(mut connection) = self.connection.take() {
            match act(&mut connection) {
                Err(error) if error.is_connection_dropped() => {}
                answer => return self.keep(connection, answer),
            }
        }
        let mut connection = self.client.get_connection()?;
        let answer = act(&mut connection);
        self.keep(connection, answer)
    }

    /// Not after a failure: there may be answers on their way that nobody would expect.
    fn keep<T>(
        &mut self,
        connection: ClusterConnection,
        answer: Result<T, RedisError>,
    ) -> Result<T, Failure> {
        let answer = answer?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

impl Connection for Cluster {
    fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Failure> {
        let mut pipeline = cluster_pipe();
        for command in commands {
            pipeline.add_command(command.clone());
        }
        self.with(|connection| pipeline.query(connection))
    }

    fn teach(&mut self, scripts: &[&str]) -> Result<(), Failure> {
        self.with(|connection| {
            for script in scripts {
                let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                connection.route_command(&loading(script), masters)?;
            }
            Ok(())
        })
    }
}
