//! One broker: the parts and what they share.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use module::{Builtin, Exchange, Host, Severity, Status};
use rpc::RpcError;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use types::{Errno, UserId};
use wire::RouteId;

use crate::attrs::Attrs;
use crate::cleanup::JobCleanup;
use crate::config::Config;
use crate::connector::Connector;
use crate::groups::Groups;
use crate::lifecycle::{State, StateMachine};
use crate::log::Log;
use crate::modules::Modules;
use crate::overlay::Overlay;
use crate::router::Router;
use crate::runat::RunningSlot;

/// The `[access]` table.
#[derive(Debug, Default)]
pub(crate) struct Access {
    pub(crate) allow_guest_user: bool,
    pub(crate) allow_root_owner: bool,
    pub(crate) admins: HashSet<UserId>,
}

impl Access {
    /// Reads the table. Errors name the key.
    pub(crate) fn parse(config: &Config) -> Result<Access, String> {
        let mut access = Access::default();
        let Some(table) = config.get("access") else {
            return Ok(access);
        };
        let bad = |what: String| format!("error parsing [access] configuration: {what}");
        let table = table.as_object().ok_or_else(|| bad("not a table".into()))?;
        for (key, value) in table {
            let flag = || {
                value
                    .as_bool()
                    .ok_or_else(|| bad(format!("{key}: not a boolean")))
            };
            match key.as_str() {
                "allow-guest-user" => access.allow_guest_user = flag()?,
                "allow-root-owner" => access.allow_root_owner = flag()?,
                "private-mode" => drop(flag()?),
                "roles" => access.admins = parse_roles(value)?,
                other => return Err(bad(format!("unknown key {other}"))),
            }
        }
        Ok(access)
    }
}

fn parse_roles(value: &Value) -> Result<HashSet<UserId>, String> {
    let mut admins = HashSet::new();
    let roles = value
        .as_object()
        .ok_or("error parsing [access] configuration: roles")?;
    for (role, members) in roles {
        if role != "admin" {
            return Err(format!("unknown role '{role}' in [access.roles]"));
        }
        let users = members
            .get("users")
            .cloned()
            .unwrap_or(Value::Array(Vec::new()));
        let bad = || format!("[access.roles.{role}] users must be a string array");
        for user in users.as_array().ok_or_else(bad)? {
            let name = user.as_str().ok_or_else(bad)?;
            if let Ok(Some(user)) = nix::unistd::User::from_name(name) {
                admins.insert(UserId(user.uid.as_raw()));
            }
        }
    }
    Ok(admins)
}

/// The parts of one broker.
pub(crate) struct Broker {
    pub(crate) router: Rc<Router>,
    pub(crate) attrs: RefCell<Attrs>,
    pub(crate) config: RefCell<Rc<Config>>,
    pub(crate) access: RefCell<Access>,
    pub(crate) log: Rc<Log>,
    pub(crate) connector: Connector,
    pub(crate) modules: Modules,
    /// What modules offer each other.
    pub(crate) exchange: Exchange,
    pub(crate) builtins: Vec<Builtin>,
    /// The modules there are, once some were loaded by it.
    pub(crate) catalog: OnceCell<modprobe::Catalog>,
    pub(crate) machine: StateMachine,
    pub(crate) overlay: Rc<Overlay>,
    pub(crate) groups: Groups,
    /// Followers of the configuration: brokers below, and clients.
    pub(crate) config_followers: RefCell<Vec<rpc::Request<proto::config::ConfigGet>>>,
    /// Changes to the environment of programs this broker starts; `None` unsets.
    pub(crate) environment: RefCell<HashMap<String, Option<String>>>,
    /// What the broker runs just now.
    pub(crate) running: RunningSlot,
    /// Whether jobs are ended before the instance goes.
    pub(crate) job_cleanup: JobCleanup,
    /// The hosts of all brokers, in rank order.
    pub(crate) hostlist: types::Hostlist,
    /// Commands of the `cleanup` list, in the order they will run.
    pub(crate) cleanup: RefCell<Vec<String>>,
    /// Wakes whoever waits for the last client to leave, or for the initial program to end.
    pub(crate) idle: Notify,
    events: mpsc::UnboundedSender<String>,
    failed: Cell<bool>,
    exit_code: Cell<i32>,
    /// Whether the end was asked for by `flux shutdown`.
    pub(crate) shutting_down: Cell<bool>,
    pub(crate) shutdown_requests: RefCell<Vec<Rc<rpc::Request<proto::broker::ShutdownStart>>>>,
}

/// What a broker is made of.
pub(crate) struct Parts {
    pub(crate) router: Rc<Router>,
    pub(crate) attrs: Attrs,
    pub(crate) config: Config,
    pub(crate) access: Access,
    pub(crate) log: Rc<Log>,
    pub(crate) builtins: Vec<Builtin>,
    pub(crate) overlay: Rc<Overlay>,
    pub(crate) groups: Groups,
    pub(crate) hostlist: types::Hostlist,
}

impl Broker {
    pub(crate) fn new(parts: Parts, events: mpsc::UnboundedSender<String>) -> Rc<Broker> {
        Rc::new(Broker {
            router: parts.router,
            attrs: RefCell::new(parts.attrs),
            config: RefCell::new(Rc::new(parts.config)),
            access: RefCell::new(parts.access),
            log: parts.log,
            connector: Connector::default(),
            modules: Modules::default(),
            exchange: Exchange::default(),
            builtins: parts.builtins,
            catalog: OnceCell::new(),
            machine: StateMachine::new(),
            overlay: parts.overlay,
            groups: parts.groups,
            config_followers: RefCell::default(),
            environment: RefCell::default(),
            running: RunningSlot::default(),
            job_cleanup: JobCleanup::default(),
            hostlist: parts.hostlist,
            cleanup: RefCell::default(),
            idle: Notify::new(),
            events,
            failed: Cell::new(false),
            exit_code: Cell::new(0),
            shutting_down: Cell::new(false),
            shutdown_requests: RefCell::default(),
        })
    }

