//! One process of a server.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::rc::Rc;

use bytes::Bytes;
use proto::rexec::{Command as Wanted, Exec, ExecEvent, Listed, RexecWait, Waited, flags};
use rpc::{Handle, Request, RpcError};
use serde_json::{Map, Value};
use spec::stdio::StreamData;
use types::Errno;
use wire::Message;

use super::{Level, Server, local};
use crate::{BUFFER_DEFAULT, Buffering, Command, Input, Output, Process, Stdio, signal};

/// Bytes of output kept for whoever waits for a process.
const RETAIN_MAX: usize = 8192;

/// Who follows a process.
pub(super) struct Client {
    pub(super) request: Message,
    pub(super) flags: i32,
}

/// A process, running or kept after its end.
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) command: Wanted,
    handle: Handle,
    rank: u32,
    group: bool,
    background: bool,
    waitable: bool,
    client: RefCell<Option<Client>>,
    waiter: RefCell<Option<Request<RexecWait>>>,
    status: Cell<Option<i32>>,
    /// Streams that have not ended.
    open: RefCell<Vec<String>>,
    complete: Cell<bool>,
    retained: RefCell<VecDeque<Map<String, Value>>>,
    retained_size: Cell<usize>,
    inputs: Vec<(String, Input)>,
}

/// Reads a size such as `4M`.
fn parse_size(text: &str) -> Option<usize> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

fn option<'a>(command: &'a Wanted, stream: &str, name: &str) -> Option<&'a str> {
    command.opts.get(&format!("{stream}_{name}"))?.as_str()
}

fn buffer_size(command: &Wanted, stream: &str) -> Result<usize, Errno> {
    match option(command, stream, "BUFSIZE") {
        Some(text) => parse_size(text)
            .filter(|size| *size > 0)
            .ok_or(Errno::EINVAL),
        None => Ok(BUFFER_DEFAULT),
    }
}

fn set_buffering(command: &Wanted, stream: &str, output: &mut Output) -> Result<(), Errno> {
    let buffering = match option(command, stream, "LINE_BUFFER") {
        Some("false") => Buffering::None,
        Some("true") | None => Buffering::Line,
        Some(_) => return Err(Errno::EINVAL),
    };
    output.set_buffering(buffering, buffer_size(command, stream)?);
    Ok(())
}

/// The environment of a process: as asked for, or the server's, but always of this broker.
fn environment(server: &Server, command: &Wanted) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = if command.env.is_empty() {
        std::env::vars_os().collect()
    } else {
        let text =
            |(name, value): (&String, &Value)| Some((name.into(), OsString::from(value.as_str()?)));
        command.env.iter().filter_map(text).collect()
    };
    let dropped = [
        "FLUX_URI",
        "FLUX_PROXY_REMOTE",
        "NOTIFY_SOCKET",
        "INVOCATION_ID",
    ];
    env.retain(|(name, _)| !dropped.iter().any(|dropped| name == dropped));
    if let Some(uri) = server.host.local_uri() {
        env.push(("FLUX_URI".into(), uri.into()));
    }
    for channel in &command.msgchan {
        env.push(((&channel.name).into(), (&channel.uri).into()));
    }
    env
}

/// The process a request asks for.
pub(super) fn command(server: &Server, exec: &Exec, background: bool) -> Result<Command, Errno> {
    let wanted = &exec.cmd;
    let local_flags = exec.local_flags.unwrap_or(0);
    if !wanted.msgchan.is_empty() {
        // The other end of a message channel is a connection this server does not make.
        return Err(Errno::ENOSYS);
    }
    let mut command = Command::new(&wanted.cmdline);
    command.env = Some(environment(server, wanted));
    command.cwd = wanted.cwd.as_ref().map(Into::into);
    command.own_group = local_flags & local::NO_GROUP == 0;
    command.channels.clone_from(&wanted.channels);
    command.input_max = buffer_size(wanted, "stdin")?;
    let forward = |bit| match (
        background || exec.flags & bit != 0,
        local_flags & local::FALLTHROUGH,
    ) {
        (_, fall) if fall != 0 => Stdio::Inherit,
        (true, _) => Stdio::Pipe,
        (false, _) => Stdio::Null,
    };
    command.stdout = forward(flags::STDOUT);
    command.stderr = forward(flags::STDERR);
    command.stdin = match (background, local_flags & local::FALLTHROUGH) {
        (false, 0) => Stdio::Pipe,
        (false, _) => Stdio::Inherit,
        (true, _) => Stdio::Null,
    };
    Ok(command)
}

