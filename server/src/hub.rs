//! The one Hub: who is connected, which sessions are parked, the heartbeat, the drain.
//!
//! It lives on the main thread, never waits, and is told everything by message.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, Recipient};
use chrono::Utc;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    holders::{Found, Holder, Sessions},
    pacer::{self, Pacer},
    protocol::{Goodbye, heartbeat_text},
    roster::{AbortAll, Beat, Dismiss, DismissAll, DismissSome, Roster, Spare},
    sockets::ConnectionId,
    telemetry::Telemetry,
};

/// Handshakes that may wait for the Hub. One takes about a microsecond, so a full mailbox means a
/// Hub that has stopped, and the next handshake gets 503.
const MAILBOX: usize = 8192;

/// How long a resume waits for the old connection's final count.
pub const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that is just beginning may not be on its worker's roster when it is told to go;
/// it is told again after this time.
const TAKEOVER_REMINDER: Duration = Duration::from_millis(50);

/// How often expired sessions are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// A worker reports for duty.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Enlist {
    pub worker: usize,
    pub roster: Addr<Roster>,
}

/// A fresh session.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    pub session: Uuid,
    pub holder: Holder,
}

/// These sessions have been minted.
#[derive(Message)]
#[rtype(result = "()")]
pub struct OpenAll(pub Vec<Open>);

/// A client comes back. The answer carries the session; whoever drops it parks it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Resume {
    pub session: Uuid,
    pub holder: Holder,
    pub answer: oneshot::Sender<Resumed>,
}

#[derive(Debug)]
pub enum Resumed {
    /// The count goes on.
    Yes(Lease),
    /// Unknown or expired.
    Unknown,
    /// Its old connection did not let go in time, or another client is waiting for it already.
    Busy,
}

/// A connection is done with its session.
#[derive(Message)]
#[rtype(result = "()")]
struct Park {
    session: Uuid,
    connection: ConnectionId,
    count: u64,
}

/// Asks whether the Hub answers.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Alive;

/// Begin to send everybody away.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Begin to send everybody away, so many of them a second; or change the rate.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PacedDrain {
    pub rate: u32,
}

/// Send nobody away any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopDrain;

/// A worker had so many connections fewer than it was told to send away.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unspent(pub usize);

/// The drain's deadline has come.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CutOff;

/// An open session in the hands of its connection, with the live count. However the connection
/// ends, its drop parks the session.
#[derive(Debug)]
pub struct Lease {
    pub session: Uuid,
    pub count: u64,
    holder: Holder,
    hub: Arc<Addr<Hub>>,
}

impl Lease {
    /// For a session that the Hub has been told of.
    pub fn fresh(session: Uuid, holder: Holder, hub: &Arc<Addr<Hub>>) -> Self {
        Self {
            session,
            count: 0,
            holder,
            hub: hub.clone(),
        }
    }

    pub fn connection(&self) -> ConnectionId {
        self.holder.connection
    }
}

impl Drop for Lease {
    /// Sent past the mailbox's limit, for it must not get lost: there is one for each connection,
    /// and their number is limited.
    fn drop(&mut self) {
        self.hub.do_send(Park {
            session: self.session,
            connection: self.holder.connection,
            count: self.count,
        });
    }
}

/// A client that waits for an open session.
struct Heir {
    holder: Holder,
    answer: oneshot::Sender<Resumed>,
    since: Instant,
}

pub struct HubSettings {
    pub heartbeat: Duration,
    pub session_ttl: Duration,
    pub sessions_max: usize,
}

pub struct Hub {
    rosters: HashMap<usize, Addr<Roster>>,
    sessions: Sessions,
    /// At most one for each open session.
    heirs: HashMap<Uuid, Heir>,
    heartbeat: Duration,
    next_beat: Instant,
    draining: bool,
    pacer: Option<Pacer>,
    /// Portions of paced drains so far.
    portions: usize,
    telemetry: Arc<Telemetry>,
    /// Its own address, for the leases it hands out.
    address: Option<Arc<Addr<Self>>>,
}

