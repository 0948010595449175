//! Opening a connection.

use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use proto::attr::{AttrGet, Name};
use proto::event::{EventSubscribe, EventUnsubscribe, Subscription};
use rpc::{Dest, Handle, RpcError};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use types::{Cred, Errno, Rank, RoleMask, UserId};
use wire::Message;

use crate::connection::Link;
use crate::uri::{Ancestor, Uri, UriError};

/// How often a refused connection is tried again, unless `FLUX_LOCAL_CONNECTOR_RETRY_COUNT` says
/// otherwise.
const RETRIES: u32 = 5;
/// The first and the longest pause between tries.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(16), Duration::from_secs(2));

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError {
    /// The machine-readable part.
    pub errno: Errno,
    /// What went wrong, if there is more to say.
    pub text: Option<String>,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => self.errno.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<UriError> for OpenError {
    fn from(error: UriError) -> OpenError {
        OpenError {
            errno: error.errno(),
            text: Some(error.to_string()),
        }
    }
}

impl From<RpcError> for OpenError {
    fn from(error: RpcError) -> OpenError {
        OpenError {
            errno: error.errno,
            text: error.text,
        }
    }
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> OpenError {
        OpenError { errno, text: None }
    }
}

/// A connection to a broker. Clones are the same connection.
#[derive(Clone)]
pub struct Client {
    handle: Handle,
    link: Rc<Link>,
}

/// Connects to a broker: the one `uri` names, or else the current one.
///
/// Must be called inside [`crate::run`] or another `LocalSet`.
///
/// # Errors
///
/// The text is for people (`broker socket PATH was not found`); the number is what a C client
/// gets.
pub async fn open(uri: Option<&str>) -> Result<Client, OpenError> {
    let uri = match uri {
        Some(uri) => Uri::parse(uri)?,
        None => Uri::from_env()?,
    };
    open_uri(uri).await
}

/// Boxed because an ancestor's URI is found through another connection.
fn open_uri(uri: Uri) -> Pin<Box<dyn Future<Output = Result<Client, OpenError>>>> {
    Box::pin(async move {
        match uri {
            Uri::Local(path) => {
                let stream = connect_local(&path).await?;
                Client::start(stream)
            }
            Uri::Ssh { host, port, path } => Client::start(connect_ssh(&host, port, &path)?),
            Uri::Ancestor(ancestor) => open_ancestor(ancestor).await,
        }
    })
}

async fn open_ancestor(ancestor: Ancestor) -> Result<Client, OpenError> {
    let mut client = open_uri(Uri::from_env()?).await?;
    let mut up = match ancestor {
        Ancestor::Up(levels) => levels,
        Ancestor::Root => usize::MAX,
    };
    while up > 0 {
        match client.attr("parent-uri").await {
            Ok(uri) => client = open_uri(Uri::parse(&uri)?).await?,
            // The root has no parent, and is its own.
            Err(error) if error.errno == Errno::ENOENT => break,
            Err(error) => return Err(error.into()),
        }
        up -= 1;
    }
    Ok(client)
}

async fn connect_local(path: &Path) -> Result<StdStream, OpenError> {
    let retries = std::env::var("FLUX_LOCAL_CONNECTOR_RETRY_COUNT")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(RETRIES);
    let mut pause = RETRY_PAUSE.0;
    let mut tries = 0;
    let mut stream = loop {
        match StdStream::connect(path) {
            Ok(stream) => break stream,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError {
                    errno: Errno::ENOENT,
                    text: Some(format!("broker socket {} was not found", path.display())),
                });
            }
            Err(error) if tries >= retries => return Err(Errno::from_io(&error).into()),
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE.1);
                tries += 1;
            }
        }
    };
    let mut verdict = [0];
    match stream.read(&mut verdict) {
        Ok(1) if verdict[0] == 0 => Ok(stream),
        Ok(1) => Err(Errno(i32::from(verdict[0])).into()),
        Ok(_) => Err(Errno::ECONNRESET.into()),
        Err(error) => Err(Errno::from_io(&error).into()),
    }
}

