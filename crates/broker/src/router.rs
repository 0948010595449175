//! Hands messages on: to local services, clients and modules, and along the tree.
//!
//! The router never waits and never looks into payloads. Delivering a message only queues it, so
//! routing is a plain call from whoever received the message and cannot recurse into a service.
//!
//! Routes (RFC 3): the connector pushes a client's id and its own, a module's channel pushes the
//! module's id, and a broker pushes its own id when it hands a request to a module or to another
//! broker. A response walks the same ids back.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};

use proto::refusal;
use proto::trace::ModuleTrace;
use rpc::{Handle, RpcError, Transport};
use tbon::{Scheme, Topology};
use types::{Cred, Errno, Rank, RoleMask, UserId};
use wire::{Flags, Kind, Message, RouteId, Target};

use crate::internal::own_module;
use crate::trace::{Party, Traces, Way};

/// Something on this broker that takes messages: a module, a client, the broker's own services.
pub(crate) trait Peer {
    /// Its id in routes.
    fn id(&self) -> &RouteId;
    /// Queues a message for it. Never blocks.
    fn deliver(&self, message: Message);
    /// Whether it may see this event; asked for private events only.
    fn sees_private(&self, event: &Message) -> bool;
    /// Whether routes name this broker before it. The broker's own services are the broker.
    fn is_hop(&self) -> bool {
        true
    }
    /// The module it is or belongs to, as a trace shows it with this message.
    fn module_name<'a>(&'a self, message: &'a Message) -> Option<&'a str>;
}

/// The brokers next to this one.
pub(crate) trait Tree {
    /// Queues a message for the parent.
    fn send_parent(&self, message: Message) -> Result<(), Errno>;
    /// Queues a message for a child.
    fn send_child(&self, child: Rank, message: Message) -> Result<(), Errno>;
    /// Queues an event for every child.
    fn send_children(&self, message: &Message);
    /// The child with this id.
    fn child_of(&self, id: &RouteId) -> Option<Rank>;
    /// Whether this is the parent's id.
    fn is_parent(&self, id: &RouteId) -> bool;
}

/// A peer's subscriptions: topic prefixes, each counted.
struct Subscriber {
    peer: Rc<dyn Peer>,
    prefixes: HashMap<String, usize>,
}

impl Subscriber {
    fn wants(&self, topic: &str) -> bool {
        self.prefixes
            .keys()
            .any(|prefix| topic.starts_with(prefix.as_str()))
    }
}

/// The routing tables of one broker.
pub(crate) struct Router {
    id: RouteId,
    connector: RouteId,
    owner: UserId,
    rank: Cell<Rank>,
    topology: RefCell<Rc<Topology>>,
    tree: RefCell<Option<Rc<dyn Tree>>>,
    services: RefCell<HashMap<String, Rc<dyn Peer>>>,
    peers: RefCell<HashMap<RouteId, Rc<dyn Peer>>>,
    subscribers: RefCell<Vec<Subscriber>>,
    sequence: Cell<u32>,
    handle: RefCell<Option<Handle>>,
    /// Who follows the messages of modules.
    pub(crate) traces: Traces<ModuleTrace>,
}

impl Router {
    /// A router for the broker with this id, alone in its instance until told otherwise.
    pub(crate) fn new(id: RouteId, connector: RouteId, owner: UserId) -> Rc<Router> {
        let topology = Topology::new(Scheme::default(), 1).expect("one broker is a tree");
        let router = Rc::new(Router {
            id,
            connector,
            owner,
            rank: Cell::new(Rank::LEADER),
            topology: RefCell::new(Rc::new(topology)),
            tree: RefCell::new(None),
            services: RefCell::default(),
            peers: RefCell::default(),
            subscribers: RefCell::default(),
            sequence: Cell::new(0),
            handle: RefCell::new(None),
            traces: Traces::default(),
        });
        let transport = BrokerTransport(Rc::downgrade(&router));
        *router.handle.borrow_mut() = Some(Handle::new(Rc::new(transport)));
        router
    }

