//! The subprocess server of RFC 42: processes started, fed, followed and signalled by message.
//!
//! A request that streams starts a process in the foreground: it ends with its client. One that
//! does not starts it in the background, where its output goes to the log and, if asked for, its
//! end is kept for whoever waits or attaches. Who may call is the owner's business.

mod process;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;

use proto::rexec::{
    Attach, Command, Exec, ExecEvent, Kill, List, Listed, Process as Named, RexecExec, RexecKill,
    RexecList, RexecWait, Write, flags,
};
use proto::{Empty, Payload};
use rpc::{Handle, Request, RpcError};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;
use types::Errno;
use wire::Message;

use crate::forkserver::ForkServer;
use process::{Client, Running};

/// Bits of `local_flags`.
mod local {
    pub(super) const FALLTHROUGH: i32 = 1;
    pub(super) const NO_GROUP: i32 = 2;
    pub(super) const FORK_EXEC: i32 = 4;
}

/// How bad a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A process's standard output, and its end.
    Info,
    /// A process's standard error, and what goes wrong with it.
    Error,
}

/// What a server needs of the program it is part of.
pub trait Host {
    /// Adds a line to the log.
    fn log(&self, level: Level, text: &str);
    /// What processes get as `FLUX_URI`.
    fn local_uri(&self) -> Option<String>;
    /// The warm copy of the program this command would start, if there is one.
    fn fork_server(&self, _cmdline: &[String]) -> Option<Rc<ForkServer>> {
        None
    }
    /// What processes of a fork server have in their environment besides.
    fn forked_env(&self) -> Vec<(OsString, OsString)> {
        Vec::new()
    }
}

/// The processes started through one service.
pub struct Server {
    host: Rc<dyn Host>,
    handle: Handle,
    processes: RefCell<BTreeMap<i32, Rc<Running>>>,
    /// Requests whose process is being made.
    starting: RefCell<Vec<Rc<Starting>>>,
    shutting_down: Cell<bool>,
    emptied: Notify,
}

/// A process that is being made.
struct Starting {
    message: Message,
    label: Option<String>,
    /// Whether the client has gone meanwhile.
    abandoned: Cell<bool>,
}

/// A request whose command is looked at later, as its failures have texts of their own.
#[derive(Deserialize)]
struct LooseExec {
    cmd: Value,
    flags: i32,
    #[serde(default)]
    local_flags: i32,
}

fn launch_error(errno: Errno) -> RpcError {
    RpcError::new(errno, format!("error launching process: {errno}"))
}

fn invalid(text: &str) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

/// Why there is no such process.
fn unknown(pid: i32, label: Option<&str>, errno: Errno) -> RpcError {
    let text = match label {
        Some(label) => format!("label {label} does not belong to any subprocess"),
        None => format!("pid {pid} does not belong to any subprocess"),
    };
    RpcError::new(errno, text)
}

fn parse_exec(message: &Message) -> Result<Exec, RpcError> {
    let text = message.text().ok_or(Errno::EPROTO)?;
    let loose: LooseExec = serde_json::from_str(text).map_err(|_| Errno::EPROTO)?;
    let bad_command = || RpcError::new(Errno::EPROTO, "error parsing command string");
    let cmd: Command = serde_json::from_value(loose.cmd).map_err(|_| bad_command())?;
    if cmd
        .env
        .values()
        .chain(cmd.opts.values())
        .any(|value| !value.is_string())
    {
        return Err(bad_command());
    }
    if cmd.cmdline.is_empty() {
        return Err(RpcError::new(Errno::EPROTO, "command string is empty"));
    }
    Ok(Exec {
        cmd,
        flags: loose.flags,
        local_flags: Some(loose.local_flags),
    })
}

/// Refuses flags that make no sense together.
fn check_flags(exec: &Exec, background: bool) -> Result<(), RpcError> {
    let local = exec.local_flags.unwrap_or(0);
    if background {
        if exec.flags & flags::WRITE_CREDIT != 0 {
            return Err(invalid(
                "write-credit flag is not allowed in background mode",
            ));
        }
        if local & local::FALLTHROUGH != 0 {
            return Err(invalid(
                "stdio-fallthrough flag is not allowed in background mode",
            ));
        }
        if !exec.cmd.channels.is_empty() {
            return Err(invalid(
                "auxiliary channels are not allowed in background mode",
            ));
        }
    } else if exec.flags & flags::WAITABLE != 0 {
        return Err(invalid("waitable flag only supported in background mode"));
    }
    if local & !(local::FALLTHROUGH | local::NO_GROUP | local::FORK_EXEC) != 0 {
        return Err(invalid("error launching process: Invalid argument"));
    }
    Ok(())
}

