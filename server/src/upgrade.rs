//! The way from a request to a running socket, on the worker's thread.

use std::{
    convert::Infallible,
    io,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
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
    changes::Changes,
    chat::{Chat, House, Opened},
    checkpoint::{Checkpoint, checkpoint},
    handshake::{self, REQUEST_ID, Refusal},
    http::Site,
    hub::{Enlist, Resume, Resumed, TAKEOVER_TIMEOUT},
    lease::{Holder, Lease},
    minting::Mint,
    roster::Roster,
    socket::{SocketSettings, converse},
    sockets::Sockets,
    store::ROUND_TRIP_MAX,
    telemetry::RequestId,
};

/// Connections of the process, over all workers.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// What every worker is told.
#[derive(Clone, Copy)]
pub struct WorkerSettings {
    pub sockets: SocketSettings,
    pub message_rate: Option<u32>,
    /// `None`: nobody else would see what is stored.
    pub checkpoint: Option<Checkpoint>,
}

/// A resume waits this long at most: for the store, for a takeover, and for the store again. The Hub
/// and the keeper keep these limits themselves; the half second is for one that has stopped.
const RESUME_TIMEOUT: Duration = TAKEOVER_TIMEOUT
    .saturating_add(ROUND_TRIP_MAX)
    .saturating_add(ROUND_TRIP_MAX)
    .saturating_add(Duration::from_millis(500));

/// What the handshakes of one worker need.
pub struct Worker {
    number: u32,
    sockets: Rc<Sockets>,
    mint: Mint,
    site: Site,
    house: Rc<House>,
}

impl Worker {
    /// Starts this thread's roster and its checkpoints.
    pub fn start(number: u32, site: Site, settings: WorkerSettings) -> Rc<Self> {
        let telemetry = site.telemetry.clone();
        let sockets = Sockets::new(settings.sockets, telemetry.clone());
        site.desk.hub.do_send(Enlist {
            worker: number,
            roster: Roster::new(sockets.clone()).start(),
        });
        let changes = settings.checkpoint.map(|every| {
            let changes = Rc::new(Changes::new(every == Checkpoint::Message));
            let keeper = site.desk.keeper.clone();
            actix_rt::spawn(checkpoint(every, changes.clone(), keeper, sockets.clone()));
            changes
        });
        let house = House {
            message_rate: settings.message_rate,
            colour: site.colour.to_str().unwrap_or_default().into(),
            changes,
            telemetry,
        };
        Rc::new(Self {
            number,
            sockets,
            mint: Mint::new(site.desk.clone()),
            site,
            house: Rc::new(house),
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
            let chat = Chat::open(opened, &self.house);
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
                    &self.house.colour,
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
                let answer = refusal.response(request.method(), &request_id, &self.house.colour);
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
            .desk
            .hub
            .try_send(resume)
            .map_err(|_| self.overloaded())?;
        let resumed = timeout(RESUME_TIMEOUT, answered)
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| self.overloaded())?;
        self.site.telemetry.session_resumed(&resumed);
        match resumed {
            Resumed::Yes(lease) => Ok(Some(lease)),
            Resumed::Unknown => Ok(None),
            Resumed::Busy => Err(Refusal::SessionBusy),
            Resumed::Unavailable => Err(Refusal::StoreDown),
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
