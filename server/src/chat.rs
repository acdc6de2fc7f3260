//! The counter's rules: what a message is worth, and how fast they may come.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytestring::ByteString;
use tokio::sync::oneshot;

use crate::{
    admission::Place,
    changes::{Changes, Mark},
    lease::Lease,
    protocol::{Goodbye, Hello, bye_text, count_text},
    socket::{Conversation, Data},
    telemetry::{RequestId, Telemetry},
    wire::Ending,
};

/// Messages that wait for the store before no more are read.
const UNANSWERED_MAX: u64 = 1024;

/// At most this many messages a second, and as many at once after a rest.
#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    allowance: f64,
    since: Instant,
}

impl RateLimit {
    pub fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            allowance: per_second,
            since: now,
        }
    }

    fn admits(&mut self, now: Instant) -> bool {
        let rested: Duration = now.saturating_duration_since(self.since);
        self.since = now;
        self.allowance =
            (self.allowance + rested.as_secs_f64() * self.per_second).min(self.per_second);
        let admitted = self.allowance >= 1.0;
        if admitted {
            self.allowance -= 1.0;
        }
        admitted
    }
}

/// What holds for every conversation of a worker.
pub struct House {
    /// Messages a second of one connection.
    pub message_rate: Option<u32>,
    pub colour: Rc<str>,
    /// Where other processes see the sessions: what the store is told.
    pub changes: Option<Rc<Changes>>,
    pub telemetry: Arc<Telemetry>,
}

/// One connection of one session: counts its texts.
pub struct Chat {
    /// `None` once the session is handed back.
    lease: Option<Lease>,
    /// The last count that was told the client.
    answered: u64,
    total: u64,
    mark: Mark,
    /// Resolves when the session that was handed back is safe.
    safe: Option<oneshot::Receiver<()>>,
    /// The first frame, where the client asked for one.
    hello: Option<ByteString>,
    rate: Option<Box<RateLimit>>,
    request_id: RequestId,
    opened: Instant,
    house: Rc<House>,
    /// Given back when the socket is closed.
    _place: Place,
}

/// What a handshake found out, for the conversation that follows.
pub struct Opened {
    pub lease: Lease,
    pub resumed: bool,
    pub hello: bool,
    pub request_id: RequestId,
    pub began: Instant,
    pub place: Place,
}

impl Chat {
    pub fn open(opened: Opened, house: &Rc<House>) -> Self {
        let now = Instant::now();
        let Opened { lease, .. } = &opened;
        house.telemetry.connection_opened(
            lease.connection(),
            &opened.request_id,
            opened.resumed,
            lease.count,
            now - opened.began,
        );
        let hello = opened.hello.then(|| {
            Hello {
                session: lease.session,
                resumed: opened.resumed,
                count: lease.count,
                colour: &house.colour,
            }
            .to_text()
        });
        let rate = |rate| Box::new(RateLimit::new(rate, now));
        if let (Some(changes), false) = (&house.changes, opened.resumed) {
            changes.note_birth(lease);
        }
        Self {
            answered: lease.count,
            total: lease.count,
            mark: Mark::default(),
            safe: None,
            hello,
            rate: house.message_rate.map(rate),
            request_id: opened.request_id,
            opened: now,
            lease: Some(opened.lease),
            house: house.clone(),
            _place: opened.place,
        }
    }

    /// Whether an answer waits for the store.
    fn holds_answers(&self) -> bool {
        let changes = self.house.changes.as_ref();
        changes.is_some_and(|changes| changes.are_urgent())
    }

    fn answer_up_to(&mut self, count: u64, say: &mut dyn FnMut(ByteString)) {
        for answer in self.answered + 1..=count {
            say(count_text(answer));
        }
        self.answered = self.answered.max(count);
    }
}

impl Conversation for Chat {
    fn opening(&mut self) -> Option<ByteString> {
        self.hello.take()
    }

    fn message(&mut self, message: Data, now: Instant) -> Result<Option<Data>, Goodbye> {
        let Data::Text(_) = message else {
            return Err(Goodbye::Unsupported);
        };
        if self.rate.as_mut().is_some_and(|rate| !rate.admits(now)) {
            return Err(Goodbye::TooFast);
        }
        let Some(lease) = self.lease.as_mut() else {
            return Ok(None);
        };
        lease.count += 1;
        let count = lease.count;
        self.house.telemetry.message_counted(
            lease.connection(),
            &self.request_id,
            count,
            now.elapsed(),
        );
        self.save();
        if self.holds_answers() {
            return Ok(None);
        }
        self.answered = count;
        Ok(Some(Data::Text(count_text(count))))
    }

    fn is_full(&self) -> bool {
        let unanswered = |lease: &Lease| lease.count - self.answered;
        self.lease.as_ref().map_or(0, unanswered) >= UNANSWERED_MAX
    }

    fn stored(&mut self, count: u64, say: &mut dyn FnMut(ByteString)) {
        self.answer_up_to(count, say);
    }

    fn save(&mut self) {
        if let (Some(changes), Some(lease)) = (&self.house.changes, &self.lease) {
            changes.note(lease, &mut self.mark);
        }
    }

    fn ended(&mut self, ending: Ending) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        self.total = lease.count;
        self.house.telemetry.connection_closed(
            lease.connection(),
            &self.request_id,
            ending,
            lease.count,
            self.opened.elapsed(),
        );
        if ending.is_polite() {
            self.safe = Some(lease.park());
        }
    }

    fn poll_safe(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.safe {
            // Whatever has become of the keeper, nothing more can be done.
            Some(safe) => Pin::new(safe).poll(cx).map(|_| ()),
            None => Poll::Ready(()),
        }
    }

    fn farewell(&mut self, say: &mut dyn FnMut(ByteString)) {
        self.answer_up_to(self.total, say);
        say(bye_text(self.total));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_is_admitted_and_then_the_rate() {
        let start = Instant::now();
        let mut limit = RateLimit::new(5, start);
        assert_eq!((0..10).filter(|_| limit.admits(start)).count(), 5);
        let later = start + Duration::from_millis(200);
        assert!(limit.admits(later));
        assert!(!limit.admits(later));
        let rested = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| limit.admits(rested)).count(), 5);
    }
}
