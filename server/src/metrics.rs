//! Every metric of the service, by name. All series exist from the start and no label comes from a
//! client, so their number never grows.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector, process_collector::ProcessCollector,
};

use crate::{
    handshake::{OUTCOME_ACCEPTED, Refusal},
    protocol::Goodbye,
};

/// Endings that no Goodbye names, as in [`crate::wire::Ending::name`].
const OTHER_ENDINGS: [&str; 5] = ["client", "peer_gone", "silent", "slow_reader", "aborted"];

/// Errors that are no refused frame.
const OTHER_ERRORS: [&str; 6] = [
    "accept",
    "slow_reader",
    "silent",
    "hub",
    "store",
    "unresponsive",
];

const RESUME_OUTCOMES: [&str; 4] = ["resumed", "unknown", "busy", "unavailable"];

const LOG_LEVELS: [&str; 6] = ["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "TRACE"];

/// From what a message costs to what a person notices, seconds.
const MICROSECONDS: [f64; 12] = [
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2, 0.1, 1.0,
];

/// From one pass over a few sockets to a beat that is late, seconds.
const MILLISECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// From a page reload to a day at the screen, seconds.
const LIFETIMES: [f64; 10] = [
    0.1, 1.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0,
];

pub struct Metrics {
    registry: Registry,
    pub messages: IntCounter,
    pub active_connections: IntGauge,
    pub connections_max: IntGauge,
    pub errors: IntCounterVec,
    pub handshakes: IntCounterVec,
    pub handshake_seconds: Histogram,
    pub closes: IntCounterVec,
    pub connection_seconds: Histogram,
    pub message_seconds: Histogram,
    pub heartbeats: IntCounter,
    pub heartbeat_lag_seconds: Histogram,
    pub heartbeat_sweep_seconds: Histogram,
    pub slow_readers: IntCounter,
    pub resumes: IntCounterVec,
    pub sessions_parked: IntGauge,
    pub sessions_parked_max: IntGauge,
    pub sessions_forgotten: IntCounterVec,
    pub store_up: IntGauge,
    pub store_pending: IntGauge,
    pub store_saves: IntCounter,
    pub store_fenced: IntCounter,
    pub store_batch_seconds: Histogram,
    pub draining: IntGauge,
    pub shutdown_started_seconds: Gauge,
    pub shutdown_seconds: GaugeVec,
    pub shutdowns: IntCounterVec,
    pub log_records: IntCounterVec,
    pub log_records_dropped: IntCounter,
    pub log_records_suppressed: IntCounter,
}

/// Makes metrics and registers them; a name taken twice is a mistake in this file.
struct Maker(Registry);

impl Maker {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("a valid name");
        self.0
            .register(Box::new(collector.clone()))
            .expect("a name of its own");
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    /// A gauge that begins at 1.
    fn up(&self, name: &str, help: &str) -> IntGauge {
        let gauge = self.gauge(name, help);
        gauge.set(1);
        gauge
    }

    fn counters<'a>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'a str>,
    ) -> IntCounterVec {
        let counters = self.add(IntCounterVec::new(Opts::new(name, help), &[label]));
        for value in values {
            counters.with_label_values(&[value]);
        }
        counters
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts))
    }
}