fn connect_ssh(host: &str, port: Option<String>, path: &str) -> Result<StdStream, OpenError> {
    let (mut ours, theirs) = StdStream::pair().map_err(|error| Errno::from_io(&error))?;
    let ssh = std::env::var("FLUX_SSH").unwrap_or_else(|_| "ssh".to_owned());
    let mut command = Command::new(&ssh);
    if let Some(port) = port {
        command.args(["-p", &port]);
    }
    command.arg(host);
    command.args(remote_command(
        path,
        std::env::var("FLUX_SSH_RCMD").ok(),
        std::env::var("LD_LIBRARY_PATH").ok(),
    ));
    let input = theirs.try_clone().map_err(|error| Errno::from_io(&error))?;
    command.stdin(Stdio::from(OwnedFd::from(input)));
    command.stdout(Stdio::from(OwnedFd::from(theirs)));
    command.spawn().map_err(|error| OpenError {
        errno: Errno::from_io(&error),
        text: Some(format!(
            "ssh-connector: {ssh}: {}\nHint: set FLUX_SSH in environment to override",
            Errno::from_io(&error)
        )),
    })?;
    // The command holds the other end; it must not stay open here.
    drop(command);
    let mut verdict = [0];
    match ours.read(&mut verdict) {
        Ok(1) if verdict[0] == 0 => Ok(ours),
        Ok(0) => Err(Errno::ECONNRESET.into()),
        Ok(_) => Err(OpenError {
            errno: Errno::EPROTO,
            text: Some(
                "Unable to establish clean ssh connection.\n\
                 Hint: Check that shell init files do not write to stdout when non-interactive."
                    .to_owned(),
            ),
        }),
        Err(error) => Err(Errno::from_io(&error).into()),
    }
}

/// What ssh is to run at the other end. A shell there may find no `flux`, so the instance's own is
/// looked for first, then the one like ours.
fn remote_command(path: &str, flux: Option<String>, libraries: Option<String>) -> Vec<String> {
    let mut words = Vec::new();
    if flux.is_none() {
        let near = Path::new(path).parent().unwrap_or(Path::new("/"));
        let own = std::env::current_exe().ok();
        let own = own.as_deref().and_then(Path::parent);
        let own = own.map(|own| format!("{}:", own.display()));
        words.push(format!(
            "PATH={}:{}/bin:/usr/bin",
            near.join("bin").display(),
            own.unwrap_or_default()
        ));
    }
    words.extend(libraries.map(|path| format!("LD_LIBRARY_PATH={path}")));
    if !words.is_empty() {
        words.insert(0, "env".to_owned());
    }
    words.push(flux.unwrap_or_else(|| "flux".to_owned()));
    words.extend(["relay".to_owned(), path.to_owned()]);
    words
}

/// The credentials test scripts ask messages to carry.
fn cred_from_env() -> Cred {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    };
    Cred {
        userid: number("FLUX_HANDLE_USERID").map_or(UserId::UNKNOWN, UserId),
        rolemask: number("FLUX_HANDLE_ROLEMASK").map_or(RoleMask::NONE, RoleMask),
    }
}

/// Where the instance used through a proxy is on another host, so is what encloses it.
pub fn seen_through_proxy(uri: String) -> String {
    match (
        std::env::var("FLUX_PROXY_REMOTE"),
        uri.strip_prefix("local://"),
    ) {
        (Ok(host), Some(path)) if !host.is_empty() => format!("ssh://{host}{path}"),
        _ => uri,
    }
}

impl Client {
    fn start(stream: StdStream) -> Result<Client, OpenError> {
        let convert = |error: io::Error| OpenError::from(Errno::from_io(&error));
        stream.set_nonblocking(true).map_err(convert)?;
        let stream = UnixStream::from_std(stream).map_err(convert)?;
        let link = Link::new(stream, cred_from_env());
        let handle = Handle::new(link.clone());
        link.start(&handle);
        Ok(Client { handle, link })
    }

