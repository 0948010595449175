//! Requests and events that reach a shell.

use std::rc::Rc;

use proto::Empty;
use rpc::RpcError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use subprocess::{Level, Server};
use types::Errno;
use wire::{Kind, Message};

use crate::log;
use crate::shell::{Shell, Write};
use crate::{input, pmi, proctable, pty, sysmon, task};

/// Takes whatever arrives.
pub(crate) fn on_message(shell: &Rc<Shell>, message: Message) {
    match message.kind {
        Kind::Event { .. } => on_event(shell, &message),
        Kind::Request { .. } => on_request(shell, message),
        Kind::Response { .. } | Kind::Control { .. } => {}
    }
}

fn on_event(shell: &Rc<Shell>, message: &Message) {
    if message.topic_str() == sysmon::HEARTBEAT {
        return shell
            .sysmon
            .borrow()
            .iter()
            .for_each(|sysmon| sysmon.sample());
    }
    if !message.topic_str().ends_with(".kill") {
        return;
    }
    let payload: Option<Map<String, Value>> = message
        .text()
        .and_then(|text| serde_json::from_str(text).ok());
    let signum = payload
        .as_ref()
        .and_then(|payload| payload.get("signum")?.as_i64());
    match signum.and_then(|signum| i32::try_from(signum).ok()) {
        Some(signum) => shell.signal_tasks(signum),
        None => shell.log.warn("kill: ignoring malformed event"),
    }
}

/// Reads a request's payload.
fn payload<T: serde::de::DeserializeOwned>(message: &Message) -> Result<T, RpcError> {
    let text = message.text().ok_or(Errno::EPROTO)?;
    serde_json::from_str(text).map_err(|_| Errno::EPROTO.into())
}

/// What a shell that lost another is told.
#[derive(Deserialize)]
struct Lost {
    severity: i32,
    shell_rank: u32,
    #[serde(default)]
    message: String,
}

/// How far a shell is.
#[derive(Deserialize)]
struct Progress {
    shell_rank: u32,
    /// Whether its plugins may have more to say.
    #[serde(default)]
    more: bool,
}

fn on_request(shell: &Rc<Shell>, message: Message) {
    if !shell.allows(&message) {
        return shell.handle.respond_error(&message, &Errno::EPERM.into());
    }
    let topic = message.topic.clone();
    let method = topic.as_ref().map_or("", |topic| topic.method());
    if let Some(method) = method.strip_prefix("rexec.") {
        return rexec(shell).dispatch(method, message);
    }
    if let Some(method) = method.strip_prefix("terminus.") {
        return pty::on_request(shell, method, message);
    }
    let result = match method {
        "stdin" => payload(&message)
            .and_then(|object| input::on_stdin(shell, &object))
            .map(|()| shell.handle.respond(&message, &Empty {})),
        "write" => payload::<Write>(&message).map(|write| {
            shell.on_write(write);
            shell.handle.respond(&message, &Empty {});
        }),
        "coprocess-write" => payload::<Write>(&message).map(|write| {
            if let Some(coprocesses) = &*shell.coprocesses.borrow() {
                coprocesses.on_write(shell, &write);
            }
        }),
        "write-getcredit" => payload::<Map<String, Value>>(&message).map(|request| {
            give_credit(shell, message.clone(), request.get("credits").cloned());
        }),
        "doom" => payload::<Map<String, Value>>(&message).map(|info| on_doom(shell, info)),
        "tasks-complete" => payload(&message).map(|Progress { shell_rank, more }| {
            if more {
                shell.talking.borrow_mut().insert(shell_rank);
            }
            shell.shells_done.borrow_mut().insert(shell_rank);
            shell.wake.notify_one();
        }),
        "exited" => payload(&message).map(|Progress { shell_rank, .. }| {
            shell.talking.borrow_mut().remove(shell_rank);
            shell.wake.notify_one();
        }),
        "exception" => payload(&message).map(|lost| {
            on_lost(shell, &lost);
            shell.handle.respond(&message, &Empty {});
        }),
        "proctable" => {
            tokio::task::spawn_local(proctable::on_request(shell.clone(), message.clone()));
            Ok(())
        }
        "pmi-exchange" => {
            pmi::on_exchange(shell, message.clone());
            Ok(())
        }
        "disconnect" => {
            shell.ptys.disconnect(&message);
            if let Some(server) = &*shell.server.borrow() {
                server.disconnect(&message);
            }
            Ok(())
        }
        _ if crate::rc::native::deliver(&message) => Ok(()),
        _ => Err(RpcError::new(
            Errno::ENOSYS,
            proto::refusal::no_method(message.topic_str()),
        )),
    };
    if let Err(error) = result {
        shell.handle.respond_error(&message, &error);
    }
}

/// Answers once the store can take more.
fn give_credit(shell: &Rc<Shell>, message: Message, credits: Option<Value>) {
    let shell = shell.clone();
    tokio::task::spawn_local(async move {
        shell.store.relieved().await;
        let reply = json!({"credits": credits});
        shell
            .handle
            .respond_raw(&message, proto::json_payload(&reply));
    });
}

/// Another shell had the job's first exit.
fn on_doom(shell: &Rc<Shell>, info: Map<String, Value>) {
    if shell.first_exit.replace(true) {
        return;
    }
    let rank = info.get("rank").and_then(Value::as_u64).unwrap_or(0) as u32;
    let node = shell
        .job
        .nodes
        .iter()
        .find(|node| node.taskids.contains(rank));
    let host = node.map_or("unknown", |node| &node.host);
    task::first_exit(shell, info, host);
}

/// Another shell is gone: its tasks have ended, badly.
fn on_lost(shell: &Rc<Shell>, lost: &Lost) {
    if !lost.message.is_empty() {
        let level = match lost.severity {
            0 => log::Level::Fatal,
            _ => log::Level::Warn,
        };
        shell.log.write(level, Some("exception"), &lost.message);
    }
    shell.shells_done.borrow_mut().insert(lost.shell_rank);
    shell.talking.borrow_mut().remove(lost.shell_rank);
    if let Some(coprocesses) = &*shell.coprocesses.borrow() {
        coprocesses.forget(lost.shell_rank);
    }
    shell.wake.notify_one();
    if lost.severity > 0 && !shell.first_exit.replace(true) {
        let node = shell.job.nodes.get(lost.shell_rank as usize);
        let host = node.map_or("unknown", |node| &node.host);
        let who = format!("shell rank {} on host {host}", lost.shell_rank);
        task::watch_exit(shell, &who, "", 1 << 8);
    }
}

/// The shell as the host of processes others start through it.
struct Host {
    log: Rc<log::Log>,
    uri: Option<String>,
}

impl subprocess::Host for Host {
    fn log(&self, level: Level, text: &str) {
        let level = match level {
            Level::Info => log::Level::Debug,
            Level::Error => log::Level::Notice,
        };
        self.log.write(level, Some("rexec"), text);
    }

    fn local_uri(&self) -> Option<String> {
        self.uri.clone()
    }
}

/// The subprocess server, made when first used.
fn rexec(shell: &Rc<Shell>) -> Rc<Server> {
    let mut server = shell.server.borrow_mut();
    let made = server.get_or_insert_with(|| {
        let host = Host {
            log: shell.log.clone(),
            uri: std::env::var("FLUX_URI").ok(),
        };
        Server::new(Rc::new(host), shell.handle.clone())
    });
    made.clone()
}
