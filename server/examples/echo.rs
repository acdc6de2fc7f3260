//! The socket layer with another conversation: sends back what it gets, text and binary. Made for
//! conformance suites; `cargo run --example echo -- --listen 127.0.0.1:9001`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::Actor;
use actix_codec::Framed;
use actix_http::{HttpMessage, HttpService, Request, Response, h1, header, ws::hash_key};
use actix_rt::net::TcpStream;
use actix_server::Server;
use actix_service::fn_service;
use clap::Parser;
use slog::{Discard, Logger, o};
use tally_server::{
    REVISION, VERSION,
    frame::Limits,
    metrics::Metrics,
    protocol::Goodbye,
    roster::Roster,
    socket::{Conversation, Data, SocketSettings, converse},
    sockets::Sockets,
    telemetry::Telemetry,
    upgrade::{take_apart, write_all},
    wire::Ending,
};

const SETTINGS: SocketSettings = SocketSettings {
    limits: Limits {
        message_bytes_max: 16 << 20,
        fragments_max: 1 << 20,
        binary: true,
    },
    peer_timeout: Duration::from_secs(75),
    ping_interval: Duration::from_secs(25),
    write_timeout: Duration::from_secs(60),
};

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Echoes WebSocket messages.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
}

struct Echo;

impl Conversation for Echo {
    fn message(&mut self, message: Data, _now: Instant) -> Result<Option<Data>, Goodbye> {
        Ok(Some(message))
    }

    fn ended(&mut self, _ending: Ending) {}
}

async fn upgrade(
    request: Request,
    framed: Framed<TcpStream, h1::Codec>,
    sockets: Rc<Sockets>,
) -> Result<(), Infallible> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return Ok(());
    };
    let accept = hash_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        std::str::from_utf8(&accept).expect("Base64 is ASCII")
    );
    let (stream, rest) = take_apart(framed);
    if write_all(&stream, answer.as_bytes()).await.is_ok() {
        let id = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        converse(stream, &rest, Echo, id, &sockets);
    }
    Ok(())
}

#[actix_rt::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let metrics = Metrics::new(VERSION, REVISION);
    let telemetry = Arc::new(Telemetry::new(Logger::root(Discard, o!()), metrics));
    let listener = std::net::TcpListener::bind(arguments.listen)?;
    eprintln!("echo on ws://{}/", listener.local_addr()?);
    Server::build()
        .listen("echo", listener, move || {
            let sockets = Sockets::new(SETTINGS, telemetry.clone());
            Roster::new(sockets.clone()).start();
            HttpService::build()
                .upgrade(fn_service(move |(request, framed)| {
                    upgrade(request, framed, sockets.clone())
                }))
                .finish(|_request| async { Ok::<_, Infallible>(Response::not_found()) })
                .tcp()
        })?
        .run()
        .await
}
