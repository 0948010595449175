//! Endpoints: `tcp://HOST:PORT` and `ipc://PATH`, and the streams behind them.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Where a socket listens or connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `tcp://HOST:PORT`. To bind, the host `*` means all IPv4 interfaces and the port `*` one
    /// that the system picks.
    Tcp {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port; 0 stands for `*`.
        port: u16,
    },
    /// `ipc://PATH`: a unix socket.
    Ipc(PathBuf),
}

/// Text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}: not a tcp://HOST:PORT or ipc://PATH endpoint")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        let error = || EndpointError(text.to_owned());
        if let Some(path) = text.strip_prefix("ipc://") {
            // An `@` would mean Linux's abstract name space, which file permissions don't guard.
            if path.is_empty() || path.starts_with('@') {
                return Err(error());
            }
            return Ok(Endpoint::Ipc(path.into()));
        }
        let address = text.strip_prefix("tcp://").ok_or_else(error)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
        let port = if port == "*" {
            0
        } else {
            port.parse().map_err(|_| error())?
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        if bare.is_empty() || (bare == host && host.contains(':')) {
            return Err(error());
        }
        Ok(Endpoint::Tcp {
            host: bare.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Endpoint::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "tcp://[{host}]:")?;
                } else {
                    write!(f, "tcp://{host}:")?;
                }
                if *port == 0 {
                    f.write_str("*")
                } else {
                    port.fmt(f)
                }
            }
        }
    }
}

/// What a unix socket holds for its reader: a large frame at a time, so that neither end has to be
/// woken for every part of it.
const UNIX_SEND_BUFFER: usize = 1 << 20;

/// A connected stream, in halves.
pub(crate) struct Stream {
    pub(crate) reader: Box<dyn AsyncRead + Unpin>,
    pub(crate) writer: Box<dyn AsyncWrite + Unpin>,
    /// Describes the other end, for logs.
    pub(crate) peer: String,
}

impl Stream {
    /// Connects to `endpoint`, trying again every `retry` while nobody listens there.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        retry: Option<Duration>,
        tcp_user_timeout: Option<Duration>,
    ) -> io::Result<Stream> {
        loop {
            let error = match Stream::connect_once(endpoint, tcp_user_timeout).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let absent = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            );
            match retry {
                Some(pause) if absent => tokio::time::sleep(pause).await,
                _ => return Err(error),
            }
        }
    }

    async fn connect_once(
        endpoint: &Endpoint,
        tcp_user_timeout: Option<Duration>,
    ) -> io::Result<Stream> {
        match endpoint {
            Endpoint::Ipc(path) => Ok(Stream::from_unix(UnixStream::connect(path).await?)),
            Endpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                Stream::from_tcp(stream, tcp_user_timeout)
            }
        }
    }

    fn from_unix(stream: UnixStream) -> Stream {
        // Where the system allows less it is less, and refusal changes nothing but speed.
        let _refused = setsockopt(&stream, sockopt::SndBuf, &UNIX_SEND_BUFFER);
        let pid = stream.peer_cred().ok().and_then(|cred| cred.pid());
        let peer = pid.map_or_else(
            || "ipc peer".to_owned(),
            |pid| format!("ipc peer pid {pid}"),
        );
        let (reader, writer) = stream.into_split();
        Stream {
            reader: Box::new(reader),
            writer: Box::new(writer),
            peer,
        }
    }

    fn from_tcp(stream: TcpStream, user_timeout: Option<Duration>) -> io::Result<Stream> {
        // Writes are batched already; waiting for more would only add delay.
        stream.set_nodelay(true)?;
        if let Some(timeout) = user_timeout {
            let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            setsockopt(&stream, sockopt::TcpUserTimeout, &timeout_ms)?;
        }
        let peer = stream
            .peer_addr()
            .map_or_else(|_| "tcp peer".to_owned(), |a| a.to_string());
        let (reader, writer) = stream.into_split();
        Ok(Stream {
            reader: Box::new(reader),
            writer: Box::new(writer),
            peer,
        })
    }
}

/// A listening socket. A unix socket's file goes when the listener does.
pub(crate) struct Listener {
    kind: Kind,
    local: Endpoint,
    tcp_user_timeout: Option<Duration>,
}

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens at `endpoint`. A unix socket left there by a dead process is replaced.
    pub(crate) async fn bind(
        endpoint: &Endpoint,
        tcp_user_timeout: Option<Duration>,
    ) -> io::Result<Listener> {
        let (kind, local) = match endpoint {
            Endpoint::Ipc(path) => {
                if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
                    fs::remove_file(path)?;
                }
                (Kind::Unix(UnixListener::bind(path)?), endpoint.clone())
            }
            Endpoint::Tcp { host, port } => {
                let address = if host == "*" {
                    "0.0.0.0"
                } else {
                    host.as_str()
                };
                let listener = TcpListener::bind((address, *port)).await?;
                let port = listener.local_addr()?.port();
                (
                    Kind::Tcp(listener),
                    Endpoint::Tcp {
                        host: host.clone(),
                        port,
                    },
                )
            }
        };
        Ok(Listener {
            kind,
            local,
            tcp_user_timeout,
        })
    }

    /// The endpoint with the port the system picked.
    pub(crate) fn local(&self) -> &Endpoint {
        &self.local
    }

    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match &self.kind {
            Kind::Unix(listener) => Ok(Stream::from_unix(listener.accept().await?.0)),
            Kind::Tcp(listener) => {
                Stream::from_tcp(listener.accept().await?.0, self.tcp_user_timeout)
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Endpoint::Ipc(path) = &self.local {
            // Nothing can be done about a failure, and the next bind replaces the file.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_round_trip() {
        for text in [
            "tcp://host:5555",
            "tcp://*:*",
            "tcp://[::1]:80",
            "ipc:///run/flux/tbon-0",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_endpoints_are_refused() {
        for text in [
            "",
            "tcp://host",
            "tcp://:1",
            "tcp://::1:80",
            "tcp://h:99999",
            "ipc://",
            "ipc://@x",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
