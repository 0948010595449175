//! One broker's modules without a broker: messages go from inbox to inbox on one thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};

use module::{Builtin, Context, Exchange, Failure, Host, Severity, Status};
use proto::config::Config;
use rpc::{Handle, RpcError, Transport};
use tokio::sync::mpsc;
use types::{Cred, Errno, Rank, RoleMask, UserId};
use wire::{Kind, Message, RouteId};

struct Peer {
    inbox: Option<mpsc::UnboundedSender<Message>>,
    handle: Handle,
    prefixes: Vec<String>,
}

/// Modules of rank 0 that reach each other, and a client.
#[derive(Default)]
pub struct Local {
    peers: RefCell<HashMap<RouteId, Peer>>,
    services: RefCell<BTreeMap<String, RouteId>>,
    attrs: RefCell<BTreeMap<String, String>>,
    config: RefCell<Rc<Config>>,
    sequence: Cell<u32>,
    exchange: Exchange,
    tasks: RefCell<BTreeMap<String, tokio::task::JoinHandle<Result<(), Failure>>>>,
}

struct Port {
    local: Weak<Local>,
    id: RouteId,
    cred: Cred,
}

impl Transport for Port {
    fn send(&self, mut message: Message) {
        let Some(local) = self.local.upgrade() else {
            return;
        };
        if message.cred == Cred::UNKNOWN {
            message.cred = self.cred;
        }
        if message.is_request() {
            message.push_route(self.id.clone());
        }
        local.route(message);
    }
}

impl Local {
    /// A broker without modules.
    pub fn new() -> Rc<Local> {
        Rc::new(Local::default())
    }

    /// A client with these credentials; the instance owner's by default.
    pub fn client(self: &Rc<Local>, cred: Option<Cred>) -> Handle {
        let id = RouteId::from(format!("client-{}", self.peers.borrow().len()));
        self.handle(id, None, cred)
    }

    fn handle(
        self: &Rc<Local>,
        id: RouteId,
        inbox: Option<mpsc::UnboundedSender<Message>>,
        cred: Option<Cred>,
    ) -> Handle {
        let owner = Cred {
            userid: UserId(0),
            rolemask: RoleMask::OWNER,
        };
        let handle = Handle::new(Rc::new(Port {
            local: Rc::downgrade(self),
            id: id.clone(),
            cred: cred.unwrap_or(owner),
        }));
        handle.set_rank(Rank::LEADER);
        let peer = Peer {
            inbox,
            handle: handle.clone(),
            prefixes: Vec::new(),
        };
        self.peers.borrow_mut().insert(id, peer);
        handle
    }

    /// Loads a module; it need not serve yet when this returns. Inside a `LocalSet` only.
    pub fn load(self: &Rc<Local>, builtin: Builtin, args: &[&str]) {
        let id = RouteId::from(builtin.name);
        let (inbox, inbox_rx) = mpsc::unbounded_channel();
        let handle = self.handle(id.clone(), Some(inbox), None);
        self.services
            .borrow_mut()
            .insert(builtin.name.to_owned(), id.clone());
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let context = Context::new(builtin.name, id, args, handle, self.clone(), inbox_rx);
        let task = tokio::task::spawn_local((builtin.main)(context));
        self.tasks
            .borrow_mut()
            .insert(builtin.name.to_owned(), task);
    }

    /// Asks a module to end and tells how it did; `None` if there is no such module.
    pub async fn unload(self: &Rc<Local>, name: &str) -> Option<Result<(), Failure>> {
        let task = self.tasks.borrow_mut().remove(name)?;
        let id = RouteId::from(name);
        if let Some(peer) = self.peers.borrow_mut().get_mut(&id) {
            // Closing the inbox ends a module as a shutdown request does.
            peer.inbox = None;
        }
        let end = task.await;
        self.services.borrow_mut().retain(|_, other| *other != id);
        self.peers.borrow_mut().remove(&id);
        end.ok()
    }

    fn route(&self, mut message: Message) {
        match message.kind {
            Kind::Request { .. } => {
                let service = message.topic.as_ref().map_or("", |topic| topic.service());
                let id = self.services.borrow().get(service).cloned();
                let inbox = id.and_then(|id| self.peers.borrow().get(&id)?.inbox.clone());
                if inbox.is_none_or(|inbox| inbox.send(message.clone()).is_err())
                    && let Some(refusal) = message.response(Some(Errno::ENOSYS))
                {
                    self.route(refusal);
                }
            }
            Kind::Response { .. } => {
                let Some(id) = message.pop_route() else {
                    return;
                };
                let handle = self.peers.borrow().get(&id).map(|peer| peer.handle.clone());
                if let Some(handle) = handle {
                    handle.on_response(message);
                }
            }
            Kind::Event { .. } => {
                let sequence = self.sequence.get() + 1;
                self.sequence.set(sequence);
                message.kind = Kind::Event { sequence };
                for peer in self.peers.borrow().values() {
                    let topic = message.topic_str();
                    if peer.prefixes.iter().any(|prefix| topic.starts_with(prefix))
                        && let Some(inbox) = &peer.inbox
                    {
                        // A module that has just ended takes no more.
                        let _ended = inbox.send(message.clone());
                    }
                }
            }
            Kind::Control { .. } => {}
        }
    }
}

impl Host for Local {
    fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    fn environment(&self, _command: &mut tokio::process::Command) {}

    fn attr(&self, name: &str) -> Option<String> {
        self.attrs.borrow().get(name).cloned()
    }

    fn set_attr(&self, name: &str, value: &str) {
        self.attrs
            .borrow_mut()
            .insert(name.to_owned(), value.to_owned());
    }

    fn config(&self) -> Rc<Config> {
        self.config.borrow().clone()
    }

    fn log(&self, _severity: Severity, _appname: &str, _text: &str) {}

    fn set_status(&self, _module: &RouteId, _status: Status) {}

    fn subscribe(&self, module: &RouteId, prefix: &str) {
        if let Some(peer) = self.peers.borrow_mut().get_mut(module) {
            peer.prefixes.push(prefix.to_owned());
        }
    }

    fn unsubscribe(&self, module: &RouteId, prefix: &str) {
        if let Some(peer) = self.peers.borrow_mut().get_mut(module)
            && let Some(at) = peer.prefixes.iter().position(|other| other == prefix)
        {
            peer.prefixes.swap_remove(at);
        }
    }

    fn register_service(&self, module: &RouteId, service: &str) -> Result<(), RpcError> {
        self.services
            .borrow_mut()
            .insert(service.to_owned(), module.clone());
        Ok(())
    }

    fn unregister_service(&self, _module: &RouteId, service: &str) {
        self.services.borrow_mut().remove(service);
    }
}
