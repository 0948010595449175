//! What a module has of its broker.

use std::cell::Cell;
use std::rc::Rc;

use proto::broker::{
    Debug, DebugFlags, RusageWho, ServiceDebug, ServicePing, ServiceRusage, ServiceStats,
    ServiceStatsClear,
};
use proto::config::{Config, ModuleConfigReload};
use proto::{Access, Empty};
use rpc::{Handle, Request, Routes, RpcError};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use types::{Errno, Rank};
use wire::{Kind, Message, RouteId};

use crate::{Exchange, Severity, generic};

/// Why a module ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub RpcError);

impl<E: Into<RpcError>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.into())
    }
}

impl Failure {
    /// A failure with a text.
    pub fn new(errno: Errno, text: impl Into<String>) -> Failure {
        Failure(RpcError::new(errno, text))
    }
}

/// A module's place in its life cycle; the numbers are `module.status`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Setting itself up.
    Init = 0,
    /// Serving.
    Running = 1,
    /// Asked to end.
    Finalizing = 2,
    /// Ended.
    Exited = 3,
}

/// What a broker gives its modules without a message.
pub trait Host {
    /// A broker attribute's value.
    fn attr(&self, name: &str) -> Option<String>;
    /// Sets a broker attribute, whatever its flags.
    fn set_attr(&self, name: &str, value: &str);
    /// The configuration in force.
    fn config(&self) -> Rc<Config>;
    /// Adds a log record.
    fn log(&self, severity: Severity, appname: &str, text: &str);
    /// Reports a module's status.
    fn set_status(&self, module: &RouteId, status: Status);
    /// Starts the flow of events with this topic prefix to a module.
    fn subscribe(&self, module: &RouteId, prefix: &str);
    /// Ends it.
    fn unsubscribe(&self, module: &RouteId, prefix: &str);
    /// Directs a service's requests to a module. Errors: `EEXIST`, `EINVAL`.
    fn register_service(&self, module: &RouteId, service: &str) -> Result<(), RpcError>;
    /// Ends it.
    fn unregister_service(&self, module: &RouteId, service: &str);
    /// What its modules offer each other directly.
    fn exchange(&self) -> &Exchange;
    /// Gives a program the environment of those the broker starts.
    fn environment(&self, command: &mut tokio::process::Command);
}

/// What a module is given to handle.
#[derive(Debug)]
pub enum Input {
    /// A request for one of its services.
    Request(Message),
    /// An event it subscribed to.
    Event(Message),
}

/// A module's side of the broker.
pub struct Context {
    /// For calls, answers and events.
    pub handle: Handle,
    /// The module's arguments.
    pub args: Vec<String>,
    name: String,
    id: RouteId,
    host: Rc<dyn Host>,
    inbox: mpsc::UnboundedReceiver<Message>,
    debug_flags: Rc<Cell<i32>>,
    counters: Counters,
}

/// Messages received, by kind.
#[derive(Default)]
struct Counters {
    requests: u64,
    events: u64,
}

impl Context {
    /// A context for the module `name` whose messages arrive in `inbox`.
    pub fn new(
        name: &str,
        id: RouteId,
        args: Vec<String>,
        handle: Handle,
        host: Rc<dyn Host>,
        inbox: mpsc::UnboundedReceiver<Message>,
    ) -> Context {
        Context {
            handle,
            args,
            name: name.to_owned(),
            id,
            host,
            inbox,
            debug_flags: Rc::default(),
            counters: Counters::default(),
        }
    }

    /// The module's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The module's id, which the host's methods take.
    pub fn id(&self) -> &RouteId {
        &self.id
    }

    /// The rank of this broker.
    pub fn rank(&self) -> Rank {
        self.handle.rank()
    }

    /// The number of brokers in the instance.
    pub fn size(&self) -> u32 {
        self.host
            .attr("size")
            .and_then(|size| size.parse().ok())
            .unwrap_or(1)
    }

    /// The broker, for use in tasks of the module's own.
    pub fn host(&self) -> Rc<dyn Host> {
        self.host.clone()
    }

    /// A broker attribute's value.
    pub fn attr(&self, name: &str) -> Option<String> {
        self.host.attr(name)
    }

    /// The configuration in force.
    pub fn config(&self) -> Rc<Config> {
        self.host.config()
    }

    /// Adds a log record in the module's name.
    pub fn log(&self, severity: Severity, text: impl AsRef<str>) {
        self.host.log(severity, &self.name, text.as_ref());
    }

    /// The module's debug bits, shared: they change as `debug` requests come.
    pub fn debug_flags(&self) -> Rc<Cell<i32>> {
        self.debug_flags.clone()
    }

