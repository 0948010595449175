//! A ROUTER: a listener whose peers are addressed by identity.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use super::endpoint::{Endpoint, Listener, Stream};
use super::link::Link;
use super::{Closed, Options, SendError};
use crate::connection::{Config, Event, Multipart, PeerInfo};

/// Pause after `accept` failed, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What happens on a ROUTER. For one peer: `Connected`, then any number of `Message` and `Alive`,
/// then `Disconnected`.
#[derive(Debug)]
pub enum RouterEvent {
    /// A peer completed the handshake and can be sent to.
    Connected {
        /// The identity it gave, or one made up for it.
        identity: Bytes,
        /// What it said about itself.
        peer: Box<PeerInfo>,
    },
    /// A message arrived.
    Message {
        /// Who sent it.
        identity: Bytes,
        /// Its parts; the sender's identity is not among them.
        parts: Multipart,
    },
    /// The peer pinged or answered a ping.
    Alive {
        /// Who did.
        identity: Bytes,
    },
    /// The peer is gone.
    Disconnected {
        /// Who is.
        identity: Bytes,
        /// Why.
        reason: Closed,
    },
    /// A connection was dropped before it became a peer.
    Rejected {
        /// The other end's address, for logs.
        address: String,
        /// Why.
        reason: Closed,
    },
}

struct Inner {
    config: Config,
    options: Options,
    peers: RefCell<HashMap<Bytes, Rc<Link>>>,
    /// Connections in their handshake.
    pending: RefCell<Vec<Rc<Link>>>,
    next_identity: Cell<u32>,
    /// Connection tasks that have not ended.
    serving: Cell<usize>,
    /// The last of them ended.
    idle: Notify,
    on_event: RefCell<Box<dyn FnMut(RouterEvent)>>,
}

/// A listening ROUTER. Dropping it stops listening, and closes all connections after the linger
/// time at most; `Disconnected` events may then still arrive.
pub struct Router {
    inner: Rc<Inner>,
    endpoints: Vec<Endpoint>,
    listeners: Vec<JoinHandle<()>>,
}

impl Router {
    /// Listens at each of `endpoints`. Events go to `on_event`, from tasks of the current thread;
    /// the call must be made inside a tokio `LocalRuntime` or `LocalSet`. The callback may use
    /// the router but must not drop it.
    /// Errors: whatever the system says about an endpoint; then none is listened at.
    pub async fn bind(
        endpoints: &[Endpoint],
        config: Config,
        options: Options,
        on_event: impl FnMut(RouterEvent) + 'static,
    ) -> io::Result<Router> {
        let mut bound = Vec::new();
        for endpoint in endpoints {
            bound.push(Listener::bind(endpoint, options.tcp_user_timeout).await?);
        }
        let inner = Rc::new(Inner {
            config,
            options,
            peers: RefCell::default(),
            pending: RefCell::default(),
            next_identity: Cell::new(1),
            serving: Cell::new(0),
            idle: Notify::new(),
            on_event: RefCell::new(Box::new(on_event)),
        });
        let endpoints = bound
            .iter()
            .map(|listener| listener.local().clone())
            .collect();
        let listen = |listener| spawn_local(inner.clone().listen(listener));
        let listeners = bound.into_iter().map(listen).collect();
        Ok(Router {
            inner,
            endpoints,
            listeners,
        })
    }

    /// The endpoints listened at, with the ports the system picked.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Queues a message for the peer with this identity.
    /// Errors: [`SendError::Unroutable`], [`SendError::Closed`] or [`SendError::Full`].
    pub fn send(&self, identity: &[u8], parts: &[Bytes]) -> Result<(), SendError> {
        let peers = self.inner.peers.borrow();
        peers
            .get(identity)
            .ok_or(SendError::Unroutable)?
            .send(parts)
    }

    /// Whether a peer with this identity is connected.
    pub fn is_connected(&self, identity: &[u8]) -> bool {
        self.inner.peers.borrow().contains_key(identity)
    }

    /// Ends the connection of a peer once what is queued for it is written or the linger time is
    /// over. It cannot be sent to any more; `Disconnected` follows. Unknown peers are ignored.
    pub fn disconnect(&self, identity: &[u8]) {
        if let Some(link) = self.inner.peers.borrow_mut().remove(identity) {
            link.close(Closed::Local);
        }
    }