    /// Takes the place in the tree that bootstrap found.
    pub(crate) fn place(&self, rank: Rank, topology: Rc<Topology>) {
        self.rank.set(rank);
        *self.topology.borrow_mut() = topology;
        self.handle().set_rank(rank);
    }

    /// Connects the router to its neighbours.
    pub(crate) fn set_tree(&self, tree: Option<Rc<dyn Tree>>) {
        *self.tree.borrow_mut() = tree;
    }

    /// The broker's own handle.
    pub(crate) fn handle(&self) -> Handle {
        self.handle
            .borrow()
            .clone()
            .expect("set when the router was made")
    }

    pub(crate) fn id(&self) -> &RouteId {
        &self.id
    }

    pub(crate) fn connector_id(&self) -> &RouteId {
        &self.connector
    }

    pub(crate) fn rank(&self) -> Rank {
        self.rank.get()
    }

    pub(crate) fn topology(&self) -> Rc<Topology> {
        self.topology.borrow().clone()
    }

    /// The instance owner.
    pub(crate) fn owner(&self) -> UserId {
        self.owner
    }

    /// What an in-process channel stamps on messages that carry no credentials.
    pub(crate) fn own_cred(&self) -> Cred {
        Cred {
            userid: self.owner,
            rolemask: RoleMask::OWNER | RoleMask::LOCAL,
        }
    }

    // -- peers, services, subscriptions

    pub(crate) fn add_peer(&self, peer: Rc<dyn Peer>) {
        self.peers.borrow_mut().insert(peer.id().clone(), peer);
    }

    /// Forgets a peer, its services and its subscriptions.
    pub(crate) fn remove_peer(&self, id: &RouteId) {
        self.remove_services_of(id);
        self.subscribers
            .borrow_mut()
            .retain(|subscriber| subscriber.peer.id() != id);
        self.peers.borrow_mut().remove(id);
    }

    pub(crate) fn peer(&self, id: &RouteId) -> Option<Rc<dyn Peer>> {
        self.peers.borrow().get(id).cloned()
    }

    /// Directs a service's requests to a peer. Errors: `EINVAL` bad name, `EEXIST` taken.
    pub(crate) fn add_service(&self, name: &str, peer: Rc<dyn Peer>) -> Result<(), Errno> {
        if name.is_empty() || name.contains('.') {
            return Err(Errno::EINVAL);
        }
        let mut services = self.services.borrow_mut();
        if services.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        services.insert(name.to_owned(), peer);
        Ok(())
    }

    pub(crate) fn remove_service(&self, name: &str) {
        self.services.borrow_mut().remove(name);
    }

    /// Takes all its services from a peer.
    pub(crate) fn remove_services_of(&self, id: &RouteId) {
        self.services.borrow_mut().retain(|_, peer| peer.id() != id);
    }

    /// Who has a service.
    pub(crate) fn service(&self, name: &str) -> Option<Rc<dyn Peer>> {
        self.services.borrow().get(name).cloned()
    }

