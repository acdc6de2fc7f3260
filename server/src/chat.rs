//! The counter's rules: what a message is worth, and how fast they may come.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytestring::ByteString;

use crate::{
    admission::Place,
    hub::Lease,
    protocol::{Goodbye, Hello, bye_text, count_text},
    socket::{Conversation, Data},
    telemetry::{RequestId, Telemetry},
    wire::Ending,
};

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

/// One connection of one session: counts its texts.
pub struct Chat {
    /// `None` once the session is handed back.
    lease: Option<Lease>,
    total: u64,
    /// The first frame, where the client asked for one.
    hello: Option<ByteString>,
    rate: Option<Box<RateLimit>>,
    request_id: RequestId,
    opened: Instant,
    telemetry: Arc<Telemetry>,
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
    pub fn open(
        opened: Opened,
        message_rate: Option<u32>,
        colour: &Rc<str>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let now = Instant::now();
        let Opened { lease, .. } = &opened;
        telemetry.connection_opened(
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
                colour,
            }
            .to_text()
        });
        Self {
            total: lease.count,
            hello,
            rate: message_rate.map(|rate| Box::new(RateLimit::new(rate, now))),
            request_id: opened.request_id,
            opened: now,
            lease: Some(opened.lease),
            telemetry,
            _place: opened.place,
        }
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
        let answer = count_text(lease.count);
        self.telemetry.message_counted(
            lease.connection(),
            &self.request_id,
            lease.count,
            now.elapsed(),
        );
        Ok(Some(Data::Text(answer)))
    }

    fn farewell(&mut self) -> Option<ByteString> {
        Some(bye_text(self.total))
    }

    fn ended(&mut self, ending: Ending) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        self.total = lease.count;
        self.telemetry.connection_closed(
            lease.connection(),
            &self.request_id,
            ending,
            lease.count,
            self.opened.elapsed(),
        );
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
