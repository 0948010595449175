//! The tasks' process management interface, and the exchange between shells behind its barrier.
//!
//! Shells form a k-ary tree. Each sends its parent what its own tasks and its children put, gets
//! the union back, and passes that down.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use pmi::{Output as Action, Server, Settings};
use rpc::{RawCall, RpcError};
use serde_json::{Map, Value};
use subprocess::{Input, Output};
use types::Errno;
use wire::Message;

use crate::fatal::Fatal;
use crate::log::Level;
use crate::shell::Shell;

const NAME: Option<&str> = Some("pmi-simple");

type Pairs = HashMap<String, String>;

/// The server of one shell's tasks.
pub(crate) struct Pmi {
    server: Server,
    channels: Vec<Option<Input>>,
    fanout: u32,
    size: u32,
    rank: u32,
    library: PathBuf,
    ntasks: u32,
    /// What the local tasks put, once all are in the barrier.
    own: Option<Pairs>,
    /// What children sent, with the requests to answer.
    children: Vec<(Message, Pairs)>,
}

/// Whether the `pmi` option leaves this one on.
fn is_enabled(shell: &Shell) -> Result<bool, Fatal> {
    let Some(option) = shell.job.option("pmi") else {
        return Ok(true);
    };
    let text = option
        .as_str()
        .ok_or_else(|| Fatal::new("pmi shell option must be a string"))?;
    Ok(text
        .split(',')
        .any(|word| matches!(word, "simple" | "pmi1" | "pmi2")))
}

/// Refuses options nobody knows.
fn check_options(shell: &Shell) -> Result<(), Fatal> {
    let option = |name: &str| shell.job.option(&format!("pmi-simple.{name}"));
    if let Some(nomap) = option("nomap")
        && !matches!(nomap, Value::Bool(_) | Value::Number(_))
    {
        return Err(Fatal::new("pmi-simple.nomap is not a number"));
    }
    match option("exchange") {
        None => Ok(()),
        Some(Value::Object(exchange)) => match exchange.keys().find(|key| *key != "k") {
            None => Ok(()),
            Some(key) => Err(Fatal::new(format!(
                "pmi-simple.exchange: unknown option {key}"
            ))),
        },
        Some(_) => Err(Fatal::new("pmi-simple.exchange is not an object")),
    }
}

impl Pmi {
    /// The server, unless the options turn it off.
    pub(crate) fn new(shell: &Shell) -> Result<Option<Pmi>, Fatal> {
        if !is_enabled(shell)? {
            return Ok(None);
        }
        check_options(shell)?;
        let job = &shell.job;
        if let Some(Value::String(kvs)) = job.option("pmi-simple.kvs")
            && kvs != "exchange"
        {
            return Err(Fatal::new(format!("Unknown kvs implementation {kvs}")));
        }
        let size = job.size();
        let mut fanout = 2;
        if let Some(k) = job.option("pmi-simple.exchange.k") {
            let k = k
                .as_u64()
                .and_then(|k| u32::try_from(k).ok())
                .filter(|k| *k > 0);
            fanout = k.ok_or_else(|| Fatal::new("pmi-simple.exchange.k is not a number"))?;
            if fanout > size {
                fanout = size;
                let text = format!("requested exchange fanout too large, using k={size}");
                shell.log.write(Level::Warn, NAME, &text);
            } else {
                shell
                    .log
                    .write(Level::Warn, NAME, &format!("using k={fanout}"));
            }
        }
        let taskids = &job.nodes[shell.rank as usize].taskids;
        let settings = Settings {
            kvsname: job.f58.clone(),
            universe_size: job.ntasks,
            local_tasks: taskids.len() as u32,
        };
        Ok(Some(Pmi {
            server: Server::new(settings, presets(shell)),
            channels: vec![None; taskids.len()],
            fanout,
            size,
            rank: shell.rank,
            library: types::installation::get("pmi_library_path")
                .unwrap_or_default()
                .into(),
            ntasks: job.ntasks,
            own: None,
            children: Vec::new(),
        }))
    }

