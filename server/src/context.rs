//! The execution context of a socket's actor: what a handler can do to its socket.
//!
//! Leaner than actix-web-actors' own. It has no room for futures of the actor, since there is
//! nothing that a socket would wait for: the roster keeps the time for all of them.

use std::rc::Rc;

use actix::{
    Actor, ActorContext, ActorFuture, ActorState, Addr, AsyncContext, Handler, SpawnHandle,
    WeakAddr,
    dev::{Envelope, Mailbox, ToEnvelope},
};
use actix_web_actors::ws::Message;
use tokio::sync::oneshot;

use crate::wire::Wire;

const NO_FUTURES: &str = "a socket's actor runs no futures; spawn them on the thread";

pub struct SocketContext<A: Actor<Context = Self>> {
    wire: Rc<Wire>,
    address: WeakAddr<A>,
    state: ActorState,
}

impl<A: Actor<Context = Self>> SocketContext<A> {
    pub fn new(wire: Rc<Wire>, mailbox: &Mailbox<A>) -> Self {
        Self {
            wire,
            address: mailbox.address().downgrade(),
            state: ActorState::Running,
        }
    }

    /// Sends a message, behind all that was sent before.
    pub fn send(&mut self, message: Message) {
        self.wire.queue(message);
    }

    pub fn running(&self) -> bool {
        self.state == ActorState::Running
    }
}

impl<A: Actor<Context = Self>> ActorContext for SocketContext<A> {
    fn stop(&mut self) {
        if self.running() {
            self.state = ActorState::Stopping;
        }
    }

    fn terminate(&mut self) {
        self.state = ActorState::Stopped;
    }

    fn state(&self) -> ActorState {
        self.state
    }
}

impl<A: Actor<Context = Self>> AsyncContext<A> for SocketContext<A> {
    fn address(&self) -> Addr<A> {
        self.address.upgrade().expect("the mailbox is there")
    }

    fn spawn<F: ActorFuture<A, Output = ()> + 'static>(&mut self, _: F) -> SpawnHandle {
        unreachable!("{NO_FUTURES}")
    }

    fn wait<F: ActorFuture<A, Output = ()> + 'static>(&mut self, _: F) {
        unreachable!("{NO_FUTURES}")
    }

    /// The mailbox rests when this is true.
    fn waiting(&self) -> bool {
        !self.running()
    }

    fn cancel_future(&mut self, _: SpawnHandle) -> bool {
        false
    }
}

impl<A, M> ToEnvelope<A, M> for SocketContext<A>
where
    A: Actor<Context = Self> + Handler<M>,
    M: actix::Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, answer: Option<oneshot::Sender<M::Result>>) -> Envelope<A> {
        Envelope::new(message, answer)
    }
}