impl Server {
    /// A server that answers through `handle`.
    pub fn new(host: Rc<dyn Host>, handle: Handle) -> Rc<Server> {
        Rc::new(Server {
            host,
            handle,
            processes: RefCell::default(),
            starting: RefCell::default(),
            shutting_down: Cell::new(false),
            emptied: Notify::new(),
        })
    }

    /// Handles a request by its method: what follows the service's name.
    pub fn dispatch(self: &Rc<Self>, method: &str, message: Message) {
        let result = match method {
            "exec" => self.exec(&message),
            "write" => {
                self.write(&message);
                Ok(())
            }
            "kill" => self.kill(&message),
            "list" => self.list(&message),
            "wait" => self.wait(&message),
            "attach" => self.attach(&message),
            "disconnect" => {
                self.disconnect(&message);
                Ok(())
            }
            _ => Err(RpcError::new(
                Errno::ENOSYS,
                proto::refusal::no_method(message.topic_str()),
            )),
        };
        if let Err(error) = result {
            self.handle.respond_error(&message, &error);
        }
    }

    fn refuse_when_shutting_down(&self) -> Result<(), RpcError> {
        match self.shutting_down.get() {
            true => Err(RpcError::new(
                Errno::ENOSYS,
                "subprocess server is shutting down",
            )),
            false => Ok(()),
        }
    }

    fn exec(self: &Rc<Self>, message: &Message) -> Result<(), RpcError> {
        self.refuse_when_shutting_down()?;
        let exec = parse_exec(message)?;
        let background = !message.is_streaming();
        check_flags(&exec, background)?;
        if let Some(label) = &exec.cmd.label
            && self.has_label(label)
        {
            return Err(RpcError::new(Errno::EEXIST, "command label is not unique"));
        }
        let mut command = process::command(self, &exec, background).map_err(launch_error)?;
        let forked = self.host.fork_server(&exec.cmd.cmdline);
        match forked.filter(|server| server.suits(&command)) {
            Some(fork_server) => {
                let env = command.env.get_or_insert_default();
                env.extend(self.host.forked_env());
                self.fork(fork_server, message, exec, command);
                Ok(())
            }
            None => {
                let process = command.spawn().map_err(launch_error)?;
                self.run(message, exec, process, false)
            }
        }
    }

    /// Has a process made elsewhere; this thread goes on meanwhile.
    fn fork(
        self: &Rc<Self>,
        fork_server: Rc<ForkServer>,
        message: &Message,
        exec: Exec,
        command: crate::Command,
    ) {
        let starting = Rc::new(Starting {
            message: message.clone(),
            label: exec.cmd.label.clone(),
            abandoned: Cell::new(false),
        });
        self.starting.borrow_mut().push(starting.clone());
        let server = self.clone();
        tokio::task::spawn_local(async move {
            let forked = fork_server.spawn(command).await;
            let is_other = |other: &Rc<Starting>| !Rc::ptr_eq(other, &starting);
            server.starting.borrow_mut().retain(is_other);
            let result = forked.map_err(launch_error).and_then(|process| {
                server.run(&starting.message, exec, process, starting.abandoned.get())
            });
            if let Err(error) = result {
                server.handle.respond_error(&starting.message, &error);
                server.emptied.notify_one();
            }
        });
    }

    /// Follows a process that was just started, for whoever asked for it.
    fn run(
        self: &Rc<Self>,
        message: &Message,
        exec: Exec,
        process: crate::Process,
        abandoned: bool,
    ) -> Result<(), RpcError> {
        let background = !message.is_streaming();
        let client = (!background && !abandoned).then(|| Client {
            request: message.clone(),
            flags: exec.flags,
        });
        let running =
            process::run(self, exec, background, client, process).map_err(launch_error)?;
        if background {
            let request = Request::<RexecExec>::new(&self.handle, message.clone());
            request.reply(&ExecEvent::Started { pid: running.pid });
        }
        let signum = match (self.shutting_down.get(), abandoned && !background) {
            (_, true) => libc::SIGKILL,
            (true, false) => libc::SIGTERM,
            (false, false) => return Ok(()),
        };
        // It may have ended on its own by now.
        drop(running.signal(signum));
        Ok(())
    }

    fn write(&self, message: &Message) {
        // Nobody is told of failures: the request wants no response.
        let Ok(write) = Write::decode(message.payload.as_ref()) else {
            return self.host.log(Level::Error, "malformed write request");
        };
        let processes = self.processes.borrow();
        let found = processes
            .values()
            .find(|process| process.is_client(message, write.matchtag))
            .cloned();
        drop(processes);
        let Some(process) = found else { return };
        match spec::stdio::StreamData::decode(&write.io, "UTF-8") {
            Ok(data) => process.write(self, &data),
            Err(error) => self.host.log(Level::Error, &format!("write: {error}")),
        }
    }

