//! Settings, log, service, shutdown, exit code; or a health check.

use std::{process::exit, sync::Arc};

use rustix::process::{Resource, getrlimit, setrlimit};
use slog::info;
use tally_server::{
    REVISION, VERSION,
    app::Service,
    config::{Config, Errand},
    healthcheck,
    logging::Logging,
    metrics::Metrics,
    shutdown::{self, Report},
    telemetry::Telemetry,
};

fn main() {
    let errand = Errand::from_environment(raise_file_limit()).unwrap_or_else(|mistakes| {
        for mistake in mistakes {
            eprintln!("error: {mistake}");
        }
        exit(2)
    });
    match errand {
        Errand::Serve(config) => serve(&config),
        Errand::Healthcheck(listener) => {
            if let Err(unhealthy) = healthcheck::ask(listener) {
                eprintln!("error: {unhealthy}");
                exit(1)
            }
        }
    }
}

fn serve(config: &Config) {
    let metrics = Metrics::new(VERSION, REVISION);
    let logging = Logging::start(config.log_level, &config.colour, &metrics);
    let _libraries = logging.take_in_libraries().expect("set once");
    let telemetry = Arc::new(Telemetry::new(logging.logger.clone(), metrics));
    match actix_rt::System::new().block_on(run(config, telemetry)) {
        Ok(report) => logging.end_process(0, move |log| {
            info!(log, "shutdown complete"; "event" => "shutdown_complete",
                "outcome" => report.outcome.name(),
                "duration_ms" => report.duration.as_millis() as u64,
                "connections" => report.connections, "cut_off" => report.cut_off);
        }),
        Err(error) => {
            eprintln!("error: {error}");
            exit(1)
        }
    }
}

async fn run(
    config: &Config,
    telemetry: Arc<Telemetry>,
) -> Result<Report, Box<dyn std::error::Error>> {
    let signalled = shutdown::signal()?;
    let service = Service::start(config, telemetry.clone()).await?;
    telemetry.listening("public", service.public_address);
    telemetry.listening("operator", service.operator_address);
    telemetry.ready();
    let signal = signalled.await?;
    Ok(shutdown::drain(service, signal).await)
}

/// Raises the soft limit of open files to the hard one; returns what holds.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
