//! A fork server: a small warm process that becomes a program without starting it anew.
//!
//! Starting a program costs about a millisecond of processor time, most of it spent in loading and
//! relocating. A broker starts one job shell per job, always the same, so it keeps a copy of that
//! program ready, in a process of its own: [`serve`] waits for requests, and for each forks a child
//! that takes over the arguments, environment and descriptors of the request and runs the
//! program's body. [`ForkServer`] is the broker's side.
//!
//! The children are the *broker's* (`CLONE_PARENT`): it waits for them as for any process it
//! started, so the server's death, however it comes, leaves running children alone. A child tells
//! its process id itself, as its first act, so that none can exist that the broker does not know
//! of. The server ends when the broker closes the connection, which the broker's own end does.
//!
//! Environment, working directory and arguments are the request's. Everything else (user, limits,
//! file mode mask, signal dispositions) is what the server has from the broker.

mod child;
mod client;
mod request;

pub use child::serve;
pub use client::ForkServer;
pub(crate) use request::Request;
pub use request::fuzz_request;

/// The option that makes a program a fork server. It is long enough for a job id to be shown in its
/// place: see [`serve`].
pub const OPTION: &str = "--serve-as-fork-server";
