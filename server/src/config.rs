//! The settings: each a flag and a variable of the same name. All mistakes are reported at once,
//! before anything binds.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Parser, Subcommand};
use slog::Level;

use crate::{
    checkpoint::Checkpoint,
    frame::Limits,
    hub::HubSettings,
    session::Owner,
    socket::SocketSettings,
    store::{Place, StoreSettings},
    upgrade::WorkerSettings,
};

/// Open files that are not WebSockets: runtimes, listeners, logs, probes, scrapes, refused
/// handshakes.
const FILES_RESERVED: u64 = 128;

/// The settings as they are typed.
#[derive(Debug, Parser)]
#[command(
    name = "tally-server",
    version,
    about = "Counts messages over WebSockets.",
    disable_help_subcommand = true
)]
struct Typed {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Address of the public listener; port 0 picks a free one
    #[arg(long, env = "TALLY_LISTEN", default_value = "127.0.0.1:8000")]
    listen: String,
    /// Address of the operator's listener: metrics, probes, version
    #[arg(
        long,
        env = "TALLY_OPERATOR_LISTEN",
        default_value = "127.0.0.1:9000",
        global = true
    )]
    operator_listen: String,
    /// The deployment slot this process runs in
    #[arg(long, env = "TALLY_COLOUR", default_value = "blue")]
    colour: String,
    /// Worker threads
    #[arg(long, env = "TALLY_WORKERS", default_value = "cores")]
    workers: String,
    /// Time between two heartbeats
    #[arg(long, env = "TALLY_HEARTBEAT", default_value = "30s")]
    heartbeat: String,
    /// Time between two pings to a peer
    #[arg(long, env = "TALLY_PING", default_value = "25s")]
    ping: String,
    /// A peer that sends no frame for this long is dropped
    #[arg(long, env = "TALLY_PEER_TIMEOUT", default_value = "75s")]
    peer_timeout: String,
    /// A peer that takes no output for this long is dropped
    #[arg(long, env = "TALLY_WRITE_TIMEOUT", default_value = "60s")]
    write_timeout: String,
    /// Open connections, at most
    #[arg(long, env = "TALLY_CONNECTIONS_MAX", default_value = "files")]
    connections_max: String,
    /// Bytes of a message, at most
    #[arg(long, env = "TALLY_MESSAGE_BYTES_MAX", default_value = "65536")]
    message_bytes_max: String,
    /// Fragments of a message, at most
    #[arg(long, env = "TALLY_FRAGMENTS_MAX", default_value = "128")]
    fragments_max: String,
    /// Messages a second of one connection, at most
    #[arg(long, env = "TALLY_MESSAGE_RATE", default_value = "off")]
    message_rate: String,
    /// How long a session is kept for a client that may come back
    #[arg(long, env = "TALLY_SESSION_TTL", default_value = "15m")]
    session_ttl: String,
    /// Sessions kept for clients that may come back, at most
    #[arg(long, env = "TALLY_SESSIONS_MAX", default_value = "100000")]
    sessions_max: String,
    /// Where sessions are kept: memory, sqlite:FILE, redis://HOST:PORT/DATABASE, or
    /// redis-cluster://HOST:PORT,HOST:PORT
    #[arg(long, env = "TALLY_SESSION_STORE", default_value = "memory")]
    session_store: String,
    /// Time between two saves of the sessions that have changed; `message`: each before its answer
    #[arg(long, env = "TALLY_CHECKPOINT", default_value = "1s")]
    checkpoint: String,
    /// Origins whose pages may connect, beside the server's own; separated by commas
    #[arg(long, env = "TALLY_ALLOWED_ORIGINS", default_value = "")]
    allowed_origins: String,
    /// Records below this level are not logged: critical, error, warn, info, debug
    #[arg(long, env = "TALLY_LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// Directory for what has to outlive the process; shared by the colours of a host
    #[arg(long, env = "TALLY_STATE_DIR", default_value = "")]
    state_dir: String,
}

