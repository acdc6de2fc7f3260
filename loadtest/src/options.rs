//! What a run is told to do.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, ValueEnum};

use crate::{assertion::Assertion, target::Target};

/// A payload that still fits a frame of ours, and the server's default limit.
const SIZE_MAX: i64 = 65_535;

/// What one process may hold on any Linux (`fs.nr_open`).
const SOCKETS_MAX: i64 = 1_000_000;

const EXAMPLES: &str = "\
Examples:
  tally-loadtest                                5,000 sockets through the front door, 1,000 messages a second
  tally-loadtest --rate 0 --duration 2m         hold idle sockets: heartbeats, memory
  tally-loadtest --mode peak                    how many messages a second there can be
  tally-loadtest --mode drain --reconnect --end-command './just flip --bake 0s'
  tally-loadtest ws://127.0.0.1:8000/ws/chat/ --mode drain --end-pid 1234
  tally-loadtest --assert 'p99<50ms' --assert 'spread<1s' --json report.json --html report.html

Figures for --assert:
  p50 p90 p99 p999 max        answers, counted from when the message was meant to be sent
  beat_p50 … beat_max         the same, for answers within a second of a heartbeat's begin
  handshake_p50 … _max        from connect to 101
  lag_p50 … lag_max           a heartbeat's receipt, after the first socket's
  gap_p50 … gap_max           a drained socket's time without a connection
  spread                      the slowest heartbeat, from its first receipt to its last
  drain, exit                 from the end's trigger to the last bye; to the process's end
  rate, opened, faults        answers a second; sockets; broken promises
  byes, resumed               shares of the goodbyes, and of the returns
  lost, duplicated            messages, with --reconnect; resent, taken_back: what it took
  handshakes_peak             handshakes a second, at most
  socket_bytes                the server's resident memory a socket; client_cpu: share of a core

Exit code: 0 if every promise was kept and every assertion held, 1 if not, 2 if it could not run.";

/// Opens thousands of WebSockets to a Tally, talks, checks every answer, and measures.
///
/// Any number that is out of sequence, a heartbeat that misses a socket, a goodbye with a wrong
/// total is a fault, and one fault fails the run.
#[derive(Parser, Debug)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Options {
    /// The WebSocket, by ws:// or wss:// (no certificate is looked at); without it, the front door that
    /// .tally/stack.json names
    #[arg(value_parser = Target::parse)]
    pub url: Option<Target>,
    /// It is on another machine, or in a cluster, that is yours to load
    #[arg(long, requires = "url")]
    pub remote: bool,
    #[command(flatten, next_help_heading = "Load")]
    pub load: LoadOptions,
    #[command(flatten, next_help_heading = "Expectations")]
    pub expect: ExpectOptions,
    #[command(flatten, next_help_heading = "Drain")]
    pub drain: DrainOptions,
    #[command(flatten, next_help_heading = "Report")]
    pub report: ReportOptions,
}

#[derive(Args, Debug)]
pub struct LoadOptions {
    /// What to do with the sockets
    #[arg(long, value_enum, default_value_t = Mode::Rate)]
    pub mode: Mode,
    /// How many to open
    #[arg(long, short = 'n', default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=SOCKETS_MAX))]
    pub sockets: u32,
    /// Messages a second, over all sockets; 0 holds them idle
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub rate: u32,
    /// How long to talk, once all are open
    #[arg(long, default_value = "30s", value_parser = run_time)]
    pub duration: Duration,
    /// Bytes of a message
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=SIZE_MAX))]
    pub size: u32,
    /// Handshakes under way at a time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub window: u32,
    /// How to end the sockets: with a Close that is answered, or cut off
    #[arg(long, value_enum, default_value_t = Leave::Close)]
    pub leave: Leave,
}