    /// Adds a log record in the broker's own name.
    pub(crate) fn log(&self, severity: Severity, text: &str) {
        self.log_as("broker", severity, text);
    }

    /// Adds a log record in another name.
    pub(crate) fn log_as(&self, appname: &str, severity: Severity, text: &str) {
        self.log.add(severity, appname, text);
    }

    /// Posts an event to the state machine. After the last state there is nobody to take it.
    pub(crate) fn post(&self, event: &str) {
        let _ended = self.events.send(event.to_owned());
    }

    /// Whether clients are served, apart from a few questions.
    pub(crate) fn accepts_clients(&self) -> bool {
        self.machine.state() >= State::Init
    }

    /// A client has gone.
    pub(crate) fn client_left(&self) {
        self.idle.notify_waiters();
    }

    /// Notes a failure that makes the exit code 1 unless a program's own is worse.
    pub(crate) fn note_failure(&self) {
        self.failed.set(true);
    }

    /// Notes the exit code of rc2, a cleanup command or rc3: the first that is not 0 counts.
    pub(crate) fn note_exit(&self, code: i32) {
        if self.exit_code.get() == 0 {
            self.exit_code.set(code);
        }
    }

    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> i32 {
        match self.exit_code.get() {
            0 if self.failed.get() => {
                let norestart = self
                    .attrs
                    .borrow()
                    .get("broker.exit-norestart")
                    .map(str::to_owned);
                norestart.and_then(|code| code.parse().ok()).unwrap_or(1)
            }
            code => code,
        }
    }

    /// A module failed while it served.
    pub(crate) fn on_module_failure(&self) {
        let nopanic = self
            .attrs
            .borrow()
            .get("broker.module-nopanic")
            .is_some_and(|value| value != "0");
        if !nopanic {
            self.note_failure();
            self.post("panic");
        }
    }

    /// The hosts of these ranks, as a hostlist (RFC 29).
    pub(crate) fn hosts(&self, ranks: &types::IdSet) -> String {
        self.hostlist.select(ranks).to_string()
    }

    /// How many brokers make a quorum.
    fn quorum(&self) -> usize {
        let size = self.router.topology().size() as usize;
        let attrs = self.attrs.borrow();
        attrs
            .get("broker.quorum")
            .and_then(|text| text.parse().ok())
            .unwrap_or(size)
    }

    /// On the leader, goes on once enough brokers are online.
    pub(crate) fn check_quorum(&self) {
        let online = self.groups.members(crate::groups::ONLINE).len();
        if self.machine.state() == State::Quorum && online >= self.quorum() {
            self.post("quorum-full");
        }
    }

    /// A compiled-in module.
    pub(crate) fn builtin(&self, name: &str) -> Option<Builtin> {
        self.builtins
            .iter()
            .find(|builtin| builtin.name == name)
            .copied()
    }
}

impl Host for Broker {
    fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    fn environment(&self, command: &mut tokio::process::Command) {
        crate::runat::prepare(self, command);
    }

    fn attr(&self, name: &str) -> Option<String> {
        self.attrs.borrow().get(name).map(str::to_owned)
    }

    fn set_attr(&self, name: &str, value: &str) {
        self.attrs.borrow_mut().put(name, value);
    }

    fn config(&self) -> Rc<Config> {
        self.config.borrow().clone()
    }

    fn log(&self, severity: Severity, appname: &str, text: &str) {
        self.log_as(appname, severity, text);
    }

    fn set_status(&self, module: &RouteId, status: Status) {
        self.modules.set_status(module, status);
    }

    fn subscribe(&self, module: &RouteId, prefix: &str) {
        if let Some(peer) = self.module_peer(module) {
            self.router.subscribe(&peer, prefix);
        }
    }

    fn unsubscribe(&self, module: &RouteId, prefix: &str) {
        if let Err(errno) = self.router.unsubscribe(module, prefix) {
            self.log(Severity::Err, &format!("unsubscribe {prefix}: {errno}"));
        }
    }

    fn register_service(&self, module: &RouteId, service: &str) -> Result<(), RpcError> {
        let peer = self.module_peer(module).ok_or(Errno::ENOENT)?;
        self.router.add_service(service, peer).map_err(|errno| {
            RpcError::new(
                errno,
                format!("could not register service {service}: {errno}"),
            )
        })
    }

    fn unregister_service(&self, module: &RouteId, service: &str) {
        if self
            .router
            .service(service)
            .is_some_and(|peer| peer.id() == module)
        {
            self.router.remove_service(service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_refuses_what_it_does_not_know() {
        let check = |text: &str| {
            let config = crate::config::load_argument(text).expect("valid JSON");
            Access::parse(&config).map(|access| access.allow_guest_user)
        };
        assert_eq!(check(r#"{"access":{"allow-guest-user":true}}"#), Ok(true));
        let error = check(r#"{"access":{"foo":true}}"#).expect_err("an unknown key");
        assert!(
            error.starts_with("error parsing [access] configuration: "),
            "{error}"
        );
        let error = check(r#"{"access":{"roles":{"bar":{}}}}"#).expect_err("an unknown role");
        assert_eq!(error, "unknown role 'bar' in [access.roles]");
    }
}
