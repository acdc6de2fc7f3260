//! Builds the service and runs it until it is told to stop.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_rt::task::spawn_blocking;
use actix_web::{
    App, HttpServer, dev::ServerHandle, http::header::HeaderValue, middleware::from_fn, web::Data,
};
use socket2::{Domain, Socket, Type};

use crate::{
    admission::Admission,
    config::Config,
    http::{self, Site},
    hub::Hub,
    keeper::{KeeperSettings, Ready, Running},
    public::{self, Workers},
    records::Records,
    spill::Spill,
    store::{self, StoreError},
    telemetry::Telemetry,
};

/// Connections that wait to be accepted; the kernel clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// What the kernel holds for a peer that does not read. Left alone, Linux takes up to 4 MB each.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// What the kernel holds of a peer that is not read; the drain counts as much of it as arrived.
const RECEIVE_BUFFER_BYTES: usize = 128 * 1024;

/// A service whose listeners are bound and whose threads run.
pub struct Service {
    pub public_address: SocketAddr,
    pub operator_address: SocketAddr,
    pub site: Site,
    public: Workers,
    operator: ServerHandle,
    keeper: Running,
}

impl Service {
    /// Binds both listeners and starts the workers. Needs an Actix system to run in.
    ///
    /// # Errors
    /// A listener cannot be bound, the state directory cannot be written, or the store not opened.
    pub async fn start(config: &Config, telemetry: Arc<Telemetry>) -> Result<Self, StartError> {
        let public_listeners = bind_all(
            "TALLY_LISTEN",
            config.listen,
            config.write_timeout,
            config.workers,
        )?;
        let operator_listener = bind(
            "TALLY_OPERATOR_LISTEN",
            config.operator_listen,
            config.write_timeout,
            false,
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
        let public_address = public_listeners[0].local_addr().map_err(start)?;
        let operator_address = operator_listener.local_addr().map_err(start)?;
        let operator = serve_operator(operator_listener, &site).map_err(start)?;
        let public = public::start(public_listeners, config, &site).await;
        Ok(Self {
            public_address,
            operator_address,
            site,
            public: public.map_err(|_| StartError::Workers)?,
            operator,
            keeper,
        })
    }

    /// Stops accepting, gives requests that are under way [`public::STOP_TIMEOUT`], then cuts them
    /// off. Meanwhile the last sessions are stored, or spilled.
    pub async fn stop(self) {
        let kept = spawn_blocking(|| self.keeper.end());
        self.public.stop().await;
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

/// A listener for each worker, all at one address; the kernel spreads the connections.
fn bind_all(
    variable: &'static str,
    address: SocketAddr,
    write_timeout: Duration,
    workers: usize,
) -> Result<Vec<TcpListener>, StartError> {
    // Nobody else may be there, which listeners that share would not notice.
    let alone = bind(variable, address, write_timeout, false)?;
    if workers == 1 {
        return Ok(vec![alone]);
    }
    let address = alone.local_addr().unwrap_or(address);
    drop(alone);
    (0..workers)
        .map(|_| bind(variable, address, write_timeout, true))
        .collect()
}

/// Options set here are inherited by every accepted socket, so none costs a system call each.
fn bind(
    variable: &'static str,
    address: SocketAddr,
    write_timeout: Duration,
    shared: bool,
) -> Result<TcpListener, StartError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
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