    /// The names of a peer's services, sorted.
    pub(crate) fn services_of(&self, id: &RouteId) -> Vec<String> {
        let services = self.services.borrow();
        let mut names: Vec<_> = services
            .iter()
            .filter(|(_, peer)| peer.id() == id)
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn subscribe(&self, peer: &Rc<dyn Peer>, prefix: &str) {
        let mut subscribers = self.subscribers.borrow_mut();
        let subscriber = match subscribers.iter_mut().find(|s| s.peer.id() == peer.id()) {
            Some(subscriber) => subscriber,
            None => {
                subscribers.push(Subscriber {
                    peer: peer.clone(),
                    prefixes: HashMap::new(),
                });
                subscribers.last_mut().expect("just pushed")
            }
        };
        *subscriber.prefixes.entry(prefix.to_owned()).or_insert(0) += 1;
    }

    /// Errors: `ENOENT` no such subscription.
    pub(crate) fn unsubscribe(&self, id: &RouteId, prefix: &str) -> Result<(), Errno> {
        let mut subscribers = self.subscribers.borrow_mut();
        let subscriber = subscribers
            .iter_mut()
            .find(|s| s.peer.id() == id)
            .ok_or(Errno::ENOENT)?;
        let count = subscriber.prefixes.get_mut(prefix).ok_or(Errno::ENOENT)?;
        *count -= 1;
        if *count == 0 {
            subscriber.prefixes.remove(prefix);
        }
        Ok(())
    }

    // -- routing

    /// Routes a message that a peer on this broker sent.
    pub(crate) fn route_from(&self, peer: &dyn Peer, message: Message) {
        self.trace(Way::Sent, peer, &message);
        self.route(message);
    }

    /// Hands a message to a peer on this broker.
    pub(crate) fn deliver(&self, peer: &dyn Peer, message: Message) {
        self.trace(Way::Received, peer, &message);
        peer.deliver(message);
    }

    fn trace(&self, way: Way, peer: &dyn Peer, message: &Message) {
        if self.traces.is_active()
            && let Some(name) = peer.module_name(message)
        {
            self.traces.show(way, Party::Module(name), message);
        }
    }

    /// Routes a message of any kind that entered on this broker, or came from a neighbour.
    pub(crate) fn route(&self, message: Message) {
        match message.kind {
            Kind::Request { target, .. } => self.route_request(message, target),
            Kind::Response { .. } => self.route_response(message),
            Kind::Event { .. } => self.publish(message),
            Kind::Control { .. } => {}
        }
    }

    fn route_request(&self, message: Message, target: Target) {
        let own = self.rank();
        let upstream = message.flags.contains(Flags::UPSTREAM);
        match target {
            Target::Rank(rank) if upstream && rank == own => {
                if own == Rank::LEADER {
                    self.refuse(&message, Errno::EHOSTUNREACH.into());
                } else {
                    self.to_parent(message);
                }
            }
            Target::Rank(rank) if !upstream && rank != own => self.to_rank(message, rank),
            Target::Rank(_) if !upstream => self.to_service(message, false),
            _ => self.to_service(message, own != Rank::LEADER),
        }
    }

    /// Delivers to a local service, or else passes the request upstream where that is allowed.
    fn to_service(&self, message: Message, upstream: bool) {
        let service = message
            .topic
            .as_ref()
            .and_then(|topic| self.service(topic.service()));
        match service {
            Some(peer) => self.hand_over(message, &*peer),
            None if upstream => self.to_parent(message),
            None => {
                let text = refusal::no_service(message.topic_str());
                self.refuse(&message, RpcError::new(Errno::ENOSYS, text));
            }
        }
    }

    fn hand_over(&self, mut message: Message, peer: &dyn Peer) {
        if peer.is_hop() {
            message.push_route(self.id.clone());
        }
        self.deliver(peer, message);
    }

    fn to_rank(&self, message: Message, rank: Rank) {
        let topology = self.topology();
        if rank.0 >= topology.size() {
            return self.refuse(&message, Errno::EHOSTUNREACH.into());
        }
        match topology.child_toward(self.rank(), rank) {
            Some(child) => {
                let mut forwarded = message.clone();
                forwarded.push_route(self.id.clone());
                if let Err(errno) = self.with_tree(|tree| tree.send_child(child, forwarded)) {
                    self.refuse(&message, errno.into());
                }
            }
            None => self.to_parent(message),
        }
    }

    fn to_parent(&self, message: Message) {
        let mut forwarded = message.clone();
        forwarded.push_route(self.id.clone());
        if let Err(errno) = self.with_tree(|tree| tree.send_parent(forwarded)) {
            self.refuse(&message, errno.into());
        }
    }

    fn with_tree(&self, send: impl FnOnce(&dyn Tree) -> Result<(), Errno>) -> Result<(), Errno> {
        let tree = self.tree.borrow().clone();
        tree.map_or(Err(Errno::EHOSTUNREACH), |tree| send(&*tree))
    }

    fn route_response(&self, mut message: Message) {
        while message.next_hop() == Some(&self.id) || message.next_hop() == Some(&self.connector) {
            message.pop_route();
        }
        let Some(next) = message.next_hop().cloned() else {
            return self.handle().on_response(message);
        };
        if let Some(peer) = self.peer(&next) {
            message.pop_route();
            return self.deliver(&*peer, message);
        }
        let Some(tree) = self.tree.borrow().clone() else {
            return;
        };
        // A neighbour that is gone takes its callers with it; their responses have nowhere to go.
        if let Some(child) = tree.child_of(&next) {
            let _gone = tree.send_child(child, message);
        } else if tree.is_parent(&next) {
            let _gone = tree.send_parent(message);
        }
    }

    /// Fails a request on behalf of the broker.
    pub(crate) fn refuse(&self, request: &Message, error: RpcError) {
        if let Some(mut response) = request.response(Some(error.errno)) {
            if let Some(text) = &error.text {
                response = response.with_text(text);
            }
            response.cred = self.own_cred();
            self.route_response(response);
        }
    }

    // -- events

    /// Publishes an event: the leader numbers and multicasts it, others pass it up to the leader.
    pub(crate) fn publish(&self, message: Message) {
        if self.rank() == Rank::LEADER {
            self.publish_on_leader(message);
        } else {
            // With the parent gone this broker is about to end; there is nobody to tell.
            let _gone = self.with_tree(|tree| tree.send_parent(message));
        }
    }

    /// Numbers and multicasts an event; returns its number.
    pub(crate) fn publish_on_leader(&self, mut message: Message) -> u32 {
        // Numbers are signed 32-bit for the reference's clients and start again at 1.
        let sequence = if self.sequence.get() >= i32::MAX as u32 {
            1
        } else {
            self.sequence.get() + 1
        };
        self.sequence.set(sequence);
        message.kind = Kind::Event { sequence };
        message.clear_routes();
        self.deliver_event(&message);
        if let Some(tree) = self.tree.borrow().clone() {
            tree.send_children(&message);
        }
        sequence
    }

    /// Takes an event coming down the tree. Returns the numbers lost before it, `None` for a
    /// duplicate, which is dropped.
    pub(crate) fn event_from_parent(&self, message: &Message) -> Option<(u32, u32)> {
        let Kind::Event { sequence } = message.kind else {
            return Some((0, 0));
        };
        let last = self.sequence.get();
        if last != 0 && sequence <= last {
            return None;
        }
        self.sequence.set(sequence);
        if let Some(tree) = self.tree.borrow().clone() {
            tree.send_children(message);
        }
        self.deliver_event(message);
        if last == 0 {
            Some((0, 0))
        } else {
            Some((last + 1, sequence))
        }
    }

    fn deliver_event(&self, message: &Message) {
        let topic = message.topic_str();
        let private = message.flags.contains(Flags::PRIVATE);
        let takers: Vec<_> = self
            .subscribers
            .borrow()
            .iter()
            .filter(|subscriber| subscriber.wants(topic))
            .map(|subscriber| subscriber.peer.clone())
            .collect();
        // The connector takes an event once, however many of its clients want it.
        let (traced, mut shown) = (self.traces.is_active(), HashSet::new());
        for peer in takers {
            if !private || peer.sees_private(message) {
                if traced
                    && peer
                        .module_name(message)
                        .is_some_and(|name| shown.insert(name.to_owned()))
                {
                    self.trace(Way::Received, &*peer, message);
                }
                peer.deliver(message.clone());
            }
        }
    }
}

/// How the broker's own handle sends.
struct BrokerTransport(Weak<Router>);

impl Transport for BrokerTransport {
    fn send(&self, mut message: Message) {
        let Some(router) = self.0.upgrade() else {
            return;
        };
        if message.cred == Cred::UNKNOWN {
            message.cred = router.own_cred();
        }
        if let Kind::Response { .. } = message.kind
            && let Some(name) = own_module(&message)
        {
            router.traces.show(Way::Sent, Party::Module(name), &message);
        }
        router.route(message);
    }
}
