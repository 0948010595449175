//! PMI-1, the "simple" wire protocol (RFC 13): lines of `cmd=… key=value` over an inherited
//! descriptor, by which the processes of a parallel program find each other.
//!
//! [`Server`] is pure: lines in, [`Output`]s out; the job shell and `flux start` carry them.
//! [`Client`] is blocking, as a starting process wants it.

mod client;
#[doc(hidden)]
pub mod fuzz;
mod launch;
mod line;
mod server;

pub use client::{Client, ClientError};
pub use launch::{Launch, LaunchError};
pub use line::{Line, LineError};
pub use server::{Output, Server, Settings};

/// The longest kvsname, NUL included.
pub const KVSNAME_MAX: usize = 64;
/// The longest key, NUL included.
pub const KEY_MAX: usize = 64;
/// The longest value, NUL included.
pub const VALUE_MAX: usize = 1024;