/// Follows a process that was just started. In the foreground it ends without its client.
pub(super) fn run(
    server: &Rc<Server>,
    exec: Exec,
    background: bool,
    client: Option<Client>,
    mut process: Process,
) -> Result<Rc<Running>, Errno> {
    let wanted = exec.cmd;
    let group = exec.local_flags.unwrap_or(0) & local::NO_GROUP == 0;
    let mut outputs = Vec::new();
    let mut inputs = Vec::new();
    if let Some(input) = process.stdin.take() {
        inputs.push(("stdin".to_owned(), input));
    }
    for (name, output) in [
        ("stdout", process.stdout.take()),
        ("stderr", process.stderr.take()),
    ] {
        if let Some(output) = output {
            outputs.push((name.to_owned(), output));
        }
    }
    for (name, input, output) in std::mem::take(&mut process.channels) {
        inputs.push((name.clone(), input));
        if exec.flags & flags::CHANNEL != 0 {
            outputs.push((name, output));
        }
    }
    for (name, output) in &mut outputs {
        set_buffering(&wanted, name, output)?;
    }
    let running = Rc::new(Running {
        pid: process.pid,
        handle: server.handle.clone(),
        rank: server.handle.rank().0,
        group,
        background,
        waitable: exec.flags & flags::WAITABLE != 0,
        client: RefCell::new(client),
        waiter: RefCell::new(None),
        status: Cell::new(None),
        open: RefCell::new(outputs.iter().map(|(name, _)| name.clone()).collect()),
        complete: Cell::new(false),
        retained: RefCell::default(),
        retained_size: Cell::new(0),
        inputs,
        command: wanted,
    });
    server
        .processes
        .borrow_mut()
        .insert(running.pid, running.clone());
    running.send(&ExecEvent::Started { pid: running.pid });
    running.clone().grant_credit();
    tokio::task::spawn_local(running.clone().follow(server.clone(), process, outputs));
    Ok(running)
}

impl Running {
    pub(super) fn label(&self) -> Option<&str> {
        self.command.label.as_deref()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.get()
    }

    pub(super) fn listed(&self) -> Listed {
        self.into()
    }

    /// Whether `message` comes from the client whose request had this matchtag.
    pub(super) fn is_client(&self, message: &Message, matchtag: u32) -> bool {
        self.client.borrow().as_ref().is_some_and(|client| {
            client.request.sender() == message.sender()
                && client
                    .request
                    .matchtag()
                    .is_some_and(|tag| tag.0 == matchtag)
        })
    }

    pub(super) fn signal(&self, signum: i32) -> Result<(), RpcError> {
        if self.complete.get() {
            // It is known still, as what somebody may wait for.
            return Err(Errno::ESRCH.into());
        }
        Ok(signal(self.pid, self.group, signum)?)
    }

    /// Feeds the process. Writing more than fits is fatal to it.
    pub(super) fn write(&self, server: &Server, data: &StreamData) {
        let Some((_, input)) = self.inputs.iter().find(|(name, _)| *name == data.stream) else {
            return;
        };
        let mut full = false;
        if let Some(bytes) = &data.data {
            for _ in 0..data.repeat {
                full = full || input.write(bytes).is_err();
            }
        }
        if data.eof {
            input.close();
        }
        if full {
            let errno = Errno::ENOSPC;
            self.fail_client(&RpcError::new(
                errno,
                format!("internal fatal error: {errno}"),
            ));
            // It may have ended on its own by now.
            drop(self.signal(libc::SIGKILL));
            server.host.log(
                Level::Error,
                &format!("{}[{}]: {} buffer full", self.name(), self.pid, data.stream),
            );
        }
    }

    fn fail_client(&self, error: &RpcError) {
        if let Some(client) = self.client.borrow_mut().take() {
            self.handle.respond_error(&client.request, error);
        }
    }

