//! DEALER and ROUTER sockets on one tokio thread.
//!
//! Everything here runs on the thread that created it, through `spawn_local`, so callbacks may
//! own state that cannot leave the thread. Each connection is one task. Messages are encoded into
//! the connection's buffer at once by `send` and written by the task: whatever was sent before it
//! got to run leaves in one write.
//!
//! Incoming messages go to a callback, in order; it may send, but must not wait. What a peer does
//! not read is held up to [`Options::queue_bytes_max`]; then [`Overflow`] says what happens.
//!
//! Unlike libzmq, a lost connection is reported and not made again.

mod dealer;
mod endpoint;
mod link;
mod router;

use std::io;
use std::time::Duration;

use thiserror::Error;

pub use dealer::{Dealer, DealerEvent};
pub use endpoint::{Endpoint, EndpointError};
pub use router::{Router, RouterEvent};

/// What to do when a peer's outbound queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Refuse the message; the sender decides.
    Refuse,
    /// Refuse the message and drop the connection: a peer that does not read is as good as dead.
    Disconnect,
}

/// How a socket behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that may wait to be written to one peer.
    pub queue_bytes_max: usize,
    /// What happens beyond that.
    pub overflow: Overflow,
    /// How long a handshake may take before the connection is dropped.
    pub handshake_timeout: Duration,
    /// How long a closed connection may go on writing what is queued.
    pub linger: Duration,
    /// How long to wait before trying again to connect to an endpoint where nobody listens yet;
    /// `None` means not to.
    pub connect_retry: Option<Duration>,
    /// How long TCP lets sent data go unacknowledged before it gives the connection up; `None`
    /// leaves the system's default.
    pub tcp_user_timeout: Option<Duration>,
    /// Accepted connections that may be in their handshake at the same time.
    pub handshakes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            // Several of the largest messages seen in practice, yet not the machine's memory.
            queue_bytes_max: 1 << 30,
            overflow: Overflow::Disconnect,
            handshake_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            connect_retry: Some(Duration::from_millis(10)),
            tcp_user_timeout: None,
            // A whole level of a wide tree may connect at once.
            handshakes_max: 4096,
        }
    }
}

/// Why a message was not accepted for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// No peer with this identity is connected.
    #[error("no route to peer")]
    Unroutable,
    /// The connection is closed or closing.
    #[error("connection is closed")]
    Closed,
    /// The peer does not read, and its queue is full.
    #[error("peer's queue is full")]
    Full,
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub enum Closed {
    /// We closed it.
    #[error("closed")]
    Local,
    /// The peer closed it.
    #[error("peer closed the connection")]
    Peer,
    /// The peer did not read, and [`Overflow::Disconnect`] applied.
    #[error("peer's queue is full")]
    Overflow,
    /// The handshake took too long.
    #[error("handshake timed out")]
    HandshakeTimeout,
    /// Another connection has the same identity, which it keeps.
    #[error("identity is in use")]
    DuplicateIdentity,
    /// Too many handshakes are under way.
    #[error("too many handshakes")]
    Busy,
    /// The protocol was broken, or a key refused.
    #[error(transparent)]
    Protocol(#[from] crate::Error),
    /// The system reported an error.
    #[error(transparent)]
    Io(#[from] io::Error),
}
