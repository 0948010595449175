//! Which client gets what, and whose requests are whose.
//!
//! A client's request goes on with a hop of the client's own, so that services tell clients apart
//! and their responses find the way back. Subscriptions and service names belong to the
//! connection at the other end; here they are counted and assigned.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use client::Client;
use proto::event::{EventSubscribe, EventUnsubscribe, Subscription};
use proto::service::{Service, ServiceAdd, ServiceRemove};
use proto::{Empty, Payload, Rpc};
use rpc::{Dest, Disconnects, RpcError};
use tokio::sync::mpsc;
use types::{Errno, Matchtag};
use wire::{Kind, Message, RouteId};

/// A connected client.
struct Peer {
    client: Client,
    subscriptions: Vec<String>,
    disconnects: Disconnects,
    /// Requests under way, for the case that the connection is lost.
    pending: HashMap<Matchtag, Message>,
}

/// The clients of a proxy and the connection they share.
pub(super) struct Relay {
    upstream: Client,
    peers: HashMap<RouteId, Peer>,
    services: HashMap<String, RouteId>,
}

/// What has to be asked at the other end before a client can be answered.
pub(super) struct Errand {
    upstream: Client,
    id: RouteId,
    request: Message,
    what: What,
}

enum What {
    Subscribe(Subscription),
    Unsubscribe(Subscription),
    Add(Service),
    Remove(Service),
}

impl Relay {
    pub(super) fn new(upstream: Client) -> Relay {
        Relay {
            upstream,
            peers: HashMap::new(),
            services: HashMap::new(),
        }
    }

    /// What arrives from the other end.
    pub(super) fn incoming(&self) -> mpsc::Receiver<Message> {
        self.upstream.incoming()
    }

    pub(super) fn on_connect(&mut self, client: Client) -> RouteId {
        // Services compare it with those of other clients anywhere.
        let id = RouteId::from(uuid::Uuid::new_v4().to_string());
        let peer = Peer {
            client,
            subscriptions: Vec::new(),
            disconnects: Disconnects::default(),
            pending: HashMap::new(),
        };
        self.peers.insert(id.clone(), peer);
        id
    }

    /// Tells services that a client is gone, then forgets it.
    pub(super) fn on_disconnect(&mut self, id: &RouteId) {
        let Some(mut peer) = self.peers.remove(id) else {
            return;
        };
        let upstream = self.upstream.handle();
        for notice in peer.disconnects.take() {
            upstream.send(notice);
        }
        for topic in peer.subscriptions {
            if !self.is_subscribed(&topic) {
                upstream.notify::<EventUnsubscribe>(Dest::Any, &Subscription { topic });
            }
        }
        let gone: Vec<String> = self
            .services
            .extract_if(|_, owner| owner == id)
            .map(|(service, _)| service)
            .collect();
        for service in gone {
            upstream.notify::<ServiceRemove>(Dest::Any, &Service { service });
        }
    }

    fn is_subscribed(&self, topic: &str) -> bool {
        self.peers
            .values()
            .any(|peer| peer.subscriptions.iter().any(|known| known == topic))
    }

    /// Passes on what a client sends.
    pub(super) fn on_client(&mut self, id: &RouteId, mut message: Message) -> Option<Errand> {
        let peer = self.peers.get_mut(id)?;
        if message.is_request() {
            message.push_route(id.clone());
            if self.upstream.is_closed() {
                answer(peer, &message, Err(Errno::ECONNRESET.into()));
                return None;
            }
            match What::of(&message) {
                Ok(None) => {}
                Ok(Some(what)) => {
                    return Some(Errand {
                        upstream: self.upstream.clone(),
                        id: id.clone(),
                        request: message,
                        what,
                    });
                }
                Err(error) => {
                    answer(peer, &message, Err(error));
                    return None;
                }
            }
            peer.disconnects.arm(&message);
            if let Some(response) = message.response(None)
                && let Some(tag) = response.matchtag()
            {
                peer.pending.insert(tag, message.clone());
            }
        }
        self.upstream.handle().send(message);
        None
    }

    /// Hands on what arrives from the other end.
    pub(super) fn on_upstream(&mut self, mut message: Message) {
        match message.kind {
            Kind::Event { .. } => {
                let topic = message.topic_str();
                let listens = |peer: &&Peer| {
                    peer.subscriptions
                        .iter()
                        .any(|prefix| topic.starts_with(prefix.as_str()))
                };
                for peer in self.peers.values().filter(listens) {
                    peer.client.handle().send(message.clone());
                }
            }
            Kind::Response { errno, matchtag } => {
                let Some(peer) = message.pop_route().and_then(|id| self.peers.get_mut(&id)) else {
                    return;
                };
                if (errno.is_some() || !message.is_streaming())
                    && let Some(tag) = matchtag
                {
                    peer.pending.remove(&tag);
                }
                peer.client.handle().send(message);
            }
            Kind::Request { .. } => {
                let topic = message.topic_str();
                let service = topic.split_once('.').map_or(topic, |(service, _)| service);
                let peer = self.services.get(service).and_then(|id| self.peers.get(id));
                match peer {
                    Some(peer) => peer.client.handle().send(message),
                    None => self
                        .upstream
                        .handle()
                        .respond_error(&message, &Errno::ENOSYS.into()),
                }
            }
            Kind::Control { .. } => {}
        }
    }