    fn kill(&self, message: &Message) -> Result<(), RpcError> {
        self.refuse_when_shutting_down()?;
        let kill = Kill::decode(message.payload.as_ref()).map_err(|_| Errno::EPROTO)?;
        let label = kill.label.as_deref();
        let process = self
            .find(kill.pid, label)
            .ok_or_else(|| unknown(kill.pid, label, Errno::ESRCH))?;
        process.signal(kill.signum)?;
        Request::<RexecKill>::new(&self.handle, message.clone()).reply(&Empty {});
        Ok(())
    }

    fn list(&self, message: &Message) -> Result<(), RpcError> {
        self.refuse_when_shutting_down()?;
        let procs = self.processes.borrow();
        let list = List {
            rank: self.handle.rank().0,
            procs: procs.values().map(|process| process.listed()).collect(),
        };
        Request::<RexecList>::new(&self.handle, message.clone()).reply(&list);
        Ok(())
    }

    fn wait(self: &Rc<Self>, message: &Message) -> Result<(), RpcError> {
        self.refuse_when_shutting_down()?;
        let named = Named::decode(message.payload.as_ref()).map_err(|_| Errno::EPROTO)?;
        let label = named.label.as_deref();
        let process = self
            .find(named.pid, label)
            .ok_or_else(|| unknown(named.pid, label, Errno::ESRCH))?;
        process.add_waiter(
            self,
            Request::<RexecWait>::new(&self.handle, message.clone()),
        )
    }

    fn attach(self: &Rc<Self>, message: &Message) -> Result<(), RpcError> {
        self.refuse_when_shutting_down()?;
        if !message.is_streaming() {
            let text = "attach request is missing STREAMING flag";
            return Err(RpcError::new(Errno::EPROTO, text));
        }
        let attach = Attach::decode(message.payload.as_ref()).map_err(|_| Errno::EPROTO)?;
        let label = attach.label.as_deref();
        let process = self
            .find(attach.pid, label)
            .ok_or_else(|| unknown(attach.pid, label, Errno::ENOENT))?;
        let client = Client {
            request: message.clone(),
            flags: attach.flags,
        };
        process.attach(self, client)
    }

    /// Ends what the sender of `message` has to do with any process.
    pub fn disconnect(&self, message: &Message) {
        for starting in self.starting.borrow().iter() {
            let client = &starting.message;
            if client.sender() == message.sender() && message.cred.may_act_for(client.cred.userid) {
                starting.abandoned.set(true);
            }
        }
        let processes: Vec<_> = self.processes.borrow().values().cloned().collect();
        for process in processes {
            process.disconnect(self, message);
        }
    }

    /// Signals every process.
    pub fn signal_all(&self, signum: i32) {
        for process in self.processes.borrow().values() {
            // A process that has just ended needs no signal.
            drop(process.signal(signum));
        }
    }

    /// Whether no process runs.
    pub fn is_idle(&self) -> bool {
        let processes = self.processes.borrow();
        self.starting.borrow().is_empty() && processes.values().all(|process| process.is_complete())
    }

    /// Refuses new requests, asks every process to end, and waits for that at most so long.
    /// Returns whether all did.
    pub async fn shutdown(&self, timeout: Duration) -> bool {
        self.shutting_down.set(true);
        self.signal_all(libc::SIGTERM);
        tokio::time::timeout(timeout, self.idle()).await.is_ok()
    }

    /// Waits until no process runs.
    pub async fn idle(&self) {
        while !self.is_idle() {
            self.emptied.notified().await;
        }
    }

    fn find(&self, pid: i32, label: Option<&str>) -> Option<Rc<Running>> {
        let processes = self.processes.borrow();
        match label {
            Some(label) => processes
                .values()
                .find(|process| process.label() == Some(label))
                .cloned(),
            None => processes.get(&pid).cloned(),
        }
    }

    fn has_label(&self, label: &str) -> bool {
        let starting = self.starting.borrow();
        let is_starting = starting
            .iter()
            .any(|starting| starting.label.as_deref() == Some(label));
        is_starting || self.find(-1, Some(label)).is_some()
    }

    /// Forgets a process.
    fn remove(&self, pid: i32) {
        self.processes.borrow_mut().remove(&pid);
        self.emptied.notify_one();
    }
}

/// How a command is shown in a list.
fn shown(command: &Command) -> String {
    let mut words = command.cmdline.iter();
    let mut text = words.next().cloned().unwrap_or_default();
    if text == "flux"
        && let Some(sub) = words.next()
    {
        text = format!("flux {sub}");
    }
    if let Some((cut, _)) = text.char_indices().take_while(|(at, _)| *at <= 63).last()
        && text.len() > 63
    {
        text.truncate(cut);
    }
    text
}

impl From<&Running> for Listed {
    fn from(process: &Running) -> Listed {
        Listed {
            pid: process.pid,
            cmd: shown(&process.command),
            label: process.label().unwrap_or_default().to_owned(),
            state: if process.is_complete() { "Z" } else { "R" }.to_owned(),
        }
    }
}