    /// The other side: a program that has connected to a socket of ours, as it would to a broker,
    /// and what it sends.
    ///
    /// # Errors
    ///
    /// Fails if it is gone already.
    pub fn accept(stream: UnixStream) -> Result<(Client, mpsc::Receiver<Message>), OpenError> {
        let convert = |error: io::Error| OpenError::from(Errno::from_io(&error));
        // A new socket has room for a byte, which tokio does not know of yet.
        let mut stream = stream.into_std().map_err(convert)?;
        stream.write_all(&[0]).map_err(convert)?;
        let stream = UnixStream::from_std(stream).map_err(convert)?;
        let link = Link::new(stream, Cred::UNKNOWN);
        let handle = Handle::new(link.clone());
        // Taken before anything can arrive, or it would be dropped.
        let incoming = link.take_incoming();
        link.start(&handle);
        Ok((Client { handle, link }, incoming))
    }

    /// What calls are made with.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The events and requests that arrive from now on. Without this they are dropped; with it
    /// they must be read.
    pub fn incoming(&self) -> mpsc::Receiver<Message> {
        self.link.take_incoming()
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// Waits while the broker has much to read still. A program that makes very many calls at
    /// once awaits this now and then.
    pub async fn drained(&self) {
        self.link.drained(None).await;
    }

    /// Waits until everything is sent: the last thing a program does after a request without
    /// response.
    pub async fn flush(&self) {
        self.link.drained(Some(0)).await;
    }

    /// Reads a broker attribute.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none of that name or it has no value.
    pub async fn attr(&self, name: &str) -> Result<String, RpcError> {
        let request = Name {
            name: name.to_owned(),
        };
        let value = self
            .handle
            .call::<AttrGet>(Dest::Any, &request)
            .await?
            .value;
        if name == "parent-uri" {
            return Ok(seen_through_proxy(value));
        }
        Ok(value)
    }

    /// The rank of the local broker, which upstream calls need to be known.
    pub async fn rank(&self) -> Result<Rank, RpcError> {
        let text = self.attr("rank").await?;
        let rank = Rank(text.parse().map_err(|_| RpcError::from(Errno::EPROTO))?);
        self.handle.set_rank(rank);
        Ok(rank)
    }

    /// Starts the flow of events whose topic has the prefix.
    ///
    /// # Errors
    ///
    /// As the broker answers.
    pub async fn subscribe(&self, prefix: &str) -> Result<(), RpcError> {
        let request = Subscription {
            topic: prefix.to_owned(),
        };
        self.handle
            .call::<EventSubscribe>(Dest::Any, &request)
            .await?;
        Ok(())
    }

    /// Ends the flow of events whose topic has the prefix.
    ///
    /// # Errors
    ///
    /// `ENOENT` without a subscription.
    pub async fn unsubscribe(&self, prefix: &str) -> Result<(), RpcError> {
        let request = Subscription {
            topic: prefix.to_owned(),
        };
        self.handle
            .call::<EventUnsubscribe>(Dest::Any, &request)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_runs_relay() {
        let some = |text: &str| Some(text.to_owned());
        let words = remote_command("/run/x/local-0", None, None);
        assert_eq!(words[0], "env");
        assert!(words[1].starts_with("PATH=/run/x/bin:") && words[1].ends_with(":/bin:/usr/bin"));
        assert_eq!(words[2..], ["flux", "relay", "/run/x/local-0"]);
        let words = remote_command("/s", some("/x/flux"), some("/l"));
        assert_eq!(words.join(" "), "env LD_LIBRARY_PATH=/l /x/flux relay /s");
        let words = remote_command("/s", some("/x/flux"), None);
        assert_eq!(words.join(" "), "/x/flux relay /s");
    }
}
