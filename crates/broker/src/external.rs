//! Modules in a process of their own (RFC 5).
//!
//! The broker starts a *loader* with one end of a socket pair as its standard input, whose
//! address it finds in `FLUX_MODULE_URI`, and relays messages between the module's inbox and that
//! socket, in the framing of the local connector. The first message is a `welcome` request with
//! the module's name, arguments, the immutable attributes and the configuration. The module
//! reports its states with `module.status` requests; from `FINALIZING` on it gets no new
//! requests, so that it can refuse what is left and lose nothing.
//!
//! To the rest of the broker this is a module like any other: its function is the relay, which
//! ends when the process has.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;

use bytes::{Buf, BytesMut};
use module::{Context, Failure, Host, ModuleFuture, Severity, Status};
use proto::event::Subscription;
use proto::module::{Load, Report, Welcome};
use proto::service::Service;
use proto::{Empty, Payload};
use rpc::RpcError;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use types::Errno;
use wire::{Flags, Kind, Message, StreamDecoder, Target, encode_stream};

use crate::broker::Broker;
use crate::connector::{BACKLOG_MAX, READ_CHUNK};
use crate::runat;

/// Where modules named without a slash are sought.
const SEARCH_PATH: &str = "FLUX_MODULE_PATH";

/// A module to run in a process of its own.
pub(crate) struct External {
    /// Its file.
    pub(crate) path: PathBuf,
    /// What starts it: a subcommand of `flux`, or a path.
    loader: String,
}

/// Finds the file and the loader of a module that does not come with the program.
///
/// # Errors
///
/// `ENOENT` no such file, `EINVAL` no loader for it.
pub(crate) fn find(load: &Load) -> Result<External, RpcError> {
    let path = if load.path.contains('/') {
        let path = PathBuf::from(&load.path);
        std::fs::metadata(&path).map_err(|error| {
            let errno = Errno::from_io(&error);
            RpcError::new(errno, format!("{}: {errno}", load.path))
        })?;
        path
    } else if load.loader.is_some() {
        return Err(RpcError::new(
            Errno::EINVAL,
            "module loader may only be specified with module path",
        ));
    } else {
        search(&load.path)
            .ok_or_else(|| RpcError::new(Errno::ENOENT, "module not found in search path"))?
    };
    let loader = match &load.loader {
        Some(loader) => loader.clone(),
        None => suffix_loader(&path)
            .ok_or_else(|| {
                RpcError::new(Errno::EINVAL, "could not determine loader from path suffix")
            })?
            .to_owned(),
    };
    Ok(External { path, loader })
}

fn search(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os(SEARCH_PATH)?;
    std::env::split_paths(&path)
        .flat_map(|dir| ["so", "py"].map(|suffix| dir.join(format!("{name}.{suffix}"))))
        .find(|file| file.is_file())
}

/// The loader for a file's suffix; shared objects may carry a version behind theirs.
fn suffix_loader(path: &Path) -> Option<&'static str> {
    let file = path.file_name()?.to_str()?;
    if file.ends_with(".py") {
        return Some("module-python-exec");
    }
    let (_, version) = file.rsplit_once(".so")?;
    let versioned = version.chars().all(|c| c == '.' || c.is_ascii_digit());
    versioned.then_some("module-exec")
}

impl External {
    /// The module's function: runs it until its process ends.
    pub(crate) fn main(self, broker: Rc<Broker>) -> impl FnOnce(Context) -> ModuleFuture {
        move |context| Box::pin(self.run(broker, context))
    }

