//! A point for every second of the run.

use serde::{Deserialize, Serialize};

use crate::{
    clock::{Nanos, SECOND, seconds},
    recorder::{Counts, Recorder},
    watch::Look,
};

/// What a second was like.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Point {
    pub at_s: f64,
    pub open: u64,
    pub sent_per_s: f64,
    pub answered_per_s: f64,
    pub beats_per_s: f64,
    pub p50_s: f64,
    pub p99_s: f64,
    pub max_s: f64,
    /// Of a core; all watched processes together.
    pub server_cpu: f64,
    pub server_rss_bytes: u64,
    pub client_cpu: f64,
    pub client_rss_bytes: u64,
}

#[derive(Default)]
pub struct Series {
    pub points: Vec<Point>,
    at: Nanos,
    counts: Counts,
    look: Look,
}

impl Series {
    pub fn is_due(&self, now: Nanos) -> bool {
        now >= self.at + SECOND
    }

    pub fn last(&self) -> Option<&Point> {
        self.points.last()
    }

    pub fn take(&mut self, now: Nanos, recorder: &mut Recorder, look: &Look) {
        let time = seconds(now - self.at);
        let counts = recorder.counts;
        let per_second = |now: u64, before: u64| (now - before) as f64 / time;
        let latency = |quantile| seconds(recorder.recent.value_at_quantile(quantile));
        let cpu = |now: Nanos, before: Nanos| seconds(now.saturating_sub(before)) / time;
        self.points.push(Point {
            at_s: seconds(now),
            open: counts.open,
            sent_per_s: per_second(counts.sent, self.counts.sent),
            answered_per_s: per_second(counts.answered, self.counts.answered),
            beats_per_s: per_second(counts.beats, self.counts.beats),
            p50_s: latency(0.5),
            p99_s: latency(0.99),
            max_s: seconds(recorder.recent.max()),
            server_cpu: cpu(look.server_cpu(), self.look.server_cpu()),
            server_rss_bytes: look.server_rss(),
            client_cpu: cpu(look.client.cpu, self.look.client.cpu),
            client_rss_bytes: look.client.rss_bytes,
        });
        recorder.recent.reset();
        (self.at, self.counts, self.look) = (now, counts, look.clone());
    }
}
