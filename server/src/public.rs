//! The public listener. Each worker accepts for itself, on its own thread: to hand connections from
//! one thread to another cost a fifth of a handshake.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, Protocol};
use actix_rt::{
    Arbiter,
    net::TcpStream,
    time::{sleep, timeout},
};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, fn_service, map_config};
use actix_web::{App, dev::AppConfig, middleware::from_fn, web::Data};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::yield_now,
};

use crate::{
    config::Config,
    http::{self, Site},
    telemetry::Telemetry,
    upgrade::{Worker, WorkerSettings},
};

/// How long a peer may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Workers start within milliseconds, or not at all.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// How long workers wait for requests that are under way when the server stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Requests that a worker has before it at a time: handshakes, probes, the page. Open WebSockets are
/// none. More wait in the kernel's queue.
const REQUESTS_MAX: usize = 1024;

/// Connections accepted in a row, before those that are open have their turn.
const ACCEPT_MAX: usize = 16;

/// The process may have no file left for a connection; one may be free after this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The workers, running.
pub struct Workers {
    arbiters: Vec<Arbiter>,
    stop: watch::Sender<bool>,
    stopped: mpsc::Receiver<()>,
}

/// Starts a worker for each listener.
///
/// # Errors
/// A worker does not start.
pub async fn start(
    listeners: Vec<TcpListener>,
    config: &Config,
    site: &Site,
) -> Result<Workers, NotStarted> {
    let (stop, stopping) = watch::channel(false);
    let (started, mut running) = mpsc::channel(listeners.len());
    let (done, stopped) = mpsc::channel(1);
    let workers = listeners.len();
    let arbiters: Vec<Arbiter> = (0..)
        .zip(listeners)
        .map(|(number, listener)| {
            let arbiter = Arbiter::new();
            let settings = config.worker_settings();
            let (site, stopping) = (site.clone(), stopping.clone());
            let (started, done) = (started.clone(), done.clone());
            arbiter.spawn_fn(move || {
                actix_rt::spawn(async move {
                    if let Ok(listener) = actix_rt::net::TcpListener::from_std(listener) {
                        serve(listener, number, settings, site, started, stopping).await;
                    }
                    drop(done);
                });
            });
            arbiter
        })
        .collect();
    drop((started, done));
    for _ in 0..workers {
        match timeout(START_TIMEOUT, running.recv()).await {
            Ok(Some(())) => {}
            _ => return Err(NotStarted),
        }
    }
    Ok(Workers {
        arbiters,
        stop,
        stopped,
    })
}

/// A worker did not start.
#[derive(Debug)]
pub struct NotStarted;

impl Workers {
    /// Stops accepting, gives requests that are under way [`STOP_TIMEOUT`], then ends the threads.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        // Nothing is ever sent: it ends with the last worker.
        let _ = self.stopped.recv().await;
        for arbiter in self.arbiters {
            arbiter.stop();
        }
    }
}

/// A worker's thread, until it is told to stop.
async fn serve(
    listener: actix_rt::net::TcpListener,
    number: u32,
    settings: WorkerSettings,
    site: Site,
    started: mpsc::Sender<()>,
    mut stopping: watch::Receiver<bool>,
) {
    let telemetry = site.telemetry.clone();
    let worker = Worker::start(number, site.clone(), settings);
    let app = App::new()
        .app_data(Data::new(site))
        .configure(http::public)
        .wrap(from_fn(http::sign));
    let factory = HttpService::build()
        .client_request_timeout(HEAD_TIMEOUT)
        .upgrade(fn_service(move |(request, framed)| {
            Box::pin(worker.clone().serve(request, framed))
        }))
        .finish(map_config(app.into_factory(), |()| AppConfig::default()));
    let Ok(service) = factory.new_service(()).await else {
        return;
    };
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let accepting = accept(listener, Rc::new(service), requests.clone(), telemetry);
    let accepting = actix_rt::spawn(accepting);
    let _ = started.send(()).await;
    drop(started);
    let _ = stopping.wait_for(|stopping| *stopping).await;
    accepting.abort();
    let everybody = requests.acquire_many(REQUESTS_MAX as u32);
    let _ = timeout(STOP_TIMEOUT, everybody).await;
}

async fn accept<S>(
    listener: actix_rt::net::TcpListener,
    service: Rc<S>,
    requests: Arc<Semaphore>,
    telemetry: Arc<Telemetry>,
) where
    S: Service<(TcpStream, Protocol, Option<SocketAddr>), Response = ()> + 'static,
{
    let mut accepted = 0;
    loop {
        let Ok(place) = requests.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let served = service.call((stream, Protocol::Http1, Some(peer)));
                actix_rt::spawn(async move {
                    let _ = served.await;
                    drop(place);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                telemetry.accept_failed(&error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
        accepted += 1;
        if accepted % ACCEPT_MAX == 0 {
            yield_now().await;
        }
    }
}

/// Whether the next connection may do better at once (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}