/// What to do; without one, the server serves.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Verb {
    /// Ask the operator's listener whether the server is alive; exit code 0 means yes
    Healthcheck,
}

/// What the process was started for.
#[derive(Debug)]
pub enum Errand {
    Serve(Box<Config>),
    /// Ask the operator's listener at this address.
    Healthcheck(SocketAddr),
}

/// The settings, valid.
#[derive(Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub operator_listen: SocketAddr,
    pub colour: String,
    pub workers: usize,
    pub heartbeat: Duration,
    pub ping: Duration,
    pub peer_timeout: Duration,
    pub write_timeout: Duration,
    pub connections_max: usize,
    pub limits: Limits,
    /// Messages a second.
    pub message_rate: Option<u32>,
    pub session_ttl: Duration,
    pub sessions_max: usize,
    pub session_store: Place,
    pub checkpoint: Checkpoint,
    pub allowed_origins: Vec<String>,
    pub log_level: Level,
    pub state_dir: Option<PathBuf>,
}

/// What is wrong with one setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    variable: &'static str,
    value: String,
    expected: &'static str,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = self.variable.trim_start_matches("TALLY_");
        let flag = flag.to_lowercase().replace('_', "-");
        write!(
            f,
            "{} (--{flag}) is {:?}; it should be {}",
            self.variable, self.value, self.expected
        )
    }
}

/// Collects the mistakes instead of stopping at the first.
#[derive(Default)]
struct Reader(Vec<Mistake>);

impl Reader {
    fn read<T>(
        &mut self,
        variable: &'static str,
        value: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(value.trim());
        if parsed.is_none() {
            self.0.push(Mistake {
                variable,
                value: value.to_owned(),
                expected,
            });
        }
        parsed
    }

    fn address(&mut self, variable: &'static str, value: &str) -> Option<SocketAddr> {
        let expected = "an address and a port, such as 127.0.0.1:8000";
        self.read(variable, value, expected, |text| text.parse().ok())
    }

    fn duration(&mut self, variable: &'static str, value: &str) -> Option<Duration> {
        let expected = "a duration of at least 1ms and at most 365days, such as 30s";
        let range = Duration::from_millis(1)..=Duration::from_secs(365 * 86400);
        self.read(variable, value, expected, |text| {
            humantime::parse_duration(text)
                .ok()
                .filter(|duration| range.contains(duration))
        })
    }

    fn number(
        &mut self,
        variable: &'static str,
        value: &str,
        expected: &'static str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Option<usize> {
        self.read(variable, value, expected, |text| {
            text.parse().ok().filter(|number| range.contains(number))
        })
    }
}

impl Errand {
    /// Reads flags and variables; prints help, version or a wrong flag itself, as every program
    /// does.
    ///
    /// `files_max` is how many files the process may open.
    ///
    /// # Errors
    /// Every setting that is wrong. A health check reads only the one that it needs.
    pub fn from_environment(files_max: u64) -> Result<Self, Vec<Mistake>> {
        Self::read(&Typed::parse(), files_max)
    }

    fn read(typed: &Typed, files_max: u64) -> Result<Self, Vec<Mistake>> {
        match typed.verb {
            None => Config::read(typed, files_max).map(|config| Self::Serve(Box::new(config))),
            Some(Verb::Healthcheck) => {
                let mut reader = Reader::default();
                let listener = reader.address("TALLY_OPERATOR_LISTEN", &typed.operator_listen);
                listener.map(Self::Healthcheck).ok_or(reader.0)
            }
        }
    }
}

impl Config {
    fn read(typed: &Typed, files_max: u64) -> Result<Self, Vec<Mistake>> {
        let mut reader = Reader::default();
        let config = Self::read_all(typed, files_max, &mut reader);
        match config {
            Some(config) if reader.0.is_empty() => Ok(config),
            _ => Err(reader.0),
        }
    }