impl Hub {
    pub fn start(settings: &HubSettings, telemetry: Arc<Telemetry>) -> Arc<Addr<Self>> {
        let hub = Self {
            rosters: HashMap::new(),
            sessions: Sessions::new(settings.session_ttl, settings.sessions_max),
            heirs: HashMap::new(),
            heartbeat: settings.heartbeat,
            next_beat: Instant::now() + settings.heartbeat,
            draining: false,
            pacer: None,
            portions: 0,
            telemetry,
            address: None,
        };
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let address = Arc::new(ctx.address());
            Self {
                address: Some(address),
                ..hub
            }
        })
        .into()
    }

    /// Beats keep to a grid, so that they do not drift with the time each takes.
    fn schedule_beat(&self, ctx: &mut Context<Self>) {
        let wait = self.next_beat.saturating_duration_since(Instant::now());
        ctx.run_later(wait, |hub, ctx| {
            hub.beat();
            hub.schedule_beat(ctx);
        });
    }

    fn beat(&mut self) {
        let began = Instant::now();
        self.telemetry
            .heartbeat_began(began.saturating_duration_since(self.next_beat));
        let text = heartbeat_text(Utc::now());
        for roster in self.rosters.values() {
            roster.do_send(Beat {
                text: text.clone(),
                began,
            });
        }
        while self.next_beat <= began {
            self.next_beat += self.heartbeat;
        }
    }

    /// One at a time: a drain that is taken back ends with its next portion.
    fn schedule_portion(ctx: &mut Context<Self>) {
        ctx.run_later(pacer::TICK, |hub, ctx| {
            if hub.pacer.is_some() {
                hub.dismiss_portion(&ctx.address().recipient());
                Self::schedule_portion(ctx);
            }
        });
    }

    /// Shares the portion out among the workers; who has less than its share says so. Another
    /// worker begins each time, for a small portion may be one socket.
    fn dismiss_portion(&mut self, unspent: &Recipient<Unspent>) {
        let Some(pacer) = &mut self.pacer else {
            return;
        };
        let mut left = pacer.take(Instant::now());
        let workers = self.rosters.len();
        self.portions = self.portions.wrapping_add(usize::from(left > 0));
        let turns = self
            .rosters
            .values()
            .cycle()
            .skip(self.portions % workers.max(1));
        for (roster, waiting) in turns.zip((1..=workers).rev()) {
            let sockets = left.div_ceil(waiting);
            if sockets > 0 {
                roster.do_send(DismissSome {
                    sockets,
                    unspent: unspent.clone(),
                });
            }
            left -= sockets;
        }
    }

    fn forget_sessions(&mut self, now: Instant) {
        let expired = self.sessions.forget_expired(now);
        let evicted = self.sessions.forget_surplus();
        self.telemetry
            .sessions_forgotten(expired, evicted, self.sessions.parked());
    }

    fn lease(&self, session: Uuid, count: u64, holder: Holder) -> Lease {
        let hub = self.address.clone().expect("set as the Hub starts");
        Lease {
            session,
            count,
            holder,
            hub,
        }
    }

    fn dismiss(&self, holder: Holder) {
        if let Some(roster) = self.rosters.get(&holder.worker) {
            roster.do_send(Dismiss {
                connection: holder.connection,
                goodbye: Goodbye::TakenOver,
            });
        }
    }

    /// Asks the old connection to go, and again until it has or time is up.
    fn take_over(&mut self, session: Uuid, old: Holder, ctx: &mut Context<Self>) {
        let Some(heir) = self.heirs.get(&session) else {
            return;
        };
        if heir.since.elapsed() >= TAKEOVER_TIMEOUT || heir.answer.is_closed() {
            if let Some(heir) = self.heirs.remove(&session) {
                let _ = heir.answer.send(Resumed::Busy);
            }
            return;
        }
        self.dismiss(old);
        ctx.run_later(TAKEOVER_REMINDER, move |hub, ctx| {
            hub.take_over(session, old, ctx);
        });
    }

    /// Gives a freed session to the client that waits for it.
    fn hand_over(&mut self, session: Uuid, now: Instant) {
        let Some(heir) = self.heirs.remove(&session) else {
            return;
        };
        if let Found::Parked(count) = self.sessions.resume(session, heir.holder, now) {
            let lease = self.lease(session, count, heir.holder);
            // A client that has gone meanwhile drops the lease, and so parks the session.
            let _ = heir.answer.send(Resumed::Yes(lease));
        }
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule_beat(ctx);
        ctx.run_interval(EXPIRY_INTERVAL, |hub, _| {
            hub.forget_sessions(Instant::now())
        });
    }
}

impl Handler<Enlist> for Hub {
    type Result = ();

    fn handle(&mut self, enlist: Enlist, _: &mut Self::Context) {
        if self.draining {
            enlist.roster.do_send(DismissAll(Goodbye::Shutdown));
        }
        self.rosters.insert(enlist.worker, enlist.roster);
    }
}

impl Handler<OpenAll> for Hub {
    type Result = ();

    fn handle(&mut self, OpenAll(fresh): OpenAll, _: &mut Self::Context) {
        for Open { session, holder } in fresh {
            self.sessions.hold(session, holder);
        }
    }
}

impl Handler<Resume> for Hub {
    type Result = ();

