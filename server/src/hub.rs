//! The one Hub: who is connected with which session, the heartbeat, the drain.
//!
//! It lives on the main thread, never waits, and is told everything by message. What becomes of a
//! session is decided in the store; the Hub knows those that are open here.

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
    checkpoint::BIRTH_INTERVAL,
    keeper::{Keeper, News},
    lease::{Desk, Holder, Lease},
    pacer::{self, Pacer},
    protocol::{Goodbye, heartbeat_text},
    roster::{AbortAll, Beat, Dismiss, DismissAll, DismissSome, Roster, SaveAll, Spare},
    session::{Epoch, Outcome, Save},
    sockets::ConnectionId,
    store::Op,
    telemetry::Telemetry,
};

/// Handshakes that may wait for the Hub. One takes about a microsecond, so a full mailbox means a
/// Hub that has stopped, and the next handshake gets 503.
const MAILBOX: usize = 8192;

/// How long a resume waits for the old connection's final count. Then one of this process has to
/// stay; one of another process may have died, and the last count that it saved is taken.
pub const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that is just beginning may not be on its worker's roster when it is told to go;
/// it is told again after this time.
const TAKEOVER_REMINDER: Duration = Duration::from_millis(50);

/// How often another process's final count is asked for.
const COLLECT_INTERVAL: Duration = Duration::from_millis(25);

/// Open sessions are saved this often in their time to live, changed or not.
const SAVES_IN_TTL: u32 = 3;

/// A worker reports for duty.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Enlist {
    pub worker: u32,
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

pub enum Resumed {
    /// The count goes on.
    Yes(Lease),
    /// Unknown or expired.
    Unknown,
    /// Its old connection did not let go in time, or another client is waiting for it already.
    Busy,
    /// The store is down, so nobody can say.
    Unavailable,
}

/// A connection has handed its session back to the keeper.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Release {
    pub session: Uuid,
    pub connection: ConnectionId,
}

/// What the store says to a client that comes back.
#[derive(Message)]
#[rtype(result = "()")]
struct Told {
    session: Uuid,
    outcome: Option<Outcome>,
}

/// What the keeper has to tell.
#[derive(Message)]
#[rtype(result = "()")]
struct Heard(News);

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

/// A session that is open here. There are many: the fields stand so that none is padded.
struct Held {
    connection: ConnectionId,
    worker: u32,
    epoch: Epoch,
}

impl Held {
    fn by(holder: Holder, epoch: Epoch) -> Self {
        Self {
            connection: holder.connection,
            worker: holder.worker,
            epoch,
        }
    }

    fn holder(&self) -> Holder {
        Holder {
            connection: self.connection,
            worker: self.worker,
        }
    }
}

/// A client that waits for its session.
struct Heir {
    holder: Holder,
    answer: oneshot::Sender<Resumed>,
    since: Instant,
    /// Whether nobody knew the session when the store was first asked.
    unknown_once: bool,
    /// What its claim was given, while the old count is awaited.
    claimed: Option<Epoch>,
}

pub struct HubSettings {
    pub heartbeat: Duration,
    pub session_ttl: Duration,
    /// Whether sessions outlive this process.
    pub shared: bool,
}

pub struct Hub {
    rosters: HashMap<u32, Addr<Roster>>,
    /// Not more than the connections.
    open: HashMap<Uuid, Held>,
    /// At most one for each session, and not more than the handshakes under way.
    heirs: HashMap<Uuid, Heir>,
    settings: HubSettings,
    next_beat: Instant,
    draining: bool,
    pacer: Option<Pacer>,
    /// Portions of paced drains so far.
    portions: usize,
    telemetry: Arc<Telemetry>,
    /// Its own, for the leases it hands out.
    desk: Arc<Desk>,
}

