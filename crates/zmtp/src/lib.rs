//! ZMTP 3.1, the wire protocol of ZeroMQ, with the NULL and CURVE security mechanisms.
//!
//! Two layers, usable apart:
//!
//! - [`Connection`] is the protocol without I/O: bytes in, events and bytes out. It implements
//!   the greeting and traffic of ZMTP 3.1 (ZeroMQ RFCs 23 and 37) and CurveZMQ (RFCs 25 and 26).
//! - [`transport`] runs DEALER and ROUTER sockets over TCP and unix sockets on one tokio thread.
//!
//! Peers are not trusted: any input yields an error or an event, never a panic, and sizes are
//! bounded by [`Limits`]. A CURVE server admits only the client keys its [`Authorize`] callback
//! accepts. ZMTP 2 and older, the PLAIN and GSSAPI mechanisms, and reconnection after loss are
//! deliberately absent.

#![forbid(unsafe_code)]

mod cert;
mod connection;
mod crypto;
mod curve;
mod error;
mod frame;
mod greeting;
mod keys;
mod metadata;
pub mod transport;
mod z85;

#[doc(hidden)]
pub mod fuzz;

pub use cert::{CertError, Certificate};
pub use connection::{Config, Connection, Event, Limits, Mechanism, Multipart, PeerInfo};
pub use error::Error;
pub use keys::{AllowList, Authorize, CurveKeypair, PublicKey, SecretKey};
pub use metadata::{Metadata, SocketType};
pub use z85::{Z85Error, z85_decode, z85_encode};