    /// Tells the client what may be written, now and as the process reads.
    fn grant_credit(self: Rc<Self>) {
        let wanted = |client: &Client| client.flags & flags::WRITE_CREDIT != 0;
        if !self.client.borrow().as_ref().is_some_and(wanted) {
            return;
        }
        let credit = |amounts: Map<String, Value>| ExecEvent::AddCredit { channels: amounts };
        let all = self.inputs.iter();
        self.send(&credit(
            all.map(|(name, input)| (name.clone(), input.max().into()))
                .collect(),
        ));
        for (name, input) in self.inputs.clone() {
            let running = self.clone();
            tokio::task::spawn_local(async move {
                while let Some(count) = input.credit().await {
                    running.send(&credit(
                        [(name.clone(), count.into())].into_iter().collect(),
                    ));
                }
            });
        }
    }

    fn send(&self, event: &ExecEvent) {
        if let Some(client) = &*self.client.borrow() {
            self.handle.respond(&client.request, event);
        }
    }

    async fn follow(
        self: Rc<Self>,
        server: Rc<Server>,
        mut process: Process,
        outputs: Vec<(String, Output)>,
    ) {
        let mut readers = tokio::task::JoinSet::new();
        for (name, output) in outputs {
            readers.spawn_local(self.clone().read(server.clone(), name, output));
        }
        match process.wait().await {
            Ok(status) => self.on_exit(&server, status),
            Err(errno) => {
                let text = format!("{}[{}]: wait: {errno}", self.name(), self.pid);
                server.host.log(Level::Error, &text);
                self.on_exit(&server, 0);
            }
        }
        while readers.join_next().await.is_some() {}
        for (_, input) in &self.inputs {
            input.close();
        }
        self.on_complete(&server);
    }

    async fn read(self: Rc<Self>, server: Rc<Server>, name: String, mut output: Output) {
        loop {
            match output.next().await {
                Ok(Some(piece)) => self.on_output(&server, &name, &piece),
                Ok(None) => break,
                Err(error) => {
                    let text = format!("{}[{}]: {name}: {error}", self.name(), self.pid);
                    server.host.log(Level::Error, &text);
                    break;
                }
            }
        }
        self.open.borrow_mut().retain(|open| *open != name);
        self.send_eof(&name);
    }

    /// Whether the client takes this stream.
    fn forwards(&self, stream: &str) -> bool {
        let bit = match stream {
            "stdout" => flags::STDOUT,
            "stderr" => flags::STDERR,
            _ => flags::CHANNEL,
        };
        let client = self.client.borrow();
        client
            .as_ref()
            .is_some_and(|client| client.flags & bit != 0)
    }

    fn send_eof(&self, stream: &str) {
        if self.forwards(stream) {
            self.send(&ExecEvent::Output {
                pid: self.pid,
                io: StreamData::eof(stream, self.rank).encode(),
            });
        }
    }

    fn on_output(&self, server: &Server, stream: &str, piece: &Bytes) {
        let object = || StreamData::new(stream, self.rank, piece).encode();
        if self.forwards(stream) {
            let (pid, io) = (self.pid, object());
            return self.send(&ExecEvent::Output { pid, io });
        }
        if !self.background {
            return;
        }
        let level = if stream == "stderr" {
            Level::Error
        } else {
            Level::Info
        };
        let line = String::from_utf8_lossy(piece);
        let line = line.trim_end_matches('\n');
        server
            .host
            .log(level, &format!("{}[{}]: {line}", self.name(), self.pid));
        if self.waitable {
            self.retain(object(), piece.len());
        }
    }

    /// Keeps output for whoever waits; the newest is kept whatever its size.
    fn retain(&self, object: Map<String, Value>, size: usize) {
        let data_size = |object: &Map<String, Value>| {
            object
                .get("data")
                .and_then(Value::as_str)
                .map_or(0, str::len)
        };
        let mut retained = self.retained.borrow_mut();
        let mut total = self.retained_size.get() + size.max(data_size(&object));
        retained.push_back(object);
        while total > RETAIN_MAX && retained.len() > 1 {
            total -= retained.pop_front().as_ref().map_or(0, data_size);
        }
        self.retained_size.set(total);
    }

