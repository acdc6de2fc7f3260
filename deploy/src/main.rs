//! The small program behind the recipes.

mod colour;
mod command;
mod engine;
mod error;
mod flip;
mod http;
mod leftovers;
mod logs;
mod native;
mod ports;
mod router;
mod smoke;
mod stack;
mod supervisor;
mod tools;
mod traefik;
mod verbs;
mod wait;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

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
    Flip,
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
        Verb::Flip => verbs::flip(&root),
        Verb::Status => verbs::status(&root),
        Verb::Logs { lines, follow } => verbs::logs(&root, lines, follow),
        Verb::Down => verbs::down(&root),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
