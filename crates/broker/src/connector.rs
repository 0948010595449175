//! The local connector: clients on a unix socket.
//!
//! A client is known by the user id the kernel reports. It gets one byte, 0 or an error number,
//! and then speaks RFC 3 messages in stream framing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;

use module::Severity;
use nix::sys::socket::{setsockopt, sockopt};
use proto::Empty;
use proto::Payload;
use proto::event::Subscription;
use proto::service::Service;
use rpc::Disconnects;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use types::{Cred, Errno, RoleMask, UserId};
use wire::{Flags, Kind, Message, RouteId, StreamDecoder, StreamOutput};

use crate::broker::Broker;
use crate::router::Peer;

/// How far a client may fall behind before it is cut off: enough for the largest burst a service
/// sends one reader (job output of 1 GiB is streamed in pieces the reader paces), and a bound on
/// what one stopped process can cost the broker.
pub(crate) const BACKLOG_MAX: usize = 256 << 20;

/// What the socket holds for a client: a large blob at a time, so that neither end has to be woken
/// for every part of it.
const SEND_BUFFER: usize = 1 << 20;

/// How much is read from one client before others get their turn.
pub(crate) const READ_CHUNK: usize = 64 << 10;

/// A connected client.
pub(crate) struct ClientPeer {
    id: RouteId,
    /// What the kernel and the configuration say the client is.
    cred: Cred,
    pid: i32,
    output: RefCell<StreamOutput>,
    flush: Notify,
    closed: Cell<bool>,
    overrun: Cell<bool>,
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl Peer for ClientPeer {
    fn id(&self) -> &RouteId {
        &self.id
    }

    fn deliver(&self, message: Message) {
        if self.closed.get() {
            return;
        }
        let mut output = self.output.borrow_mut();
        if output.len() > BACKLOG_MAX {
            self.overrun.set(true);
            self.closed.set(true);
        } else {
            output.push(&message);
            self.sent.set(self.sent.get() + 1);
        }
        self.flush.notify_one();
    }

    fn sees_private(&self, event: &Message) -> bool {
        self.cred.is_owner() || self.cred.userid == event.cred.userid
    }

    fn module_name<'a>(&'a self, _message: &'a Message) -> Option<&'a str> {
        Some("connector-local")
    }
}

/// The clients of one broker.
#[derive(Default)]
pub(crate) struct Connector {
    clients: RefCell<HashMap<RouteId, Rc<ClientPeer>>>,
    next_id: Cell<u64>,
    /// Debug bits: 1 fails the next authentication, 4 makes the next client a guest.
    pub(crate) debug: Cell<i32>,
}

impl Connector {
    /// What `connector-local.stats-get` shows.
    pub(crate) fn stats(&self) -> serde_json::Value {
        let clients: Vec<_> = self
            .clients
            .borrow()
            .values()
            .map(|client| {
                serde_json::json!({
                    "uuid": client.id.to_string(), "userid": client.cred.userid.0,
                    "pid": client.pid, "txcount": client.sent.get(),
                    "rxcount": client.received.get(),
                    "rxbacklog": client.output.borrow().len(),
                })
            })
            .collect();
        serde_json::json!({"clients": clients, "connects": self.next_id.get()})
    }

    /// Whether no client is connected.
    pub(crate) fn is_idle(&self) -> bool {
        self.clients.borrow().is_empty()
    }
}

/// Binds the socket that `local-uri` names, replacing a stale one.
pub(crate) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Who may connect is decided by user id, not by the file's mode.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    Ok(listener)
}

/// Accepts clients for ever.
pub(crate) async fn serve(broker: Rc<Broker>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(client(broker.clone(), stream));
            }
            Err(error) => {
                broker.log_as(
                    "connector-local",
                    Severity::Err,
                    &format!("accept: {error}"),
                );
                // Out of descriptors: trying again at once would spin.
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}