    /// Stops listening, closes all connections, and waits until what was queued is written or the
    /// linger time is over. A program that ends at once would otherwise lose it.
    pub async fn shutdown(self) {
        let inner = self.inner.clone();
        drop(self);
        while inner.serving.get() > 0 {
            inner.idle.notified().await;
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
        for (_, link) in self.inner.peers.borrow_mut().drain() {
            link.close(Closed::Local);
        }
        for link in self.inner.pending.borrow_mut().drain(..) {
            link.close(Closed::Local);
        }
    }
}

impl Inner {
    fn emit(&self, event: RouterEvent) {
        // Only connection tasks get here, one at a time, so the callback is never entered twice.
        (self.on_event.borrow_mut())(event);
    }

    async fn listen(self: Rc<Inner>, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(stream) => self.clone().admit(stream),
                Err(error) => {
                    let address = listener.local().to_string();
                    self.emit(RouterEvent::Rejected {
                        address,
                        reason: Closed::Io(error),
                    });
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: Rc<Inner>, stream: Stream) {
        if self.pending.borrow().len() >= self.options.handshakes_max {
            self.emit(RouterEvent::Rejected {
                address: stream.peer,
                reason: Closed::Busy,
            });
            return;
        }
        let link = Rc::new(Link::new(self.config.clone(), self.options.clone()));
        self.pending.borrow_mut().push(link.clone());
        self.serving.set(self.serving.get() + 1);
        spawn_local(self.serve(stream, link));
    }

    /// Runs one connection from handshake to end.
    async fn serve(self: Rc<Inner>, stream: Stream, link: Rc<Link>) {
        let address = stream.peer.clone();
        let mut identity = None;
        let reason = link
            .run(stream, |event| {
                match (event, &identity) {
                    (Event::Ready(peer), _) => match self.enter(&peer, &link) {
                        Ok(id) => {
                            identity = Some(id.clone());
                            self.emit(RouterEvent::Connected { identity: id, peer });
                        }
                        Err(reason) => return ControlFlow::Break(reason),
                    },
                    (Event::Message(parts), Some(id)) => {
                        self.emit(RouterEvent::Message {
                            identity: id.clone(),
                            parts,
                        });
                    }
                    (Event::Ping | Event::Pong(_), Some(id)) => {
                        self.emit(RouterEvent::Alive {
                            identity: id.clone(),
                        });
                    }
                    (_, None) => {}
                }
                ControlFlow::Continue(())
            })
            .await;
        match identity {
            Some(identity) => {
                self.leave(&identity, &link);
                self.emit(RouterEvent::Disconnected { identity, reason });
            }
            None => {
                self.pending.borrow_mut().retain(|l| !Rc::ptr_eq(l, &link));
                self.emit(RouterEvent::Rejected { address, reason });
            }
        }
        self.serving.set(self.serving.get() - 1);
        if self.serving.get() == 0 {
            self.idle.notify_one();
        }
    }

    /// Makes a connection whose handshake is over a peer.
    /// Errors: [`Closed::DuplicateIdentity`].
    fn enter(&self, peer: &PeerInfo, link: &Rc<Link>) -> Result<Bytes, Closed> {
        let identity = match peer.metadata.identity() {
            Some(identity) => identity.clone(),
            None => self.make_identity(),
        };
        let mut peers = self.peers.borrow_mut();
        if peers.contains_key(&identity) {
            return Err(Closed::DuplicateIdentity);
        }
        self.pending.borrow_mut().retain(|l| !Rc::ptr_eq(l, link));
        peers.insert(identity.clone(), link.clone());
        Ok(identity)
    }

    fn leave(&self, identity: &Bytes, link: &Rc<Link>) {
        let mut peers = self.peers.borrow_mut();
        if peers.get(identity).is_some_and(|l| Rc::ptr_eq(l, link)) {
            peers.remove(identity);
        }
    }

    /// As libzmq does: a zero byte, which identities given by peers never start with, and a
    /// number.
    fn make_identity(&self) -> Bytes {
        let number = self.next_identity.get();
        self.next_identity.set(number.wrapping_add(1));
        let mut identity = BytesMut::with_capacity(5);
        identity.put_u8(0);
        identity.put_u32(number);
        identity.freeze()
    }
}
