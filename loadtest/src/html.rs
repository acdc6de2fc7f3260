//! The report as one page that needs nothing else; pure.

use crate::{
    chart::{Chart, Line},
    readable::{bytes, time},
    report::Report,
    series::Point,
    table::table,
};

/// What memory is charted in, so that the ticks are round.
const MEBIBYTE: f64 = 1_048_576.0;

/// A line's name, and what it shows of each second.
type Shown = (&'static str, fn(&Point) -> f64);

const STYLE: &str = include_str!("report.css");

pub fn page(report: &Report) -> String {
    let verdict = if report.passed { "passed" } else { "failed" };
    let plan = &report.plan;
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Tally load test: {verdict}</title>\n<style>\n{STYLE}</style>\n\
         <h1>{} sockets <span class=\"{verdict}\">{verdict}</span></h1>\n\
         <p>{} at {}, {}</p>\n<main>\n{}</main>\n<pre>{}</pre>\n",
        report.opened,
        escape(&plan.mode),
        escape(&plan.target),
        escape(&report.began),
        charts(report),
        escape(&table(report))
    )
}

fn charts(report: &Report) -> String {
    let over_time = |title, value, lines: &[Shown]| Chart {
        title,
        lines: lines.iter().map(|line| by_second(report, *line)).collect(),
        value,
        place: |place| format!("{place} s"),
    };
    let answers: [Shown; 3] = [
        ("p50", |at| at.p50_s),
        ("p99", |at| at.p99_s),
        ("max", |at| at.max_s),
    ];
    let messages: [Shown; 2] = [
        ("sent", |at| at.sent_per_s),
        ("answered", |at| at.answered_per_s),
    ];
    let cpu: [Shown; 2] = [
        ("server", |at| at.server_cpu),
        ("client", |at| at.client_cpu),
    ];
    let memory: [Shown; 2] = [
        ("server", |at| at.server_rss_bytes as f64 / MEBIBYTE),
        ("client", |at| at.client_rss_bytes as f64 / MEBIBYTE),
    ];
    [
        over_time("Time to the answer, by second", time, &answers),
        by_share(report),
        over_time("Messages a second", plain, &messages),
        over_time(
            "Heartbeats received a second",
            plain,
            &[("beats", |at| at.beats_per_s)],
        ),
        over_time("Open sockets", plain, &[("open", |at| at.open as f64)]),
        over_time("CPU, of one core", share, &cpu),
        over_time("Resident memory", mebibytes, &memory),
    ]
    .iter()
    .map(Chart::html)
    .collect()
}

fn by_second(report: &Report, (name, value): Shown) -> Line<'static> {
    let points = report.series.iter();
    Line {
        name,
        points: points.map(|point| (point.at_s, value(point))).collect(),
    }
}

/// Each step to the right leaves a tenth as many answers above it.
fn by_share(report: &Report) -> Chart<'_> {
    let points = report.curve.iter();
    Chart {
        title: "Time to the answer, by share of the answers",
        lines: vec![Line {
            name: "answers",
            points: points
                .map(|(share, time)| (-(1.0 - share).log10(), *time))
                .collect(),
        }],
        value: time,
        place: |nines| format!("{} %", 100.0 * (1.0 - 10_f64.powf(-nines))),
    }
}

fn share(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

fn mebibytes(value: f64) -> String {
    bytes(value * MEBIBYTE)
}

fn plain(value: f64) -> String {
    format!("{value}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_said_stays_text() {
        assert_eq!(escape("<script>&"), "&lt;script&gt;&amp;");
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    }
}
