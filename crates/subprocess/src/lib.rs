//! Processes and their standard I/O, for the broker, its modules and the job shell.
//!
//! [`Command`] starts a process the cheap way (`posix_spawn`, never a plain fork unless a
//! terminal is wanted); [`Output`] splits what it writes into lines or pieces, [`Input`] feeds it
//! within a bound. [`Server`] is the service of RFC 42 on top of these, which the broker offers as
//! `rexec` and each job shell below its own service name.
//!
//! A program that is started again and again is better forked from a warm copy of itself: see
//! [`forkserver`].
//!
//! All of it lives on one thread inside a `LocalSet`.

mod command;
pub mod forkserver;
mod input;
mod output;
mod pidfd;
mod pty;
mod server;
mod stop;

pub use command::{BeforeExec, Command, Process, Stdio, describe_status, exit_code, signal};
pub use input::{Full, Input};
pub use output::{Buffering, Output, Splitter};
pub use pty::PtyMaster;
pub use server::{Host, Level, Server};

/// Bytes a stream may hold unless a command says otherwise.
pub const BUFFER_DEFAULT: usize = 4 << 20;