    /// Adds what a task needs to find its server.
    pub(crate) fn set_environment(&self, rank: u32, env: &mut BTreeMap<String, String>) {
        env.insert("PMI_RANK".into(), rank.to_string());
        env.insert("PMI_SIZE".into(), self.ntasks.to_string());
        let library = self.library.to_string_lossy();
        env.insert("FLUX_PMI_LIBRARY_PATH".into(), library.into_owned());
        let directory = self
            .library
            .parent()
            .unwrap_or(&self.library)
            .to_string_lossy();
        let path = match env.get("LD_LIBRARY_PATH") {
            Some(old) if !old.is_empty() => format!("{directory}:{old}"),
            _ => directory.into_owned(),
        };
        env.insert("LD_LIBRARY_PATH".into(), path);
    }

    fn child_count(&self) -> u32 {
        let first = u64::from(self.rank) * u64::from(self.fanout) + 1;
        let last = (first + u64::from(self.fanout)).min(u64::from(self.size));
        last.saturating_sub(first) as u32
    }

    fn parent(&self) -> Option<u32> {
        (self.rank > 0).then(|| (self.rank - 1) / self.fanout)
    }

    fn reply(&self, task: u32, line: &str) {
        if let Some(Some(channel)) = self.channels.get(task as usize)
            && channel.write(line.as_bytes()).is_err()
        {
            // A task that asks without reading has only itself to blame.
            channel.close();
        }
    }
}

/// What tasks find without anybody putting it.
fn presets(shell: &Shell) -> Pairs {
    let job = &shell.job;
    let mut pairs = Pairs::new();
    if !shell.job.switch("pmi-simple.nomap") {
        let mapping = job.taskmap.to_pmi();
        if mapping.len() < pmi::VALUE_MAX {
            pairs.insert("PMI_process_mapping".into(), mapping);
        } else if shell.is_leader() {
            let text = "PMI_process_mapping overflows PMI max value.";
            shell.log.write(Level::Warn, NAME, text);
        }
        let taskmap = job.taskmap.to_wrapped().to_string();
        if taskmap.len() < pmi::VALUE_MAX {
            pairs.insert("flux.taskmap".into(), taskmap);
        }
    }
    let level = shell.attributes.instance_level + 1;
    pairs.insert("flux.instance-level".into(), level.to_string());
    if let Some(hint) = &shell.attributes.interface_hint {
        pairs.insert("flux.tbon-interface-hint".into(), hint.clone());
    }
    pairs
}

/// Serves a task over its channel.
pub(crate) fn serve(shell: &Rc<Shell>, local: u32, to_task: Input, mut from_task: Output) {
    if let Some(pmi) = &mut *shell.pmi.borrow_mut() {
        pmi.channels[local as usize] = Some(to_task);
    }
    let shell = shell.clone();
    tokio::task::spawn_local(async move {
        // A task that is gone has no more to say, however that shows.
        while let Ok(Some(line)) = from_task.next().await {
            on_line(&shell, local, &String::from_utf8_lossy(&line));
        }
        if let Some(pmi) = &mut *shell.pmi.borrow_mut()
            && let Some(channel) = pmi.channels[local as usize].take()
        {
            channel.close();
        }
    });
}

fn on_line(shell: &Rc<Shell>, local: u32, line: &str) {
    let mut actions = Vec::new();
    if let Some(pmi) = &mut *shell.pmi.borrow_mut() {
        shell.log.write(
            Level::Trace,
            NAME,
            &format!("{local}: C: {}", line.trim_end()),
        );
        pmi.server.on_line(local, line, &mut actions);
    }
    perform(shell, actions);
}

