//! The report as one page that needs nothing else; pure.

use crate::{
    chart::{Chart, Line},
    report::{Report, bytes, time},
    series::Point,
    table::table,
};

/// What memory is charted in, so that the ticks are round.
const MEBIBYTE: f64 = 1_048_576.0;

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
    let line = |name, value: fn(&Point) -> f64| Line {
        name,
        points: report
            .series
            .iter()
            .map(|point| (point.at_s, value(point)))
            .collect(),
    };
    let over_time = |title, value, lines| Chart {
        title,
        lines,
        value,
        place: |place| format!("{place} s"),
    };
    [
        over_time(
            "Time to the answer, by second",
            time,
            vec![
                line("p50", |at| at.p50_s),
                line("p99", |at| at.p99_s),
                line("max", |at| at.max_s),
            ],
        ),
        by_share(report),
        over_time(
            "Messages a second",
            plain,
            vec![
                line("sent", |at| at.sent_per_s),
                line("answered", |at| at.answered_per_s),
            ],
        ),
        over_time(
            "Heartbeats received a second",
            plain,
            vec![line("beats", |at| at.beats_per_s)],
        ),
        over_time(
            "Open sockets",
            plain,
            vec![line("open", |at| at.open as f64)],
        ),
        over_time(
            "CPU, of one core",
            |value| format!("{:.0} %", value * 100.0),
            vec![
                line("server", |at| at.server_cpu),
                line("client", |at| at.client_cpu),
            ],
        ),
        over_time(
            "Resident memory",
            |mebibytes| bytes(mebibytes * MEBIBYTE),
            vec![
                line("server", |at| at.server_rss_bytes as f64 / MEBIBYTE),
                line("client", |at| at.client_rss_bytes as f64 / MEBIBYTE),
            ],
        ),
    ]
    .iter()
    .map(Chart::html)
    .collect()
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