    fn name(&self) -> &str {
        self.label().unwrap_or_else(|| self.program())
    }

    fn program(&self) -> &str {
        let word = self.command.cmdline.first().map_or("", String::as_str);
        word.rsplit('/').next().unwrap_or(word)
    }

    fn on_exit(&self, server: &Server, status: i32) {
        self.status.set(Some(status));
        self.send(&ExecEvent::Finished { status });
        if self.background && self.client.borrow().is_none() {
            let label = self.label().map(|label| format!("{label}: "));
            let end = match status & 0x7f {
                0 => format!("Exit {}", (status >> 8) & 0xff),
                signal => format!("Killed by signal {signal}"),
            };
            let label = label.unwrap_or_default();
            let text = format!("{label}{}[{}]: {end}", self.program(), self.pid);
            server.host.log(Level::Info, &text);
        }
    }

    /// The process has ended and so have its streams.
    fn on_complete(&self, server: &Server) {
        self.complete.set(true);
        server.emptied.notify_one();
        if let Some(client) = self.client.borrow_mut().take() {
            self.handle.respond_end(&client.request);
            return server.remove(self.pid);
        }
        let waiter = self.waiter.borrow_mut().take();
        match waiter {
            Some(waiter) => self.answer(server, &waiter),
            None if self.waitable => {}
            None => server.remove(self.pid),
        }
    }

    fn answer(&self, server: &Server, waiter: &Request<RexecWait>) {
        let output: Vec<_> = self.retained.take().into();
        waiter.reply(&Waited {
            status: self.status.get().unwrap_or(0),
            output: (!output.is_empty()).then_some(output),
        });
        server.remove(self.pid);
    }

    pub(super) fn add_waiter(
        &self,
        server: &Server,
        waiter: Request<RexecWait>,
    ) -> Result<(), RpcError> {
        if !self.waitable {
            return Err(super::invalid("process is not waitable"));
        }
        if self.waiter.borrow().is_some() {
            return Err(super::invalid("process is already being waited on"));
        }
        if self.client.borrow().is_some() {
            return Err(RpcError::new(
                Errno::EBUSY,
                "subprocess has a client attached",
            ));
        }
        match self.complete.get() {
            true => self.answer(server, &waiter),
            false => *self.waiter.borrow_mut() = Some(waiter),
        }
        Ok(())
    }

    pub(super) fn attach(self: &Rc<Self>, server: &Server, client: Client) -> Result<(), RpcError> {
        let busy = |text: &str| Err(RpcError::new(Errno::EBUSY, text));
        if !self.background {
            return busy("subprocess is not in background mode");
        }
        if self.client.borrow().is_some() {
            return busy("subprocess already has a client attached");
        }
        if self.waiter.borrow().is_some() {
            return busy("subprocess is being waited on");
        }
        *self.client.borrow_mut() = Some(client);
        self.send(&ExecEvent::Attached {
            pid: self.pid,
            cmd: Box::new(self.command.clone()),
        });
        for stream in ["stdout", "stderr"] {
            if !self.open.borrow().iter().any(|open| open == stream) {
                self.send_eof(stream);
            }
        }
        if let Some(status) = self.status.get() {
            self.send(&ExecEvent::Finished { status });
        }
        if self.complete.get() {
            self.on_complete(server);
        }
        Ok(())
    }

    /// The sender of `message` is gone.
    pub(super) fn disconnect(&self, server: &Server, message: &Message) {
        let waits = |waiter: &Request<RexecWait>| waiter.is_from_sender_of(message);
        if self.waiter.borrow().as_ref().is_some_and(waits) {
            self.waiter.borrow_mut().take();
        }
        let follows = |client: &Client| {
            client.request.sender() == message.sender()
                && message.cred.may_act_for(client.request.cred.userid)
        };
        if !self.client.borrow().as_ref().is_some_and(follows) {
            return;
        }
        self.client.borrow_mut().take();
        if !self.background
            && let Err(error) = self.signal(libc::SIGKILL)
            && error.errno != Errno::ESRCH
        {
            let text = format!("{}[{}]: kill: {error}", self.name(), self.pid);
            server.host.log(Level::Error, &text);
        }
    }
}