/// Serves one client until it goes away.
async fn client(broker: Rc<Broker>, stream: UnixStream) {
    let cred = match authenticate(&broker, &stream) {
        Ok(cred) => cred,
        Err((errno, text)) => {
            broker.log_as("connector-local", Severity::Err, &text);
            // The client may be gone already; it is being turned away either way.
            let _turned_away = stream.try_write(&[errno.0 as u8]);
            return;
        }
    };
    // Where the system allows less it is less, and refusal changes nothing but speed.
    let _refused = setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER);
    let pid = stream
        .peer_cred()
        .ok()
        .and_then(|peer| peer.pid())
        .unwrap_or(-1);
    let connector = &broker.connector;
    let number = connector.next_id.get() + 1;
    connector.next_id.set(number);
    let mut greeting = StreamOutput::new();
    greeting.push_bytes(&[0]);
    let peer = Rc::new(ClientPeer {
        id: RouteId::from(uuid::Uuid::new_v4().to_string()),
        cred,
        pid,
        output: RefCell::new(greeting),
        flush: Notify::new(),
        closed: Cell::new(false),
        overrun: Cell::new(false),
        received: Cell::new(0),
        sent: Cell::new(0),
    });
    peer.flush.notify_one();
    connector
        .clients
        .borrow_mut()
        .insert(peer.id.clone(), peer.clone());
    broker.router.add_peer(peer.clone());
    let mut session = Session {
        broker: broker.clone(),
        peer: peer.clone(),
        disconnects: Disconnects::default(),
    };
    let stream = Rc::new(stream);
    let end = tokio::select! {
        end = read(&mut session, &stream) => end,
        end = write(&peer, &stream) => end,
    };
    if let Err(text) = end {
        let text = format!("client pid {pid}: {text}");
        broker.log_as("connector-local", Severity::Err, &text);
    }
    session.close();
}

/// What the user at the other end may do, or why it is turned away.
fn authenticate(broker: &Broker, stream: &UnixStream) -> Result<Cred, (Errno, String)> {
    let connector = &broker.connector;
    let peer = stream.peer_cred().map_err(|error| {
        (
            Errno::EPERM,
            format!("client_authenticate: SO_PEERCRED: {error}"),
        )
    })?;
    let uid = UserId(peer.uid());
    let debug = connector.debug.get();
    connector.debug.set(debug & !5);
    if debug & 1 != 0 {
        return Err((
            Errno::EPERM,
            format!("client_authenticate: uid={uid} no assigned roles"),
        ));
    }
    if debug & 4 != 0 {
        return Ok(Cred {
            userid: UserId::UNKNOWN,
            rolemask: RoleMask::USER,
        });
    }
    let access = broker.access.borrow();
    let owner = broker.router.owner();
    if uid == owner || (uid.0 == 0 && access.allow_root_owner) {
        return Ok(Cred {
            userid: uid,
            rolemask: RoleMask::OWNER | RoleMask::LOCAL,
        });
    }
    if access.allow_guest_user {
        let mut rolemask = RoleMask::USER | RoleMask::LOCAL;
        if access.admins.contains(&uid) {
            rolemask = rolemask | RoleMask::ADMIN;
        }
        return Ok(Cred {
            userid: uid,
            rolemask,
        });
    }
    Err((
        Errno::EPERM,
        format!("client_authenticate: uid={uid} no assigned roles"),
    ))
}

async fn read(session: &mut Session, stream: &UnixStream) -> Result<(), String> {
    let mut decoder = StreamDecoder::new();
    loop {
        stream.readable().await.map_err(|error| error.to_string())?;
        decoder.reserve(READ_CHUNK);
        match stream.try_read_buf(decoder.buffer()) {
            Ok(0) if decoder.is_partial() => return Err("connection closed in mid-message".into()),
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        while let Some(message) = decoder.next().map_err(|error| error.to_string())? {
            session.on_message(message);
        }
        tokio::task::consume_budget().await;
    }
}

/// Writes what is delivered. Messages of one turn of the loop leave in one system call.
async fn write(peer: &ClientPeer, stream: &UnixStream) -> Result<(), String> {
    loop {
        peer.flush.notified().await;
        if peer.overrun.get() {
            return Err(format!(
                "more than {BACKLOG_MAX} bytes unread: disconnecting"
            ));
        }
        loop {
            let written = {
                let output = peer.output.borrow();
                if output.is_empty() {
                    break;
                }
                stream.try_write_vectored(&output.slices())
            };
            match written {
                Ok(count) => peer.output.borrow_mut().advance(count),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    stream
                        .ready(Interest::WRITABLE)
                        .await
                        .map_err(|error| error.to_string())?;
                    if peer.overrun.get() {
                        return Err(format!(
                            "more than {BACKLOG_MAX} bytes unread: disconnecting"
                        ));
                    }
                }
                Err(_) => {
                    // The client no longer reads. What it still sends counts until it closes.
                    peer.closed.set(true);
                    peer.output.borrow_mut().clear();
                    return std::future::pending().await;
                }
            }
        }
    }
}