    /// Tells that the module serves now.
    pub fn ready(&self) {
        self.host.set_status(&self.id, Status::Running);
    }

    /// Starts the flow of events with this topic prefix.
    pub fn subscribe(&self, prefix: &str) {
        self.host.subscribe(&self.id, prefix);
    }

    /// Ends it.
    pub fn unsubscribe(&self, prefix: &str) {
        self.host.unsubscribe(&self.id, prefix);
    }

    /// Directs a further service's requests here.
    pub fn register_service(&self, service: &str) -> Result<(), RpcError> {
        self.host.register_service(&self.id, service)
    }

    /// Ends it.
    pub fn unregister_service(&self, service: &str) {
        self.host.unregister_service(&self.id, service);
    }

    /// The next message of whatever kind, for a module that runs elsewhere and has its messages
    /// relayed; `None` when the broker lets go of it. Cancel safe.
    pub async fn next_raw(&mut self) -> Option<Message> {
        self.inbox.recv().await
    }

    /// A message that is there already.
    pub fn try_next_raw(&mut self) -> Option<Message> {
        self.inbox.try_recv().ok()
    }

    /// The next input; `None` when the module is asked to end. Cancel safe.
    pub async fn next(&mut self) -> Option<Input> {
        loop {
            let message = self.inbox.recv().await?;
            match message.kind {
                Kind::Request { .. } if self.is_shutdown(&message) => return None,
                Kind::Request { .. } => {
                    self.counters.requests += 1;
                    return Some(Input::Request(message));
                }
                Kind::Event { .. } => {
                    self.counters.events += 1;
                    return Some(Input::Event(message));
                }
                Kind::Response { .. } => self.handle.on_response(message),
                Kind::Control { .. } => {}
            }
        }
    }

    fn is_shutdown(&self, message: &Message) -> bool {
        message.cred.is_owner()
            && message
                .topic
                .as_ref()
                .is_some_and(|topic| topic.service() == self.name && topic.method() == "shutdown")
    }

    /// Requests still in the inbox, for a module that ends and has to fail them.
    pub fn drain(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Ok(message) = self.inbox.try_recv() {
            if message.is_request() {
                messages.push(message);
            }
        }
        messages
    }

    /// Handles a request by the module's routes, or by what every service answers.
    pub fn dispatch<S: 'static>(&self, routes: &Routes<S>, state: &mut S, message: Message) {
        let method = message.topic.as_ref().map_or("", |topic| topic.method());
        if routes.has(method) {
            return routes.dispatch(state, &self.handle, message);
        }
        let counters = json!({"request": self.counters.requests, "event": self.counters.events});
        dispatch_generic(&self.handle, &self.id, &self.debug_flags, counters, message);
    }
}

/// Handles a request by what every service answers; the rest gets `ENOSYS`.
///
/// `id` is the answering party's, `counters` what it shows as received messages.
pub fn dispatch_generic(
    handle: &Handle,
    id: &RouteId,
    debug_flags: &Rc<Cell<i32>>,
    counters: Value,
    message: Message,
) {
    let mut state = GenericState {
        rank: handle.rank(),
        id: id.clone(),
        debug_flags: debug_flags.clone(),
        counters,
    };
    generic_routes().dispatch(&mut state, handle, message);
}

struct GenericState {
    rank: Rank,
    id: RouteId,
    debug_flags: Rc<Cell<i32>>,
    counters: Value,
}

/// What every service answers.
fn generic_routes() -> Routes<GenericState> {
    Routes::new()
        .on::<ServicePing>(|state: &mut GenericState, request, payload| {
            request.reply(&generic::ping(
                request.message(),
                payload,
                state.rank,
                &state.id,
            ));
        })
        .on::<ServiceRusage>(|_, request: Request<ServiceRusage>, who: RusageWho| {
            request.reply_result(&generic::rusage(who.who.as_deref()));
        })
        .on::<ServiceStats>(|state, request, Empty {}| {
            let mut stats = Map::new();
            stats.insert("rx".into(), state.counters.clone());
            request.reply(&stats);
        })
        .on::<ServiceStatsClear>(|_, request, Empty {}| request.reply(&Empty {}))
        .on::<ServiceDebug>(|state, request, debug: Debug| {
            let flags = state.debug_flags.get();
            let flags = match debug.op.as_str() {
                "setbit" => flags | debug.flags,
                "clrbit" => flags & !debug.flags,
                "set" => debug.flags,
                "clr" => 0,
                _ => return request.fail(Errno::EPROTO),
            };
            state.debug_flags.set(flags);
            request.reply(&DebugFlags { flags });
        })
        .on::<ModuleConfigReload>(|_, request, _| request.reply(&Empty {}))
        .on_message("disconnect", Access::Any, |_, _, _| {})
}