    /// Every setting is read before the first missing one ends it.
    fn read_all(typed: &Typed, files_max: u64, reader: &mut Reader) -> Option<Self> {
        let listen = reader.address("TALLY_LISTEN", &typed.listen);
        let operator_listen = reader.address("TALLY_OPERATOR_LISTEN", &typed.operator_listen);
        let colour = reader.read(
            "TALLY_COLOUR",
            &typed.colour,
            "1 to 32 small letters, digits or hyphens",
            parse_colour,
        );
        let workers = reader.read(
            "TALLY_WORKERS",
            &typed.workers,
            "`cores` or a number from 1 to 512",
            parse_workers,
        );
        let heartbeat = reader.duration("TALLY_HEARTBEAT", &typed.heartbeat);
        let ping = reader.duration("TALLY_PING", &typed.ping);
        let peer_timeout = reader.duration("TALLY_PEER_TIMEOUT", &typed.peer_timeout);
        let write_timeout = reader.duration("TALLY_WRITE_TIMEOUT", &typed.write_timeout);
        let connections_max = reader.read(
            "TALLY_CONNECTIONS_MAX",
            &typed.connections_max,
            "`files` (what the open-file limit allows) or a number from 1 to 10000000",
            |text| parse_connections_max(text, files_max),
        );
        let message_bytes_max = reader.number(
            "TALLY_MESSAGE_BYTES_MAX",
            &typed.message_bytes_max,
            "a number of bytes from 1 to 16777216",
            1..=16 << 20,
        );
        let fragments_max = reader.number(
            "TALLY_FRAGMENTS_MAX",
            &typed.fragments_max,
            "a number from 1 to 65536",
            1..=65536,
        );
        let message_rate = reader.read(
            "TALLY_MESSAGE_RATE",
            &typed.message_rate,
            "`off` or a number of messages a second from 1 to 1000000",
            parse_message_rate,
        );
        let session_ttl = reader.duration("TALLY_SESSION_TTL", &typed.session_ttl);
        let sessions_max = reader.number(
            "TALLY_SESSIONS_MAX",
            &typed.sessions_max,
            "a number from 0 to 100000000",
            0..=100_000_000,
        );
        let session_store = reader.read(
            "TALLY_SESSION_STORE",
            &typed.session_store,
            Place::EXPECTED,
            |text| text.parse().ok(),
        );
        let checkpoint = reader.read(
            "TALLY_CHECKPOINT",
            &typed.checkpoint,
            "`message` or a duration from 10ms to 1h, such as 1s",
            parse_checkpoint,
        );
        let allowed_origins = reader.read(
            "TALLY_ALLOWED_ORIGINS",
            &typed.allowed_origins,
            "origins such as https://example.com, separated by commas",
            parse_origins,
        );
        let log_level = reader.read(
            "TALLY_LOG_LEVEL",
            &typed.log_level,
            "critical, error, warn, info or debug",
            parse_level,
        );
        Some(Self {
            listen: listen?,
            operator_listen: operator_listen?,
            colour: colour?,
            workers: workers?,
            heartbeat: heartbeat?,
            ping: ping?,
            peer_timeout: peer_timeout?,
            write_timeout: write_timeout?,
            connections_max: connections_max?,
            limits: Limits {
                message_bytes_max: message_bytes_max?,
                fragments_max: fragments_max?,
                binary: false,
            },
            message_rate: message_rate?,
            session_ttl: session_ttl?,
            sessions_max: sessions_max?,
            session_store: session_store?,
            checkpoint: checkpoint?,
            allowed_origins: allowed_origins?,
            log_level: log_level?,
            state_dir: Some(typed.state_dir.as_str())
                .filter(|directory| !directory.is_empty())
                .map(PathBuf::from),
        })
    }

    fn socket_settings(&self) -> SocketSettings {
        SocketSettings {
            limits: self.limits,
            peer_timeout: self.peer_timeout,
            ping_interval: self.ping,
            write_timeout: self.write_timeout,
        }
    }

    pub fn hub_settings(&self) -> HubSettings {
        HubSettings {
            heartbeat: self.heartbeat,
            session_ttl: self.session_ttl,
            shared: self.session_store.is_shared(),
        }
    }