impl Hub {
    pub fn start(settings: HubSettings, keeper: Keeper, telemetry: Arc<Telemetry>) -> Arc<Desk> {
        let mut desk = None;
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let hub = ctx.address();
            let desk = desk.insert(Arc::new(Desk { hub, keeper }));
            Self {
                rosters: HashMap::new(),
                open: HashMap::new(),
                heirs: HashMap::new(),
                next_beat: Instant::now() + settings.heartbeat,
                settings,
                draining: false,
                pacer: None,
                portions: 0,
                telemetry,
                desk: desk.clone(),
            }
        });
        desk.expect("made with the Hub")
    }

    /// For the keeper's thread.
    pub fn listener(desk: &Arc<Desk>) -> impl Fn(News) + Send + 'static {
        let hub = desk.hub.clone();
        move |news| hub.do_send(Heard(news))
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
            self.next_beat += self.settings.heartbeat;
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
        if !self.desk.keeper.up() {
            // Who is sent away comes back to nobody who knows the count.
            return pacer.rest(Instant::now());
        }
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
        let open = self.open.get(&session).map(Held::holder);
        let Some(heir) = self.heirs.get(&session) else {
            return;
        };
        if open != Some(old) {
            // It went, and the heir has asked the store.
            return;
        }
        if heir.since.elapsed() >= TAKEOVER_TIMEOUT || heir.answer.is_closed() {
            return self.answer(session, Resumed::Busy);
        }
        self.dismiss(old);
        ctx.run_later(TAKEOVER_REMINDER, move |hub, ctx| {
            hub.take_over(session, old, ctx);
        });
    }

    fn answer(&mut self, session: Uuid, resumed: Resumed) {
        if let Some(heir) = self.heirs.remove(&session) {
            // A client that has gone meanwhile drops the lease, and so parks the session.
            let _ = heir.answer.send(resumed);
        }
    }

    /// Asks the store on behalf of the heir.
    fn ask(&self, session: Uuid, op: Op) {
        if self.heirs.contains_key(&session) {
            let hub = self.desk.hub.clone();
            self.desk.keeper.ask(op, move |outcome| {
                hub.do_send(Told { session, outcome });
            });
        }
    }

    /// The session is the heir's.
    fn hand_over(&mut self, session: Uuid, epoch: Epoch, count: u64) {
        let Some(heir) = self.heirs.get(&session) else {
            return;
        };
        let holder = heir.holder;
        self.open.insert(session, Held::by(holder, epoch));
        let lease = Lease::new(session, epoch, count, holder, &self.desk);
        self.answer(session, Resumed::Yes(lease));
    }

    /// Others want a session. Where a connection still has it, the connection is told to go; where
    /// none has, nothing was counted since, and saying so is all that they wait for.
    fn let_go(&self, session: Uuid, epoch: Epoch) {
        match self.open.get(&session) {
            Some(held) if held.epoch == epoch => self.dismiss(held.holder()),
            Some(_) => {}
            None => self.desk.keeper.park_alone(Save {
                id: session,
                epoch,
                count: 0,
                parked: true,
            }),
        }
    }

    fn save_all(&self) {
        for roster in self.rosters.values() {
            roster.do_send(SaveAll);
        }
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule_beat(ctx);
        if self.settings.shared {
            let interval = self.settings.session_ttl / SAVES_IN_TTL;
            ctx.run_interval(interval, |hub, _| hub.save_all());
        }
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
            self.open.insert(session, Held::by(holder, 1));
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
        let since = Instant::now();
        let heir = Heir {
            holder,
            answer,
            since,
            unknown_once: false,
            claimed: None,
        };
        if let Some(waiting) = self.heirs.get_mut(&session) {
            // All has been asked already. A client that has gone leaves its place to the next one.
            let refused = match waiting.answer.is_closed() {
                true => std::mem::replace(waiting, heir),
                false => heir,
            };
            let _ = refused.answer.send(Resumed::Busy);
            return;
        }
        self.heirs.insert(session, heir);
        match self.open.get(&session).map(Held::holder) {
            Some(old) => self.take_over(session, old, ctx),
            None => self.ask(session, Op::Claim(session)),
        }
    }
}

impl Handler<Release> for Hub {
    type Result = ();

    fn handle(&mut self, release: Release, _: &mut Self::Context) {
        let Release {
            session,
            connection,
        } = release;
        let held = self.open.get(&session);
        if held.is_some_and(|held| held.connection == connection) {
            self.open.remove(&session);
            self.ask(session, Op::Claim(session));
        }
    }
}

impl Handler<Told> for Hub {
    type Result = ();