/// What the broker knows of one client beyond its output.
struct Session {
    broker: Rc<Broker>,
    peer: Rc<ClientPeer>,
    disconnects: Disconnects,
}

impl Session {
    fn on_message(&mut self, mut message: Message) {
        self.peer.received.set(self.peer.received.get() + 1);
        self.stamp(&mut message);
        match message.kind {
            Kind::Request { .. } => self.on_request(message),
            Kind::Event { .. } | Kind::Response { .. } => self.route(message),
            Kind::Control { .. } => {}
        }
    }

    /// A guest's credentials are what the kernel says; the owner may speak for others, which is
    /// how tests act as guests.
    fn stamp(&self, message: &mut Message) {
        let own = self.peer.cred;
        if !own.is_owner() {
            message.cred = own;
            return;
        }
        if message.cred.userid == UserId::UNKNOWN {
            message.cred.userid = own.userid;
        }
        if message.cred.rolemask == RoleMask::NONE {
            message.cred.rolemask = own.rolemask;
        }
    }

    fn on_request(&mut self, mut message: Message) {
        message.push_route(self.peer.id.clone());
        message.push_route(self.broker.router.connector_id().clone());
        match message.topic_str() {
            "event.subscribe" => self.on_subscribe(&message, true),
            "event.unsubscribe" => self.on_subscribe(&message, false),
            "service.add" => self.on_service(&message, true),
            "service.remove" => self.on_service(&message, false),
            topic => {
                if !self.broker.accepts_clients() && !OFFLINE_TOPICS.contains(&topic) {
                    let text = "Upstream Flux broker is offline. Try again later.";
                    let error = rpc::RpcError::new(Errno::EAGAIN, text);
                    return self.broker.router.refuse(&message, error);
                }
                self.disconnects.arm(&message);
                self.route(message);
            }
        }
    }

    fn route(&self, message: Message) {
        self.broker.router.route_from(&*self.peer, message);
    }

    fn on_subscribe(&mut self, message: &Message, on: bool) {
        let router = &self.broker.router;
        let Ok(subscription) = Subscription::decode(message.payload.as_ref()) else {
            return router.refuse(message, Errno::EPROTO.into());
        };
        if on {
            let peer: Rc<dyn Peer> = self.peer.clone();
            router.subscribe(&peer, &subscription.topic);
        } else if let Err(errno) = router.unsubscribe(&self.peer.id, &subscription.topic) {
            return router.refuse(message, errno.into());
        }
        self.answer(message);
    }

    fn on_service(&mut self, message: &Message, on: bool) {
        let router = &self.broker.router;
        let Ok(Service { service }) = Service::decode(message.payload.as_ref()) else {
            return router.refuse(message, Errno::EPROTO.into());
        };
        let cred = message.cred;
        let own_name = format!("{}-", cred.userid);
        if !cred.is_owner() && !service.starts_with(&own_name) {
            return router.refuse(message, Errno::EPERM.into());
        }
        let result = if on {
            router.add_service(&service, self.peer.clone())
        } else {
            match router.service(&service) {
                Some(peer) if peer.id() == &self.peer.id => {
                    router.remove_service(&service);
                    Ok(())
                }
                _ => Err(Errno::ENOENT),
            }
        };
        match result {
            Ok(()) => self.answer(message),
            Err(errno) => router.refuse(message, errno.into()),
        }
    }

    fn answer(&self, message: &Message) {
        if let Some(mut response) = message.response(None) {
            response = response.with_payload(Empty {}.encode());
            response.cred = self.broker.router.own_cred();
            self.broker.router.route(response);
        }
    }

    /// Tells services that the client is gone, then forgets it.
    fn close(mut self) {
        self.peer.closed.set(true);
        for message in self.disconnects.take() {
            self.route(message);
        }
        self.broker.router.remove_peer(&self.peer.id);
        self.broker
            .connector
            .clients
            .borrow_mut()
            .remove(&self.peer.id);
        self.broker.client_left();
    }
}

/// What clients may ask before the broker has joined the instance.
const OFFLINE_TOPICS: &[&str] = &[
    "state-machine.wait",
    "state-machine.get",
    "attr.get",
    "log.dmesg",
];

/// Whether a message asks for a response.
pub(crate) fn wants_response(message: &Message) -> bool {
    message.is_request() && !message.flags.contains(Flags::NORESPONSE)
}

/// The longest path a unix socket address holds, less the NUL.
pub(crate) const SOCKET_PATH_MAX: usize = 107;
