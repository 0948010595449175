//! The module host: loads, watches and removes the modules of one broker.
//!
//! A module is an actor on the broker's thread. One in a process of its own is too, as far as the
//! host is concerned: its actor relays messages (`external`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::time::Instant;

use module::{Builtin, Context, Failure, ModuleFuture, Severity, Status};
use rpc::{Disconnects, Handle, RpcError, Transport};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use types::{Cred, Errno, Matchtag};
use wire::{Kind, Message, RouteId};

use crate::broker::Broker;
use crate::connector::wants_response;
use crate::router::{Peer, Router};

/// A loaded module, as the router sees it.
pub(crate) struct ModulePeer {
    id: RouteId,
    name: String,
    inbox: mpsc::UnboundedSender<Message>,
    /// Takes responses; without it they go to the inbox too, for a module that matches them
    /// itself.
    handle: RefCell<Option<Handle>>,
    /// Requests handed over and not answered, to be failed if the module ends without doing so.
    unanswered: RefCell<HashMap<(RouteId, Matchtag), Message>>,
    disconnects: RefCell<Disconnects>,
    last: Cell<Instant>,
}

impl Peer for ModulePeer {
    fn id(&self) -> &RouteId {
        &self.id
    }

    fn deliver(&self, message: Message) {
        self.last.set(Instant::now());
        match message.kind {
            Kind::Response { .. } => {
                let handle = self.handle.borrow().clone();
                if let Some(handle) = handle {
                    return handle.on_response(message);
                }
            }
            Kind::Request {
                matchtag: Some(tag),
                ..
            } if wants_response(&message) => {
                if let Some(sender) = message.sender() {
                    let mut kept = message.clone();
                    kept.payload = None;
                    self.unanswered
                        .borrow_mut()
                        .insert((sender.clone(), tag), kept);
                }
            }
            _ => {}
        }
        // A module that has ended takes no more; what it left unanswered is failed as it goes.
        let _ended = self.inbox.send(message);
    }

    fn sees_private(&self, _event: &Message) -> bool {
        true
    }

    fn module_name<'a>(&'a self, _message: &'a Message) -> Option<&'a str> {
        Some(&self.name)
    }
}

/// How a module's handle sends.
struct ModuleTransport {
    router: Rc<Router>,
    peer: Weak<ModulePeer>,
}

impl Transport for ModuleTransport {
    fn send(&self, mut message: Message) {
        if message.cred == Cred::UNKNOWN {
            message.cred = self.router.own_cred();
        }
        let Some(peer) = self.peer.upgrade() else {
            return;
        };
        match message.kind {
            Kind::Request { .. } => {
                let own = message.routes().is_empty();
                message.push_route(peer.id.clone());
                if own {
                    peer.disconnects.borrow_mut().arm(&message);
                }
            }
            Kind::Response {
                errno,
                matchtag: Some(tag),
            } => {
                let last = errno.is_some() || !message.is_streaming();
                if let Some(sender) = message.sender().filter(|_| last) {
                    peer.unanswered.borrow_mut().remove(&(sender.clone(), tag));
                }
            }
            _ => {}
        }
        self.router.route_from(&*peer, message);
    }
}

/// What the host keeps of a module.
struct Entry {
    peer: Rc<ModulePeer>,
    path: String,
    status: Status,
    /// Who waits for it to serve.
    loader: Option<oneshot::Sender<()>>,
    /// Who waits for it to end.
    removers: Vec<oneshot::Sender<Result<(), RpcError>>>,
    asked_to_end: bool,
    /// Stops its actor without asking it.
    abort: Option<AbortHandle>,
}

/// A module to load.
pub(crate) struct Program {
    /// Its name, which is also its service's.
    pub(crate) name: String,
    /// Where it came from, as lists show it.
    pub(crate) path: String,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Its function.
    pub(crate) main: Box<dyn FnOnce(Context) -> ModuleFuture>,
    /// Whether it matches responses itself.
    pub(crate) raw_responses: bool,
}

