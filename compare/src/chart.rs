//! The comparison as bars, in one SVG that needs nothing else; pure.

use std::fmt::Write;

use crate::{
    figures::Measure,
    outcome::{Measured, Outcome},
    peer::TALLY,
    table::number,
};

const WIDTH: f64 = 880.0;
const COLUMN: f64 = WIDTH / 2.0;
const ROW: f64 = 22.0;
const NAME: f64 = 176.0;
const BAR: f64 = 180.0;
const HEAD: f64 = 34.0;

/// What is worth a picture; the rest is in the table.
const SHOWN: [Measure; 4] = [
    Measure::SocketBytes,
    Measure::Handshake,
    Measure::Message,
    Measure::Delivery,
];

/// A bar that is far longer than the others would leave nothing to see of them, so bars end here,
/// as multiples of Tally's, and the number says the rest.
const LONGEST: f64 = 8.0;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1c2733}.head{font-weight:600}\
    .bar{fill:#9fb3c8}.tally{fill:#1667b7}.line{stroke:#1c2733}\
    @media(prefers-color-scheme:dark){text{fill:#e3e9ef}.bar{fill:#516579}.tally{fill:#6cb2f5}}";

pub fn chart(outcome: &Outcome) -> String {
    let panel = HEAD + outcome.peers.len() as f64 * ROW + 12.0;
    let height = panel * (SHOWN.len() as f64 / 2.0).ceil();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\
         <title>Tally beside others</title><style>{STYLE}</style>\n"
    );
    for (place, measure) in SHOWN.into_iter().enumerate() {
        let left = if place % 2 == 0 { 0.0 } else { COLUMN };
        let top = (place / 2) as f64 * panel;
        bars(&mut out, outcome, measure, (left, top));
    }
    out + "</svg>\n"
}

fn bars(out: &mut String, outcome: &Outcome, measure: Measure, (left, top): (f64, f64)) {
    let unit = if measure.is_ratio() {
        ", × the floor"
    } else {
        ""
    };
    let title = measure.title().trim_end_matches(", µs");
    let _ = writeln!(
        out,
        "<text class=\"head\" x=\"{left}\" y=\"{:.0}\">{title}{unit}</text>",
        top + 20.0
    );
    let most = scale(outcome, measure);
    for (row, peer) in outcome.peers.iter().enumerate() {
        let value = outcome.figure(peer, measure).median;
        let y = top + HEAD + row as f64 * ROW;
        let width = (value.max(0.0) / most).min(1.0) * BAR;
        let class = if peer.name == TALLY { "tally" } else { "bar" };
        let more = if value > most { " →" } else { "" };
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{:.0}\" y=\"{:.0}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}{more}</text>",
            left + NAME - 8.0,
            y + 12.0,
            peer.title,
            left + NAME,
            y + 1.0,
            left + NAME + width + 6.0,
            y + 12.0,
            number(value)
        );
    }
}

fn scale(outcome: &Outcome, measure: Measure) -> f64 {
    let median = |peer: &Measured| outcome.figure(peer, measure).median;
    let most = outcome
        .peers
        .iter()
        .map(median)
        .fold(f64::MIN_POSITIVE, f64::max);
    let tally = outcome.peer(TALLY).map(median).filter(|tally| *tally > 0.0);
    tally.map_or(most, |tally| most.min(tally * LONGEST))
}