    pub fn store_settings(&self) -> StoreSettings {
        StoreSettings {
            owner: Owner::new(&self.colour),
            ttl: self.session_ttl,
            parked_max: self.sessions_max,
            durable: self.checkpoint == Checkpoint::Message,
        }
    }

    pub fn worker_settings(&self) -> WorkerSettings {
        let shared = self.session_store.is_shared();
        WorkerSettings {
            sockets: self.socket_settings(),
            message_rate: self.message_rate,
            checkpoint: shared.then_some(self.checkpoint),
        }
    }
}

fn parse_checkpoint(text: &str) -> Option<Checkpoint> {
    let range = Duration::from_millis(10)..=Duration::from_secs(3600);
    match text {
        "message" => Some(Checkpoint::Message),
        interval => humantime::parse_duration(interval)
            .ok()
            .filter(|interval| range.contains(interval))
            .map(Checkpoint::Every),
    }
}

fn parse_colour(text: &str) -> Option<String> {
    let fits = (1..=32).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    fits.then(|| text.to_owned())
}

fn parse_workers(text: &str) -> Option<usize> {
    match text {
        "cores" => Some(std::thread::available_parallelism().map_or(1, usize::from)),
        number => number.parse().ok().filter(|n| (1..=512).contains(n)),
    }
}

fn parse_connections_max(text: &str, files_max: u64) -> Option<usize> {
    match text {
        "files" => {
            let spared = files_max.saturating_sub(FILES_RESERVED);
            usize::try_from(spared.max(files_max / 4).max(1)).ok()
        }
        number => number.parse().ok().filter(|n| (1..=10_000_000).contains(n)),
    }
}

fn parse_message_rate(text: &str) -> Option<Option<u32>> {
    match text {
        "off" => Some(None),
        number => number
            .parse()
            .ok()
            .filter(|rate| (1..=1_000_000).contains(rate))
            .map(Some),
    }
}

fn parse_origins(text: &str) -> Option<Vec<String>> {
    text.split(',')
        .map(str::trim)
        .filter(|origin| !origin.is_empty())
        .map(|origin| {
            let (scheme, host) = origin.split_once("://")?;
            let fits = !scheme.is_empty() && !host.is_empty() && !host.contains('/');
            fits.then(|| origin.to_owned())
        })
        .collect()
}

fn parse_level(text: &str) -> Option<Level> {
    Level::from_str(text)
        .ok()
        .filter(|level| *level != Level::Trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Config, Vec<Mistake>> {
        let typed = Typed::parse_from(std::iter::once(&"tally-server").chain(arguments));
        Config::read(&typed, 20_000)
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = read(&[]).expect("defaults");
        assert_eq!(config.connections_max, 20_000 - 128);
        assert_eq!(config.heartbeat, Duration::from_secs(30));
        assert_eq!(config.message_rate, None);
    }

    #[test]
    fn a_health_check_takes_the_operators_address_on_either_side_of_its_name() {
        for arguments in [
            ["--operator-listen=127.0.0.1:1", "healthcheck"],
            ["healthcheck", "--operator-listen=127.0.0.1:1"],
        ] {
            let typed = Typed::parse_from(std::iter::once("tally-server").chain(arguments));
            let errand = Errand::read(&typed, 20_000).expect("an address");
            let expected = SocketAddr::from(([127, 0, 0, 1], 1));
            assert!(matches!(errand, Errand::Healthcheck(listener) if listener == expected));
        }
    }

    #[test]
    fn all_mistakes_are_reported_by_name() {
        let mistakes = read(&[
            "--listen=nowhere",
            "--heartbeat=soon",
            "--workers=0",
            "--message-rate=-1",
            "--allowed-origins=example.com",
            "--log-level=loud",
            "--colour=Blue!",
        ])
        .expect_err("mistakes");
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 7, "{told:?}");
        assert!(told[0].starts_with("TALLY_LISTEN (--listen) is \"nowhere\"; it should be"));
    }
}
