//! Module `rexec`: starts processes for the instance owner on this broker (RFC 42).
//!
//! The work is [`subprocess::Server`]'s; here are the roles, the log and the end: on unload every
//! process is asked to terminate and waited for, a few seconds at most. The built-in job shell is
//! not executed for each job but forked from a warm copy: see [`shell`].

pub(crate) mod shell;

use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;

use module::{Builtin, Context, Failure, Input, Severity};
use proto::{Access, config::Config};
use rpc::{Handle, Routes, RpcError};
use subprocess::forkserver::ForkServer;
use subprocess::{Level, Server};
use types::{Errno, Rank};
use wire::Message;

/// How long the processes have for their end when the module goes.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The module.
pub fn builtin() -> Builtin {
    Builtin {
        name: "rexec",
        main: |context| Box::pin(run(context)),
    }
}

/// The broker as the processes' host.
struct Host {
    broker: Rc<dyn module::Host>,
    shells: Rc<ForkServer>,
}

impl subprocess::Host for Host {
    fn log(&self, level: Level, text: &str) {
        let severity = match level {
            Level::Info => Severity::Info,
            Level::Error => Severity::Err,
        };
        self.broker.log(severity, "rexec", text);
    }

    fn local_uri(&self) -> Option<String> {
        self.broker.attr("local-uri")
    }

    fn fork_server(&self, cmdline: &[String]) -> Option<Rc<ForkServer>> {
        shell::is_builtin(cmdline).then(|| self.shells.clone())
    }

    fn forked_env(&self) -> Vec<(OsString, OsString)> {
        vec![shell::attributes(&*self.broker)]
    }
}

struct State {
    server: Rc<Server>,
    host: Rc<dyn module::Host>,
    leader: bool,
}

/// Whether guests may use the instance, so that the leader has to be careful.
fn is_multi_user(config: &Config) -> bool {
    let access = config.get("access");
    let allowed = access.and_then(|access| access.get("allow-guest-user"));
    allowed.and_then(serde_json::Value::as_bool) == Some(true)
}

impl State {
    /// On a multi-user leader only programs of its own host may start processes: who breaks into
    /// another node must not get hold of the leader.
    fn refuse_remote(&self, message: &Message) -> Result<(), RpcError> {
        if self.leader
            && is_multi_user(&self.host.config())
            && !message.cred.rolemask.contains(types::RoleMask::LOCAL)
        {
            let text = "Remote rexec requests are not allowed on rank 0";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        Ok(())
    }
}

fn routes() -> Routes<State> {
    let methods = ["exec", "write", "kill", "list", "wait", "attach"];
    let mut routes = Routes::new();
    for method in methods {
        let handler = move |state: &mut State, handle: &Handle, message: Message| match state
            .refuse_remote(&message)
        {
            Ok(()) => state.server.dispatch(method, message),
            Err(error) => handle.respond_error(&message, &error),
        };
        routes = routes.on_message(method, Access::Owner, handler);
    }
    routes.on_message(
        "disconnect",
        Access::Any,
        |state: &mut State, _, message| {
            state.server.dispatch("disconnect", message);
        },
    )
}

async fn run(mut context: Context) -> Result<(), Failure> {
    let host = context.host();
    let processes = Host {
        broker: host.clone(),
        shells: Rc::new(shell::fork_server()),
    };
    let server = Server::new(Rc::new(processes), context.handle.clone());
    let mut state = State {
        server: server.clone(),
        host,
        leader: context.rank() == Rank::LEADER,
    };
    let routes = routes();
    context.ready();
    while let Some(input) = context.next().await {
        if let Input::Request(message) = input {
            context.dispatch(&routes, &mut state, message);
        }
    }
    if !server.is_idle() && !server.shutdown(SHUTDOWN_TIMEOUT).await {
        context.log(Severity::Err, "timed out waiting for subprocesses");
        server.signal_all(9);
    }
    for message in context.drain() {
        context.dispatch(&routes, &mut state, message);
    }
    Ok(())
}