impl Program {
    /// A module that comes with the program.
    pub(crate) fn builtin(builtin: Builtin, name: &str, path: &str, args: Vec<String>) -> Program {
        Program {
            name: name.to_owned(),
            path: path.to_owned(),
            args,
            main: Box::new(builtin.main),
            raw_responses: false,
        }
    }
}

/// The modules of one broker.
#[derive(Default)]
pub(crate) struct Modules {
    entries: RefCell<BTreeMap<String, Entry>>,
    /// In load order, which unloading reverses.
    order: RefCell<Vec<String>>,
}

impl Modules {
    /// The loaded modules, for `module.list`.
    pub(crate) fn list(&self, router: &Router) -> Vec<proto::module::Module> {
        let entries = self.entries.borrow();
        entries
            .iter()
            .map(|(name, entry)| proto::module::Module {
                name: name.clone(),
                path: entry.path.clone(),
                idle: entry.peer.last.get().elapsed().as_secs() as i64,
                status: entry.status as i32,
                services: router.services_of(&entry.peer.id),
                sendqueue: 0,
                recvqueue: 0,
            })
            .collect()
    }

    /// The names of the loaded modules, in load order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.order.borrow().clone()
    }

    /// The peer of the module with this id.
    fn peer(&self, id: &RouteId) -> Option<Rc<dyn Peer>> {
        let entries = self.entries.borrow();
        let entry = entries.values().find(|entry| &entry.peer.id == id)?;
        Some(entry.peer.clone())
    }

    /// Takes a module's report of its status.
    pub(crate) fn set_status(&self, id: &RouteId, status: Status) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.values_mut().find(|entry| &entry.peer.id == id) else {
            return;
        };
        entry.status = status;
        if status == Status::Running
            && let Some(loader) = entry.loader.take()
        {
            // Whoever loads it may have given up; the module runs all the same.
            let _gave_up = loader.send(());
        }
    }
}

/// Loads a module and waits until it serves. Errors: `EEXIST`, or its own failure.
pub(crate) async fn load(broker: &Rc<Broker>, program: Program) -> Result<(), RpcError> {
    let name = program.name.as_str();
    if broker.modules.entries.borrow().contains_key(name) {
        return Err(Errno::EEXIST.into());
    }
    let (inbox, inbox_rx) = mpsc::unbounded_channel();
    let peer = Rc::new(ModulePeer {
        id: RouteId::from(uuid::Uuid::new_v4().to_string()),
        name: name.to_owned(),
        inbox,
        handle: RefCell::new(None),
        unanswered: RefCell::default(),
        disconnects: RefCell::default(),
        last: Cell::new(Instant::now()),
    });
    let transport = ModuleTransport {
        router: broker.router.clone(),
        peer: Rc::downgrade(&peer),
    };
    let handle = Handle::new(Rc::new(transport));
    handle.set_rank(broker.router.rank());
    if !program.raw_responses {
        *peer.handle.borrow_mut() = Some(handle.clone());
    }
    broker
        .router
        .add_service(name, peer.clone())
        .map_err(|errno| RpcError::new(errno, format!("error registering {name} service")))?;
    broker.router.add_peer(peer.clone());
    let (ready, ready_rx) = oneshot::channel();
    let entry = Entry {
        peer: peer.clone(),
        path: program.path,
        status: Status::Init,
        loader: Some(ready),
        removers: Vec::new(),
        asked_to_end: false,
        abort: None,
    };
    broker
        .modules
        .entries
        .borrow_mut()
        .insert(name.to_owned(), entry);
    broker.modules.order.borrow_mut().push(name.to_owned());
    broker.log(Severity::Debug, &format!("insmod {name}"));
    let context = Context::new(
        name,
        peer.id.clone(),
        program.args,
        handle,
        broker.clone(),
        inbox_rx,
    );
    let (failed, failed_rx) = oneshot::channel();
    // A task of its own, so that a panic ends the module and not the broker.
    let task = tokio::task::spawn_local((program.main)(context));
    if let Some(entry) = broker.modules.entries.borrow_mut().get_mut(name) {
        entry.abort = Some(task.abort_handle());
    }
    tokio::task::spawn_local(supervise(broker.clone(), task, peer, failed));
    tokio::select! {
        biased;
        Ok(()) = ready_rx => Ok(()),
        Ok(failure) = failed_rx => Err(failure),
        else => Err(Errno::ECANCELED.into()),
    }
}

