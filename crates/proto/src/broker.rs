//! The broker itself: life cycle, environment, and what every service answers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Empty, rpc};

/// A broker's state in its life cycle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The state's name, for example `run`.
    pub state: String,
    /// Seconds since it was entered.
    pub duration: f64,
}

/// A state number as it changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateNumber {
    /// The number, 0 to 11.
    pub state: i32,
}

/// Follows the state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Monitor {
    /// The last state number of interest.
    #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
    pub last: Option<i32>,
}

/// An event for the state machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Post {
    /// The event's name.
    pub event: String,
    /// Whether the broker's exit code becomes 1.
    #[serde(default)]
    pub error: bool,
}

rpc! {
    /// Follows the broker's state number.
    StateMonitor: "state-machine", "monitor", SingleOrStream, Owner, Monitor => StateNumber
}
rpc! {
    /// Answered when the broker is in state run. Errors: `ENOENT` it is past it.
    StateWait: "state-machine", "wait", Single, User, Empty => Empty
}
rpc! {
    /// Reads the broker's state.
    StateGet: "state-machine", "get", Single, User, Empty => State
}
rpc! {
    /// Posts an event to the state machine.
    StatePost: "state-machine", "post", NoResponse, Owner, Post => Empty
}

/// Starts an orderly end of the instance.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Shutdown {
    /// The highest severity number streamed back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loglevel: Option<i32>,
}

/// A log line on the way down.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShutdownLog {
    /// The line, newline included.
    #[serde(default)]
    pub log: String,
}

rpc! {
    /// Shuts the instance down; rank 0 only.
    ShutdownStart: "shutdown", "start", SingleOrStream, Owner, Shutdown => ShutdownLog
}

/// Commands to run when the instance ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunAt {
    /// The list, for example `cleanup`.
    pub name: String,
    /// Command lines, each put in front of those already there.
    pub commands: Vec<String>,
}

rpc! {
    /// Adds commands to a list run at the end of the instance.
    RunAtPush: "runat", "push", Single, Owner, RunAt => Empty
}

/// What a ping carries, and what comes back.
pub type Ping = Map<String, Value>;

rpc! {
    /// Echoes the request, adding `route`, `userid`, `rolemask` and `rank`. Every service has it.
    ServicePing: "broker", "ping", Single, User, Ping => Ping
}

/// Whose resource use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RusageWho {
    /// `self`, `children` or `thread`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
}

rpc! {
    /// Reads resource use (`getrusage(2)`). Every service has it.
    ServiceRusage: "broker", "rusage", Single, User, RusageWho => Map<String, Value>
}
rpc! {
    /// Reads a service's counters. Every service has it.
    ServiceStats: "broker", "stats-get", Single, Any, Empty => Map<String, Value>
}
rpc! {
    /// Clears a service's counters. Every service has it.
    ServiceStatsClear: "broker", "stats-clear", Single, Owner, Empty => Empty
}

/// A change of debug bits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Debug {
    /// `setbit`, `clrbit`, `set` or `clr`.
    pub op: String,
    /// The bits.
    pub flags: i32,
}

/// Debug bits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DebugFlags {
    /// The bits after the change.
    pub flags: i32,
}

rpc! {
    /// Changes a service's debug bits. Every service has it.
    ServiceDebug: "broker", "debug", Single, Owner, Debug => DebugFlags
}

/// Names of environment variables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetEnv {
    /// The names.
    pub names: Vec<String>,
}

/// Environment variables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Env {
    /// Value by name; `null` unsets.
    pub env: Map<String, Value>,
}

rpc! {
    /// Reads the broker's environment.
    BrokerGetEnv: "broker", "getenv", Single, Owner, GetEnv => Env
}
rpc! {
    /// Changes the broker's environment.
    BrokerSetEnv: "broker", "setenv", Single, Owner, Env => Empty
}

/// Names of compiled-in settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfBuiltin {
    /// The names.
    pub keys: Vec<String>,
}

/// Compiled-in settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfBuiltinValues {
    /// Value by name.
    pub values: Map<String, Value>,
}

rpc! {
    /// Reads compiled-in settings. Errors: `EINVAL` unknown key.
    BrokerConfBuiltin: "broker", "conf-builtin", Single, Any, ConfBuiltin => ConfBuiltinValues
}

/// Where a heap profile goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeapStart {
    /// The file.
    pub filename: String,
}

/// Why a heap profile is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeapDump {
    /// The reason.
    pub reason: String,
}

rpc! {
    /// Starts heap profiling. Errors: `ENOSYS` this broker has no profiler.
    HeapTraceStart: "heaptrace", "start", Single, Owner, HeapStart => Empty
}
rpc! {
    /// Writes a heap profile. Errors: `ENOSYS`.
    HeapTraceDump: "heaptrace", "dump", Single, Owner, HeapDump => Empty
}
rpc! {
    /// Ends heap profiling. Errors: `ENOSYS`.
    HeapTraceStop: "heaptrace", "stop", Single, Owner, Empty => Empty
}
