//! What the sockets are told.

use crate::{
    client::{Client, Load},
    clock::Nanos,
    fault::Fault,
    frame::{self, Frame},
    handshake::{self, Answer},
    ledger::{Ledger, narrow},
    socket::State,
    text::{self, Text},
};

impl Client {
    /// Reads what there is: all of it where the peer sends no more or may say so itself, as TLS does;
    /// else until the kernel had less than the buffer takes, which saves the read that would only say
    /// so.
    pub(crate) fn read(&mut self, index: usize, ends: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let socket = &mut self.sockets[index];
            let Some(link) = &mut socket.link else {
                break;
            };
            let all = ends || link.is_secure();
            let kept = socket.inbox.len();
            buffer[..kept].copy_from_slice(&socket.inbox);
            let filled = match link.receive(&mut buffer[kept..]) {
                Ok(None) => break,
                Ok(Some(0)) => break self.ended(index, "the end of the stream"),
                Err(error) => break self.ended(index, &error.to_string()),
                Ok(Some(length)) => kept + length,
            };
            let taken = self.take_in(index, &buffer[..filled]);
            self.sockets[index].inbox = buffer[taken..filled].to_vec();
            if filled < buffer.len() && !all {
                break;
            }
        }
        self.buffer = buffer;
    }

    /// Handles what came whole; returns how many bytes that was. The rest is shorter than a frame
    /// or a head may be.
    fn take_in(&mut self, index: usize, bytes: &[u8]) -> usize {
        let now = self.clock.now();
        let mut taken = 0;
        if self.sockets[index].state == State::Upgrading {
            match handshake::answer(bytes) {
                Ok(None) => return 0,
                Ok(Some((answer, length))) => {
                    taken = length;
                    self.answered(index, &answer, now);
                }
                Err(reason) => self.failed(index, Fault::Handshake, &reason),
            }
        }
        while self.sockets[index].link.is_some() {
            match frame::take(&bytes[taken..]) {
                Ok(None) => return taken,
                Ok(Some((frame, length))) => {
                    taken += length;
                    self.frame(index, &frame, now);
                }
                Err(fault) => {
                    self.fault(index, fault, 1, "bytes that are no frame for a client");
                    // Nothing that follows can be understood.
                    self.ended(index, "bad framing");
                }
            }
        }
        bytes.len()
    }

    fn answered(&mut self, index: usize, answer: &Answer, now: Nanos) {
        if !answer.opens() {
            let reason = format!("status {}", answer.status);
            return self.failed(index, Fault::Handshake, &reason);
        }
        self.opening -= 1;
        let seen = self.beats.join(&answer.colour, now);
        let socket = &mut self.sockets[index];
        self.recorder.opened(now - socket.since, now);
        socket.state = State::Open;
        socket.since = now;
        socket.seen = seen;
        socket.ledger = Ledger::starting_at(answer.count);
        socket.session = answer.session;
        socket.failures = 0;
        if self.drain.is_some() {
            self.back(index, answer, now);
        }
    }

    /// A socket has come back: what the server does not have is sent again.
    fn back(&mut self, index: usize, answer: &Answer, now: Nanos) {
        let socket = &mut self.sockets[index];
        let found = socket.kept.resume(answer.resumed, narrow(answer.count));
        (socket.resent, socket.due) = (found.resend, found.resend);
        if let Some(drain) = &mut self.drain {
            drain.back(index, answer.resumed, &found, now);
        }
        let count = answer.count;
        let what = format!("back at {count}, with less than was forgotten");
        self.fault(index, Fault::MessageLost, found.lost.into(), &what);
        let what = format!("back at {count}, with more than was sent");
        self.fault(
            index,
            Fault::MessageDuplicated,
            found.duplicated.into(),
            &what,
        );
        self.send_again(index);
    }

    fn frame(&mut self, index: usize, frame: &Frame<'_>, now: Nanos) {
        match frame.opcode {
            frame::TEXT => self.text(index, frame.payload, now),
            frame::PING => {
                self.recorder.counts.pings += 1;
                self.say(index, &frame::make(frame::PONG, frame.payload));
            }
            frame::PONG => {}
            frame::CLOSE => self.close(index, frame.payload, now),
            _ => self.fault(index, Fault::Framing, 1, "an opcode that is not in use"),
        }
    }

    fn text(&mut self, index: usize, payload: &[u8], now: Nanos) {
        match text::parse(payload) {
            Some(Text::Count(count)) => self.count(index, count, now),
            Some(Text::Beat(ts)) => self.beat(index, ts, now),
            Some(Text::Bye(total)) => self.bye(index, total),
            None => {
                let text = String::from_utf8_lossy(payload);
                self.fault(index, Fault::UnknownText, 1, &text);
            }
        }
    }

    fn count(&mut self, index: usize, count: u64, now: Nanos) {
        let socket = &mut self.sockets[index];
        let place = socket.ledger.answered();
        let expected = socket.ledger.total() + 1;
        let outcome = socket.ledger.count(count);
        if outcome != Err(Fault::UnaskedCount) {
            let intended = self.intended(index, place);
            self.recorder.answered(intended, now);
        }
        if let Err(fault) = outcome {
            let what = format!("count {count} instead of {expected}");
            self.fault(index, fault, 1, &what);
        }
        if self.talking && matches!(self.load, Load::Closed) {
            self.send_next(index);
        }
    }

    fn beat(&mut self, index: usize, ts: &str, now: Nanos) {
        let receipt = self.beats.receive(&mut self.sockets[index].seen, ts, now);
        self.recorder.beat(receipt.lag, now);
        if receipt.repeated {
            self.fault(index, Fault::RepeatedBeat, 1, ts);
        }
        let missing = u64::from(receipt.missing);
        self.fault(index, Fault::MissingBeat, missing, "a later one came");
    }

    fn bye(&mut self, index: usize, total: u64) {
        let socket = &mut self.sockets[index];
        socket.bye = true;
        let ledger = socket.ledger;
        if let Err(fault) = ledger.bye(total) {
            socket.false_bye = true;
            let what = format!("total {total} instead of {}", ledger.total());
            self.fault(index, fault, 1, &what);
        }
    }

    fn close(&mut self, index: usize, payload: &[u8], now: Nanos) {
        let code = frame::close_code(payload);
        let socket = &mut self.sockets[index];
        let bye = socket.bye && !socket.false_bye;
        if !socket.bye {
            self.fault(
                index,
                Fault::NoBye,
                1,
                &format!("Close {code} before a bye"),
            );
        }
        let socket = &mut self.sockets[index];
        socket.closed = true;
        match socket.state {
            State::Leaving if code != frame::NORMAL => {
                let what = format!("Close {code} in answer to {}", frame::NORMAL);
                self.fault(index, Fault::WrongCloseCode, 1, &what);
            }
            State::Open => {
                self.part(index, now);
                self.dismissed(index, code, bye, now);
                self.say(index, &frame::make(frame::CLOSE, payload));
            }
            _ => {}
        }
    }

    fn dismissed(&mut self, index: usize, code: u16, bye: bool, now: Nanos) {
        let socket = &mut self.sockets[index];
        socket.state = State::Dismissed;
        socket.since = now;
        let Some(drain) = &mut self.drain else {
            return self.fault(index, Fault::Lost, 1, &format!("Close {code}"));
        };
        drain.dismissed(index, code, bye, now);
        if code != frame::GOING_AWAY {
            let what = format!("Close {code} in a drain");
            self.fault(index, Fault::WrongCloseCode, 1, &what);
        }
    }
}