/// Runs a module to its end and cleans up after it.
async fn supervise(
    broker: Rc<Broker>,
    task: JoinHandle<Result<(), Failure>>,
    peer: Rc<ModulePeer>,
    failed: oneshot::Sender<RpcError>,
) {
    let end = task.await;
    let name = peer.name.clone();
    let entry = broker.modules.entries.borrow_mut().remove(&name);
    let result = match end {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Failure(error))) => Err(error),
        Err(end) if end.is_cancelled() => Ok(()),
        Err(_panic) => Err(RpcError::new(Errno::ECANCELED, "module panicked")),
    };
    // A module that puts its affairs in order refuses what it will not answer; one that did not
    // get to that is gone without notice.
    let in_order = entry
        .as_ref()
        .is_some_and(|entry| entry.status == Status::Finalizing);
    let leftover = match in_order || result.is_ok() {
        true => RpcError::from(Errno::ENOSYS),
        false => RpcError::new(Errno::EHOSTUNREACH, "module disconnect"),
    };
    broker
        .modules
        .order
        .borrow_mut()
        .retain(|other| *other != name);
    broker.router.remove_peer(&peer.id);
    for (_, request) in peer.unanswered.take() {
        broker.router.refuse(&request, leftover.clone());
    }
    for notice in peer.disconnects.borrow_mut().take() {
        broker.router.route(notice);
    }
    broker.log(Severity::Debug, &format!("module {name} exited"));
    let Some(entry) = entry else { return };
    let was_ready = entry.loader.is_none();
    for remover in entry.removers {
        // A remover that went away does not change how the module ended.
        let _gone = remover.send(result.clone());
    }
    match result {
        Err(error) if !was_ready => {
            broker.log(Severity::Err, &format!("{name}: {error}"));
            let _gone = failed.send(error);
        }
        Ok(()) if !was_ready => {
            // Returning before it serves is how a module declines to run here.
            if let Some(loader) = entry.loader {
                let _gone = loader.send(());
            }
        }
        Err(error) => {
            broker.log(Severity::Crit, &format!("{name}: {error}"));
            if !entry.asked_to_end {
                broker.log(Severity::Crit, &format!("{name} module runtime failure"));
                broker.on_module_failure();
            } else {
                broker.note_failure();
            }
        }
        Ok(()) => {}
    }
}

/// Asks a module to end, or with `cancel` stops it, and waits until it has. Errors: `ENOENT`, or
/// its own failure.
pub(crate) async fn remove(broker: &Rc<Broker>, name: &str, cancel: bool) -> Result<(), RpcError> {
    let (ended, ended_rx) = oneshot::channel();
    {
        let mut entries = broker.modules.entries.borrow_mut();
        let found = entries
            .iter_mut()
            .find(|(known, entry)| *known == name || entry.path == name);
        let Some((known, entry)) = found else {
            return Err(Errno::ENOENT.into());
        };
        broker.log(Severity::Debug, &format!("rmmod {known}"));
        entry.removers.push(ended);
        entry.asked_to_end = true;
        entry.status = Status::Finalizing;
        if cancel && let Some(abort) = &entry.abort {
            abort.abort();
        }
        let mut shutdown = Message::request(
            format!("{known}.shutdown").into(),
            wire::Target::Rank(broker.router.rank()),
            None,
        )
        .with_flags(wire::Flags::NORESPONSE);
        shutdown.cred = broker.router.own_cred();
        broker.router.deliver(&*entry.peer, shutdown);
    }
    ended_rx.await.unwrap_or(Ok(()))
}

impl Broker {
    /// The module with this id, as the router sees it.
    pub(crate) fn module_peer(&self, id: &RouteId) -> Option<Rc<dyn Peer>> {
        self.modules.peer(id)
    }
}
