//! Options, preflight, run, report, exit code.

use std::{fs, path::Path, process::ExitCode};

use clap::Parser;
use tally_loadtest::{
    findings, html, options::Options, preflight, progress::Progress, report::Report, run::Run,
    stack, table::table,
};

/// It could not run.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(UNUSABLE)
        }
    }
}

/// Whether everything was as it should be.
fn run(options: &Options) -> Result<bool, String> {
    options.check()?;
    let target = match &options.url {
        Some(target) => target.clone(),
        None => stack::front_door()?,
    };
    let obstacles = preflight::look(&target, options.load.sockets.into());
    for obstacle in &obstacles {
        eprintln!("limit: {}; {}", obstacle.what, obstacle.cure);
    }
    if obstacles.iter().any(|obstacle| obstacle.blocks) {
        return Err("so many sockets cannot be opened here".into());
    }
    let began = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let progress = Progress::new(options.report.quiet);
    let mut run = Run::new(options, target, progress).map_err(|error| error.to_string())?;
    run.go().map_err(|error| error.to_string())?;
    let report = findings::report(&run, began);
    publish(options, &report)?;
    Ok(report.passed)
}

#[expect(clippy::print_stdout, reason = "the report is what it is run for")]
fn publish(options: &Options, report: &Report) -> Result<(), String> {
    if !options.report.quiet || !report.passed {
        print!("{}", table(report));
    }
    if let Some(path) = &options.report.json {
        let json = serde_json::to_string_pretty(report).expect("plain fields serialise");
        write(path, &(json + "\n"))?;
    }
    if let Some(path) = &options.report.html {
        write(path, &html::page(report))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