    async fn run(self, broker: Rc<Broker>, context: Context) -> Result<(), Failure> {
        let (child, socket) = self
            .spawn(&broker, context.name())
            .map_err(|error| self.failure(format!("failed: {}", Errno::from_io(&error))))?;
        let mut relay = Relay {
            output: BytesMut::from(&[0][..]),
            broker,
            socket,
            context,
            child,
            exited: None,
        };
        relay.welcome();
        if let Err(failure) = relay.serve().await {
            relay.child.start_kill().map_err(io_failure)?;
            return Err(failure);
        }
        let Some(errno) = relay.exited else {
            let status = relay.child.wait().await.map_err(io_failure)?;
            return Err(self.failure(describe(status)));
        };
        // The module is over. Its process still has to read the last answer and unload it.
        relay.write();
        tokio::task::spawn_local(async move {
            // How it ends then says nothing about the module.
            let _ended = relay.child.wait().await;
            drop(relay.socket);
        });
        match errno {
            Errno(0) => Ok(()),
            errno => Err(Failure(errno.into())),
        }
    }

    fn failure(&self, what: String) -> Failure {
        Failure::new(Errno::ECHILD, format!("loader ({}) {what}", self.loader))
    }

    /// Starts the loader. Its standard input is the socket: that way no other process can inherit
    /// it by accident.
    fn spawn(&self, broker: &Rc<Broker>, name: &str) -> std::io::Result<(Child, UnixStream)> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = if self.loader.contains('/') {
            Command::new(&self.loader)
        } else {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(&self.loader);
            command
        };
        command.arg(&self.path);
        runat::prepare(broker, &mut command);
        command
            .env("FLUX_MODULE_URI", OsString::from("fd://0"))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let log = |severity| {
            let (broker, name) = (broker.clone(), name.to_owned());
            move |line: &str| broker.log_as(&name, severity, line)
        };
        let stdout = runat::log_lines(child.stdout.take(), log(Severity::Info));
        let stderr = runat::log_lines(child.stderr.take(), log(Severity::Err));
        tokio::task::spawn_local(stdout);
        tokio::task::spawn_local(stderr);
        Ok((child, UnixStream::from_std(ours)?))
    }
}

fn io_failure(error: std::io::Error) -> Failure {
    Failure::from(Errno::from_io(&error))
}

/// How a loader ended that did not report its module's end.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "exited with exit code 0 but did not report module status".to_owned(),
        (Some(code), _) => format!("exited with exit code {code}"),
        (None, signal) => format!("killed by {}", types::describe_signal(signal.unwrap_or(0))),
    }
}

/// Messages between a module's inbox and its process.
struct Relay {
    broker: Rc<Broker>,
    context: Context,
    child: Child,
    socket: UnixStream,
    output: BytesMut,
    /// With which error number the module said it ended.
    exited: Option<Errno>,
}

impl Relay {
    /// Tells the module what it is.
    fn welcome(&mut self) {
        let attrs = self.broker.attrs.borrow().immutable();
        let welcome = Welcome {
            name: self.context.name().to_owned(),
            uuid: self.context.id().to_string(),
            args: (!self.context.args.is_empty()).then(|| self.context.args.clone()),
            attrs,
            conf: (*self.context.config()).clone(),
        };
        let rank = self.broker.router.rank();
        let mut message = Message::request("welcome".into(), Target::Rank(rank), None)
            .with_flags(Flags::NORESPONSE)
            .with_payload(welcome.encode());
        message.cred = self.broker.router.own_cred();
        encode_stream(&message, &mut self.output);
    }

    /// Relays until the module has ended or the process closes its end.
    async fn serve(&mut self) -> Result<(), Failure> {
        let mut decoder = StreamDecoder::new();
        loop {
            let interest = match self.output.is_empty() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            let ready = tokio::select! {
                message = self.context.next_raw() => {
                    let Some(message) = message else { return Ok(()) };
                    encode_stream(&message, &mut self.output);
                    if self.output.len() > BACKLOG_MAX {
                        let text = format!("more than {BACKLOG_MAX} bytes unread: ending it");
                        return Err(Failure::new(Errno::ENOBUFS, text));
                    }
                    continue;
                }
                ready = self.socket.ready(interest) => ready.map_err(io_failure)?,
            };
            if ready.is_writable() {
                self.write();
            }
            if ready.is_readable() && (self.read(&mut decoder)? || self.exited.is_some()) {
                return Ok(());
            }
        }
    }

