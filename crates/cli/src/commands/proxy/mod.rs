//! `flux proxy`: a socket of this host through which commands use another instance, over one
//! connection.
//!
//! `relay` knows which client gets what; this file has the sockets and the command run meanwhile.

mod relay;

use std::cell::RefCell;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::VERSION;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use types::Errno;
use wire::Message;

use crate::driver::Invocation;
use crate::fail::{self, Fail, Outcome};
use crate::options::{Args, Family, Parser, flag};
use crate::resolve::{self, resolve};
use crate::{err, signal as names};
use relay::Relay;

const PROG: &str = "flux-proxy";

/// The pause between attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(2);

static PARSER: Parser = Parser {
    name: "flux proxy",
    usage: "[OPTIONS] JOBID|URI [COMMAND...]",
    about: "Run a command or shell that uses another instance",
    family: Family::G,
    opts: &[
        flag(
            'f',
            "force",
            "Use an instance of another version all the same",
        ),
        flag(
            'n',
            "nohup",
            "Leave the command alone if the connection is lost",
        ),
        flag('\0', "reconnect", "Connect again if the connection is lost"),
    ],
};

pub(crate) fn run(_: &Invocation<'_>, words: &[String]) -> i32 {
    let args = match PARSER.parse(words) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let [target, command @ ..] = args.words.as_slice() else {
        err!("flux proxy: URI argument is required");
        return PARSER.wrong_words();
    };
    fail::run(PROG, proxy(&args, target, command))
}

async fn proxy(args: &Args, target: &str, command: &[String]) -> Outcome {
    let uri = match resolve(target, resolve::Options::from_env()).await {
        Ok(uri) => uri,
        Err(fail) => {
            err!("flux-uri: ERROR: {}", fail.text);
            return Err(Fail::new(format!("Unable to resolve {target} to a URI")));
        }
    };
    let upstream = open(&uri).await?;
    check_version(&upstream, args.has("force")).await?;
    let place = Place::make().map_err(|error| io_fail("socket", &error))?;
    let listener = UnixListener::bind(place.socket()).map_err(|error| io_fail("socket", &error))?;
    let session = Session {
        uri,
        nohup: args.has("nohup"),
        reconnect: args.has("reconnect"),
        relay: Rc::new(RefCell::new(Relay::new(upstream))),
    };
    session.run(listener, &place, command).await
}

fn io_fail(what: &str, error: &io::Error) -> Fail {
    Fail::of(what, Errno::from_io(error))
}

async fn open(uri: &str) -> Result<Client, Fail> {
    client::open(Some(uri))
        .await
        .map_err(|error| Fail::of(uri, error))
}

/// Instances of other major or minor versions may not be understood.
async fn check_version(client: &Client, force: bool) -> Result<(), Fail> {
    let theirs = client.attr("version").await?;
    let level = |version: &str| {
        let mut parts = version.split('.').map(str::to_owned);
        (parts.next(), parts.next())
    };
    if level(&theirs) == level(VERSION) {
        return Ok(());
    }
    let text = format!("client ({VERSION}) and broker ({theirs}) versions do not match");
    if force {
        err!("{PROG}: warning: {text}");
        return Ok(());
    }
    Err(Fail::new(format!("{text} (override with --force)")))
}

/// The directory with the socket, removed at the end. Nobody else may enter it.
struct Place(PathBuf);

impl Place {
    fn make() -> io::Result<Place> {
        let parent = std::env::var("TMPDIR").unwrap_or_else(|_| "/tmp".to_owned());
        let template = Path::new(&parent).join("flux-proxy-XXXXXX");
        Ok(Place(nix::unistd::mkdtemp(&template)?))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("local")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            err!("{PROG}: {}: {}", self.0.display(), Errno::from_io(&error));
        }
    }
}

struct Session {
    uri: String,
    nohup: bool,
    reconnect: bool,
    relay: Rc<RefCell<Relay>>,
}

