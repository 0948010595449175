//! The client side of the local connector: how commands, shells and tools reach a broker.
//!
//! [`open`] finds the broker's socket from a URI or `FLUX_URI`, passes the handshake, and leaves
//! an [`rpc::Handle`] whose traffic two tasks of the current `LocalSet` carry. [`run`] sets up
//! the single-threaded runtime a command needs, which costs well below a millisecond.

pub mod archive;
mod connect;
mod connection;
pub mod kvs;
pub mod slurm;
mod trace;
mod uri;

pub use connect::{Client, OpenError, open, seen_through_proxy};
pub use uri::{Uri, UriError};

use std::future::Future;

/// Runs a command's body on a single-threaded runtime with room for local tasks.
///
/// # Errors
///
/// Fails if the operating system refuses the runtime its descriptors.
pub fn run<F: Future>(body: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    Ok(tasks.block_on(&runtime, body))
}