fn perform(shell: &Rc<Shell>, actions: Vec<Action>) {
    for action in actions {
        match action {
            Action::Reply { task, line } => {
                shell.log.write(
                    Level::Trace,
                    NAME,
                    &format!("{task}: S: {}", line.trim_end()),
                );
                if let Some(pmi) = &*shell.pmi.borrow() {
                    pmi.reply(task, &line);
                }
            }
            Action::Exchange(pairs) => {
                if let Some(pmi) = &mut *shell.pmi.borrow_mut() {
                    pmi.own = Some(pairs);
                }
                advance(shell);
            }
            Action::Abort { message, .. } => {
                let note = format!("PMI_Abort: {message}");
                // How the job ends is how its tasks do, which are killed for it.
                let call = shell.raise(&note, None);
                let shell = shell.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = call.await {
                        shell
                            .log
                            .error(format!("failed to raise exception: {error}"));
                    }
                });
            }
            Action::BadVersion { .. } => shell.log.write(
                Level::Warn,
                NAME,
                "PMI version mismatch: is the application unintentionally using slurm libpmi2.so?",
            ),
            Action::ProtocolError { .. } => {
                shell.die(Fatal::new("PMI-1 wire protocol error"));
            }
            Action::Finalized { .. } => {}
        }
    }
}

fn to_pairs(object: &Map<String, Value>) -> Pairs {
    let pair = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    object.iter().filter_map(pair).collect()
}

/// A child sent what its tasks put.
///
/// Errors: `EINPROGRESS` if it did already.
pub(crate) fn on_exchange(shell: &Rc<Shell>, message: Message) {
    let text = message.text().unwrap_or("{}");
    let object = match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(object) => object,
        Err(_) => return shell.handle.respond_error(&message, &Errno::EPROTO.into()),
    };
    {
        let mut pmi = shell.pmi.borrow_mut();
        let Some(pmi) = &mut *pmi else {
            return shell.handle.respond_error(&message, &Errno::ENOSYS.into());
        };
        if pmi
            .children
            .iter()
            .any(|(other, _)| other.sender() == message.sender())
        {
            let error = RpcError::from(Errno::EINPROGRESS);
            return shell.handle.respond_error(&message, &error);
        }
        pmi.children.push((message, to_pairs(&object)));
    }
    advance(shell);
}

/// Goes on once the local tasks and all children have arrived.
fn advance(shell: &Rc<Shell>) {
    let (all, parent) = {
        let mut pmi = shell.pmi.borrow_mut();
        let Some(pmi) = &mut *pmi else { return };
        if (pmi.children.len() as u32) < pmi.child_count() {
            return;
        }
        let Some(mut all) = pmi.own.take() else {
            return;
        };
        for (_, pairs) in &pmi.children {
            all.extend(
                pairs
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        (all, pmi.parent())
    };
    match parent {
        None => complete(shell, all, true),
        Some(parent) => {
            let call = shell.handle.call_raw(
                shell.topic("pmi-exchange"),
                shell.dest(parent),
                proto::json_payload(&all),
            );
            tokio::task::spawn_local(finish(shell.clone(), call));
        }
    }
}

async fn finish(shell: Rc<Shell>, call: RawCall) {
    let reply = call.await;
    let object = reply.and_then(|message| {
        let text = message.text().ok_or(Errno::EPROTO)?;
        serde_json::from_str::<Map<String, Value>>(text).map_err(|_| Errno::EPROTO.into())
    });
    match object {
        Ok(object) => complete(&shell, to_pairs(&object), true),
        Err(_) => {
            shell.log.write(Level::Warn, NAME, "exchange failed");
            complete(&shell, Pairs::new(), false);
        }
    }
}

/// Tells children and tasks what everybody put.
fn complete(shell: &Rc<Shell>, all: Pairs, ok: bool) {
    let mut actions = Vec::new();
    {
        let mut pmi = shell.pmi.borrow_mut();
        let Some(pmi) = &mut *pmi else { return };
        for (request, _) in std::mem::take(&mut pmi.children) {
            match ok {
                true => shell
                    .handle
                    .respond_raw(&request, proto::json_payload(&all)),
                false => shell.handle.respond_error(&request, &Errno::EIO.into()),
            }
        }
        pmi.server.barrier_complete(all, ok, &mut actions);
    }
    perform(shell, actions);
}