    /// Writes what the socket takes now.
    fn write(&mut self) {
        while !self.output.is_empty() {
            match self.socket.try_write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // It reads no more. What it has sent still counts until it closes.
                Err(_) => self.output.clear(),
            }
        }
        if self.output.capacity() > READ_CHUNK {
            self.output = BytesMut::new();
        }
    }

    /// Takes what has arrived. Whether the process closed its end.
    fn read(&mut self, decoder: &mut StreamDecoder) -> Result<bool, Failure> {
        decoder.buffer().reserve(READ_CHUNK);
        match self.socket.try_read_buf(decoder.buffer()) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) => match error.kind() {
                std::io::ErrorKind::WouldBlock => return Ok(false),
                std::io::ErrorKind::ConnectionReset => return Ok(true),
                _ => return Err(io_failure(error)),
            },
        }
        let bad = |error: wire::StreamError| Failure::new(error.errno(), error.to_string());
        while let Some(message) = decoder.next().map_err(bad)? {
            self.on_message(message);
        }
        Ok(false)
    }

    fn on_message(&mut self, mut message: Message) {
        if matches!(message.kind, Kind::Control { .. }) {
            return;
        }
        // A module acts with the broker's rights and may speak for others.
        let own = self.broker.router.own_cred();
        if message.cred.userid == types::UserId::UNKNOWN {
            message.cred.userid = own.userid;
        }
        if message.cred.rolemask == types::RoleMask::NONE {
            message.cred.rolemask = own.rolemask;
        }
        let result = match message.topic_str() {
            _ if !message.is_request() => return self.context.handle.send(message),
            "event.subscribe" => decode::<Subscription>(&message)
                .map(|subscription| self.context.subscribe(&subscription.topic)),
            "event.unsubscribe" => decode::<Subscription>(&message)
                .map(|subscription| self.context.unsubscribe(&subscription.topic)),
            "service.add" => decode::<Service>(&message)
                .and_then(|service| self.context.register_service(&service.service)),
            "service.remove" => decode::<Service>(&message)
                .and_then(|service| self.remove_service(&service.service)),
            "module.status" => decode::<Report>(&message).map(|report| self.on_report(&report)),
            _ => return self.context.handle.send(message),
        };
        self.answer(&message, result);
    }

    fn remove_service(&self, service: &str) -> Result<(), RpcError> {
        match self.broker.router.service(service) {
            None => Err(RpcError::new(
                Errno::ENOENT,
                format!("{service} is not registered"),
            )),
            Some(peer) if peer.id() != self.context.id() => Err(RpcError::new(
                Errno::EINVAL,
                format!("requestor did not register {service}"),
            )),
            Some(_) => {
                self.context.unregister_service(service);
                Ok(())
            }
        }
    }

    fn on_report(&mut self, report: &Report) {
        let broker = self.broker.clone();
        let id = self.context.id().clone();
        match report.status {
            1 => broker.set_status(&id, Status::Running),
            2 => {
                broker.set_status(&id, Status::Finalizing);
                broker.router.remove_services_of(&id);
                // Whatever was on its way arrives before the answer.
                while let Some(message) = self.context.try_next_raw() {
                    encode_stream(&message, &mut self.output);
                }
            }
            3 => self.exited = Some(Errno(report.errnum.unwrap_or(0))),
            _ => {}
        }
    }

    /// Answers a request the relay took itself.
    fn answer(&mut self, message: &Message, result: Result<(), RpcError>) {
        let error = result.err();
        let Some(response) = message.response(error.as_ref().map(|error| error.errno)) else {
            return;
        };
        let mut response = match error.and_then(|error| error.text) {
            Some(text) => response.with_text(&text),
            None if matches!(response.kind, Kind::Response { errno: None, .. }) => {
                response.with_payload(Empty {}.encode())
            }
            None => response,
        };
        response.cred = self.broker.router.own_cred();
        encode_stream(&response, &mut self.output);
    }
}

fn decode<P: Payload>(message: &Message) -> Result<P, RpcError> {
    P::decode(message.payload.as_ref()).map_err(|_| Errno::EPROTO.into())
}
