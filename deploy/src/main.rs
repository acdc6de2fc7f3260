//! The small program behind the recipes.

mod audit;
mod bake;
mod certificate;
mod colour;
mod command;
mod deploy;
mod docker;
mod door;
mod engine;
mod entrance;
mod error;
mod flip;
mod handover;
mod history;
mod http;
mod interrupt;
mod kubernetes;
mod leftovers;
mod lock;
mod logs;
mod monitoring;
mod native;
mod outage;
mod ports;
mod preflight;
mod replace;
mod router;
mod scrape;
mod settings;
mod size;
mod smoke;
mod sources;
mod stack;
mod store;
mod supervisor;
mod terminal;
mod tools;
mod traefik;
mod verbs;
mod wait;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use audit::Audit;
use clap::{Parser, Subcommand};
use colour::Colour;
use error::Error;
use size::Sizing;

/// Runs Tally on this machine.
#[derive(Parser)]
struct Arguments {
    /// The clone to work in
    #[arg(long, default_value = ".")]
    root: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build, start, and wait until a client gets through
    Up,
    /// Move the traffic to the other colour
    Flip {
        /// Watch the new colour for this long, with the old one still there to go back to
        #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
        bake: Duration,
        /// Sockets a second that are sent away from the old colour
        #[arg(long, default_value_t = verbs::DRAIN_RATE, value_parser = rate())]
        drain_rate: u32,
        /// Keep the old colour running for this long, for a rollback in no time
        #[arg(long, value_parser = humantime::parse_duration)]
        keep_warm: Option<Duration>,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        audit: Audit,
    },
    /// Go back to the colour that was live before, also in the middle of a flip
    Rollback {
        /// Sockets a second that are sent away from the colour that was live
        #[arg(long, default_value_t = verbs::DRAIN_RATE, value_parser = rate())]
        drain_rate: u32,
        #[command(flatten)]
        audit: Audit,
    },
    /// Show the last flips and rollbacks
    History {
        /// How many
        #[arg(default_value_t = 20)]
        count: usize,
    },
    /// Stop a colour once the time it is kept warm for is up
    #[command(hide = true)]
    Retire { colour: Colour },
    /// Say what runs where; changes nothing
    Status,
    /// Show the last lines of all logs
    Logs {
        /// Lines of each log
        #[arg(default_value_t = 20)]
        lines: usize,
        /// Go on with what is written from now on
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop everything
    Down,
    /// Work out what a number of sockets takes in a cluster, from measured figures
    Size {
        /// How many
        #[arg(
            default_values_t = [10_000, 100_000, 1_000_000],
            value_parser = clap::value_parser!(u64).range(1..=1_000_000_000)
        )]
        sockets: Vec<u64>,
        #[command(flatten)]
        sizing: Sizing,
    },
}

/// What the server takes.
fn rate() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=100_000)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let root = match arguments.root.canonicalize() {
        Ok(root) => root,
        Err(error) => {
            eprintln!("error: {:?}: {error}", arguments.root);
            return ExitCode::FAILURE;
        }
    };
    let outcome = match arguments.verb {
        Verb::Up => verbs::up(&root),
        Verb::Flip {
            bake,
            drain_rate,
            keep_warm,
            dry_run,
            audit,
        } => {
            let options = verbs::FlipOptions {
                bake,
                drain_rate,
                keep_warm,
                dry_run,
            };
            if audit.audit && !dry_run {
                audit.run(&root, &options.words())
            } else {
                verbs::flip(&root, options)
            }
        }
        Verb::Rollback { drain_rate, audit } if audit.audit => audit.run(
            &root,
            &["rollback".into(), format!("--drain-rate={drain_rate}")],
        ),
        Verb::Rollback { drain_rate, .. } => verbs::rollback(&root, drain_rate),
        Verb::History { count } => verbs::history(&root, count),
        Verb::Retire { colour } => verbs::retire(&root, colour),
        Verb::Status => verbs::status(&root),
        Verb::Logs { lines, follow } => verbs::logs(&root, lines, follow),
        Verb::Down => verbs::down(&root),
        Verb::Size { sockets, sizing } => terminal::show(sizing.told(&sockets)),
    };
    match outcome {
        Ok(()) | Err(Error::NobodyReads) => ExitCode::SUCCESS,
        Err(error) => {
            // As in `terminal::say`, and the exit code tells it too.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}