    fn handle(&mut self, told: Told, ctx: &mut Self::Context) {
        let Told { session, outcome } = told;
        let Some(heir) = self.heirs.get_mut(&session) else {
            return;
        };
        match outcome {
            Some(Outcome::Held { epoch, count }) => self.hand_over(session, epoch, count),
            Some(Outcome::Awaiting { epoch, .. }) => {
                heir.claimed = Some(epoch);
                let last = heir.since.elapsed() >= TAKEOVER_TIMEOUT;
                let collect = Op::Collect {
                    id: session,
                    epoch,
                    last,
                };
                ctx.run_later(COLLECT_INTERVAL, move |hub, _| hub.ask(session, collect));
            }
            Some(Outcome::Unknown) if self.settings.shared && !heir.unknown_once => {
                // It may be so young that its process is about to tell of it.
                heir.unknown_once = true;
                ctx.run_later(BIRTH_INTERVAL * 3, move |hub, _| {
                    hub.ask(session, Op::Claim(session));
                });
            }
            Some(Outcome::Unknown) => self.answer(session, Resumed::Unknown),
            Some(Outcome::Lost) => {
                // Whoever claimed it since may wait for a word of this claim.
                if let Some(epoch) = heir.claimed {
                    self.let_go(session, epoch);
                }
                self.answer(session, Resumed::Busy);
            }
            None => self.answer(session, Resumed::Unavailable),
            Some(Outcome::Saved | Outcome::Fenced) => unreachable!("nothing was saved"),
        }
    }
}

impl Handler<Heard> for Hub {
    type Result = ();

    fn handle(&mut self, Heard(news): Heard, _: &mut Self::Context) {
        match news {
            News::Wanted(sessions) => {
                for (session, epoch) in sessions {
                    self.let_go(session, epoch);
                }
            }
            News::Wiped => self.save_all(),
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
    use crate::{
        keeper::{KeeperSettings, Ready, Running},
        metrics::Metrics,
        session::Owner,
        spill::Spill,
        store::{Memory, StoreSettings},
    };

    const TTL: Duration = Duration::from_secs(900);

    fn hub() -> (Arc<Desk>, Running) {
        let telemetry = Telemetry::new(Logger::root(Discard, o!()), Metrics::new("0", "0"));
        let telemetry = Arc::new(telemetry);
        let store = Memory::new(StoreSettings {
            owner: Owner::new("blue"),
            ttl: TTL,
            parked_max: 100_000,
            durable: false,
        });
        let keeper = KeeperSettings {
            spill: Spill::of(None, "blue"),
            unsaved_max: 100_000,
            shared: false,
        };
        let ready = Ready::new(Box::new(store), keeper, telemetry.clone());
        let settings = HubSettings {
            heartbeat: Duration::from_secs(30),
            session_ttl: TTL,
            shared: false,
        };
        let desk = Hub::start(settings, ready.keeper.clone(), telemetry);
        let running = ready.start(Hub::listener(&desk)).expect("a thread");
        (desk, running)
    }

    fn holder(connection: ConnectionId) -> Holder {
        let worker = 0;
        Holder { connection, worker }
    }

    fn mint(desk: &Arc<Desk>, connection: ConnectionId) -> Option<Lease> {
        let session = Uuid::new_v4();
        let holder = holder(connection);
        let open = OpenAll(vec![Open { session, holder }]);
        desk.hub.try_send(open).ok()?;
        Some(Lease::new(session, 1, 0, holder, desk))
    }

    #[actix_rt::test]
    async fn a_hub_with_a_full_mailbox_takes_no_more_sessions_and_recovers() {
        let (desk, _keeper) = hub();
        // The Hub has no turn before the first await, as if it had stopped.
        let minted: Vec<Lease> = (1..).map_while(|number| mint(&desk, number)).collect();
        assert!(
            (MAILBOX..MAILBOX + 2).contains(&minted.len()),
            "{}",
            minted.len()
        );
        desk.hub.send(Alive).await.expect("it goes on");
        assert!(mint(&desk, 0).is_some());
    }

    #[actix_rt::test]
    async fn a_lease_that_nobody_takes_is_parked_again() {
        let (desk, _keeper) = hub();
        let mut lease = mint(&desk, 1).expect("minted");
        let session = lease.session;
        lease.count = 7;
        drop(lease);
        let resume = |connection| {
            let (answer, answered) = oneshot::channel();
            desk.hub.do_send(Resume {
                session,
                holder: holder(connection),
                answer,
            });
            answered
        };
        drop(resume(2));
        let resumed = resume(3).await.expect("an answer");
        assert!(matches!(resumed, Resumed::Yes(lease) if lease.count == 7));
    }
}
