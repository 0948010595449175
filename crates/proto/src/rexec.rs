//! Remote execution (RFC 42): service `rexec`, and the job shell's.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Empty, rpc};

/// What to run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Command {
    /// The working directory; the server's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// A name unique on the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Program and arguments.
    pub cmdline: Vec<String>,
    /// The whole environment; empty for the server's own.
    pub env: Map<String, Value>,
    /// Options such as `stdout_LINE_BUFFER`.
    pub opts: Map<String, Value>,
    /// Further channels beside standard I/O.
    pub channels: Vec<String>,
    /// Message channels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub msgchan: Vec<MessageChannel>,
}

/// A message channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageChannel {
    /// The variable that tells the process its end.
    pub name: String,
    /// The server's end.
    pub uri: String,
}

/// Bits of [`Exec::flags`].
pub mod flags {
    /// Forward standard output.
    pub const STDOUT: i32 = 1;
    /// Forward standard error.
    pub const STDERR: i32 = 2;
    /// Forward the channels.
    pub const CHANNEL: i32 = 4;
    /// Tell how much may be written.
    pub const WRITE_CREDIT: i32 = 8;
    /// Keep the ended process until it is waited for.
    pub const WAITABLE: i32 = 16;
}

/// Starts a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// What to run.
    pub cmd: Command,
    /// See [`flags`].
    pub flags: i32,
    /// Local details: 1 stdio fall-through, 2 no process group of its own, 4 fork and exec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_flags: Option<i32>,
}

/// What happened to a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ExecEvent {
    /// It runs.
    Started {
        /// Its process id.
        pid: i32,
    },
    /// It was stopped by a signal.
    Stopped {},
    /// It wrote something, or closed a stream.
    Output {
        /// Its process id.
        pid: i32,
        /// An RFC 24 data object.
        io: Map<String, Value>,
    },
    /// This much more may be written.
    AddCredit {
        /// Bytes by stream.
        channels: Map<String, Value>,
    },
    /// It ended.
    Finished {
        /// As of `wait(2)`.
        status: i32,
    },
    /// A client took it over.
    Attached {
        /// Its process id.
        pid: i32,
        /// What runs.
        cmd: Box<Command>,
    },
}

rpc! {
    /// Starts a process; as a stream, follows it to its end.
    RexecExec: "rexec", "exec", SingleOrStream, Owner, Exec => ExecEvent
}

/// Input for a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Write {
    /// The exec request's matchtag.
    pub matchtag: u32,
    /// An RFC 24 data object.
    pub io: Map<String, Value>,
}

rpc! {
    /// Writes to a process.
    RexecWrite: "rexec", "write", NoResponse, Owner, Write => Empty
}

/// Names a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its process id; -1 with a label.
    pub pid: i32,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// A signal for a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kill {
    /// Its process id; -1 with a label.
    pub pid: i32,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The signal.
    pub signum: i32,
}

rpc! {
    /// Signals a process group. Errors: `ESRCH` unknown.
    RexecKill: "rexec", "kill", Single, Owner, Kill => Empty
}

/// A process in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// Its process id.
    pub pid: i32,
    /// Its program.
    pub cmd: String,
    /// Its label, empty if none.
    #[serde(default)]
    pub label: String,
    /// `R` running, `Z` ended and not waited for.
    #[serde(default)]
    pub state: String,
}

/// The processes of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List {
    /// The server's rank.
    pub rank: u32,
    /// The processes.
    pub procs: Vec<Listed>,
}

rpc! {
    /// Lists processes.
    RexecList: "rexec", "list", Single, Owner, Empty => List
}

/// How a process ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waited {
    /// As of `wait(2)`.
    pub status: i32,
    /// The last of its output, as RFC 24 data objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Vec<Map<String, Value>>>,
}

rpc! {
    /// Waits for a background process. Errors: `ESRCH` unknown, `EINVAL` not waitable, `EBUSY`.
    RexecWait: "rexec", "wait", Single, Owner, Process => Waited
}

/// Takes a background process over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attach {
    /// Its process id; -1 with a label.
    pub pid: i32,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// See [`flags`].
    pub flags: i32,
}

rpc! {
    /// Follows a background process. Errors: `ENOENT` unknown, `EBUSY`, `EPROTO` not a stream.
    RexecAttach: "rexec", "attach", Stream, Owner, Attach => ExecEvent
}
