//! Builds the service and runs it until it is told to stop.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actix_http::HttpService;
use actix_rt::{task::spawn_blocking, time::timeout};
use actix_server::{Server, ServerHandle};
use actix_service::{fn_service, map_config};
use actix_web::{
    App, HttpServer, dev::AppConfig, http::header::HeaderValue, middleware::from_fn, web::Data,
};
use socket2::{Domain, Socket, Type};
use tokio::sync::Semaphore;

use crate::{
    admission::Admission,
    config::Config,
    http::{self, Site},
    hub::Hub,
    keeper::{KeeperSettings, Ready, Running},
    records::Records,
    spill::Spill,
    store::{self, StoreError},
    telemetry::Telemetry,
    upgrade::Worker,
};

/// How long a peer may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Workers start within milliseconds, or not at all.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// How long workers wait for what is left when the server stops; the drain has been by then.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted; the kernel clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// What the kernel holds for a peer that does not read. Left alone, Linux takes up to 4 MB each.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// What the kernel holds of a peer that is not read; the drain counts as much of it as arrived.
const RECEIVE_BUFFER_BYTES: usize = 128 * 1024;

/// Requests without a WebSocket, beside the connections: probes, the page, refused handshakes.
const REQUESTS_PER_WORKER_MAX: usize = 1024;

/// A service whose listeners are bound and whose threads run.
pub struct Service {
    pub public_address: SocketAddr,
    pub operator_address: SocketAddr,
    pub site: Site,
    public: ServerHandle,
    operator: ServerHandle,
    keeper: Running,
}

impl Service {
    /// Binds both listeners and starts the workers. Needs an Actix system to run in.
    ///
    /// # Errors
    /// A listener cannot be bound, the state directory cannot be written, or the store not opened.
    pub async fn start(config: &Config, telemetry: Arc<Telemetry>) -> Result<Self, StartError> {
        let public_listener = bind("TALLY_LISTEN", config.listen, config.write_timeout)?;
        let operator_listener = bind(
            "TALLY_OPERATOR_LISTEN",
            config.operator_listen,
            config.write_timeout,
        )?;
        let records =
            Records::open(config.state_dir.as_deref(), &config.colour).map_err(|source| {
                StartError::StateDirectory {
                    directory: config.state_dir.clone().unwrap_or_default(),
                    source,
                }
            })?;
        let metrics = &telemetry.metrics;
        metrics.connections_max.set(config.connections_max as i64);
        metrics.sessions_parked_max.set(config.sessions_max as i64);
        let state_dir = config.state_dir.as_deref();
        let store = store::open(&config.session_store, config.store_settings())?;
        let keeper = KeeperSettings {
            spill: Spill::of(state_dir, &config.colour),
            unsaved_max: config.sessions_max.max(config.connections_max),
            shared: config.session_store.is_shared(),
        };
        let keeper = Ready::new(store, keeper, telemetry.clone());
        let desk = Hub::start(
            config.hub_settings(),
            keeper.keeper.clone(),
            telemetry.clone(),
        );
        let start = |source| StartError::Start { source };
        let keeper = keeper.start(Hub::listener(&desk)).map_err(start)?;
        let site = Site {
            desk,
            admission: Admission::new(config.connections_max),
            telemetry,
            records,
            colour: HeaderValue::from_str(&config.colour).expect("checked with the settings"),
            allowed_origins: config.allowed_origins.clone().into(),
            store: config.session_store.name(),
        };
        let public_address = public_listener.local_addr().map_err(start)?;
        let operator_address = operator_listener.local_addr().map_err(start)?;
        let running = Arc::new(Semaphore::new(0));
        let public = serve_public(public_listener, config, &site, &running).map_err(start)?;
        let operator = serve_operator(operator_listener, &site).map_err(start)?;
        let workers = u32::try_from(config.workers).unwrap_or(u32::MAX);
        match timeout(START_TIMEOUT, running.acquire_many(workers)).await {
            Ok(Ok(_)) => Ok(Self {
                public_address,
                operator_address,
                site,
                public,
                operator,
                keeper,
            }),
            _ => Err(StartError::Workers),
        }
    }

    /// Stops accepting, gives what is left [`STOP_TIMEOUT`], then cuts it off. Meanwhile the last
    /// sessions are stored, or spilled.
    pub async fn stop(self) {
        let kept = spawn_blocking(|| self.keeper.end());
        self.public.stop(true).await;
        self.operator.stop(false).await;
        let _ = kept.await;
    }
}

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}; set {variable} to a free address of this host")]
    Bind {
        variable: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot write to {directory:?}: {source}; set TALLY_STATE_DIR to a writable directory")]
    StateDirectory {
        directory: std::path::PathBuf,
        source: io::Error,
    },
    #[error("cannot use the session store: {0}; see TALLY_SESSION_STORE")]
    Store(#[from] StoreError),
    #[error("the workers do not start; the open-file limit (ulimit -n) may be too low")]
    Workers,
    #[error("cannot start: {source}")]
    Start { source: io::Error },
}

/// Options set here are inherited by every accepted socket, so none costs a system call each.
fn bind(
    variable: &'static str,
    address: SocketAddr,
    write_timeout: Duration,
) -> Result<TcpListener, StartError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        // The net under the pump's own timeout: the kernel ends a peer that acknowledges nothing.
        socket.set_tcp_user_timeout(Some(write_timeout))?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|source| StartError::Bind {
        variable,
        address,
        source,
    })
}

/// Each worker adds a permit to `running` once it can serve.
fn serve_public(
    listener: TcpListener,
    config: &Config,
    site: &Site,
    running: &Arc<Semaphore>,
) -> io::Result<ServerHandle> {
    let running = running.clone();
    let workers = Arc::new(AtomicU32::new(0));
    let site = site.clone();
    let settings = config.worker_settings();
    let server = Server::build()
        .workers(config.workers)
        .max_concurrent_connections(
            config
                .connections_max
                .saturating_add(REQUESTS_PER_WORKER_MAX),
        )
        .shutdown_timeout(STOP_TIMEOUT.as_secs())
        .disable_signals()
        .listen("public", listener, move || {
            let number = workers.fetch_add(1, Ordering::Relaxed);
            let worker = Worker::start(number, site.clone(), settings);
            running.add_permits(1);
            let app = App::new()
                .app_data(Data::new(site.clone()))
                .configure(http::public)
                .wrap(from_fn(http::sign));
            HttpService::build()
                .client_request_timeout(HEAD_TIMEOUT)
                .upgrade(fn_service(move |(request, framed)| {
                    Box::pin(worker.clone().serve(request, framed))
                }))
                .finish(map_config(app, |()| AppConfig::default()))
                .tcp()
        })?
        .run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(handle)
}

fn serve_operator(listener: TcpListener, site: &Site) -> io::Result<ServerHandle> {
    let data = Data::new(site.clone());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .configure(http::operator)
            .wrap(from_fn(http::sign))
    })
    .workers(1)
    .disable_signals()
    .listen(listener)?
    .run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(handle)
}
