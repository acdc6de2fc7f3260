//! One peer, once: two short lives of its process, and what they cost.

use std::{fs, path::Path, process::Command, time::Duration};

use serde::{Deserialize, Serialize};
use tally_loadtest::{
    fault::Fault,
    report::{Phase, Report},
};

use crate::{
    command::run,
    prepare::{Folders, Ready},
    server::Server,
};

/// No beat falls into what is not about beats.
const NO_BEAT: Duration = Duration::from_secs(3600);

/// So that many beats fit into a short time.
const BEAT: Duration = Duration::from_secs(1);

/// A run with everything that may go slowly in it.
const RUN_MAX: Duration = Duration::from_secs(400);

/// How much is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Effort {
    pub sockets: u32,
    pub repeats: usize,
    /// How long messages go round and round.
    pub talk: Duration,
    /// How long idle sockets get beats.
    pub beats: Duration,
}

/// What it cost, once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    pub socket_bytes: f64,
    /// CPU of the server, in microseconds.
    pub handshake: f64,
    pub message: f64,
    pub delivery: f64,
    /// From a beat's first receipt to its last, in milliseconds.
    pub spread: f64,
    /// From SIGTERM to the last right bye, in seconds.
    pub drain: f64,
    /// Answers a second, with nothing else to do.
    pub rate: f64,
    /// What the load itself took of a core; close to one, it was measured instead.
    pub client: f64,
    /// Heartbeats that did not come, or not in time.
    pub missed_beats: u64,
}

/// # Errors
/// It cannot be measured, or did something wrong.
pub fn measure(folders: &Folders, ready: &Ready, effort: &Effort) -> Result<Sample, String> {
    let talk = talk(folders, ready, effort)?;
    let beats = beats(folders, ready, effort)?;
    let drain = beats.drain.as_ref().ok_or("no drain was measured")?;
    let server = talk.servers.first().ok_or("the server was not seen")?;
    Ok(Sample {
        socket_bytes: server.socket_bytes,
        handshake: cost(&talk, "ramp", |phase| phase.opened)?,
        message: cost(&talk, "talk", |phase| phase.answered)?,
        delivery: cost(&beats, "talk", |phase| phase.beats)?,
        spread: beats.beats.spread_p50_s * 1e3,
        drain: drain.last_bye_s,
        rate: talk.rate,
        client: talk.client_load(),
        missed_beats: beats.fault_total(),
    })
}

/// Handshakes, memory, messages.
fn talk(folders: &Folders, ready: &Ready, effort: &Effort) -> Result<Report, String> {
    let log = folders.log(ready.peer.name);
    let server = Server::start(ready, NO_BEAT, &log)?;
    let mut load = load(folders, &server, effort, effort.talk);
    load.args(["--mode", "peak", "--heartbeat", "0s"]);
    report(folders, ready, &mut load)
}

/// Heartbeats to idle sockets, then the end.
fn beats(folders: &Folders, ready: &Ready, effort: &Effort) -> Result<Report, String> {
    let log = folders.log(ready.peer.name);
    let server = Server::start(ready, BEAT, &log)?;
    let mut load = load(folders, &server, effort, effort.beats);
    load.args(["--mode", "drain", "--rate", "0", "--heartbeat", "1s"]);
    load.arg("--end-pid").arg(server.pid().to_string());
    let report = report(folders, ready, &mut load)?;
    server.wait();
    Ok(report)
}

fn load(folders: &Folders, server: &Server, effort: &Effort, duration: Duration) -> Command {
    let mut load = Command::new(folders.release("tally-loadtest"));
    load.arg(format!("ws://127.0.0.1:{}/ws/chat/", server.port));
    load.arg("--sockets").arg(effort.sockets.to_string());
    load.arg("--duration")
        .arg(format!("{}ms", duration.as_millis()));
    load.arg("--server-pid").arg(server.pid().to_string());
    // Cut off: a library that answers a Close by itself leaves no room for a bye.
    load.args(["--leave", "abort", "--quiet"]);
    load
}

/// The load's exit code says only that there were faults; the report says which.
fn report(folders: &Folders, ready: &Ready, load: &mut Command) -> Result<Report, String> {
    let log = folders.log(&format!("load-{}", ready.peer.name));
    let json = folders.results().join("load.json");
    // Of the run before, or of another peer.
    let _ = fs::remove_file(&json);
    let ended = run(load.arg("--json").arg(&json), &log, RUN_MAX);
    let report = read(&json).map_err(|error| ended.err().unwrap_or(error))?;
    spoilt(&report).map_or(Ok(report), Err)
}

/// What makes the figures worthless. A service that cannot keep up with the beats while thousands
/// come in has its figures all the same, and a note.
fn spoilt(report: &Report) -> Option<String> {
    let only_late = |fault: Fault| matches!(fault, Fault::MissingBeat | Fault::LateBeat);
    let fault = report.faults.iter().find(|fault| !only_late(fault.fault));
    let told = fault.map(|fault| {
        format!(
            "{} × {}: {}",
            fault.number,
            fault.fault,
            fault.examples.join(", ")
        )
    });
    told.or_else(|| report.trouble.clone())
}

fn read(json: &Path) -> Result<Report, String> {
    let text = fs::read_to_string(json).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// The server's CPU in microseconds for each thing that a phase did.
fn cost(report: &Report, phase: &str, number: impl Fn(&Phase) -> u64) -> Result<f64, String> {
    let phase = report.phase(phase).ok_or("a phase is missing")?;
    match number(phase) {
        0 => Err(format!("nothing happened in the phase {}", phase.name)),
        number => Ok(phase.server_cpu_s * 1e6 / number as f64),
    }
}
