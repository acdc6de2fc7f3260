//! The way from a request to a running socket, on the worker's thread.

use std::{
    convert::Infallible,
    io,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use actix::Actor;
use actix_codec::{Framed, FramedParts};
use actix_http::{HttpMessage, Request, h1};
use actix_rt::{net::TcpStream, time::timeout};
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    admission::Place,
    chat::{Chat, Opened},
    handshake::{self, REQUEST_ID, Refusal},
    holders::Holder,
    http::Site,
    hub::{Enlist, Lease, Resume, Resumed, TAKEOVER_TIMEOUT},
    minting::Mint,
    roster::Roster,
    socket::{SocketSettings, converse},
    sockets::Sockets,
    telemetry::RequestId,
};

/// Connections of the process, over all workers.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// What the handshakes of one worker need.
pub struct Worker {
    number: usize,
    sockets: Rc<Sockets>,
    mint: Mint,
    site: Site,
    colour: Rc<str>,
    message_rate: Option<u32>,
}

impl Worker {
    /// Starts this thread's roster and enlists it with the Hub.
    pub fn start(
        number: usize,
        site: Site,
        message_rate: Option<u32>,
        settings: SocketSettings,
    ) -> Rc<Self> {
        let sockets = Sockets::new(settings, site.telemetry.clone());
        let roster = Roster::new(sockets.clone()).start();
        site.hub.do_send(Enlist {
            worker: number,
            roster,
        });
        Rc::new(Self {
            number,
            sockets,
            mint: Mint::new(site.hub.clone()),
            colour: site.colour.to_str().unwrap_or_default().into(),
            site,
            message_rate,
        })
    }

    /// The upgrade hook. Ends with the handshake: an open socket has a task of its own, which
    /// carries nothing of this about.
    pub async fn serve(
        self: Rc<Self>,
        request: Request,
        framed: Framed<TcpStream, h1::Codec>,
    ) -> Result<(), Infallible> {
        let (stream, rest) = take_apart(framed);
        if let Some(opened) = self.open(request, &stream).await {
            let connection = opened.lease.connection();
            let telemetry = self.site.telemetry.clone();
            let chat = Chat::open(opened, self.message_rate, &self.colour, telemetry);
            converse(stream, &rest, chat, connection, &self.sockets);
        }
        Ok(())
    }

    /// Answers a handshake; the session is open when the 101 is out.
    async fn open(&self, request: Request, stream: &TcpStream) -> Option<Opened> {
        let began = Instant::now();
        let given = request.headers().get(&REQUEST_ID);
        let request_id = RequestId::new(given.and_then(|id| id.to_str().ok()));
        let (answer, opened) = match self.shake_hands(&request).await {
            Ok(agreed) => {
                let answer = handshake::switching_protocols(
                    &agreed.accept,
                    agreed.lease.session,
                    agreed.resumed,
                    agreed.lease.count,
                    &request_id,
                    &self.colour,
                );
                let opened = Opened {
                    lease: agreed.lease,
                    resumed: agreed.resumed,
                    hello: agreed.hello,
                    request_id,
                    began,
                    place: agreed.place,
                };
                (answer, Some(opened))
            }
            Err(refusal) => {
                self.site.telemetry.handshake_refused(&request_id, &refusal);
                let answer = refusal.response(request.method(), &request_id, &self.colour);
                (answer, None)
            }
        };
        // A peer that has gone already finds its session parked.
        write_all(stream, answer.as_bytes()).await.ok()?;
        opened
    }

    async fn shake_hands(&self, request: &Request) -> Result<Agreed, Refusal> {
        let admission = &self.site.admission;
        let handshake = handshake::check(request.head(), &self.site.allowed_origins, || {
            admission.enter()
        })?;
        let holder = Holder {
            connection: NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed),
            worker: self.number,
        };
        let resumed = match handshake.session {
            Some(session) => self.resume(session, holder).await?,
            None => None,
        };
        let (lease, resumed) = match resumed {
            Some(lease) => (lease, true),
            None => (self.mint(holder).await?, false),
        };
        Ok(Agreed {
            lease,
            resumed,
            place: handshake.place,
            accept: handshake.accept,
            hello: handshake.hello,
        })
    }

    async fn mint(&self, holder: Holder) -> Result<Lease, Refusal> {
        self.mint
            .open(holder)
            .await
            .ok_or_else(|| self.overloaded())
    }

    async fn resume(&self, session: Uuid, holder: Holder) -> Result<Option<Lease>, Refusal> {
        let (answer, answered) = oneshot::channel();
        let resume = Resume {
            session,
            holder,
            answer,
        };
        self.site
            .hub
            .try_send(resume)
            .map_err(|_| self.overloaded())?;
        // The Hub keeps this limit itself; half as much again is for a Hub that has stopped.
        let resumed = timeout(TAKEOVER_TIMEOUT.mul_f32(1.5), answered)
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| self.overloaded())?;
        self.site.telemetry.session_resumed(&resumed);
        match resumed {
            Resumed::Yes(lease) => Ok(Some(lease)),
            Resumed::Unknown => Ok(None),
            Resumed::Busy => Err(Refusal::SessionBusy),
        }
    }

    fn overloaded(&self) -> Refusal {
        self.site.telemetry.hub_behind();
        Refusal::Overloaded
    }
}

struct Agreed {
    lease: Lease,
    resumed: bool,
    place: Place,
    accept: [u8; 28],
    hello: bool,
}

/// The stream, and what the peer sent behind its handshake. The codec's two buffers of 8 KiB go
/// here: they are most of what a socket on the ordinary path costs.
pub fn take_apart(framed: Framed<TcpStream, h1::Codec>) -> (TcpStream, Bytes) {
    let FramedParts { io, read_buf, .. } = framed.into_parts();
    (io, Bytes::copy_from_slice(&read_buf))
}

/// Writes all of it to a stream that nobody else writes to.
///
/// # Errors
/// The peer has gone.
pub async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