    fn handle(&mut self, resume: Resume, ctx: &mut Self::Context) {
        let Resume {
            session,
            holder,
            answer,
        } = resume;
        let now = Instant::now();
        let resumed = match self.sessions.resume(session, holder, now) {
            Found::Unknown => Resumed::Unknown,
            Found::Parked(count) => Resumed::Yes(self.lease(session, count, holder)),
            Found::Open(_) if self.heirs.contains_key(&session) => Resumed::Busy,
            Found::Open(old) => {
                let since = now;
                self.heirs.insert(
                    session,
                    Heir {
                        holder,
                        answer,
                        since,
                    },
                );
                return self.take_over(session, old, ctx);
            }
        };
        self.telemetry.sessions_parked(self.sessions.parked());
        let _ = answer.send(resumed);
    }
}

impl Handler<Park> for Hub {
    type Result = ();

    fn handle(&mut self, park: Park, _: &mut Self::Context) {
        let now = Instant::now();
        if self
            .sessions
            .park(park.session, park.connection, park.count, now)
        {
            self.hand_over(park.session, now);
            self.forget_sessions(now);
        }
    }
}

impl Handler<Alive> for Hub {
    type Result = ();

    fn handle(&mut self, _: Alive, _: &mut Self::Context) {}
}

impl Handler<Drain> for Hub {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        self.draining = true;
        self.pacer = None;
        for roster in self.rosters.values() {
            roster.do_send(DismissAll(Goodbye::Shutdown));
        }
    }
}

impl Handler<PacedDrain> for Hub {
    type Result = ();

    fn handle(&mut self, drain: PacedDrain, ctx: &mut Self::Context) {
        if let Some(pacer) = &mut self.pacer {
            pacer.rate = drain.rate;
            return;
        }
        self.pacer = Some(Pacer::new(drain.rate, Instant::now()));
        Self::schedule_portion(ctx);
    }
}

impl Handler<StopDrain> for Hub {
    type Result = ();

    fn handle(&mut self, _: StopDrain, _: &mut Self::Context) {
        if self.pacer.take().is_some() {
            for roster in self.rosters.values() {
                roster.do_send(Spare);
            }
        }
    }
}

impl Handler<Unspent> for Hub {
    type Result = ();

    fn handle(&mut self, Unspent(sockets): Unspent, _: &mut Self::Context) {
        if let Some(pacer) = &mut self.pacer {
            pacer.give_back(sockets as f64);
        }
    }
}

impl Handler<CutOff> for Hub {
    type Result = ();

    fn handle(&mut self, _: CutOff, _: &mut Self::Context) {
        for roster in self.rosters.values() {
            roster.do_send(AbortAll);
        }
    }
}

#[cfg(test)]
mod tests {
    use slog::{Discard, Logger, o};

    use super::*;
    use crate::metrics::Metrics;

    fn hub() -> Arc<Addr<Hub>> {
        let telemetry = Telemetry::new(Logger::root(Discard, o!()), Metrics::new("0", "0"));
        let settings = HubSettings {
            heartbeat: Duration::from_secs(30),
            session_ttl: Duration::from_secs(900),
            sessions_max: 100_000,
        };
        Hub::start(&settings, Arc::new(telemetry))
    }

    fn mint(hub: &Arc<Addr<Hub>>, connection: ConnectionId) -> Option<Lease> {
        let session = Uuid::new_v4();
        let worker = 0;
        let holder = Holder { connection, worker };
        hub.try_send(OpenAll(vec![Open { session, holder }])).ok()?;
        Some(Lease::fresh(session, holder, hub))
    }

    #[actix_rt::test]
    async fn a_hub_with_a_full_mailbox_takes_no_more_sessions_and_recovers() {
        let hub = hub();
        // The Hub has no turn before the first await, as if it had stopped.
        let minted: Vec<Lease> = (1..).map_while(|number| mint(&hub, number)).collect();
        assert!(
            (MAILBOX..MAILBOX + 2).contains(&minted.len()),
            "{}",
            minted.len()
        );
        hub.send(Alive).await.expect("it goes on");
        assert!(mint(&hub, 0).is_some());
    }

    #[actix_rt::test]
    async fn a_lease_that_nobody_takes_is_parked_again() {
        let hub = hub();
        let lease = mint(&hub, 1).expect("minted");
        let session = lease.session;
        drop(lease);
        let resume = |connection| {
            let (answer, answered) = oneshot::channel();
            let holder = Holder {
                connection,
                worker: 0,
            };
            hub.do_send(Resume {
                session,
                holder,
                answer,
            });
            answered
        };
        drop(resume(2));
        let resumed = resume(3).await.expect("an answer");
        assert!(matches!(resumed, Resumed::Yes(lease) if lease.count == 0));
    }
}
