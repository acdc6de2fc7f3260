//! What a person sees while it runs: bars on a terminal, else a line now and then.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::{recorder::Recorder, series::Point};

/// Between two lines where nobody watches a terminal.
const LINES_EVERY_S: f64 = 5.0;

pub enum Progress {
    Silent,
    Bar(ProgressBar, &'static str),
    Lines { phase: &'static str, last_s: f64 },
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        if quiet {
            Self::Silent
        } else if std::io::stderr().is_terminal() {
            Self::Bar(ProgressBar::no_length(), "")
        } else {
            Self::Lines {
                phase: "",
                last_s: 0.0,
            }
        }
    }

    /// A phase begins; `length` is in sockets, or in seconds for the talk.
    pub fn phase(&mut self, name: &'static str, length: u64) {
        match self {
            Self::Silent => {}
            Self::Lines { phase, last_s } => {
                (*phase, *last_s) = (name, 0.0);
                eprintln!("==> {name}");
            }
            Self::Bar(bar, phase) => {
                let template = "{prefix:>9} [{bar:30}] {pos}/{len}  {msg}";
                let style = ProgressStyle::with_template(template).expect("a constant");
                bar.set_style(style.progress_chars("=> "));
                bar.set_prefix(name);
                bar.set_length(length);
                bar.set_position(0);
                bar.reset_elapsed();
                *phase = name;
            }
        }
    }

    pub fn tell(&mut self, recorder: &Recorder, point: Option<&Point>) {
        let Some(point) = point else { return };
        match self {
            Self::Silent => {}
            Self::Lines { phase, last_s } => {
                if point.at_s >= *last_s + LINES_EVERY_S {
                    *last_s = point.at_s;
                    eprintln!("{phase} at {:.0} s: {}", point.at_s, line(recorder, point));
                }
            }
            Self::Bar(bar, phase) => {
                let position = match *phase {
                    "talking" => bar.elapsed().as_secs(),
                    "opening" => recorder.counts.open,
                    _ => bar
                        .length()
                        .unwrap_or(0)
                        .saturating_sub(recorder.counts.open),
                };
                bar.set_position(position);
                bar.set_message(line(recorder, point));
            }
        }
    }

    pub fn finish(&self) {
        if let Self::Bar(bar, _) = self {
            bar.finish_and_clear();
        }
    }
}

fn line(recorder: &Recorder, point: &Point) -> String {
    format!(
        "{} open, {:.0} answers/s, p99 {:.1} ms, {} beats, {} faults, server {:.0} MiB {:.0} %, client {:.0} %",
        point.open,
        point.answered_per_s,
        point.p99_s * 1e3,
        recorder.counts.beats,
        recorder.faults.total(),
        point.server_rss_bytes as f64 / f64::from(1 << 20),
        point.server_cpu * 100.0,
        point.client_cpu * 100.0,
    )
}
