//! This broker's place in the tree: sockets to parent and children, and the `tbon` engine that
//! decides what their coming and going means.
//!
//! Frames are RFC 3 parts. A child connects as DEALER with its uuid as identity, says hello, and
//! nothing else flows until that is answered.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use module::Severity;
use proto::broker::{Monitor, StateMonitor};
use proto::overlay::{Hello as HelloRequest, HelloReply, OverlayGoodbye, OverlayHello};
use proto::trace::OverlayTrace;
use proto::{Empty, Payload, Rpc};
use rpc::{Dest, RpcError};
use tbon::health::{Config, Effect, Effects, Hello, Level, NextHop};
use tbon::{Control, Status, Topology};
use tokio::sync::oneshot;
use types::{Errno, Matchtag, Rank, RoleMask};
use wire::{Flags, Kind, Message, RouteId, Target};
use zmtp::transport::{Dealer, DealerEvent, Endpoint, Options, Router as Server, RouterEvent};
use zmtp::{AllowList, CurveKeypair, Mechanism, PublicKey, SocketType};

use crate::broker::Broker;
use crate::connector::wants_response;
use crate::lifecycle::State;
use crate::router::Tree;
use crate::tbon_settings::Torpid;
use crate::trace::{Party, Traces, Way};

/// How long a parent may take to answer goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests passed to a neighbour and not answered yet.
type Pending = HashMap<(RouteId, Matchtag), Message>;

/// How to reach the parent.
#[derive(Clone, Debug)]
pub(crate) struct ParentCard {
    pub(crate) endpoint: Endpoint,
    pub(crate) key: PublicKey,
}

/// The socket children connect to, listening before the rest of the overlay is known: its port is
/// part of the business card, and a child may connect as soon as it has read that.
pub(crate) struct Listener {
    server: Server,
    allowed: AllowList,
    overlay: Rc<RefCell<Weak<Overlay>>>,
}

