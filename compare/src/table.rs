//! The comparison in Markdown; pure.

use std::fmt::Write;

use crate::{
    figures::{Figure, Measure},
    outcome::{Measured, Outcome},
    peer::FLOOR,
};

/// The load's share of a core above which it was the load that was measured.
const CLIENT_BOUND: f64 = 0.85;

pub fn table(outcome: &Outcome) -> String {
    let mut out = preface(outcome);
    let titles: Vec<&str> = Measure::ALL.iter().map(|measure| measure.title()).collect();
    let _ = writeln!(out, "| | {} |", titles.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(titles.len()));
    for peer in &outcome.peers {
        let cells: Vec<String> = Measure::ALL
            .iter()
            .map(|measure| cell(outcome, peer, *measure))
            .collect();
        let _ = writeln!(out, "| {} | {} |", name(peer), cells.join(" | "));
    }
    notes(&mut out, outcome);
    out
}

fn preface(outcome: &Outcome) -> String {
    format!(
        "{}, {}. {} sockets, one thread for each service, medians of {} interleaved repeats with the \
         least and the most behind them. CPU is the server process's, the kernel's part included; × \
         is a multiple of the bare epoll loop in the same repeat.\n\n",
        outcome.began,
        outcome.machine.told(),
        outcome.effort.sockets,
        outcome.effort.repeats
    )
}

fn name(peer: &Measured) -> String {
    if peer.version.is_empty() {
        peer.title.clone()
    } else {
        format!("{} <sub>{}</sub>", peer.title, peer.version)
    }
}

/// The floor's own figures are absolute: it is what the others are multiples of.
fn cell(outcome: &Outcome, peer: &Measured, measure: Measure) -> String {
    let absolute = measure.figure(&peer.samples);
    if !measure.is_ratio() || peer.name == FLOOR {
        return range(&absolute, "");
    }
    range(&outcome.figure(peer, measure), " ×")
}

fn range(figure: &Figure, sign: &str) -> String {
    let [median, least, most] = [figure.median, figure.least, figure.most].map(number);
    format!("{median}{sign} <sub>{least}–{most}</sub>")
}

/// Three digits, which is more than can be relied on.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn notes(out: &mut String, outcome: &Outcome) {
    let bound = |peer: &&Measured| {
        peer.samples
            .iter()
            .any(|sample| sample.client > CLIENT_BOUND)
    };
    let bound: Vec<&str> = outcome
        .peers
        .iter()
        .filter(bound)
        .map(|peer| peer.title.as_str())
        .collect();
    if !bound.is_empty() {
        let _ = writeln!(
            out,
            "\nMessages a second are the load's limit, not the service's, for: {}.",
            bound.join(", ")
        );
    }
    for peer in &outcome.peers {
        let missed: u64 = peer.samples.iter().map(|sample| sample.missed_beats).sum();
        if missed > 0 {
            let _ = writeln!(
                out,
                "\n{} left out {missed} heartbeats, or was late with them.",
                peer.title
            );
        }
    }
    for (peer, reason) in &outcome.left_out {
        let _ = writeln!(out, "\nLeft out: {peer}: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tally_loadtest::machine::Machine;

    use super::*;
    use crate::measure::{Effort, Sample};

    fn peer(name: &str, message: f64) -> Measured {
        let sample = Sample {
            message,
            socket_bytes: 1234.0,
            ..Sample::default()
        };
        Measured {
            name: name.into(),
            title: name.to_uppercase(),
            version: String::new(),
            samples: vec![sample],
        }
    }

    #[test]
    fn the_floor_is_absolute_and_the_others_are_multiples() {
        let second = Duration::from_secs(1);
        let table = table(&Outcome {
            began: "2026-11-23".into(),
            machine: Machine::default(),
            effort: Effort {
                sockets: 100,
                repeats: 1,
                talk: second,
                beats: second,
            },
            peers: vec![peer("floor", 10.0), peer("tally", 12.0)],
            left_out: vec![("node".into(), "it is missing".into())],
        });
        assert!(
            table.contains("| FLOOR | 1234 <sub>1234–1234</sub> |"),
            "{table}"
        );
        assert!(table.contains("| 10.0 <sub>10.0–10.0</sub> |"), "{table}");
        assert!(table.contains("| 1.20 × <sub>1.20–1.20</sub> |"), "{table}");
        assert!(table.contains("Left out: node: it is missing"), "{table}");
    }
}