impl Metrics {
    /// `version` and `revision` label `tally_build_info`; `slot` is this process's colour among
    /// the colours whose last shutdown is reported.
    pub fn new(version: &str, revision: &str) -> Self {
        let make = Maker(Registry::new());
        let _ = make
            .0
            .register(Box::new(ProcessCollector::for_self()))
            .map_err(|error| unreachable!("process_* is registered once: {error}"));
        let build = make.add(IntGaugeVec::new(
            Opts::new("tally_build_info", "Always 1; the labels tell the build."),
            &["version", "revision"],
        ));
        build.with_label_values(&[version, revision]).set(1);
        let goodbyes = || Goodbye::ALL.iter().map(|goodbye| goodbye.name());
        Self {
            messages: make.counter("tally_messages_total", "Text messages counted."),
            active_connections: make.gauge("tally_active_connections", "Open WebSockets."),
            connections_max: make.gauge(
                "tally_connections_max",
                "Open WebSockets at which the next handshake is refused.",
            ),
            errors: make.counters(
                "tally_errors_total",
                "What went wrong with a connection, by kind.",
                "kind",
                Goodbye::ALL
                    .iter()
                    .filter(|goodbye| goodbye.is_error())
                    .map(|goodbye| goodbye.name())
                    .chain(OTHER_ERRORS),
            ),
            handshakes: make.counters(
                "tally_handshakes_total",
                "Handshakes by outcome.",
                "outcome",
                Refusal::OUTCOMES.into_iter().chain([OUTCOME_ACCEPTED]),
            ),
            handshake_seconds: make.histogram(
                "tally_handshake_duration_seconds",
                "From the request's head to the 101.",
                &MICROSECONDS,
            ),
            closes: make.counters(
                "tally_closes_total",
                "Ended connections, by what ended them.",
                "reason",
                goodbyes().chain(OTHER_ENDINGS),
            ),
            connection_seconds: make.histogram(
                "tally_connection_duration_seconds",
                "How long connections lasted.",
                &LIFETIMES,
            ),
            message_seconds: make.histogram(
                "tally_message_duration_seconds",
                "From a message read to its answer handed to the socket.",
                &MICROSECONDS,
            ),
            heartbeats: make.counter("tally_heartbeats_total", "Beats begun."),
            heartbeat_lag_seconds: make.histogram(
                "tally_heartbeat_lag_seconds",
                "How late beats began.",
                &MILLISECONDS,
            ),
            heartbeat_sweep_seconds: make.histogram(
                "tally_heartbeat_sweep_duration_seconds",
                "From a beat to the last socket of a worker told.",
                &MILLISECONDS,
            ),
            slow_readers: make.counter(
                "tally_slow_readers_total",
                "Peers dropped because they did not read.",
            ),
            resumes: make.counters(
                "tally_resumes_total",
                "Handshakes that named a session, by outcome.",
                "outcome",
                RESUME_OUTCOMES,
            ),
            sessions_parked: make.gauge(
                "tally_sessions_parked",
                "Sessions kept for a client that may come back.",
            ),
            sessions_parked_max: make.gauge(
                "tally_sessions_parked_max",
                "Parked sessions beyond which the oldest is forgotten.",
            ),
            sessions_forgotten: make.counters(
                "tally_sessions_forgotten_total",
                "Parked sessions forgotten, by reason.",
                "reason",
                ["expired", "evicted"],
            ),
            store_up: make.up("tally_store_up", "1 while the session store answers."),
            store_pending: make.gauge(
                "tally_store_pending",
                "Sessions that wait for a store that is down.",
            ),
            store_saves: make.counter("tally_store_saves_total", "Sessions stored."),
            store_fenced: make.counter(
                "tally_store_fenced_total",
                "Words refused by the store, because the session had gone on elsewhere.",
            ),
            store_batch_seconds: make.histogram(
                "tally_store_batch_duration_seconds",
                "Round trips that stored sessions.",
                &MILLISECONDS,
            ),
            draining: make.gauge("tally_draining", "1 while connections are sent away."),
            shutdown_started_seconds: make.add(Gauge::new(
                "tally_shutdown_started_timestamp_seconds",
                "When this process began to shut down, Unix time; 0 before.",
            )),
            shutdown_seconds: make.add(GaugeVec::new(
                Opts::new(
                    "tally_shutdown_duration_seconds",
                    "How long the last shutdown of a slot took, by any process that shares its \
                     state directory; 0 where none is known.",
                ),
                &["slot"],
            )),
            shutdowns: make.add(IntCounterVec::new(
                Opts::new(
                    "tally_shutdowns_total",
                    "Shutdowns of a slot by outcome, kept in the state directory.",
                ),
                &["slot", "outcome"],
            )),
            log_records: make.counters(
                "tally_log_records_total",
                "Log records written, by level.",
                "level",
                LOG_LEVELS,
            ),
            log_records_dropped: make.counter(
                "tally_log_records_dropped_total",
                "Log records lost because nobody read the log fast enough.",
            ),
            log_records_suppressed: make.counter(
                "tally_log_records_suppressed_total",
                "Log records of opening and closing left out by sampling.",
            ),
            registry: make.0,
        }
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory succeeds");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}