impl Session {
    async fn run(self, listener: UnixListener, place: &Place, command: &[String]) -> Outcome {
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        let mut process = Command::new(&shell);
        if !command.is_empty() {
            process.args(["-c", &command.join(" ")]);
        }
        process.env("FLUX_URI", format!("local://{}", place.socket().display()));
        if let Some(host) = remote(&self.uri) {
            process.env("FLUX_PROXY_REMOTE", host);
        }
        // A key typed for the command must not end the proxy it uses.
        let swallow = |kind| signal(kind).map_err(|error| io_fail("signal", &error));
        let (mut interrupt, mut quit) = (
            swallow(SignalKind::interrupt())?,
            swallow(SignalKind::quit())?,
        );
        let mut child = process.spawn().map_err(|error| io_fail(&shell, &error))?;
        let pid = child.id();
        let ended = tokio::task::spawn_blocking(move || child.wait());
        tokio::pin!(ended);
        let mut incoming = Some(self.relay.borrow().incoming());
        let (found, mut reconnected) = mpsc::channel(1);
        loop {
            tokio::select! {
                status = &mut ended => {
                    let status = status
                        .map_err(|error| Fail::new(error.to_string()))?
                        .map_err(|error| io_fail("wait", &error))?;
                    return Ok(names::exit_code(status.into_raw()));
                }
                accepted = listener.accept() => {
                    let (stream, _) = accepted.map_err(|error| io_fail("accept", &error))?;
                    match Client::accept(stream) {
                        Ok((client, sent)) => {
                            tokio::task::spawn_local(serve(self.relay.clone(), client, sent));
                        }
                        Err(error) => err!("{PROG}: client: {error}"),
                    }
                }
                message = receive(&mut incoming) => match message {
                    Some(message) => {
                        self.relay.borrow_mut().on_upstream(message);
                        // What came with it goes at once, before the reader fills up.
                        while let Some(Ok(message)) = incoming.as_mut().map(mpsc::Receiver::try_recv) {
                            self.relay.borrow_mut().on_upstream(message);
                        }
                    }
                    None => {
                        incoming = None;
                        err!("{PROG}: Lost connection to Flux");
                        self.relay.borrow_mut().on_lost();
                        if self.reconnect {
                            tokio::task::spawn_local(connect_again(self.uri.clone(), found.clone()));
                        } else if !self.nohup {
                            err!("{PROG}: Sending SIGHUP to child processes");
                            hang_up(pid);
                        }
                    }
                },
                Some(client) = reconnected.recv() => {
                    incoming = Some(client.incoming());
                    let subscribed = self.relay.borrow_mut().on_reconnected(client);
                    tokio::task::spawn_local(subscribed);
                }
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
            }
        }
    }
}

async fn receive(incoming: &mut Option<mpsc::Receiver<Message>>) -> Option<Message> {
    match incoming {
        Some(incoming) => incoming.recv().await,
        None => std::future::pending().await,
    }
}

/// Tries until it succeeds.
async fn connect_again(uri: String, found: mpsc::Sender<Client>) {
    let client = loop {
        match client::open(Some(&uri)).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(RECONNECT_PAUSE).await,
        }
    };
    // The proxy may have ended meanwhile.
    let _ended = found.send(client).await;
}

/// The host of a URI that leads to another one, as `parent-uri` is completed with.
fn remote(uri: &str) -> Option<&str> {
    uri.strip_prefix("ssh://")?.split('/').next()
}

/// Tells a command that what it used is gone, even if it is stopped.
fn hang_up(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed());
    for signal in [Signal::SIGHUP, Signal::SIGCONT] {
        match kill(pid, signal) {
            // It noticed by itself.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(errno) => err!("{PROG}: {signal}: {errno}"),
        }
    }
}

/// Serves one client until it goes away.
async fn serve(relay: Rc<RefCell<Relay>>, client: Client, mut incoming: mpsc::Receiver<Message>) {
    let id = relay.borrow_mut().on_connect(client);
    while let Some(first) = incoming.recv().await {
        let mut next = Some(first);
        // What came with it goes at once, before the reader fills up.
        while let Some(message) = next {
            let errand = relay.borrow_mut().on_client(&id, message);
            if let Some(errand) = errand {
                tokio::task::spawn_local(errand.run(relay.clone()));
            }
            next = incoming.try_recv().ok();
        }
    }
    relay.borrow_mut().on_disconnect(&id);
}