impl Listener {
    /// Listens at each endpoint. Errors: what the system says.
    pub(crate) async fn bind(
        id: &RouteId,
        keypair: &CurveKeypair,
        endpoints: &[Endpoint],
    ) -> Result<Listener, String> {
        let allowed = AllowList::new();
        let mechanism = Mechanism::CurveServer {
            keypair: keypair.clone(),
            authorize: allowed.authorize(),
        };
        let config = zmtp::Config::new(SocketType::Router, id.0.clone(), mechanism);
        let overlay: Rc<RefCell<Weak<Overlay>>> = Rc::default();
        let slot = overlay.clone();
        // Nothing arrives before the overlay is there: bootstrap does not yield to this task.
        let on_event = move |event| {
            let overlay = slot.borrow().upgrade();
            if let Some(overlay) = overlay {
                overlay.on_server_event(event);
            }
        };
        let server = Server::bind(endpoints, config, Options::default(), on_event)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Listener {
            server,
            allowed,
            overlay,
        })
    }

    /// The endpoints, with the ports the system picked.
    pub(crate) fn uris(&self) -> Vec<String> {
        self.server
            .endpoints()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// The tree around this broker.
pub(crate) struct Overlay {
    id: RouteId,
    hostname: String,
    keypair: CurveKeypair,
    allowed: AllowList,
    engine: RefCell<tbon::Overlay>,
    server: RefCell<Option<Server>>,
    dealer: RefCell<Option<Dealer>>,
    to_parent: RefCell<Pending>,
    to_children: RefCell<HashMap<Rank, Pending>>,
    /// Who waits for the parent's answer to hello and to goodbye.
    hello: RefCell<Option<oneshot::Sender<Result<String, RpcError>>>>,
    goodbye: RefCell<Option<oneshot::Sender<()>>>,
    parent_state: Cell<i32>,
    started: Instant,
    broker: RefCell<Weak<Broker>>,
    pub(crate) health_followers: RefCell<Vec<rpc::Request<proto::overlay::OverlayHealth>>>,
    /// Who follows the messages from and to neighbours.
    pub(crate) traces: Traces<OverlayTrace>,
}

impl Overlay {
    /// The place that `config` describes, with the socket children connect to.
    pub(crate) fn new(
        id: RouteId,
        hostname: String,
        config: Config,
        keypair: CurveKeypair,
        listener: Option<Listener>,
    ) -> Rc<Overlay> {
        let (server, allowed, slot) = match listener {
            Some(listener) => (
                Some(listener.server),
                listener.allowed,
                Some(listener.overlay),
            ),
            None => (None, AllowList::new(), None),
        };
        let overlay = Rc::new(Overlay {
            id,
            hostname,
            keypair,
            allowed,
            engine: RefCell::new(tbon::Overlay::new(config, Duration::ZERO)),
            server: RefCell::new(server),
            dealer: RefCell::new(None),
            to_parent: RefCell::default(),
            to_children: RefCell::default(),
            hello: RefCell::new(None),
            goodbye: RefCell::new(None),
            parent_state: Cell::new(-1),
            started: Instant::now(),
            broker: RefCell::new(Weak::new()),
            health_followers: RefCell::default(),
            traces: Traces::default(),
        });
        if let Some(slot) = slot {
            *slot.borrow_mut() = Rc::downgrade(&overlay);
        }
        overlay
    }

    /// Makes the broker known, which exists only after its overlay.
    pub(crate) fn attach(&self, broker: &Rc<Broker>) {
        *self.broker.borrow_mut() = Rc::downgrade(broker);
    }

    /// Admits a child's key.
    pub(crate) fn allow(&self, key: PublicKey) {
        self.allowed.allow(key);
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Connects to the parent and says hello. Errors: what went wrong.
    pub(crate) async fn join(
        self: &Rc<Self>,
        card: &ParentCard,
        timeout: Duration,
    ) -> Result<(), String> {
        let mechanism = Mechanism::CurveClient {
            keypair: self.keypair.clone(),
            server: card.key,
        };
        let config = zmtp::Config::new(SocketType::Dealer, self.id.0.clone(), mechanism);
        let overlay = Rc::downgrade(self);
        let on_event = move |event| {
            if let Some(overlay) = overlay.upgrade() {
                overlay.on_dealer_event(event);
            }
        };
        let connect = Dealer::connect(&card.endpoint, config, Options::default(), on_event);
        let dealer = tokio::time::timeout(timeout, connect)
            .await
            .map_err(|_| format!("{}: connection timed out", card.endpoint))?
            .map_err(|error| format!("{}: {error}", card.endpoint))?;
        *self.dealer.borrow_mut() = Some(dealer);
        let (answer, answered) = oneshot::channel();
        *self.hello.borrow_mut() = Some(answer);
        let hello = self
            .engine
            .borrow_mut()
            .hello(&self.id.to_string(), Some(self.hostname.clone()));
        let request = HelloRequest {
            rank: hello.rank.0.into(),
            version: hello.version.number().into(),
            uuid: hello.uuid,
            status: hello.status.number(),
            hostname: hello.hostname,
        };
        self.send_up(self.own_request::<OverlayHello>(&request))
            .map_err(|errno| format!("overlay.hello: {errno}"))?;
        let result = match answered.await {
            Ok(result) => result,
            Err(_) => return Err("overlay.hello: connection to parent lost".into()),
        };
        result
            .map(drop)
            .map_err(|error| format!("overlay.hello: {error}"))
    }

    fn own_request<R: Rpc>(&self, payload: &R::Request) -> Message {
        let mut message =
            Message::request(R::topic().into(), Target::Any, None).with_payload(payload.encode());
        if let Some(broker) = self.broker.borrow().upgrade() {
            message.cred = broker.router.own_cred();
        }
        message
    }

    /// Follows the parent's state until the connection ends.
    pub(crate) async fn follow_parent(self: Rc<Self>, broker: Rc<Broker>) {
        let handle = broker.router.handle();
        let mut states = handle.stream::<StateMonitor>(Dest::Upstream, &Monitor::default());
        while let Ok(Some(number)) = states.next().await {
            self.parent_state.set(number.state);
            self.on_parent_state(&broker);
        }
    }

    /// Draws the conclusions from the parent's state and our own.
    pub(crate) fn on_parent_state(&self, broker: &Broker) {
        let parent = self.parent_state.get();
        match broker.machine.state() {
            State::Join if parent >= State::Quorum as i32 => broker.post("parent-ready"),
            State::Quorum if parent == State::Run as i32 => broker.post("quorum-full"),
            State::Quorum if parent > State::Run as i32 => broker.post("quorum-fail"),
            State::Run if parent >= State::Shutdown as i32 => broker.post("shutdown"),
            _ => {}
        }
    }

    /// Takes leave of the parent.
    pub(crate) async fn leave(&self) -> Result<(), &'static str> {
        let (answer, answered) = oneshot::channel();
        *self.goodbye.borrow_mut() = Some(answer);
        if self
            .send_up(self.own_request::<OverlayGoodbye>(&Empty {}))
            .is_err()
        {
            return Err("no connection to parent");
        }
        match tokio::time::timeout(GOODBYE_TIMEOUT, answered).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("connection to parent lost"),
            Err(_) => Err("goodbye timeout after 60.0s"),
        }
    }

    /// Closes every connection once what is queued is out.
    pub(crate) fn close(&self) {
        if let Some(dealer) = self.dealer.borrow_mut().take() {
            dealer.close();
        }
        self.server.borrow_mut().take();
    }

    /// Changes the limits of silence.
    pub(crate) fn set_torpid(&self, torpid: Torpid) {
        self.engine.borrow_mut().set_torpid(torpid.min, torpid.max);
    }

    /// From now on children are turned away.
    pub(crate) fn refuse_hellos(&self) {
        self.engine.borrow_mut().refuse_hellos();
    }

    /// How many children are connected.
    pub(crate) fn connected(&self) -> usize {
        self.engine.borrow().connected()
    }

    /// How many requests the parent, and the children, have yet to answer.
    pub(crate) fn unanswered(&self) -> (usize, usize) {
        let children = self.to_children.borrow();
        (
            self.to_parent.borrow().len(),
            children.values().map(Pending::len).sum(),
        )
    }

    /// The instance's heartbeat.
    pub(crate) fn on_heartbeat(&self, _broker: &Broker) {
        self.with_engine(|engine, now, out| engine.on_heartbeat(now, out));
    }

    /// Reads the engine, with the time.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&tbon::Overlay, Duration) -> T) -> T {
        read(&self.engine.borrow(), self.now())
    }

    /// Gives the engine an input and carries out what follows.
    pub(crate) fn with_engine<T>(
        &self,
        input: impl FnOnce(&mut tbon::Overlay, Duration, &mut Effects) -> T,
    ) -> T {
        let mut effects = Effects::new();
        let result = input(&mut self.engine.borrow_mut(), self.now(), &mut effects);
        for effect in effects {
            self.carry_out(effect);
        }
        result
    }

    fn carry_out(&self, effect: Effect) {
        let Some(broker) = self.broker.borrow().upgrade() else {
            return;
        };
        match effect {
            Effect::Log(level, text) => {
                let severity = match level {
                    Level::Crit => Severity::Crit,
                    Level::Err => Severity::Err,
                    Level::Debug => Severity::Debug,
                };
                broker.log_as("overlay", severity, &text);
            }
            Effect::SendParent(control) => {
                // A lost parent is reported by its connection.
                let _lost = self.send_up(control_message(control));
            }
            Effect::SendChild(uuid, control) => {
                let message = control_message(control);
                if let Some(rank) = self.child_rank(uuid.as_bytes()) {
                    self.traces
                        .show(Way::Sent, Party::Neighbour(rank), &message);
                }
                let parts = message.to_parts();
                if let Some(server) = &*self.server.borrow() {
                    let _lost = server.send(uuid.as_bytes(), &parts);
                }
            }
            Effect::CloseChild(uuid) => {
                if let Some(server) = &*self.server.borrow() {
                    server.disconnect(uuid.as_bytes());
                }
            }
            Effect::CloseParent => {
                if let Some(dealer) = &*self.dealer.borrow() {
                    dealer.close();
                }
            }
            Effect::FailChildRpcs { rank, .. } => {
                let pending = self
                    .to_children
                    .borrow_mut()
                    .remove(&rank)
                    .unwrap_or_default();
                for request in pending.into_values() {
                    broker.router.refuse(&request, Errno::EHOSTUNREACH.into());
                }
            }
            Effect::FailParentRpcs => {
                for (_, request) in self.to_parent.take() {
                    let error = RpcError::new(Errno::EHOSTUNREACH, "overlay disconnect");
                    broker.router.refuse(&request, error);
                }
            }
            Effect::SubtreeGone(rank) => broker.groups.on_subtree_gone(&broker, rank),
            Effect::ChildChanged { rank, torpid, .. } => {
                broker.groups.on_torpid(&broker, rank, torpid);
            }
            Effect::HealthChanged => crate::overlay_service::tell_health(&broker),
            Effect::ChildrenGone => {
                if broker.machine.state() == State::Shutdown {
                    broker.post("children-complete");
                }
            }
            Effect::ParentFail => {
                self.hello.borrow_mut().take();
                self.goodbye.borrow_mut().take();
                broker.note_failure();
                broker.post("parent-fail");
            }
        }
    }

    // -- from the children

    fn on_server_event(&self, event: RouterEvent) {
        match event {
            RouterEvent::Message { identity, parts } => self.on_child_message(&identity, &parts),
            RouterEvent::Alive { identity } => {
                if let Some(rank) = self.child_rank(&identity) {
                    self.with_engine(|engine, now, out| engine.on_child_message(now, rank, out));
                }
            }
            RouterEvent::Disconnected { identity, .. } => {
                if let Some(rank) = self.child_rank(&identity) {
                    self.with_engine(|engine, now, out| engine.on_child_lost(now, rank, out));
                }
            }
            RouterEvent::Rejected { address, reason } => {
                if let Some(broker) = self.broker.borrow().upgrade() {
                    let text = format!("{address}: {reason}");
                    broker.log_as("overlay", Severity::Err, &text);
                }
            }
            RouterEvent::Connected { .. } => {}
        }
    }

    /// The child with this id.
    pub(crate) fn child(&self, id: &RouteId) -> Option<Rank> {
        self.child_rank(&id.0)
    }

    fn child_rank(&self, identity: &[u8]) -> Option<Rank> {
        self.engine
            .borrow()
            .child_by_uuid(std::str::from_utf8(identity).ok()?)
    }

    fn on_child_message(&self, identity: &Bytes, parts: &[Bytes]) {
        let mut message = match Message::from_parts(parts) {
            Ok(message) => message,
            Err(error) => return self.expel(identity, &error.to_string()),
        };
        message.cred.rolemask = message.cred.rolemask.without(RoleMask::LOCAL);
        if message.is_request() && message.topic_str() == "overlay.hello" {
            return self.on_hello(identity, &message);
        }
        let Some(rank) = self.child_rank(identity) else {
            let uuid = String::from_utf8_lossy(identity).into_owned();
            return self.with_engine(|engine, _, out| engine.on_stranger(&uuid, out));
        };
        self.traces
            .show(Way::Received, Party::Neighbour(rank), &message);
        self.with_engine(|engine, now, out| engine.on_child_message(now, rank, out));
        let Some(broker) = self.broker.borrow().upgrade() else {
            return;
        };
        match message.kind {
            Kind::Request { .. } if message.topic_str() == "overlay.goodbye" => {
                self.answer_child(identity, &message, Ok(Empty {}.encode()));
                self.with_engine(|engine, now, out| engine.on_goodbye(now, rank, out));
            }
            Kind::Control { kind, status } => {
                if let Some(control) = Control::from_numbers(kind as i32, status as i32) {
                    self.with_engine(|engine, now, out| {
                        engine.on_child_control(now, rank, control, out);
                    });
                }
            }
            Kind::Response { .. } => {
                if let Some(key) = answered(&message)
                    && let Some(pending) = self.to_children.borrow_mut().get_mut(&rank)
                {
                    pending.remove(&key);
                }
                broker.router.route(message);
            }
            Kind::Request { .. } | Kind::Event { .. } => broker.router.route(message),
        }
    }

    fn on_hello(&self, identity: &Bytes, message: &Message) {
        let Ok(request) = HelloRequest::decode(message.payload.as_ref()) else {
            return self.answer_child(identity, message, Err(Errno::EPROTO.into()));
        };
        if request.uuid.as_bytes() != &identity[..] {
            return self.expel(identity, "hello names another uuid");
        }
        let status = Status::from_number(request.status).unwrap_or_default();
        let hello = Hello {
            rank: Rank(u32::try_from(request.rank).unwrap_or(u32::MAX)),
            version: tbon::Version::from_number(u32::try_from(request.version).unwrap_or(0)),
            uuid: request.uuid,
            status,
            hostname: request.hostname,
        };
        // The answer goes out first: whatever the new child causes may be sent to it.
        let mut effects = Effects::new();
        let owner = message.cred.is_owner();
        let now = self.now();
        let judged = self
            .engine
            .borrow_mut()
            .on_hello(now, &hello, owner, &mut effects);
        match judged {
            Ok(()) => {
                let reply = HelloReply {
                    uuid: self.id.to_string(),
                };
                self.answer_child(identity, message, Ok(reply.encode()));
            }
            Err(error) => {
                if let Some(errno) = error.errno() {
                    let error = RpcError {
                        errno,
                        text: error.response_text(),
                    };
                    self.answer_child(identity, message, Err(error));
                }
            }
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// Answers a child's hello or goodbye, which no router sees.
    fn answer_child(&self, identity: &Bytes, request: &Message, answer: Result<Bytes, RpcError>) {
        let response = match answer {
            Ok(payload) => request
                .response(None)
                .map(|message| message.with_payload(payload)),
            Err(error) => request
                .response(Some(error.errno))
                .map(|message| match &error.text {
                    Some(text) => message.with_text(text),
                    None => message,
                }),
        };
        let Some(mut response) = response else { return };
        if let Some(broker) = self.broker.borrow().upgrade() {
            response.cred = broker.router.own_cred();
        }
        if let Some(server) = &*self.server.borrow() {
            // A child that is gone already needs no answer.
            let _gone = server.send(identity, &response.to_parts());
        }
    }

    fn expel(&self, identity: &Bytes, why: &str) {
        if let Some(broker) = self.broker.borrow().upgrade() {
            let text = format!("peer {}: {why}", String::from_utf8_lossy(identity));
            broker.log_as("overlay", Severity::Err, &text);
        }
        if let Some(server) = &*self.server.borrow() {
            server.disconnect(identity);
        }
    }

    // -- from the parent

    fn on_dealer_event(&self, event: DealerEvent) {
        match event {
            DealerEvent::Message(parts) => self.on_parent_message(&parts),
            DealerEvent::Alive => {}
            DealerEvent::Disconnected(_) => {
                self.hello.borrow_mut().take();
                self.goodbye.borrow_mut().take();
                self.with_engine(|engine, _, out| engine.on_parent_lost(out));
            }
        }
    }

    fn on_parent_message(&self, parts: &[Bytes]) {
        let Some(broker) = self.broker.borrow().upgrade() else {
            return;
        };
        let mut message = match Message::from_parts(parts) {
            Ok(message) => message,
            Err(error) => {
                broker.log_as("overlay", Severity::Err, &format!("from parent: {error}"));
                return self.with_engine(|engine, _, out| engine.on_parent_lost(out));
            }
        };
        message.cred.rolemask = message.cred.rolemask.without(RoleMask::LOCAL);
        self.trace_parent(Way::Received, &message);
        match message.kind {
            Kind::Response { errno, .. } if message.routes().is_empty() => {
                self.on_own_response(&message, errno);
            }
            Kind::Response { .. } => {
                if let Some(key) = answered(&message) {
                    self.to_parent.borrow_mut().remove(&key);
                }
                broker.router.route(message);
            }
            Kind::Request { .. } => broker.router.route(message),
            Kind::Event { sequence } => match broker.router.event_from_parent(&message) {
                None => {
                    let text = format!("duplicate event {sequence}");
                    broker.log_as("overlay", Severity::Debug, &text);
                }
                Some((first, end)) if first < end => {
                    let last = end - 1;
                    let text = match first == last {
                        true => format!("lost event {first}"),
                        false => format!("lost events {first}-{last}"),
                    };
                    broker.log_as("overlay", Severity::Err, &text);
                }
                Some(_) => {}
            },
            Kind::Control { kind, status } => {
                if let Some(control) = Control::from_numbers(kind as i32, status as i32) {
                    self.with_engine(|engine, _, out| engine.on_parent_control(control, out));
                }
            }
        }
    }

    /// The parent's answer to hello or goodbye.
    fn on_own_response(&self, message: &Message, errno: Option<Errno>) {
        match message.topic_str() {
            "overlay.hello" => {
                let result = match errno {
                    Some(errno) => Err(RpcError {
                        errno,
                        text: message.text().map(str::to_owned),
                    }),
                    None => HelloReply::decode(message.payload.as_ref())
                        .map(|reply| reply.uuid)
                        .map_err(|error| error.errno().into()),
                };
                // At once: what follows in the same burst comes from a parent already known.
                let text = result.as_ref().map_err(ToString::to_string);
                self.with_engine(|engine, now, out| {
                    let text = text
                        .as_ref()
                        .map(|uuid| uuid.as_str())
                        .map_err(String::as_str);
                    engine.on_hello_response(now, text, out);
                });
                if let Some(waiting) = self.hello.borrow_mut().take() {
                    let _gave_up = waiting.send(result);
                }
            }
            "overlay.goodbye" => {
                // At once: the parent may close the connection right behind its answer.
                self.with_engine(|engine, _, out| engine.on_goodbye_response(out));
                if let Some(waiting) = self.goodbye.borrow_mut().take() {
                    let _gave_up = waiting.send(());
                }
            }
            _ => {}
        }
    }

    fn trace_parent(&self, way: Way, message: &Message) {
        if self.traces.is_active()
            && let Some(broker) = self.broker.borrow().upgrade()
            && let Some(parent) = broker.router.topology().parent(broker.router.rank())
        {
            self.traces.show(way, Party::Neighbour(parent), message);
        }
    }

    fn send_up(&self, message: Message) -> Result<(), Errno> {
        self.trace_parent(Way::Sent, &message);
        let sent = match &*self.dealer.borrow() {
            Some(dealer) => dealer
                .send(&message.to_parts())
                .map_err(|_| Errno::EHOSTUNREACH),
            None => Err(Errno::EHOSTUNREACH),
        };
        if sent.is_ok() {
            let now = self.now();
            // Not while the engine itself sends: it counts its own messages.
            if let Ok(mut engine) = self.engine.try_borrow_mut() {
                engine.on_sent_to_parent(now);
            }
        }
        sent
    }
}

/// The key of the request that a final response answers.
fn answered(message: &Message) -> Option<(RouteId, Matchtag)> {
    let Kind::Response {
        errno,
        matchtag: Some(tag),
    } = message.kind
    else {
        return None;
    };
    if errno.is_none() && message.flags.contains(Flags::STREAMING) {
        return None;
    }
    Some((message.sender()?.clone(), tag))
}

/// The key under which a request that wants an answer is remembered, and what of it.
fn remembered(message: &Message) -> Option<((RouteId, Matchtag), Message)> {
    if !wants_response(message) {
        return None;
    }
    let key = (message.sender()?.clone(), message.matchtag()?);
    let mut kept = message.clone();
    kept.payload = None;
    Some((key, kept))
}

fn control_message(control: Control) -> Message {
    let (kind, status) = control.numbers();
    Message::control(kind as u32, status as u32)
}

impl Tree for Overlay {
    fn send_parent(&self, message: Message) -> Result<(), Errno> {
        let kept = remembered(&message);
        self.send_up(message)?;
        if let Some((key, kept)) = kept {
            self.to_parent.borrow_mut().insert(key, kept);
        }
        Ok(())
    }

    fn send_child(&self, child: Rank, message: Message) -> Result<(), Errno> {
        {
            let engine = self.engine.borrow();
            let NextHop::Child(_, uuid) = engine.next_hop(child) else {
                return Err(Errno::EHOSTUNREACH);
            };
            let server = self.server.borrow();
            let server = server.as_ref().ok_or(Errno::EHOSTUNREACH)?;
            server
                .send(uuid.as_bytes(), &message.to_parts())
                .map_err(|_| Errno::EHOSTUNREACH)?;
        }
        self.traces
            .show(Way::Sent, Party::Neighbour(child), &message);
        if let Some((key, kept)) = remembered(&message) {
            self.to_children
                .borrow_mut()
                .entry(child)
                .or_default()
                .insert(key, kept);
        }
        Ok(())
    }

    fn send_children(&self, message: &Message) {
        let server = self.server.borrow();
        let Some(server) = server.as_ref() else {
            return;
        };
        self.traces.show(Way::Sent, Party::Children, message);
        let parts = message.to_parts();
        for uuid in self.engine.borrow().child_uuids() {
            // A child that cannot be reached is reported lost by its connection.
            let _lost = server.send(uuid.as_bytes(), &parts);
        }
    }

    fn child_of(&self, id: &RouteId) -> Option<Rank> {
        self.child(id)
    }

    fn is_parent(&self, id: &RouteId) -> bool {
        self.engine
            .borrow()
            .parent_uuid()
            .is_some_and(|uuid| uuid.as_bytes() == &id.0[..])
    }
}

/// The attributes that tell a broker's place.
pub(crate) fn place_attributes(rank: Rank, topology: &Topology) -> [(&'static str, String); 3] {
    [
        ("tbon.descendants", topology.descendants(rank).to_string()),
        ("tbon.level", topology.level(rank).unwrap_or(0).to_string()),
        ("tbon.maxlevel", topology.maxlevel().to_string()),
    ]
}