    /// Fails what was under way on a lost connection.
    pub(super) fn on_lost(&mut self) {
        for peer in self.peers.values_mut() {
            peer.disconnects.take();
            for request in std::mem::take(&mut peer.pending).into_values() {
                answer(peer, &request, Err(Errno::ECONNRESET.into()));
            }
        }
    }

    /// Goes on over a new connection. What is returned renews subscriptions and service names.
    pub(super) fn on_reconnected(&mut self, upstream: Client) -> impl Future<Output = ()> + use<> {
        self.upstream = upstream.clone();
        let mut topics: Vec<String> = self
            .peers
            .values()
            .flat_map(|peer| peer.subscriptions.iter().cloned())
            .collect();
        topics.sort();
        topics.dedup();
        let services: Vec<String> = self.services.keys().cloned().collect();
        async move {
            let tell = |what: &str, result: Result<(), RpcError>| {
                if let Err(error) = result {
                    crate::err!("{}: {what}: {error}", super::PROG);
                }
            };
            for topic in topics {
                tell(&topic, upstream.subscribe(&topic).await);
            }
            for service in services {
                let name = Service {
                    service: service.clone(),
                };
                let call = upstream.handle().call::<ServiceAdd>(Dest::Any, &name);
                tell(&service, call.await.map(drop));
            }
        }
    }
}

/// Answers a request of a client's that has its hop already.
fn answer(peer: &Peer, request: &Message, result: Result<(), RpcError>) {
    let mut request = request.clone();
    request.pop_route();
    let handle = peer.client.handle();
    match result {
        Ok(()) => handle.respond(&request, &Empty {}),
        Err(error) => handle.respond_error(&request, &error),
    }
}

impl What {
    /// What a request asks of the connection itself.
    fn of(request: &Message) -> Result<Option<What>, RpcError> {
        fn read<R: Rpc>(request: &Message) -> Result<R::Request, RpcError> {
            R::Request::decode(request.payload.as_ref()).map_err(|_| Errno::EPROTO.into())
        }
        let is = |service: &str, method: &str| {
            request.topic_str().split_once('.') == Some((service, method))
        };
        Ok(Some(
            if is(EventSubscribe::SERVICE, EventSubscribe::METHOD) {
                What::Subscribe(read::<EventSubscribe>(request)?)
            } else if is(EventUnsubscribe::SERVICE, EventUnsubscribe::METHOD) {
                What::Unsubscribe(read::<EventUnsubscribe>(request)?)
            } else if is(ServiceAdd::SERVICE, ServiceAdd::METHOD) {
                What::Add(read::<ServiceAdd>(request)?)
            } else if is(ServiceRemove::SERVICE, ServiceRemove::METHOD) {
                What::Remove(read::<ServiceRemove>(request)?)
            } else {
                return Ok(None);
            },
        ))
    }
}

impl Errand {
    /// Asks at the other end, notes the result and answers the client.
    pub(super) async fn run(self, relay: Rc<RefCell<Relay>>) {
        let result = self.ask(&relay).await;
        let mut relay = relay.borrow_mut();
        let Some(peer) = relay.peers.get_mut(&self.id) else {
            return;
        };
        if result.is_ok() {
            match &self.what {
                What::Subscribe(Subscription { topic }) => peer.subscriptions.push(topic.clone()),
                What::Add(Service { service }) => {
                    relay.services.insert(service.clone(), self.id.clone());
                }
                What::Unsubscribe(_) => {}
                What::Remove(Service { service }) => drop(relay.services.remove(service)),
            }
        }
        if let Some(peer) = relay.peers.get(&self.id) {
            answer(peer, &self.request, result);
        }
    }

    async fn ask(&self, relay: &Rc<RefCell<Relay>>) -> Result<(), RpcError> {
        match &self.what {
            What::Subscribe(Subscription { topic }) => {
                if relay.borrow().is_subscribed(topic) {
                    return Ok(());
                }
                self.upstream.subscribe(topic).await
            }
            What::Unsubscribe(Subscription { topic }) => {
                {
                    let mut relay = relay.borrow_mut();
                    let peer = relay.peers.get_mut(&self.id);
                    let peer = peer.ok_or(RpcError::from(Errno::ENOENT))?;
                    let mut known = peer.subscriptions.iter();
                    let at = known.position(|known| known == topic);
                    peer.subscriptions
                        .remove(at.ok_or(RpcError::from(Errno::ENOENT))?);
                    if relay.is_subscribed(topic) {
                        return Ok(());
                    }
                }
                self.upstream.unsubscribe(topic).await
            }
            What::Add(service) => {
                let call = self
                    .upstream
                    .handle()
                    .call::<ServiceAdd>(Dest::Any, service);
                call.await.map(drop)
            }
            What::Remove(service) => {
                if relay.borrow().services.get(&service.service) != Some(&self.id) {
                    return Err(Errno::ENOENT.into());
                }
                let call = self
                    .upstream
                    .handle()
                    .call::<ServiceRemove>(Dest::Any, service);
                call.await.map(drop)
            }
        }
    }
}
