//! Prepare, measure in turns, tell, judge.

mod chart;
mod command;
mod figures;
mod measure;
mod options;
mod outcome;
mod peer;
mod prepare;
mod server;
mod table;
mod thresholds;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use measure::{Effort, measure};
use options::Options;
use outcome::{Measured, Outcome};
use prepare::{Folders, Ready, prepare};
use tally_loadtest::machine::Machine;

/// How often a measurement is begun; what fails so often is the peer's own fault.
const TRIES: usize = 3;

fn main() -> ExitCode {
    match compare(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether Tally is where it has to be, as far as that was asked.
fn compare(options: &Options) -> Result<bool, String> {
    let folders = folders(&options.root)?;
    let (ready, mut left_out) = make_ready(&folders, &options.wanted()?);
    let effort = options.effort();
    let began = chrono::Utc::now().format("%Y-%m-%d").to_string();
    let mut peers: Vec<Measured> = ready.iter().map(measured).collect();
    for repeat in 0..effort.repeats {
        take_turns(&folders, &ready, &effort, repeat, &mut peers, &mut left_out);
    }
    // A repeat that failed would shift the pairs, so its peer goes as a whole.
    peers.retain(|peer| peer.samples.len() == effort.repeats);
    let outcome = Outcome {
        began,
        machine: Machine::look(),
        effort,
        peers,
        left_out,
    };
    publish(&folders, &outcome)?;
    if options.short {
        judge(&outcome)
    } else {
        Ok(true)
    }
}

fn folders(root: &Path) -> Result<Folders, String> {
    let root = fs::canonicalize(root).map_err(|error| format!("{root:?}: {error}"))?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = program.ancestors().nth(2).map(PathBuf::from);
    let target = target.ok_or("this program is not in a target folder")?;
    let folders = Folders { root, target };
    for folder in [folders.results(), folders.target.join("peers")] {
        fs::create_dir_all(&folder).map_err(|error| format!("{folder:?}: {error}"))?;
    }
    Ok(folders)
}

fn make_ready(folders: &Folders, wanted: &[peer::Peer]) -> (Vec<Ready>, Vec<(String, String)>) {
    let (mut ready, mut left_out) = (Vec::new(), Vec::new());
    for peer in wanted {
        eprintln!("==> preparing {}", peer.title);
        match prepare(folders, *peer) {
            Ok(peer) => ready.push(peer),
            Err(reason) => leave_out(&mut left_out, peer.title, reason),
        }
    }
    (ready, left_out)
}

fn leave_out(left_out: &mut Vec<(String, String)>, title: &str, reason: String) {
    eprintln!("left out: {title}: {reason}");
    left_out.push((title.to_owned(), reason));
}

fn measured(ready: &Ready) -> Measured {
    Measured {
        name: ready.peer.name.into(),
        title: ready.peer.title.into(),
        version: ready.version.clone(),
        samples: Vec::new(),
    }
}

/// One repeat of each, beginning with another one each time: whoever comes first has the quieter
/// machine.
fn take_turns(
    folders: &Folders,
    ready: &[Ready],
    effort: &Effort,
    repeat: usize,
    peers: &mut [Measured],
    left_out: &mut Vec<(String, String)>,
) {
    for turn in 0..ready.len() {
        let place = (turn + repeat) % ready.len();
        if peers[place].samples.len() < repeat {
            continue;
        }
        let title = ready[place].peer.title;
        match measure_or_retry(folders, &ready[place], effort) {
            Ok(sample) => {
                eprintln!(
                    "repeat {} of {}: {title}: {}",
                    repeat + 1,
                    effort.repeats,
                    line(&sample)
                );
                peers[place].samples.push(sample);
            }
            Err(reason) => leave_out(left_out, title, reason),
        }
    }
}

/// A run that something else on the machine has spoilt is told, and done again.
fn measure_or_retry(
    folders: &Folders,
    ready: &Ready,
    effort: &Effort,
) -> Result<measure::Sample, String> {
    let mut outcome = measure(folders, ready, effort);
    for _ in 1..TRIES {
        if let Err(reason) = &outcome {
            eprintln!("once more: {}: {reason}", ready.peer.title);
            outcome = measure(folders, ready, effort);
        }
    }
    outcome
}

fn line(sample: &measure::Sample) -> String {
    format!(
        "{:.0} B a socket, {:.1} µs a handshake, {:.1} a message, {:.1} a delivery, drained in {:.2} s",
        sample.socket_bytes, sample.handshake, sample.message, sample.delivery, sample.drain
    )
}

#[expect(clippy::print_stdout, reason = "the table is what it is run for")]
fn publish(folders: &Folders, outcome: &Outcome) -> Result<(), String> {
    let table = table::table(outcome);
    let json = serde_json::to_string_pretty(outcome).expect("plain fields serialise");
    for (name, text) in [
        ("compare.md", &table),
        ("compare.json", &(json + "\n")),
        ("compare.svg", &chart::chart(outcome)),
    ] {
        let path = folders.results().join(name);
        fs::write(&path, text).map_err(|error| format!("{path:?}: {error}"))?;
    }
    println!("{table}");
    eprintln!(
        "==> in {}: compare.md, compare.svg, compare.json",
        folders.results().display()
    );
    Ok(())
}

/// # Errors
/// There is nothing to judge, or nothing to judge it by.
#[expect(clippy::print_stdout, reason = "the verdicts are what it is run for")]
fn judge(outcome: &Outcome) -> Result<bool, String> {
    let tally = outcome.peer(peer::TALLY).ok_or("Tally was not measured")?;
    outcome
        .peer(peer::FLOOR)
        .ok_or("the floor was not measured")?;
    let thresholds = thresholds::parse(include_str!("../thresholds.txt"))?;
    let mut all = true;
    for threshold in thresholds {
        let value = outcome.figure(tally, threshold.measure).median;
        let holds = value <= threshold.most;
        all &= holds;
        let (name, most) = (threshold.measure.name(), threshold.most);
        println!(
            "{}: {name} {} (at most {most})",
            if holds { "holds" } else { "FAILS" },
            table::number(value)
        );
    }
    Ok(all)
}