#[derive(Args, Debug)]
pub struct ExpectOptions {
    /// The server's heartbeat; 0s where none is owed: it has none, or a colour is several processes
    #[arg(long, default_value = "30s", value_parser = run_time)]
    pub heartbeat: Duration,
    /// A threshold that decides the exit code, such as p99<50ms; may be repeated
    #[arg(long = "assert", value_name = "FIGURE<VALUE")]
    pub assertions: Vec<Assertion>,
}

#[derive(Args, Debug)]
pub struct DrainOptions {
    /// After the duration, end this process with SIGTERM
    #[arg(long, value_name = "PID", group = "end")]
    pub end_pid: Option<u32>,
    /// After the duration, POST to this address, such as http://127.0.0.1:9000/drain?rate=500
    #[arg(long, value_name = "URL", group = "end")]
    pub end_post: Option<String>,
    /// After the duration, run this, such as './just flip'
    #[arg(long, value_name = "COMMAND", group = "end")]
    pub end_command: Option<String>,
    /// Come back with the session however the connection ended, and send again what is not counted
    #[arg(long)]
    pub reconnect: bool,
    /// The server's checkpoint interval: messages are kept for twice as long after their answer
    #[arg(long, default_value = "1s", value_parser = run_time)]
    pub checkpoint: Duration,
    /// How long everybody's goodbye, and return, may take
    #[arg(long, default_value = "2m", value_parser = run_time)]
    pub drain_timeout: Duration,
}

#[derive(Args, Debug)]
pub struct ReportOptions {
    /// A process whose memory and CPU are reported; may be repeated. Without it, whoever listens
    /// at the address, and the colours of a running stack
    #[arg(long, value_name = "PID")]
    pub server_pid: Vec<u32>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print nothing but what went wrong
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Messages at a rate, whatever the server does (an open model)
    Rate,
    /// The next message as soon as the last is answered (a closed loop)
    Peak,
    /// As rate, and the server goes away in the middle
    Drain,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Peak => "peak",
            Self::Drain => "drain",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Leave {
    Close,
    Abort,
}

/// A day, so that what is kept of each second stays small.
const RUN_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

fn run_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time <= RUN_TIME_MAX {
        Ok(time)
    } else {
        Err("a day at most".into())
    }
}

impl Options {
    /// # Errors
    /// What does not go together.
    pub fn check(&self) -> Result<(), String> {
        if let Some(target) = self.url.as_ref().filter(|target| !target.is_here())
            && !self.remote
        {
            let address = target.address.ip();
            return Err(format!(
                "{address} is another machine; load is only for one's own: if it is, add --remote"
            ));
        }
        let drain = &self.drain;
        let ends =
            drain.end_pid.is_some() || drain.end_post.is_some() || drain.end_command.is_some();
        match (self.load.mode, ends) {
            (Mode::Drain, false) => {
                Err("--mode drain needs --end-pid, --end-post or --end-command".into())
            }
            (Mode::Rate | Mode::Peak, true) => Err("--end-… goes with --mode drain".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &str) -> Result<(), String> {
        let arguments = std::iter::once("tally-loadtest").chain(arguments.split_whitespace());
        let options = Options::try_parse_from(arguments).map_err(|error| error.to_string())?;
        options.check()
    }

    #[test]
    fn the_options_are_consistent() {
        Options::command().debug_assert();
        assert_eq!(parse(""), Ok(()));
        assert_eq!(parse("--mode drain --end-pid 1 --assert p99<5ms"), Ok(()));
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        assert!(parse("--mode drain").unwrap_err().contains("--end-pid"));
        assert!(parse("--end-pid 1").unwrap_err().contains("--mode drain"));
        assert!(parse("--mode drain --end-pid 1 --end-post x").is_err());
        assert!(parse("--sockets 0").is_err());
        assert!(parse("--duration 25h").unwrap_err().contains("a day"));
        assert!(
            parse("ws://192.0.2.1:80/")
                .unwrap_err()
                .contains("another machine")
        );
        assert_eq!(parse("ws://192.0.2.1:80/ --remote"), Ok(()));
    }
}
